# SPDX-License-Identifier: Apache-2.0
"""Knows other people's names for our parameters, and their files."""
