# SPDX-License-Identifier: Apache-2.0
"""Opens the classifier or the images that guide samples."""
