# SPDX-License-Identifier: Apache-2.0
"""Compiles for devices that are absent, and counts what a run needs."""
