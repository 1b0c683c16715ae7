# SPDX-License-Identifier: Apache-2.0
"""Guides denoisers towards a condition; each function returns another denoiser."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int, Shaped

from ldm_jax.diffusion.process import per_sample
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.types import Array, Conditioning, Denoiser

# (z_t, t, condition) -> the network's prediction.
Predict = Callable[
    [Float[Array, "B h w c"], Int[Array, " B"], Conditioning], Float[Array, "B h w c"]
]


def classifier_free(
    predict: Predict,
    cond: Conditioning,
    null: Conditioning | None = None,
    scale: float | Float[Array, "#B"] = 1.0,
    *,
    rescale: float = 0.0,
    interval: tuple[int, int] | None = None,
) -> Denoiser:
    """Guides a network with its own unconditional prediction.

        prediction = null + scale * (conditional - null)

    Both are computed in one doubled batch. The formula is the same for eps, x0 and v,
    as each is affine in the others at a given z_t.

    Args:
      predict: the network.
      cond: the condition; its arrays have B rows.
      null: the null condition, shaped like `cond`; not needed at scale 1.
      scale: one number, or one per sample. The number 1 turns guidance off: the batch
        is not doubled. Papers that write w mean scale - 1.
      rescale: in [0, 1]; how far the standard deviation of each guided sample is moved
        back to that of the conditional prediction (Lin et al. 2023, section 3.4).
      interval: (first, last) t, inclusive, outside of which the scale is 1
        (Kynkäänniemi et al. 2024); None is all t. A step with no t inside computes the
        conditional half only; the network is then compiled twice.

    Raises:
      ValueError: null is missing or not shaped like cond, rescale is outside [0, 1],
        the interval holds no t, or scale is 1 and would ignore other options.

    Source: Ho & Salimans 2022; CompVis `DDIMSampler.p_sample_ddim`.
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale must be in [0, 1]: got {rescale}.")
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

    def guided(z_t, t, scale):
        pair = predict(_interleave(z_t, z_t), _interleave(t, t), both)
        pair = pair.reshape(z_t.shape[0], 2, *pair.shape[1:])
        without, conditional = pair[:, 0], pair[:, 1]
        scale = jnp.broadcast_to(jnp.asarray(scale, pair.dtype), t.shape)
        mixed = without + per_sample(scale, without) * (conditional - without)
        return _rescale(mixed, conditional, rescale) if rescale else mixed

    return _within(interval, guided, scale, 1, lambda z_t, t: predict(z_t, t, cond))


def classifier_guidance(
    schedule: NoiseSchedule,
    denoiser: Denoiser,
    log_probability: Callable[
        [Float[Array, "B h w c"], Int[Array, " B"]], Float[Array, " B"]
    ],
    scale: float | Float[Array, "#B"] = 1.0,
    next_step: Int[Array, " T"] | None = None,
) -> Denoiser:
    """Guides a denoiser of x0 with the gradient of a classifier of noisy latents.

        x0_hat + scale * sigma_t^2 / alpha_t * grad_z log p(y | z_t)

    which is eps_hat - scale * sigma_t * grad, written for x0. With `next_step` it is
    the other form, for the ancestral sampler, whose mean moves by its variance times
    scale * grad; there the gain is that of the step s after t:

        x0_hat + scale * sigma_s^2 / alpha_s * grad_z log p(y | z_t)

    Args:
      schedule: NoiseSchedule of T steps, without zero terminal SNR.
      denoiser: predicts x0.
      log_probability: (z_t, t) -> ln p(y | z_t), nats; sample i must depend on z_t[i]
        only. Its parameters and y are closed over.
      scale: one number, or one per sample; the number 0 turns guidance off.
      next_step: s of every t, -1 is clean; of the steps that "ddpm" visits.

    Raises:
      ValueError: the schedule has zero terminal SNR: alpha is 0 at its last step.

    Source: Dhariwal & Nichol 2021, Algorithm 2, and with `next_step` Algorithm 1.
    """
    schedule.check_alpha("classifier_guidance")
    if isinstance(scale, int | float) and scale == 0:
        return denoiser
    gradient = jax.grad(lambda z_t, t: log_probability(z_t, t).sum())

    def denoise(z_t, t):
        alpha, sigma = schedule.levels(t if next_step is None else next_step[t])
        gain = per_sample(scale * sigma**2 / alpha, z_t)
        return denoiser(z_t, t) + gain * gradient(z_t, t)

    return denoise


