# SPDX-License-Identifier: Apache-2.0
"""Computes noise schedules: alphas_cumprod at each of the T training steps.

Tables are computed in NumPy float64 and cast last, which reproduces the released
float32 tables bit for bit (float32 throughout has a relative error of 1.4e-6;
`jnp.float64` is silently float32 unless x64 is enabled).
"""

import dataclasses
import typing
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from ldm_jax.types import Array

# A hundred times what any published model has; tables of that length are cheap.
MAX_TIMESTEPS = 100_000

# ln(SNR) is cut off here, in nats: -inf at a zero terminal SNR would make inf - inf.
_LOG_SNR_BOUND = 40.0


# Types of the fields are checked in tests only: JAX rebuilds pytrees with other objects
# in the place of arrays.
@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoiseSchedule:
    """Holds tables over the steps t in [0, T); a pytree, so pass it into `jax.jit`.

    With abar = alphas_cumprod, alpha = sqrt(abar) and sigma = sqrt(1 - abar):

    Attributes:
      betas: variance added by step t.
      alphas_cumprod: abar.
      sqrt_alphas_cumprod: alpha, the factor of z_0 in z_t.
      sqrt_one_minus_alphas_cumprod: sigma, the standard deviation of the noise in z_t.
      log_snr: ln(abar / (1 - abar)) in nats, cut off at +-40.
      posterior_variance: of q(z_{t-1} | z_t, z_0).
      posterior_log_variance: its logarithm, cut off below at ln(1e-20).
      posterior_mean_z_0: weight of z_0 in the mean of q(z_{t-1} | z_t, z_0).
      posterior_mean_z_t: weight of z_t in that mean.
      zero_terminal_snr: whether alpha is 0 at T - 1 (static).
    """

    betas: Float32[Array, " T"]
    alphas_cumprod: Float32[Array, " T"]
    sqrt_alphas_cumprod: Float32[Array, " T"]
    sqrt_one_minus_alphas_cumprod: Float32[Array, " T"]
    log_snr: Float32[Array, " T"]
    posterior_variance: Float32[Array, " T"]
    posterior_log_variance: Float32[Array, " T"]
    posterior_mean_z_0: Float32[Array, " T"]
    posterior_mean_z_t: Float32[Array, " T"]
    zero_terminal_snr: bool = dataclasses.field(metadata={"static": True})

    @property
    def num_timesteps(self) -> int:
        """The number of training steps, T."""
        return self.betas.shape[0]

    def levels(
        self, t: Int[Array, "*n"]
    ) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """Looks up (alpha, sigma) at steps t in [-1, T); -1 is clean: (1, 0)."""
        clean, t = t < 0, jnp.maximum(t, 0)
        alpha = jnp.where(clean, 1.0, self.sqrt_alphas_cumprod[t])
        sigma = jnp.where(clean, 0.0, self.sqrt_one_minus_alphas_cumprod[t])
        return alpha, sigma

    def check_alpha(self, name: str) -> None:
        """Raises ValueError where alpha is 0 at the last step.

        Args:
          name: of the sampler or guidance that divides by alpha.
        """
        if self.zero_terminal_snr:
            raise ValueError(
                f"{name} divides by alpha, which is 0 at the last step of a schedule "
                "with zero_terminal_snr=True; leave guidance by classifiers and images "
                "out, and use the sampler ddim, dpm_solver or unipc."
            )

    def snr(self, std: float = 1.0) -> Float[Array, " T"]:
        """Computes std^2 abar / (1 - abar), the signal-to-noise ratio of each step.

        Latents of standard deviation std are noised like latents of unit variance by
        the schedule abar' = std^2 abar / (std^2 abar + 1 - abar), whose ratio is this.

        Args:
          std: standard deviation of z_0; latents that are rescaled have 1.

        Source: Rombach et al. 2022, Sec. 4.3.2 and App. G (Fig. 15).
        """
        return std**2 * jnp.exp(self.log_snr)

    def half_log_snr(self, t: Int[Array, "*n"]) -> Float[Array, "*n"]:
        """Looks up lambda = ln(alpha / sigma), nats; t = -1 gives the cut-off."""
        log_snr = jnp.where(t < 0, _LOG_SNR_BOUND, self.log_snr[jnp.maximum(t, 0)])
        return 0.5 * log_snr


def make_schedule(
    kind: str = "scaled_linear",
    num_timesteps: int = 1000,
    start: float | None = None,
    end: float | None = None,
    *,
    betas: Sequence[float] | Float[np.ndarray, " T"] | None = None,
    zero_terminal_snr: bool = False,
    posterior_beta_share: float = 0.0,
) -> NoiseSchedule:
    """Computes the tables of a noise schedule.

    Args:
      kind: "scaled_linear": sqrt(beta) runs linearly, the paper's schedule (CompVis
        calls it "linear"); "linear": beta runs linearly (CompVis "sqrt_linear");
        "sqrt": beta**2 runs linearly; "cosine": Nichol & Dhariwal 2021, Eq. 17;
        "given": `betas`.
      num_timesteps: T.
      start: first beta; None is 0.0015, as in most published models.
      end: last beta; None is 0.0195.
      betas: variances for kind "given", in (0, 1).
      zero_terminal_snr: shift and scale sqrt(abar) so that the last step is pure noise
        (Lin et al. 2023, Algorithm 1); then predict "x0" or "v", not "eps".
      posterior_beta_share: v of the posterior variance (1 - v) * beta_tilde + v * beta;
        0 and 1 are the choices of Ho et al. 2020, section 3.2 (CompVis `v_posterior`).

    Raises:
      ValueError: an unknown kind, an option that the kind would ignore, or betas
        outside (0, 1).

    Source: CompVis `make_beta_schedule` and `DDPM.register_schedule`.
    """
    raw = make_betas(kind, num_timesteps, start, end, betas)
    if not 0 <= posterior_beta_share <= 1:
        raise ValueError(
            f"posterior_beta_share is a share: got {posterior_beta_share}; choose a "
            "number from 0 to 1."
        )
    if zero_terminal_snr:
        raw = _rescale_to_zero_snr(raw)
    return _tables(raw, posterior_beta_share, zero_terminal_snr)


