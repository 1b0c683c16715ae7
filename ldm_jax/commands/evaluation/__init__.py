# SPDX-License-Identifier: Apache-2.0
"""How `ldm-jax evaluate` measures images and models."""
