# SPDX-License-Identifier: Apache-2.0
"""Judges images and models."""
