# SPDX-License-Identifier: Apache-2.0
"""Imposes prior knowledge of z_0 on a denoiser of x0.

Each function maps a denoiser (z_t, t) -> x0_hat to another one, so they can be
combined. Samplers derive eps_hat from x0_hat, so a constraint steers the whole
trajectory (the released samplers combine a quantized x0_hat with the unconstrained
eps_hat).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ldm_jax.diffusion.process import add_noise, per_sample
from ldm_jax.diffusion.samplers.base import noise_like, per_sample_keys
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.types import Array, Denoiser, RandomKey

# Folded into a sample's key for `keep_known`; the legs of samplers fold in 0, 1, ...
_KNOWN_STREAM = 0x6B6E6F77


def clip_x0(denoiser: Denoiser, bound: float = 1.0) -> Denoiser:
    """Clips x0_hat to [-bound, bound]; for pixels, whose range is known.

    Raises:
      ValueError: a bound that is not positive.
    """
    _check_bound(bound)
    return lambda z_t, t: jnp.clip(denoiser(z_t, t), -bound, bound)


def threshold_x0(
    denoiser: Denoiser, percentile: float = 0.995, bound: float = 1.0
) -> Denoiser:
    """Clips each sample's x0_hat at a percentile of its values, scaled to `bound`.

        limit = max(percentile of |x0_hat|, bound)
        x0_hat' = clip(x0_hat, -limit, limit) * bound / limit

    Args:
      denoiser: predicts x0.
      percentile: share of a sample's values to leave unclipped, in (0, 1].
      bound: end of the data's range [-bound, bound].

    Raises:
      ValueError: percentile outside (0, 1], or a bound that is not positive.

    Source: Saharia et al. 2022 (Imagen), section 2.3, dynamic thresholding.
    """
    _check_bound(bound)
    if not 0 < percentile <= 1:
        raise ValueError(
            f"percentile is a share in (0, 1]: got {percentile}; 0.995 is 99.5%."
        )

    def denoise(z_t, t):
        x0_hat = denoiser(z_t, t)
        size = jnp.abs(x0_hat).reshape(x0_hat.shape[0], -1)
        limit = jnp.maximum(jnp.quantile(size, percentile, axis=1), bound)
        limit = per_sample(limit, x0_hat)
        return jnp.clip(x0_hat, -limit, limit) * (bound / limit)

    return denoise


def snap_x0(
    denoiser: Denoiser,
    quantize: Callable[[Float[Array, "B h w c"]], Float[Array, "B h w c"]],
) -> Denoiser:
    """Replaces x0_hat by its nearest code vectors (CompVis `quantize_denoised`).

    Args:
      denoiser: predicts x0.
      quantize: maps scaled latents to the nearest codes; as a codebook holds unscaled
        ones, pass `lambda z: scale * codebook(z / scale)`.
    """
    return lambda z_t, t: quantize(denoiser(z_t, t))


def keep_known(
    schedule: NoiseSchedule,
    denoiser: Denoiser,
    z_known: Float[Array, "B h w c"],
    mask: Float[Array, "B h w #c"],
    key: RandomKey | None = None,
) -> Denoiser:
    """Keeps a known region of z_0, so that the rest is sampled to fit: inpainting.

        x0_hat' = mask * z_known + (1 - mask) * x0_hat

    Samplers work element by element, so the known region follows the forward process
    from z_known with the noise of z_T, and ends at z_known if the grid ends at clean
    (PLMS, which extrapolates, ends near it). The mask is 1 where z_known is KEPT, 0
    where it is sampled (as in CompVis' samplers; its inpainting model takes the inverse
    mask).

    Args:
      schedule: NoiseSchedule of T steps.
      denoiser: predicts x0.
      z_known: clean latents; values where the mask is 0 are never read.
      mask: in [0, 1]; 1 keeps.
      key: with None, the network sees the known region with the trajectory's noise;
        with one key or [B] keys, with new noise at each step, as in the released
        samplers.

    Raises:
      ValueError: a mask whose shape does not match z_known.

    Source: Rombach et al. 2022, section 4.5; CompVis `DDIMSampler.ddim_sampling`.
    """
    if mask.shape[:-1] != z_known.shape[:-1] or mask.shape[-1] not in (
        1,
        z_known.shape[-1],
    ):
        raise ValueError(
            f"mask must be [B, h, w, 1] or [B, h, w, c] over z_known: got {mask.shape} "
            f"over {z_known.shape}."
        )
    mask = jnp.broadcast_to(mask, z_known.shape).astype(z_known.dtype)
    # Where, not a product: NaN or inf under mask 0 must not leak.
    z_known = jnp.where(mask > 0, z_known, 0)
    keys = None if key is None else per_sample_keys(key, z_known.shape[0])

    def denoise(z_t, t):
        if keys is not None:
            keys_t = jax.vmap(jax.random.fold_in, (0, None))(keys, _KNOWN_STREAM)
            keys_t = jax.vmap(jax.random.fold_in)(keys_t, t)
            known = add_noise(schedule, z_known, t, noise_like(keys_t, z_known))
            z_t = mask * known + (1 - mask) * z_t
        return mask * z_known + (1 - mask) * denoiser(z_t, t)

    return denoise


def _check_bound(bound):
    if bound <= 0:
        raise ValueError(f"bound must be positive: got {bound}.")
