# SPDX-License-Identifier: Apache-2.0
"""Noise schedules against the original's tables and their definitions."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from beartype.door import is_bearable

from ldm_jax.diffusion.samplers import make_sampler
from ldm_jax.diffusion.samplers.base import run_sampler
from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.diffusion.schedule import BETAS, NoiseSchedule, make_betas, make_schedule
from tests.diffusion.oracles import two_mode_denoiser
from tests.golden.denoiser import load

GOLDEN_RANGES = {
    "tiny-celeba256": (0.0015, 0.0195),
    "tiny-cin256": (0.0015, 0.0195),
    "tiny-lsun_churches256": (0.0015, 0.0155),
    "tiny-text2img256": (0.0015, 0.0195),
}


@pytest.mark.parametrize("name", GOLDEN_RANGES)
def test_tables_are_the_originals_bit_for_bit(name):
    """Golden: buffers of the original model, float32."""
    arrays, _ = load(name)
    start, end = GOLDEN_RANGES[name]
    schedule = make_schedule("scaled_linear", 1000, start, end)
    ours = {
        "betas": schedule.betas,
        "alphas_cumprod": schedule.alphas_cumprod,
        "posterior_log_variance_clipped": schedule.posterior_log_variance,
    }
    for table, values in ours.items():
        np.testing.assert_array_equal(arrays[f"sched_{table}"], values, table)


@pytest.mark.parametrize(
    ("start", "end", "beta_1", "first", "middle", "last"),
    [
        (0.0015, 0.0195, 0.001507834682, 0.9985, 0.1158444908, 0.0001423039752),
        (0.0015, 0.0155, 0.001506657672, 0.9985, 0.1510774233, 0.0006686651737),
        (0.0015, 0.0205, 0.001508109566, 0.9985, 0.1085759962, 9.691086681e-05),
        (0.0015, 0.015, 0.001506500354, 0.9985, 0.1563070943, 0.0008125184711),
        (0.00085, 0.012, 0.0008546986554, 0.99915, 0.2776696505, 0.004660098513),
        (0.0001, 0.02, 0.0001026483644, 0.9999, 0.3331877674, 0.0007334124596),
    ],
)
def test_published_ranges_give_the_originals_numbers(
    start, end, beta_1, first, middle, last
):
    """Golden: the original's make_beta_schedule("linear"), float64."""
    betas = make_betas("scaled_linear", 1000, start, end)
    alphas_cumprod = np.cumprod(1 - betas)
    expected = [beta_1, first, middle, last]
    got = [betas[1], *alphas_cumprod[[0, 499, 999]]]
    np.testing.assert_allclose(got, expected, rtol=1e-9)  # as many digits as printed


def test_linear_and_sqrt_run_as_they_are_named():
    """Oracle: their definitions; "linear" is the original's "sqrt_linear"."""
    betas = make_betas("linear", 11, 0.1, 0.2)
    np.testing.assert_allclose(np.diff(betas), 0.01)
    betas = make_betas("sqrt", 11, 0.1, 0.2)
    np.testing.assert_allclose(np.diff(betas**2), 0.01)


def test_cosine_follows_its_formula_and_is_cut_off_at_its_end():
    """Oracle: Nichol & Dhariwal 2021, Eq. 17."""
    schedule = make_schedule("cosine", 1000)
    t = np.arange(1, 1000)
    curve = np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    curve = curve / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(schedule.alphas_cumprod[:999], curve, rtol=1e-5)
    assert schedule.betas[-1] == np.float32(0.999)


def test_given_betas_are_taken():
    """Identity: the betas of another kind, given, make the same schedule."""
    betas = make_betas("cosine", 100)
    given = make_schedule("given", 100, betas=betas)
    jax.tree.map(np.testing.assert_array_equal, given, make_schedule("cosine", 100))


@pytest.mark.parametrize("kind", ["scaled_linear", "linear", "cosine"])
def test_zero_terminal_snr_leaves_no_signal_and_keeps_the_first_step(kind):
    """Oracle: Lin et al. 2023, Algorithm 1: alpha_0 stays, alpha_{T-1} is 0."""
    plain = make_schedule(kind, 1000)
    rescaled = make_schedule(kind, 1000, zero_terminal_snr=True)
    assert rescaled.alphas_cumprod[-1] == 0
    np.testing.assert_allclose(
        rescaled.alphas_cumprod[0], plain.alphas_cumprod[0], rtol=1e-6
    )
    a, b = plain.sqrt_alphas_cumprod, rescaled.sqrt_alphas_cumprod
    # An affine map of alpha: ratios of differences survive.
    ratio = (b[500] - b[999]) / (b[0] - b[999])
    np.testing.assert_allclose(ratio, (a[500] - a[999]) / (a[0] - a[999]), rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(rescaled))


