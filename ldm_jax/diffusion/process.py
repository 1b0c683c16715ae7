# SPDX-License-Identifier: Apache-2.0
"""The forward process, its posterior, and the quantities a network may predict.

With alpha = sqrt(abar_t) and sigma = sqrt(1 - abar_t):

    z_t = alpha * z_0 + sigma * eps          v = alpha * eps - sigma * z_0

so, given z_t, any one of z_0 ("x0"), eps and v determines the other two.
"""

import jax.numpy as jnp
from jaxtyping import Float, Int

from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.types import Array, Denoiser

PREDICTIONS = ("eps", "x0", "v")


def per_sample(values: Float[Array, " B"], like: Array) -> Float[Array, "B ..."]:
    """Reshapes one value per sample to [B, 1, ...], with as many axes as `like`."""
    return values.reshape(values.shape[:1] + (1,) * (like.ndim - 1))


def add_noise(
    schedule: NoiseSchedule,
    z_0: Float[Array, "B h w c"],
    t: Int[Array, " B"],
    eps: Float[Array, "B h w c"],
) -> Float[Array, "B h w c"]:
    """Draws z_t from q(z_t | z_0) in closed form.

        z_t = sqrt(alphas_cumprod[t]) * z_0 + sqrt(1 - alphas_cumprod[t]) * eps

    Args:
      schedule: NoiseSchedule of T steps.
      z_0: clean latents, unit variance.
      t: steps in [-1, T); 0 is the least noisy (the paper's t minus 1), -1 is clean.
      eps: standard normal noise.

    Returns:
      Noisy latents, dtype of `z_0`.

    Raises:
      ValueError: `eps` is not shaped like `z_0`, or `t` does not hold one step per
        sample.

    Source: Ho et al. 2020, Eq. 4; on latents, Rombach et al. 2022, Eq. 2.
    """
    if eps.shape != z_0.shape:
        raise ValueError(
            f"eps must have the shape of z_0: got {eps.shape} and {z_0.shape}."
        )
    alpha, sigma = _levels(schedule, t, z_0)
    return (alpha * z_0 + sigma * eps).astype(z_0.dtype)


def make_target(
    schedule: NoiseSchedule,
    prediction: str,
    z_0: Float[Array, "B h w c"],
    t: Int[Array, " B"],
    eps: Float[Array, "B h w c"],
) -> Float[Array, "B h w c"]:
    """Computes the target of a network that predicts x0, eps or v.

    Args:
      schedule, z_0, t, eps: as for `add_noise`.
      prediction: one of `PREDICTIONS`.

    Source: v from Salimans & Ho 2022, appendix D.
    """
    check_prediction(prediction)
    if prediction == "eps":
        return eps
    if prediction == "x0":
        return z_0
    alpha, sigma = _levels(schedule, t, z_0)
    return alpha * eps - sigma * z_0


def to_x0(
    schedule: NoiseSchedule,
    prediction: str,
    z_t: Float[Array, "B h w c"],
    t: Int[Array, " B"],
    value: Float[Array, "B h w c"],
) -> Float[Array, "B h w c"]:
    """Converts a prediction of any kind to x0_hat.

    Args:
      schedule: NoiseSchedule of T steps.
      prediction: the kind of `value`, one of `PREDICTIONS`.
      z_t: noisy latents.
      t: steps in [0, T).
      value: the network's output.

    Raises:
      ValueError: unknown prediction, or "eps" on a schedule whose last step holds no
        signal (there z_t and eps do not determine z_0).
    """
    check_prediction(prediction, schedule)
    if prediction == "x0":
        return value
    alpha, sigma = _levels(schedule, t, z_t)
    if prediction == "v":
        return alpha * z_t - sigma * value
    return (z_t - sigma * value) / alpha


