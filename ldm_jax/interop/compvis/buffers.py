# SPDX-License-Identifier: Apache-2.0
"""Computes and checks the tables of the noise schedule in CompVis checkpoints."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.schedule import make_betas
from ldm_jax.interop.layouts import NamesDiffer, listed


def schedule_buffers(schedule: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Computes the twelve buffers of `DDPM.register_schedule`.

    Args:
      schedule: arguments of `diffusion.schedule.make_schedule`.

    Returns:
      {name: [T] float32}, made in float64 and cast last, as the original does.
    """
    fields = dict(schedule)
    share = fields.pop("posterior_beta_share", 0.0)
    fields.pop("zero_terminal_snr", None)
    fields.setdefault("num_timesteps", 1000)
    betas = make_betas(fields.pop("kind", "scaled_linear"), **fields)
    alphas = 1.0 - betas
    abar = np.cumprod(alphas)
    previous = np.append(1.0, abar[:-1])
    tilde = betas * (1.0 - previous) / (1.0 - abar)
    variance = (1 - share) * tilde + share * betas
    buffers = {
        "betas": betas,
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(abar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1.0 - abar),
        "log_one_minus_alphas_cumprod": np.log(1.0 - abar),
        "sqrt_recip_alphas_cumprod": np.sqrt(1.0 / abar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1.0 / abar - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1.0 - abar),
        "posterior_mean_coef2": (1.0 - previous) * np.sqrt(alphas) / (1.0 - abar),
    }
    return {name: table.astype(np.float32) for name, table in buffers.items()}


def check_schedule(
    weights: Mapping[str, np.ndarray], schedule: Mapping[str, Any]
) -> None:
    """Compares the buffers in a checkpoint with the config's schedule.

    Raises:
      NamesDiffer: a buffer has another shape, or values that differ by more than 1e-4,
        relative, or than a rounding of the dtype they are stored in.
      ValueError: a buffer holds NaN.
    """
    wrong = []
    for name, expected in schedule_buffers(schedule).items():
        if name not in weights:
            continue
        stored = np.asarray(weights[name], np.float32)
        if stored.shape != expected.shape:
            wrong.append(f"{name}: got {stored.shape}, expected {expected.shape}")
            continue
        if np.isnan(stored).any():
            raise ValueError(
                f"weights must be finite numbers: {name} holds NaN; the "
                "file is damaged. Take another checkpoint."
            )
        close = np.isclose(stored, expected, *_tolerances(weights[name].dtype))
        if not close.all():
            t = int(np.argmin(close))
            values = f"got {stored[t]:.6g}, expected {expected[t]:.6g}"
            wrong.append(f"{name}[{t}]: {values}")
    if wrong:
        what = "the checkpoint's noise schedule is not the config's; correct the config"
        raise NamesDiffer(listed(f"{what} ({dict(schedule)})", wrong))


def _tolerances(dtype: np.dtype) -> tuple[float, float]:
    """Returns (relative, absolute) tolerance of numbers stored in a dtype."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return 1e-4, 1e-7
    precision = jnp.finfo(dtype)
    spacing = float(precision.smallest_subnormal)
    return max(1e-4, float(precision.eps)), max(1e-7, spacing)
