# SPDX-License-Identifier: Apache-2.0
"""Denoisers known in closed form: the truth that samplers are held against."""

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.process import per_sample


def gaussian_denoiser(schedule, mean=1.5, std=0.3):
    """E[z_0 | z_t] for data N(mean, std^2), element by element."""

    def denoise(z_t, t):
        alpha, sigma = (per_sample(level, z_t) for level in schedule.levels(t))
        variance = alpha**2 * std**2 + sigma**2
        return mean + alpha * std**2 / variance * (z_t - alpha * mean)

    return denoise


def gaussian_flow(schedule, z_t, t, s, mean=1.5, std=0.3):
    """Solves the probability flow from t to s exactly for data N(mean, std^2)."""
    alpha_t, sigma_t = schedule.levels(jnp.asarray(t))
    alpha_s, sigma_s = schedule.levels(jnp.asarray(s))
    unit = (z_t - alpha_t * mean) / jnp.sqrt(alpha_t**2 * std**2 + sigma_t**2)
    return alpha_s * mean + unit * jnp.sqrt(alpha_s**2 * std**2 + sigma_s**2)


def two_mode_denoiser(schedule, modes=(-1.0, 1.5), weights=(0.3, 0.7), std=0.2):
    """E[z_0 | z_t] for a mixture of two Gaussians, element by element."""

    def denoise(z_t, t):
        alpha, sigma = (per_sample(level, z_t) for level in schedule.levels(t))
        variance = alpha**2 * std**2 + sigma**2
        scores = [
            jnp.log(w) - (z_t - alpha * m) ** 2 / (2 * variance)
            for m, w in zip(modes, weights, strict=True)
        ]
        shares = jax.nn.softmax(jnp.stack(scores), axis=0)
        means = jnp.stack(
            [m + alpha * std**2 / variance * (z_t - alpha * m) for m in modes]
        )
        return (shares * means).sum(0)

    return denoise
