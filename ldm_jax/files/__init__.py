# SPDX-License-Identifier: Apache-2.0
"""Reads and writes all files: paths, bounded reading, atomic writing, pictures."""