def same_schedule(a: NoiseSchedule, b: NoiseSchedule) -> bool:
    """Returns whether all tables of two schedules are equal, bit for bit."""
    tables = [jax.tree.leaves(schedule) for schedule in (a, b)]
    return len(a.betas) == len(b.betas) and all(map(np.array_equal, *tables))


def make_betas(
    kind: str,
    num_timesteps: int,
    start: float | None = None,
    end: float | None = None,
    betas: Sequence[float] | Float[np.ndarray, " T"] | None = None,
) -> Float64[np.ndarray, " {num_timesteps}"]:
    """Computes the variances beta of a schedule; arguments as for `make_schedule`.

    Raises:
      ValueError: an unknown kind, an option that the kind would ignore, or betas
        outside (0, 1).
    """
    if kind not in BETAS:
        raise ValueError(f'unknown schedule "{kind}"; one of: {", ".join(BETAS)}.')
    if not 1 <= num_timesteps <= MAX_TIMESTEPS:
        raise ValueError(
            f"num_timesteps counts steps: got {num_timesteps}; use >= 1 and at most "
            f"{MAX_TIMESTEPS}."
        )
    if (betas is not None) != (kind == "given"):
        raise ValueError(
            f'betas go with kind="given", and only with it: got kind="{kind}" and '
            f"betas {'absent' if betas is None else 'present'}."
        )
    if kind in ("cosine", "given") and not start is end is None:
        raise ValueError(
            f'kind="{kind}" has no start or end: got start={start}, end={end}; leave '
            "them out."
        )
    if kind == "given":
        result = np.asarray(betas, np.float64)
        if result.shape != (num_timesteps,):
            raise ValueError(
                f"betas must be [num_timesteps]: got shape {result.shape} and "
                f"num_timesteps={num_timesteps}."
            )
    else:
        start = 0.0015 if start is None else start
        end = 0.0195 if end is None else end
        result = BETAS[kind](num_timesteps, start, end)
    if not np.all((result > 0) & (result < 1)):
        raise ValueError(
            f"every beta must be in (0, 1): got {result.min()} to {result.max()} from "
            f'kind="{kind}", start={start}, end={end}.'
        )
    return result


def _scaled_linear(num_timesteps, start, end):
    return np.linspace(start**0.5, end**0.5, num_timesteps) ** 2


def _linear(num_timesteps, start, end):
    return np.linspace(start, end, num_timesteps)


def _sqrt(num_timesteps, start, end):
    return np.linspace(start, end, num_timesteps) ** 0.5


def _cosine(num_timesteps, start, end):
    del start, end  # refused by make_betas
    offset = 8e-3
    time = np.arange(num_timesteps + 1) / num_timesteps + offset
    alphas_cumprod = np.cos(time / (1 + offset) * np.pi / 2) ** 2
    return np.clip(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0, 0.999)


BETAS = {
    "scaled_linear": _scaled_linear,
    "linear": _linear,
    "cosine": _cosine,
    "sqrt": _sqrt,
    "given": None,
}


def _rescale_to_zero_snr(betas: np.ndarray) -> np.ndarray:
    """Keeps alpha_0 and moves alpha_{T-1} to 0 (Lin et al. 2023, Algorithm 1)."""
    alpha = np.sqrt(np.cumprod(1 - betas))
    first, last = alpha[0], alpha[-1]
    alpha = (alpha - last) * (first / (first - last)) if first > last else 0 * alpha
    return 1 - np.concatenate([alpha[:1] ** 2, alpha[1:] ** 2 / alpha[:-1] ** 2])


def _tables(betas, posterior_beta_share, zero_terminal_snr) -> NoiseSchedule:
    """Derives every table from the float64 betas, and casts."""
    alphas = 1 - betas
    alphas_cumprod = np.cumprod(alphas)
    previous = np.append(1.0, alphas_cumprod[:-1])
    beta_tilde = betas * (1 - previous) / (1 - alphas_cumprod)
    v = posterior_beta_share
    variance = (1 - v) * beta_tilde + v * betas
    with np.errstate(divide="ignore"):
        log_snr = np.log(alphas_cumprod) - np.log1p(-alphas_cumprod)
    tables = dict(
        betas=betas,
        alphas_cumprod=alphas_cumprod,
        sqrt_alphas_cumprod=np.sqrt(alphas_cumprod),
        sqrt_one_minus_alphas_cumprod=np.sqrt(1 - alphas_cumprod),
        log_snr=np.clip(log_snr, -_LOG_SNR_BOUND, _LOG_SNR_BOUND),
        posterior_variance=variance,
        posterior_log_variance=np.log(np.maximum(variance, 1e-20)),
        posterior_mean_z_0=betas * np.sqrt(previous) / (1 - alphas_cumprod),
        posterior_mean_z_t=(1 - previous) * np.sqrt(alphas) / (1 - alphas_cumprod),
    )
    return NoiseSchedule(
        **{name: jnp.asarray(table, jnp.float32) for name, table in tables.items()},
        zero_terminal_snr=zero_terminal_snr,
    )
