# SPDX-License-Identifier: Apache-2.0
"""Computes the diffusion loss: distance, weights over t, and reported metrics."""

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int

from ldm_jax.diffusion.process import check_prediction
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.types import Array

DISTANCES = {"l2": jnp.square, "l1": jnp.abs}
WEIGHTINGS = ("uniform", "min_snr", "p2")


def distance(
    kind: str, prediction: Float[Array, "B h w c"], target: Float[Array, "B h w c"]
) -> Float32[Array, " B"]:
    """Averages |target - prediction| ("l1") or its square ("l2") over each sample.

    Args:
      kind: "l1" or "l2".
      prediction: the network's output, any float dtype; compared in float32.
      target: from `make_target`.

    Raises:
      ValueError: unknown kind.
    """
    if kind not in DISTANCES:
        raise ValueError(f'unknown distance "{kind}"; one of: {", ".join(DISTANCES)}.')
    error = target.astype(jnp.float32) - prediction.astype(jnp.float32)
    return jnp.mean(DISTANCES[kind](error), axis=range(1, error.ndim))


def elbo_weights(schedule: NoiseSchedule, prediction: str) -> Float32[Array, " T"]:
    """Computes weights under which the squared error is the variational bound.

    For eps:  beta^2 / (2 * var * (1 - beta) * (1 - abar))
    For x0:   sqrt(abar) / 2 / (2 - abar)

    The second is not the bound: the original has `2. * 1 - abar` instead of
    `2 * (1 - abar)` and was trained with it, so this function has it, too. Entry 0,
    infinite for eps, is replaced by entry 1, as in the original.

    Raises:
      ValueError: prediction "v", for which the original has no weights.

    Source: CompVis `DDPM.register_schedule` (`lvlb_weights`).
    """
    check_prediction(prediction, schedule)
    betas, alphas_cumprod = schedule.betas, schedule.alphas_cumprod
    if prediction == "v":
        raise ValueError(
            'elbo_weights are defined for prediction "eps" and "x0": got "v"; set '
            "elbo_weight to 0."
        )
    if prediction == "x0":
        weights = 0.5 * jnp.sqrt(alphas_cumprod) / (2 - alphas_cumprod)
    else:
        variance = schedule.posterior_variance
        weights = betas**2 / (2 * variance * (1 - betas) * (1 - alphas_cumprod))
    weights = jnp.asarray(weights)
    return weights.at[0].set(weights[min(1, schedule.num_timesteps - 1)])


def snr_weights(
    schedule: NoiseSchedule,
    kind: str,
    prediction: str,
    gamma: float | None = None,
    k: float = 1.0,
) -> Float32[Array, " T"]:
    """Computes weights of the squared error from SNR = abar / (1 - abar).

    "uniform": 1. "min_snr": min(SNR, gamma) on the x0 error (Hang et al. 2023, gamma
    5). "p2": 1 / (k + SNR)^gamma on the eps error (Choi et al. 2022, gamma 1, k 1).
    Both are converted to weights of the error of `prediction`: given z_t, the squared
    errors of x0, eps and v are in the ratio 1 : SNR : 1 + SNR.

    Raises:
      ValueError: unknown kind or prediction, or a gamma that the kind does not have.
    """
    check_prediction(prediction, schedule)
    if kind not in WEIGHTINGS:
        raise ValueError(
            f'unknown weighting "{kind}"; one of: {", ".join(WEIGHTINGS)}.'
        )
    if kind == "uniform" and gamma is not None:
        raise ValueError(
            f'weighting "uniform" has no gamma: got {gamma}; leave it out, or choose '
            "another weighting."
        )
    snr = jnp.exp(schedule.log_snr)
    if kind == "uniform":
        return jnp.ones_like(snr)
    of_x0_error = (
        jnp.minimum(snr, 5.0 if gamma is None else gamma)
        if kind == "min_snr"
        else snr / (k + snr) ** (1.0 if gamma is None else gamma)
    )
    return of_x0_error / {"x0": 1.0, "eps": snr, "v": 1 + snr}[prediction]


def diffusion_loss(
    losses: Float32[Array, " B"],
    t: Int[Array, " B"],
    *,
    weights: Float32[Array, " T"] | None = None,
    log_variance: Float32[Array, " T"] | None = None,
    simple_weight: float = 1.0,
    elbo: Float32[Array, " T"] | None = None,
    elbo_weight: float = 0.0,
) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
    """Weights the losses of a batch and averages them.

        L = simple_weight * mean(w[t] * l * exp(-lv[t]) + lv[t])
            + elbo_weight * mean(elbo[t] * l)

    Args:
      losses: l, from `distance`.
      t: steps in [0, T).
      weights: w, from `snr_weights`; None is 1.
      log_variance: lv, a parameter if it is learned; None is 0.
      simple_weight: CompVis `l_simple_weight`.
      elbo: from `elbo_weights`; with None, `loss_vlb` is not reported.
      elbo_weight: CompVis `original_elbo_weight`.

    Returns:
      L, and metrics: "loss_simple" (mean of l, unweighted), "loss" (L), and, if `elbo`
      is given, "loss_vlb"; if `log_variance` is given, "loss_gamma" (the first term)
      and "log_variance" (its mean).

    Raises:
      ValueError: `elbo_weight` without `elbo`.

    Source: CompVis `LatentDiffusion.p_losses`; Rombach et al. 2022, Eq. 2.
    """
    if elbo is None and elbo_weight:
        raise ValueError(
            f"elbo_weight={elbo_weight} needs the table of weights: pass "
            "elbo=elbo_weights(schedule, prediction)."
        )
    metrics = {"loss_simple": losses.mean()}
    weighted = losses if weights is None else weights[t] * losses
    if log_variance is not None:
        log_variance_t = log_variance[t]
        weighted = weighted * jnp.exp(-log_variance_t) + log_variance_t
        metrics["loss_gamma"] = weighted.mean()
        metrics["log_variance"] = log_variance.mean()
    loss = simple_weight * weighted.mean()
    if elbo is not None:
        metrics["loss_vlb"] = (elbo[t] * losses).mean()
        loss = loss + elbo_weight * metrics["loss_vlb"]
    return loss, metrics | {"loss": loss}


def loss_by_bin(
    losses: Float32[Array, " B"],
    t: Int[Array, " B"],
    num_timesteps: int,
    num_bins: int = 4,
) -> dict[str, Float32[Array, ""]]:
    """Computes the loss in each of `num_bins` equal intervals of t.

    An entry is `sum of l in the bin / B`, divided by the bin's share of T. For uniform
    t, its average over training steps is the mean loss in the bin; an empty bin gives 0
    rather than NaN, so entries may be averaged over any number of training steps.

    Args:
      losses: from `distance`.
      t: steps, uniform over [0, T).
      num_timesteps: T.
      num_bins: at most T.

    Returns:
      {"loss_t/0000-0249": scalar, ...}, named by first and last t.

    Raises:
      ValueError: more bins than steps.
    """
    if not 1 <= num_bins <= num_timesteps:
        raise ValueError(
            f"num_bins must be in [1, num_timesteps={num_timesteps}]: got {num_bins}."
        )
    edges = [num_timesteps * i // num_bins for i in range(num_bins + 1)]
    bins = jnp.searchsorted(jnp.asarray(edges[1:-1], jnp.int32), t, side="right")
    sums = jax.ops.segment_sum(losses, bins, num_bins)
    return {
        f"loss_t/{low:04d}-{high - 1:04d}": sums[i]
        / losses.shape[0]
        * (num_timesteps / (high - low))
        for i, (low, high) in enumerate(itertools.pairwise(edges))
    }
