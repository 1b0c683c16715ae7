# SPDX-License-Identifier: Apache-2.0
"""Implements `ldm-jax quickstart --images`: trains a model on a folder of pictures."""
