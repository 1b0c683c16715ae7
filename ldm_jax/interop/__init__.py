# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the files of other frameworks, and maps names of parameters."""
