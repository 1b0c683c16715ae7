# SPDX-License-Identifier: Apache-2.0
"""The config itself: files, overrides, sections and their checks."""
