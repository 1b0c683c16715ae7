# SPDX-License-Identifier: Apache-2.0
"""Measures the quality of images and of sets of images."""
