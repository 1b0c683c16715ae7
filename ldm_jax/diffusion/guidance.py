# SPDX-License-Identifier: Apache-2.0
"""Guidance: denoisers made of denoisers, pulled towards a condition."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.process import per_sample
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.types import Array, Conditioning, Denoiser

# (z_t [B, h, w, c], t [B], cond) -> prediction [B, h, w, c].
Predict = Callable[[Array, Array, Conditioning], Array]


def classifier_free(
    predict: Predict,
    cond: Conditioning,
    null: Conditioning | None = None,
    scale: float | Array = 1.0,
    *,
    rescale: float = 0.0,
    interval: tuple[int, int] | None = None,
) -> Denoiser:
    """Guides with the network's own unconditional prediction.

        prediction = null + scale * (conditional - null)

    Both come from one doubled batch. The same formula serves eps, x0 and v, each being
    affine in the others at a given z_t.

    Args:
      predict: (z_t [B, h, w, c], t [B], cond) -> prediction [B, h, w, c].
      cond: the condition; its arrays have B rows.
      null: the null condition, shaped like `cond`; not needed at scale 1.
      scale: a number, or [B], one per sample. The number 1 is off: no doubled batch.
        Papers that write w mean scale - 1.
      rescale: in [0, 1]; how far the guided prediction's standard deviation over each
        sample is drawn back to the conditional one's (Lin et al. 2023, section 3.4).
      interval: (first, last) t, inclusive, outside of which the scale is 1
        (Kynkäänniemi et al. 2024); None is always on.

    Raises:
      ValueError: null is missing or not shaped like cond, rescale outside [0, 1], an
        interval that holds no t, or options that scale 1 would ignore.

    Source: Ho & Salimans 2022; CompVis `DDIMSampler.p_sample_ddim`.
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale must lie in [0, 1]: got {rescale}.")
    if interval is not None and interval[0] > interval[1]:
        raise ValueError(f"interval is (first, last) t: got {interval}; swap them.")
    if isinstance(scale, (int, float)) and scale == 1:
        if rescale or interval is not None:
            raise ValueError(
                f"scale=1 turns guidance off, and with it rescale={rescale} and "
                f"interval={interval}; choose another scale or leave them out."
            )
        return lambda z_t, t: predict(z_t, t, cond)
    _check_null(cond, null)
    both = jax.tree.map(_interleave, null, cond)

    def denoise(z_t, t):
        pair = predict(_interleave(z_t, z_t), _interleave(t, t), both)
        pair = pair.reshape(z_t.shape[0], 2, *pair.shape[1:])
        without, conditional = pair[:, 0], pair[:, 1]
        scale_t = jnp.broadcast_to(jnp.asarray(scale, pair.dtype), t.shape)
        if interval is not None:
            scale_t = jnp.where((interval[0] <= t) & (t <= interval[1]), scale_t, 1)
        guided = without + per_sample(scale_t, without) * (conditional - without)
        return _draw_back(guided, conditional, rescale) if rescale else guided

    return denoise


def classifier_guidance(
    schedule: NoiseSchedule,
    denoiser: Denoiser,
    log_probability: Callable[[Array, Array], Array],
    scale: float | Array = 1.0,
) -> Denoiser:
    """Guides a denoiser of x0 with the gradient of a classifier of noisy latents.

        x0_hat + scale * sigma_t^2 / alpha_t * grad_z log p(y | z_t)

    which is eps_hat - scale * sigma_t * grad, said of x0.

    Args:
      schedule: NoiseSchedule of T steps, not of zero terminal SNR.
      denoiser: (z_t [B, h, w, c], t [B]) -> x0_hat [B, h, w, c].
      log_probability: (z_t, t) -> [B], ln p(y | z_t); sample i must depend on z_t[i]
        only. Its parameters and y are closed over.
      scale: a number, or [B].

    Raises:
      ValueError: the schedule has zero terminal SNR: alpha is 0 there.

    Source: Dhariwal & Nichol 2021, Algorithm 2.
    """
    if schedule.zero_terminal_snr:
        raise ValueError(
            "classifier_guidance divides by alpha, which is 0 at the last step of a "
            "schedule with zero_terminal_snr=True; use another schedule."
        )
    gradient = jax.grad(lambda z_t, t: log_probability(z_t, t).sum())

    def denoise(z_t, t):
        alpha, sigma = schedule.levels(t)
        gain = per_sample(scale * sigma**2 / alpha, z_t)
        return denoiser(z_t, t) + gain * gradient(z_t, t)

    return denoise


def _interleave(null: Array, cond: Array) -> Array:
    """[B, ...] twice -> [2B, ...], rows null_0, cond_0, null_1, ...

    Not null rows first: pairs stay on the device that holds sample i, so a batch
    sharded over a mesh is doubled without communication.
    """
    return jnp.stack([null, cond], axis=1).reshape(-1, *cond.shape[1:])


def _draw_back(guided, conditional, share):
    axes = tuple(range(1, guided.ndim))
    ratio = conditional.std(axes, keepdims=True) / guided.std(axes, keepdims=True)
    return guided * (share * ratio + 1 - share)


def _check_null(cond, null):
    if null is None:
        raise ValueError(
            "guidance with a scale other than 1 needs the null condition: got None; "
            "pass the conditioner's null, or scale=1."
        )

    def shapes(condition):
        return {
            name: None if entry is None else jnp.shape(entry)
            for name, entry in condition._asdict().items()
        }

    if shapes(cond) != shapes(null):
        raise ValueError(
            f"null must be shaped like cond: got {shapes(null)} and {shapes(cond)}; "
            "repeat the null condition to B rows."
        )
