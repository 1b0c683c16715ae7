# SPDX-License-Identifier: Apache-2.0
"""Builders on small copies of the layouts that their sets are given away in."""
