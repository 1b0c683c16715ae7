# SPDX-License-Identifier: Apache-2.0
"""The parts of `ldm-jax evaluate`: metrics of images and of models."""
