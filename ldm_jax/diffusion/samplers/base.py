# SPDX-License-Identifier: Apache-2.0
"""What a sampler is, and the one scan that runs any of them.

A sampler is two pure functions. `init` lays out the trajectory as N legs, one network
evaluation each (DDIM: N = S; Heun: two legs a step), and `step` walks one leg. So the
network is traced and compiled once, whatever the sampler.

Everything random is drawn per sample from that sample's own key: sample i is the same
in any batch and on any number of devices.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ldm_jax.diffusion.process import add_noise
from ldm_jax.diffusion.samplers.grid import keep_strength
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.types import Array, Denoiser

State = dict[str, Array]  # has "z" [B, h, w, c], where the network is evaluated next
Leg = dict[str, Any]  # has "step"; scalars in `step`, [N] arrays as made by `init`


class Sampler(NamedTuple):
    """How noise is removed: two pure functions.

    Attributes:
      init: (z_T [B, h, w, c], timesteps [S + 1] NumPy) -> (state, legs). Every entry of
        `legs` is an [N, ...] array; "step" is the index in [0, S) a leg belongs to.
      step: (denoiser of x0, state, leg, keys [B]) -> (state, x0_hat [B, h, w, c]).
    """

    init: Callable[[Array, np.ndarray], tuple[State, Leg]]
    step: Callable[[Denoiser, State, Leg, Array], tuple[State, Array]]


def sample(
    sampler: Sampler,
    denoiser: Denoiser,
    z_T: Array,
    timesteps: np.ndarray,
    key: Array,
) -> Array:
    """Carries noise to latents.

    Args:
      sampler: from `SAMPLERS`.
      denoiser: (z_t [B, h, w, c], t [B]) -> x0_hat [B, h, w, c]; see `x0_denoiser`.
      z_T: [B, h, w, c] noise; see `initial_noise`.
      timesteps: [S + 1] NumPy int32 from `make_timesteps`.
      key: one key (sample i then uses `fold_in(key, i)`), or [B] keys, one a sample.
        The same key may have made z_T.

    Returns:
      [B, h, w, c] float32 latents at noise level `timesteps[-1]`.
    """
    return sample_with_previews(sampler, denoiser, z_T, timesteps, key, ())[0]


def sample_with_previews(
    sampler: Sampler,
    denoiser: Denoiser,
    z_T: Array,
    timesteps: np.ndarray,
    key: Array,
    steps: Sequence[int],
) -> tuple[Array, Array]:
    """Carries noise to latents and keeps what was predicted on the way.

    Args:
      steps: K distinct indices in [0, S); only these predictions are held in memory.
      Others as for `sample`.

    Returns:
      latents [B, h, w, c], and x0_hat [K, B, h, w, c] of the steps named, in order.

    Raises:
      ValueError: a step outside [0, S), or named twice.
    """
    num_steps = len(timesteps) - 1
    steps = list(steps)
    if len(set(steps)) < len(steps) or not all(0 <= i < num_steps for i in steps):
        raise ValueError(
            f"steps must be distinct and lie in [0, S={num_steps}): got {steps}."
        )
    z_T = z_T.astype(jnp.float32)
    keys = per_sample_keys(key, z_T.shape[0])
    state, legs = sampler.init(z_T, timesteps)
    previews = jnp.zeros((len(steps), *z_T.shape), jnp.float32)
    # Row of `previews` that a step writes; those not asked for write past the end.
    row_of_step = np.full(num_steps, len(steps), np.int32)
    row_of_step[steps] = np.arange(len(steps))
    rows = row_of_step[legs["step"]]

    def walk(carry, leg_and_row):
        state, previews = carry
        index, leg, row = leg_and_row
        # 0 is the stream of `initial_noise`.
        leg_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index + 1)
        state, x0_hat = sampler.step(denoiser, state, leg, leg_keys)
        if steps:
            previews = previews.at[row].set(x0_hat, mode="drop")
        return (state, previews), None

    scanned = jax.tree.map(jnp.asarray, (np.arange(len(rows)), legs, rows))
    (state, previews), _ = lax.scan(walk, (state, previews), scanned)
    return state["z"], previews


def initial_noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Draws z_T [B, h, w, c], standard normal, each sample from its own key.

    Args:
      key: one key or [B] keys, as for `sample`.
      shape: (B, h, w, c).
    """
    keys = per_sample_keys(key, shape[0])
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
    return _normal(keys, shape)


def start_from_image(
    schedule: NoiseSchedule,
    z_0: Array,
    timesteps: np.ndarray,
    strength: float,
    key: Array,
) -> tuple[Array, np.ndarray]:
    """Prepares image-to-image sampling: noises z_0 part of the way.

    Args:
      schedule: NoiseSchedule of T steps.
      z_0: [B, h, w, c] clean latents of the images to vary.
      timesteps: [S + 1] full grid.
      strength: share of the steps to run, in (0, 1]; more changes more.
      key: one key or [B] keys, as for `sample`.

    Returns:
      z_t [B, h, w, c] and the rest of the grid, which `sample` takes as z_T, timesteps.

    Source: Meng et al. 2022 (SDEdit); CompVis scripts/img2img.
    """
    timesteps = keep_strength(timesteps, strength)
    t = jnp.full(z_0.shape[:1], int(timesteps[0]), jnp.int32)
    return add_noise(schedule, z_0, t, initial_noise(key, z_0.shape)), timesteps


def per_sample_keys(key: Array, batch_size: int) -> Array:
    """Makes [B] typed keys of one key (folding in 0 .. B - 1) or of [B] keys.

    Raises:
      ValueError: neither one key nor B of them.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch_size))
    if key.shape != (batch_size,):
        raise ValueError(
            f"key must be one key or one per sample: got keys of shape {key.shape} for "
            f"a batch of {batch_size}."
        )
    return key


def seed_keys(seeds) -> Array:
    """Makes [B] keys from [B] whole numbers; a seed gives one image, anywhere.

    Raises:
      ValueError: a seed outside [0, 2^32): it would be that of another image.
    """
    seeds = np.asarray(seeds)
    if seeds.size and not (seeds.min() >= 0 and seeds.max() < 2**32):
        raise ValueError(
            f"the seeds of images must lie in [0, 2^32): got {seeds.min()} to "
            f"{seeds.max()}; choose another seed of the first image."
        )
    return jax.vmap(jax.random.key)(seeds.astype(np.uint32))


def noise_like(keys: Array, z: Array) -> Array:
    """Draws standard normal noise shaped like z [B, ...] from keys [B]."""
    return _normal(keys, z.shape)


def _normal(keys, shape):
    return jax.vmap(lambda key: jax.random.normal(key, shape[1:], jnp.float32))(keys)


def evaluate(denoiser: Denoiser, z_t: Array, t: Array) -> Array:
    """Calls the denoiser at one step t [] for the whole batch: x0_hat, float32."""
    return denoiser(z_t, jnp.full(z_t.shape[:1], t, jnp.int32)).astype(jnp.float32)


def one_leg_per_step(timesteps: np.ndarray) -> Leg:
    """Lays out S legs from t to s, for samplers with one evaluation a step."""
    return {
        "step": np.arange(len(timesteps) - 1, dtype=np.int32),
        "t": timesteps[:-1],
        "s": timesteps[1:],
    }
