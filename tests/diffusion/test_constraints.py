# SPDX-License-Identifier: Apache-2.0
"""Constraints on x0: clipping, codebooks, known regions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.constraints import clip_x0, keep_known, snap_x0, threshold_x0
from ldm_jax.diffusion.process import add_noise
from ldm_jax.diffusion.samplers import SAMPLERS, make_sampler
from ldm_jax.diffusion.samplers.base import run_sampler
from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.diffusion.schedule import make_schedule
from tests.diffusion.oracles import gaussian_denoiser, two_mode_denoiser

SCHEDULE = make_schedule()
Z = 3 * jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
T = jnp.array([100, 200])
MASK = jnp.zeros((2, 8, 8, 1)).at[:, :, :4].set(1)


def identity(z_t, t):
    return z_t


def test_clipping_bounds_x0():
    """Oracle: jnp.clip."""
    np.testing.assert_array_equal(clip_x0(identity)(Z, T), jnp.clip(Z, -1, 1))
    np.testing.assert_array_equal(clip_x0(identity, 2.0)(Z, T), jnp.clip(Z, -2, 2))
    with pytest.raises(ValueError, match="bound must be positive"):
        clip_x0(identity, 0.0)


def test_dynamic_thresholding_scales_each_sample_by_its_percentile():
    """Oracle: Imagen's formula; small samples stay as they are."""
    z = Z.at[1].set(Z[1] / 100)
    out = threshold_x0(identity, 0.9)(z, T)
    limit = np.quantile(np.abs(z[0]), 0.9)
    np.testing.assert_allclose(out[0], np.clip(z[0], -limit, limit) / limit, rtol=1e-5)
    np.testing.assert_array_equal(out[1], z[1])
    twice = threshold_x0(identity, 0.9, bound=2.0)(z, T)
    np.testing.assert_allclose(twice[0], 2 * out[0], rtol=1e-5)
    for percentile in (0.0, 99.5):
        with pytest.raises(ValueError, match="share in"):
            threshold_x0(identity, percentile)


def test_snapping_ends_on_the_codebook():
    """Oracle: codes -1 and 1.5; to clean, the last x0_hat is the sample."""

    def quantize(z):
        return jnp.where(z > 0.25, 1.5, -1.0)

    denoiser = snap_x0(two_mode_denoiser(SCHEDULE), quantize)
    timesteps = make_timesteps(10, 1000, "even")
    sampler = make_sampler("ddim", SCHEDULE)
    z = jax.jit(lambda key: run_sampler(sampler, denoiser, Z, timesteps, key))(
        jax.random.key(0)
    )
    assert set(np.unique(z)) == {np.float32(-1.0), np.float32(1.5)}


@pytest.mark.parametrize(
    ("name", "fresh"),
    [(name, False) for name in sorted(SAMPLERS)] + [("ddim", True), ("heun", True)],
)
def test_mask_1_keeps_and_mask_0_is_sampled(name, fresh):
    """Oracle: the kept half ends at z_known, the rest is Gaussian data."""
    z_known = jnp.full(Z.shape, 7.0)
    denoiser = keep_known(
        SCHEDULE,
        gaussian_denoiser(SCHEDULE),
        jnp.where(MASK > 0, z_known, jnp.nan),  # what is not kept is not read
        MASK,
        key=jax.random.key(5) if fresh else None,
    )

    @jax.jit
    def run(z_T):
        timesteps = make_timesteps(25, 1000, "even")
        sampler = make_sampler(name, SCHEDULE)
        return run_sampler(sampler, denoiser, z_T, timesteps, jax.random.key(1))

    z = run(Z / 3)
    # PLMS extrapolates over its last steps, which need not end at the last x0_hat.
    tolerance = 0.1 if name == "plms" else 1e-5
    np.testing.assert_allclose(z[:, :, :4], 7.0, atol=tolerance)
    assert abs(z[:, :, 4:].mean() - 1.5) < 0.15


def test_the_network_sees_the_known_region_at_its_noise_level():
    """Oracle: mean and spread of q(z_t | z_known) under the mask, z_t elsewhere."""
    seen = []

    def denoiser(z_t, t):
        seen.append(z_t)
        return z_t

    z_known, shape = jnp.full((1, 64, 64, 1), 2.0), (1, 64, 64, 1)
    mask = jnp.zeros(shape).at[:, :, :32].set(1)
    t, z_t = jnp.array([500]), jnp.full(shape, -9.0)
    keep_known(SCHEDULE, denoiser, z_known, mask, jax.random.key(0))(z_t, t)
    expected = add_noise(SCHEDULE, z_known, t, jnp.zeros(shape)).mean()
    sigma = SCHEDULE.levels(t)[1]
    under = seen[0][:, :, :32]
    # 2048 values: standard errors 0.02 and 0.015.
    assert abs(under.mean() - expected) < 0.08
    assert abs(under.std() - sigma[0]) < 0.06
    np.testing.assert_array_equal(seen[0][:, :, 32:], -9.0)


def test_fresh_noise_is_per_sample():
    """Identity: sample 1 alone is sample 1 of two."""
    keys = jax.random.split(jax.random.key(0), 2)
    denoiser = gaussian_denoiser(SCHEDULE)
    both = keep_known(SCHEDULE, denoiser, Z, MASK, keys)(Z, T)
    alone = keep_known(SCHEDULE, denoiser, Z[1:], MASK[1:], keys[1:])(Z[1:], T[1:])
    np.testing.assert_allclose(both[1:], alone, rtol=1e-6)


def test_masks_that_do_not_fit_the_latents_are_refused(unchecked_shapes):
    for mask in (jnp.ones((2, 4, 4, 1)), jnp.ones((2, 8, 8, 3)), jnp.ones((2, 8, 8))):
        with pytest.raises(ValueError, match="mask must be"):
            keep_known(SCHEDULE, identity, Z, mask)
