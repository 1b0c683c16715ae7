# SPDX-License-Identifier: Apache-2.0
"""Compares sets of images by their features."""
