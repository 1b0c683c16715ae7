# SPDX-License-Identifier: Apache-2.0
"""Samplers: how noise is removed, one file each."""
