# SPDX-License-Identifier: Apache-2.0
"""TFDS builders for image sets that TFDS lacks."""