def test_posterior_beta_share_mixes_the_two_variances():
    """Oracle: (1 - v) * beta_tilde + v * beta."""
    small, large, half = (
        make_schedule(posterior_beta_share=v).posterior_variance for v in (0, 1, 0.5)
    )
    np.testing.assert_array_equal(large, make_schedule().betas)
    np.testing.assert_allclose(half, (small + large) / 2, rtol=1e-6)


def test_levels_and_log_snr_of_clean_are_one_zero_and_the_cut_off():
    """Oracle: t = -1 is z_0 itself."""
    schedule = make_schedule()
    alpha, sigma = schedule.levels(jnp.array([-1, 0, 999]))
    assert (alpha[0], sigma[0]) == (1, 0)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-6)
    half = schedule.half_log_snr(jnp.array([-1, 0, 999]))
    assert half[0] == 20
    np.testing.assert_allclose(half[1:], jnp.log(alpha[1:] / sigma[1:]), rtol=1e-5)


def test_schedule_goes_into_jit_as_an_argument():
    """Identity: a pytree of arrays; two schedules share one compiled function."""
    traces = []

    @jax.jit
    def last(schedule):
        traces.append(1)
        return schedule.alphas_cumprod[-1]

    last(make_schedule())
    last(make_schedule(start=0.001, end=0.01))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(kind="lineal"), "unknown schedule"),
        (dict(kind="cosine", start=0.1), "no start or end"),
        (dict(kind="given"), "go with kind"),
        (dict(betas=[0.1] * 1000), "go with kind"),
        (dict(kind="given", betas=[0.1] * 5), "must be .num_timesteps"),
        (dict(start=0.5, end=1.5), "must be in"),
        (dict(num_timesteps=0), "counts steps"),
        (dict(posterior_beta_share=2), "is a share"),
    ],
)
def test_bad_schedules_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(**options)


@pytest.mark.parametrize("steps", [jnp.array(5), jnp.arange(-1, 2)])
def test_tables_and_their_values_have_the_shapes_that_their_types_state(steps):
    """Identity: T is one number for all tables; a value per step looked up.

    JAX fills pytrees with placeholders, so the class is exempt from the checks that
    other types get in every test.
    """
    schedule = make_schedule(num_timesteps=7)
    with jaxtyping.jaxtyped("context"):
        for name, hint in NoiseSchedule.__annotations__.items():
            assert is_bearable(getattr(schedule, name), hint), name
    with jaxtyping.jaxtyped("context"):
        argument, result = NoiseSchedule.half_log_snr.__annotations__.values()
        assert is_bearable(steps, argument)
        values = (schedule.half_log_snr(steps), *schedule.levels(steps))
        assert all(is_bearable(value, result) for value in values)


def test_every_kind_is_tested_here():
    assert set(BETAS) == {"scaled_linear", "linear", "sqrt", "cosine", "given"}


def test_raw_latents_are_unit_latents_of_a_schedule_with_their_snr():
    """Oracle: data of deviation s, sampled raw and rescaled, give the same latents.

    With abar' = s^2 abar / (s^2 abar + 1 - abar), z_t is divided by
    sqrt(s^2 abar + 1 - abar), and z_0 by s (Fig. 15 of the paper).
    """
    scale, modes, std = 4.0, (-1.0, 1.5), 0.2
    raw = make_schedule()
    abar = np.cumprod(1 - make_betas("scaled_linear", 1000))
    unit = scale**2 * abar / (scale**2 * abar + 1 - abar)
    betas = 1 - unit / np.append(1, unit[:-1])
    rescaled = make_schedule("given", 1000, betas=betas)
    # Float32 keeps fewer digits of 1 - abar where it is small.
    np.testing.assert_allclose(raw.snr(scale), rescaled.snr(), rtol=1e-3)
    np.testing.assert_allclose(raw.snr(), abar / (1 - abar), rtol=1e-3)

    def sample(schedule, factor, z_T):
        denoiser = two_mode_denoiser(
            schedule, tuple(factor * m for m in modes), std=factor * std
        )
        sampler, steps = make_sampler("ddim", schedule), make_timesteps(20, grid="even")
        return run_sampler(sampler, denoiser, z_T, steps, jax.random.key(0))

    z_T = jax.random.normal(jax.random.key(1), (4, 8, 8, 2))
    t = make_timesteps(20, grid="even")[0]
    gain = np.sqrt(scale**2 * abar[t] + 1 - abar[t])
    large = sample(raw, scale, gain * z_T)
    np.testing.assert_allclose(large / scale, sample(rescaled, 1, z_T), atol=1e-3)
    assert np.std(large) > 3