def image_guidance(
    schedule: NoiseSchedule,
    denoiser: Denoiser,
    log_likelihood: Callable[
        [Float[Array, "B h w c"], Int[Array, " B"]], Float[Array, " B"]
    ],
    scale: float = 1.0,
    *,
    interval: tuple[int, int] | None = None,
    through_network: bool = True,
) -> Denoiser:
    """Guides a denoiser of x0 with the likelihood of an observation of the image.

        x0_hat + scale * sigma_t^2 / alpha_t * grad_z ln p(y | x0_hat(z_t))

    which is eps_hat - scale * sigma_t * grad, written for x0. The paper prints a plus
    before the gradient, which would guide samples away from y.

    Args:
      schedule: NoiseSchedule of T steps, without zero terminal SNR.
      denoiser: predicts x0; called once for each z_t.
      log_likelihood: (x0_hat, t) -> ln p(y | x0_hat), nats, up to a constant; row i
        must depend on x0_hat[i] only. y is closed over.
      scale: the number 0 turns guidance off.
      interval: (first, last) t, inclusive, outside of which the scale is 0; None is
        all t. A step with no t inside computes no gradient.
      through_network: whether the gradient passes the denoiser, as in Eq. 18; False
        treats eps_hat as a constant, which saves the network's backward pass.

    Raises:
      ValueError: the schedule has zero terminal SNR, or the interval holds no t.

    Source: Rombach et al. 2022, Eq. 16 to 18.
    """
    schedule.check_alpha("image_guidance")
    if interval is not None and interval[0] > interval[1]:
        raise ValueError(f"interval is (first, last) t: got {interval}; swap them.")
    if scale == 0:
        return denoiser

    def likelihood_of_latent(z_t, t):
        x0_hat = denoiser(z_t, t)
        return log_likelihood(x0_hat, t).sum(), x0_hat

    def likelihood_of_estimate(x0_hat, t):
        return log_likelihood(x0_hat, t).sum()

    def guided(z_t, t, scale):
        alpha, sigma = schedule.levels(t)
        gain = scale * sigma**2 / alpha
        if through_network:
            gradient, x0_hat = jax.grad(likelihood_of_latent, has_aux=True)(z_t, t)
        else:
            x0_hat = denoiser(z_t, t)
            gradient = jax.grad(likelihood_of_estimate)(x0_hat, t)
            gain = gain / alpha  # x0_hat = (z_t - sigma * eps_hat) / alpha
        return x0_hat + per_sample(gain, z_t) * gradient

    return _within(interval, guided, scale, 0, denoiser)


def _within(
    interval: tuple[int, int] | None,
    guided: Callable[..., Array],
    scale: float | Float[Array, "#B"],
    off: int,
    plain: Denoiser,
) -> Denoiser:
    """Guides at the t of an interval, ends included; a step with none is `plain`.

    Args:
      interval: (first, last) t; None is all.
      guided: (z_t, t, scale) -> prediction.
      scale: inside the interval.
      off: the scale at which `guided` equals `plain`.
      plain: the denoiser without guidance.
    """
    if interval is None:
        return lambda z_t, t: guided(z_t, t, scale)
    first, last = interval

    def denoise(z_t, t):
        inside = (first <= t) & (t <= last)
        return lax.cond(
            inside.any(),
            lambda: guided(z_t, t, jnp.where(inside, scale, off)),
            lambda: plain(z_t, t),
        )

    return denoise


def _interleave(
    null: Shaped[Array, "B ..."], cond: Shaped[Array, "B ..."]
) -> Shaped[Array, "2*B ..."]:
    """Makes rows null_0, cond_0, null_1, cond_1, ...

    Not all null rows first: a pair stays on the device that holds sample i, so a batch
    sharded over a mesh is doubled without communication.
    """
    return jnp.stack([null, cond], axis=1).reshape(-1, *cond.shape[1:])


def _rescale(guided, conditional, share):
    """Moves the standard deviation of each sample towards that of `conditional`."""
    axes = tuple(range(1, guided.ndim))
    ratio = conditional.std(axes, keepdims=True) / guided.std(axes, keepdims=True)
    return guided * (share * ratio + 1 - share)


def _check_null(cond: Conditioning, null: Conditioning | None) -> None:
    if null is None:
        raise ValueError(
            "guidance with a scale other than 1 needs the null condition: got None; "
            "pass the conditioner's null, or scale=1."
        )
    if not isinstance(null, Conditioning):
        raise ValueError(
            "null must be a Conditioning, as model.null returns it: got "
            f"{type(null).__name__}."
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
