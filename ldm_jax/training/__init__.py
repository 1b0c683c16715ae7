# SPDX-License-Identifier: Apache-2.0
"""Trains any task: loop, optimizers and checkpoints, independent of images."""
