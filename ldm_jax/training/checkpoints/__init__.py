# SPDX-License-Identifier: Apache-2.0
"""Checkpoints, which are saved in the background and verified when read."""
