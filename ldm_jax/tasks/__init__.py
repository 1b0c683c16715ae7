# SPDX-License-Identifier: Apache-2.0
"""Knows what a batch means and what is minimised."""
