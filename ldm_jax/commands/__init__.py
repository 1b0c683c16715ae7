# SPDX-License-Identifier: Apache-2.0
"""Implements the commands, one file per command."""
