# SPDX-License-Identifier: Apache-2.0
"""Knows devices, optimizers and checkpoints; never hears of images."""
