# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: saved in the background, verified when read."""
