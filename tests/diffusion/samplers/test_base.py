# SPDX-License-Identifier: Apache-2.0
"""The one scan: keys per sample, previews, meshes, compilation, image-to-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ldm_jax.diffusion.process import add_noise
from ldm_jax.diffusion.samplers import SAMPLERS, make_sampler
from ldm_jax.diffusion.samplers.base import (
    initial_noise,
    per_sample_keys,
    run_sampler,
    sample_with_previews,
    start_from_image,
)
from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.diffusion.schedule import make_schedule
from tests.diffusion.oracles import gaussian_denoiser

SCHEDULE = make_schedule()
EVALUATIONS = {"heun": 9, "plms": 6}  # of 5 steps to clean; others: 5


def draw(name, keys, schedule=SCHEDULE, steps=5):
    """Samples one 4x4x2 latent per key."""
    z_T = initial_noise(keys, (len(keys), 4, 4, 2))
    timesteps = make_timesteps(steps, 1000, "even")
    sampler = make_sampler(name, schedule)
    return run_sampler(sampler, gaussian_denoiser(schedule), z_T, timesteps, keys)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_sample_i_does_not_depend_on_its_batch(name):
    """Identity: four at once, in another order, or one alone."""
    keys = jax.random.split(jax.random.key(0), 4)
    draw_jit = jax.jit(lambda keys: draw(name, keys))
    together = draw_jit(keys)
    np.testing.assert_allclose(draw_jit(keys[::-1])[::-1], together, atol=1e-6)
    np.testing.assert_allclose(draw_jit(keys[2:3])[0], together[2], atol=1e-5)


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_a_batch_sharded_over_a_mesh_gives_the_same_samples(name):
    """Identity: eight devices against one."""
    keys = jax.random.split(jax.random.key(0), 8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("data")))
    draw_jit = jax.jit(lambda keys, schedule: draw(name, keys, schedule))
    z = draw_jit(sharded, SCHEDULE)
    assert len(z.sharding.device_set) == 8
    assert z.sharding.shard_shape(z.shape)[0] == 1
    np.testing.assert_allclose(z, draw_jit(keys, SCHEDULE), rtol=1e-5, atol=1e-6)


def test_one_key_is_folded_with_the_index_of_each_sample():
    """Identity: one key, or the same keys written out; typed or raw."""
    key = jax.random.key(3)
    z = initial_noise(key, (3, 2, 2, 1))
    keys = jnp.stack([jax.random.fold_in(key, i) for i in range(3)])
    np.testing.assert_array_equal(z, initial_noise(keys, (3, 2, 2, 1)))
    raw = jax.random.key_data(key)
    np.testing.assert_array_equal(z, initial_noise(raw, (3, 2, 2, 1)))
    with pytest.raises(ValueError, match="one per sample"):
        per_sample_keys(keys, 4)


def test_noise_is_standard_normal_and_independent_between_samples():
    """Oracle: mean 0, variance 1, no correlation."""
    z = initial_noise(jax.random.key(0), (2, 64, 64, 1)).reshape(2, -1)
    # 4096 values a sample: standard errors 0.016 and 0.011.
    assert jnp.abs(z.mean(1)).max() < 0.06
    assert jnp.abs(z.std(1) - 1).max() < 0.05
    assert abs((z[0] * z[1]).mean()) < 0.06


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_the_network_is_traced_once_and_evaluated_as_often_as_documented(name):
    """Oracle: one scan body; S evaluations, Heun 2 S - 1, PLMS S + 1."""
    traced, evaluated = [], []
    denoiser = gaussian_denoiser(SCHEDULE)

    def counting(z_t, t):
        traced.append(1)
        jax.debug.callback(lambda t: evaluated.append(int(t)), t[0])
        return denoiser(z_t, t)

    @jax.jit
    def run(z_T):
        timesteps = make_timesteps(5, 1000, "even")
        sampler = make_sampler(name, SCHEDULE)
        return run_sampler(sampler, counting, z_T, timesteps, jax.random.key(0))

    run(jnp.ones((1, 2, 2, 1))).block_until_ready()
    jax.effects_barrier()
    assert len(traced) == 1
    assert len(evaluated) == EVALUATIONS.get(name, 5)
    assert min(evaluated) >= 0  # never asked about clean latents


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_previews_are_the_predictions_of_the_requested_steps(name):
    """Identity: each kept alone equals all kept together; the last ends at clean."""
    z_T = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    timesteps = make_timesteps(4, 1000, "even")
    common = (
        make_sampler(name, SCHEDULE),
        gaussian_denoiser(SCHEDULE),
        z_T,
        timesteps,
        jax.random.key(1),
    )
    run = jax.jit(
        lambda steps: sample_with_previews(*common, steps=steps), static_argnums=0
    )
    z, every = run((0, 1, 2, 3))
    assert every.shape == (4, 2, 4, 4, 1)
    z_again, some = run((3, 1))
    np.testing.assert_allclose(z_again, z, atol=1e-6)
    np.testing.assert_allclose(some, every[jnp.array([3, 1])], atol=1e-6)
    if name != "plms":  # its last step extrapolates past the prediction
        np.testing.assert_allclose(z, every[3], atol=1e-5)
    with pytest.raises(ValueError, match="steps must be distinct"):
        sample_with_previews(*common, steps=(0, 4))
    with pytest.raises(ValueError, match="steps must be distinct"):
        sample_with_previews(*common, steps=(1, 1))


def test_image_to_image_starts_from_the_image_under_noise():
    """Oracle: z_t of the first step kept; at low strength the image is recognised."""
    z_0 = jax.random.normal(jax.random.key(0), (2, 16, 16, 1)) * 0.3 + 1.5
    key, timesteps = jax.random.key(1), make_timesteps(50)
    z_t, rest = start_from_image(SCHEDULE, z_0, timesteps, 0.2, key)
    assert len(rest) == 11
    noise = initial_noise(key, z_0.shape)
    t = jnp.full(2, rest[0])
    np.testing.assert_array_equal(z_t, add_noise(SCHEDULE, z_0, t, noise))
    z = run_sampler(
        make_sampler("ddim", SCHEDULE), gaussian_denoiser(SCHEDULE), z_t, rest, key
    )
    # The flow from z_t is affine, so z correlates with z_0 as z_t does.
    alpha, sigma = SCHEDULE.levels(t[0])
    expected = alpha * 0.3 / jnp.sqrt((alpha * 0.3) ** 2 + sigma**2)
    got = np.corrcoef(z.ravel(), z_0.ravel())[0, 1]
    assert abs(got - expected) < 0.15  # 512 values: standard error 0.04