def to_eps(
    schedule: NoiseSchedule,
    prediction: str,
    z_t: Float[Array, "B h w c"],
    t: Int[Array, " B"],
    value: Float[Array, "B h w c"],
) -> Float[Array, "B h w c"]:
    """Converts a prediction of any kind to eps_hat; arguments as for `to_x0`."""
    check_prediction(prediction)
    if prediction == "eps":
        return value
    alpha, sigma = _levels(schedule, t, z_t)
    if prediction == "v":
        return alpha * value + sigma * z_t
    return (z_t - alpha * value) / sigma


def to_v(
    schedule: NoiseSchedule,
    prediction: str,
    z_t: Float[Array, "B h w c"],
    t: Int[Array, " B"],
    value: Float[Array, "B h w c"],
) -> Float[Array, "B h w c"]:
    """Converts a prediction of any kind to v_hat; arguments as for `to_x0`."""
    if prediction == "v":
        return value
    alpha, sigma = _levels(schedule, t, z_t)
    x0_hat = to_x0(schedule, prediction, z_t, t, value)
    eps_hat = to_eps(schedule, prediction, z_t, t, value)
    return alpha * eps_hat - sigma * x0_hat


def x0_denoiser(
    schedule: NoiseSchedule, denoiser: Denoiser, prediction: str = "eps"
) -> Denoiser:
    """Turns a denoiser of any prediction into one of x0, which samplers take.

    Args:
      schedule: NoiseSchedule the network was trained with.
      denoiser: the network, with its condition closed over.
      prediction: what it predicts, one of `PREDICTIONS`.

    Raises:
      ValueError: as for `to_x0`.
    """
    check_prediction(prediction, schedule)

    def denoise(z_t, t):
        value = denoiser(z_t, t).astype(jnp.float32)
        return to_x0(schedule, prediction, z_t, t, value)

    return denoise


def posterior(
    schedule: NoiseSchedule,
    z_0: Float[Array, "B h w c"],
    z_t: Float[Array, "B h w c"],
    t: Int[Array, " B"],
) -> tuple[Float[Array, "B h w c"], Float[Array, "B 1 1 1"]]:
    """Computes mean and log-variance of q(z_{t-1} | z_t, z_0).

    Args:
      schedule: NoiseSchedule of T steps; its `posterior_beta_share` chose the variance.
      z_0: clean latents, or x0_hat.
      z_t: noisy latents.
      t: steps in [0, T).

    Source: Ho et al. 2020, Eqs. 6 and 7.
    """
    weight_z_0 = per_sample(schedule.posterior_mean_z_0[t], z_0)
    weight_z_t = per_sample(schedule.posterior_mean_z_t[t], z_0)
    log_variance = per_sample(schedule.posterior_log_variance[t], z_0)
    return weight_z_0 * z_0 + weight_z_t * z_t, log_variance


def check_prediction(prediction: str, schedule: NoiseSchedule | None = None) -> None:
    """Raises ValueError for a prediction that is unknown, or undefined on a schedule.

    On a schedule with zero terminal SNR, eps does not determine z_0 at the last step.
    """
    if prediction not in PREDICTIONS:
        raise ValueError(
            f'unknown prediction "{prediction}"; one of: {", ".join(PREDICTIONS)}.'
        )
    if prediction == "eps" and schedule is not None and schedule.zero_terminal_snr:
        raise ValueError(
            'prediction="eps" does not determine z_0 at the last step of a schedule '
            'with zero_terminal_snr=True; use prediction="v" or "x0", or a schedule '
            "without it."
        )


def _levels(schedule, t, z) -> tuple[Array, Array]:
    """Looks up alpha and sigma as [B, 1, ...]."""
    if t.shape != z.shape[:1]:
        raise ValueError(
            f"t must hold one step per sample: got t {t.shape} for a batch of "
            f"{z.shape[0]}; for a common step use jnp.full((B,), t)."
        )
    alpha, sigma = schedule.levels(t)
    return per_sample(alpha, z), per_sample(sigma, z)
