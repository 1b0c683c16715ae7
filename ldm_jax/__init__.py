# SPDX-License-Identifier: Apache-2.0
"""Latent diffusion models in JAX (Rombach et al. 2022)."""
