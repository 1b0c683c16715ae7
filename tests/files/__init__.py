# SPDX-License-Identifier: Apache-2.0
"""Tests of paths, reading, writing and pictures."""
