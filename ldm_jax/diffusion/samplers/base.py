# SPDX-License-Identifier: Apache-2.0
"""Defines `Sampler` and runs any sampler in one scan.

A sampler is two pure functions. `init` divides the trajectory into N legs of one
network evaluation each (DDIM: N = S; Heun: two legs per step), and `step` computes one
leg. So the network is traced and compiled once, whatever the sampler.

All random numbers are drawn per sample from that sample's key: sample i is the same in
any batch and on any number of devices.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Float32, Int, Int32, Integer, Key, Shaped

from ldm_jax.diffusion.process import add_noise
from ldm_jax.diffusion.samplers.grid import keep_strength
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.types import Array, Denoiser, RandomKey, Size

# Arrays carried from leg to leg; "z" holds the latents that the network sees next.
State = dict[str, Shaped[Array, "..."]]
# Constants of one leg, or NumPy arrays of them [N, ...]; "step" is its index in [0, S).
Leg = dict[str, Shaped[Array, "..."]]
Legs = dict[str, Shaped[np.ndarray, "N ..."]]


class Sampler(NamedTuple):
    """Removes noise from latents, as two pure functions.

    Attributes:
      init: (z_T, timesteps) -> (state, legs); makes the first state and all N legs.
      step: (denoiser of x0, state, leg, keys) -> (state, x0_hat); computes one leg.
    """

    init: Callable[
        [Float[Array, "B h w c"], Int[np.ndarray, " grid"]], tuple[State, Legs]
    ]
    step: Callable[
        [Denoiser, State, Leg, Key[Array, " B"]],
        tuple[State, Float32[Array, "B h w c"]],
    ]


def run_sampler(
    sampler: Sampler,
    denoiser: Denoiser,
    z_T: Float[Array, "B h w c"],
    timesteps: Int[np.ndarray, " grid"],
    key: RandomKey,
) -> Float32[Array, "B h w c"]:
    """Turns noise into latents.

    Args:
      sampler: from `SAMPLERS`.
      denoiser: predicts x0; see `x0_denoiser`.
      z_T: noise; see `initial_noise`.
      timesteps: from `make_timesteps`.
      key: one key (sample i then uses `fold_in(key, i)`), or [B] keys, one per sample.
        The key that drew z_T may be used again.

    Returns:
      Latents at the noise level of `timesteps[-1]`.
    """
    return sample_with_previews(sampler, denoiser, z_T, timesteps, key, ())[0]


def sample_with_previews(
    sampler: Sampler,
    denoiser: Denoiser,
    z_T: Float[Array, "B h w c"],
    timesteps: Int[np.ndarray, " grid"],
    key: RandomKey,
    steps: Sequence[int],
) -> tuple[Float32[Array, "B h w c"], Float32[Array, "K B h w c"]]:
    """Turns noise into latents and keeps some predictions of x0 made on the way.

    Args:
      sampler, denoiser, z_T, timesteps, key: as for `run_sampler`.
      steps: K distinct indices in [0, S); only these predictions are held in memory.

    Returns:
      The latents, and x0_hat of `steps`, in their order.

    Raises:
      ValueError: a step outside [0, S), or one listed twice.
    """
    num_steps = len(timesteps) - 1
    steps = list(steps)
    if len(set(steps)) < len(steps) or not all(0 <= i < num_steps for i in steps):
        raise ValueError(
            f"steps must be distinct and in [0, S={num_steps}): got {steps}."
        )
    z_T = z_T.astype(jnp.float32)
    keys = per_sample_keys(key, z_T.shape[0])
    state, legs = sampler.init(z_T, timesteps)
    previews = jnp.zeros((len(steps), *z_T.shape), jnp.float32)
    # Row of `previews` that a step writes; steps without a preview write past the end.
    row_of_step = np.full(num_steps, len(steps), np.int32)
    row_of_step[steps] = np.arange(len(steps))
    rows = row_of_step[legs["step"]]

    def compute_leg(carry, leg_and_row):
        state, previews = carry
        index, leg, row = leg_and_row
        # 0 is the stream of `initial_noise`.
        leg_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index + 1)
        state, x0_hat = sampler.step(denoiser, state, leg, leg_keys)
        if steps:
            previews = previews.at[row].set(x0_hat, mode="drop")
        return (state, previews), None

    scanned = jax.tree.map(jnp.asarray, (np.arange(len(rows)), legs, rows))
    (state, previews), _ = lax.scan(compute_leg, (state, previews), scanned)
    return state["z"], previews


def initial_noise(key: RandomKey, shape: tuple[Size, ...]) -> Float32[Array, "B h w c"]:
    """Draws z_T, standard normal, each sample from its own key.

    Args:
      key: one key or [B] keys, as for `run_sampler`.
      shape: (B, h, w, c).
    """
    keys = per_sample_keys(key, shape[0])
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
    return _normal(keys, shape)


def start_from_image(
    schedule: NoiseSchedule,
    z_0: Float[Array, "B h w c"],
    timesteps: Int[np.ndarray, " grid"],
    strength: float,
    key: RandomKey,
) -> tuple[Float[Array, "B h w c"], Int[np.ndarray, " rest"]]:
    """Adds noise to the latents of an image, to start sampling from it.

    Args:
      schedule: NoiseSchedule of T steps.
      z_0: clean latents of the images to vary.
      timesteps: the full grid.
      strength: share of the steps to run, in (0, 1]; 1 changes the image most.
      key: one key or [B] keys, as for `run_sampler`.

    Returns:
      z_t and the rest of the grid, which `run_sampler` takes as z_T and timesteps.

    Source: Meng et al. 2022 (SDEdit); CompVis scripts/img2img.
    """
    timesteps = keep_strength(timesteps, strength)
    t = jnp.full(z_0.shape[:1], int(timesteps[0]), jnp.int32)
    return add_noise(schedule, z_0, t, initial_noise(key, z_0.shape)), timesteps


def per_sample_keys(key: RandomKey, batch_size: Size) -> Key[Array, " B"]:
    """Makes [B] typed keys from one key (folding in 0 .. B - 1) or from [B] keys.

    Raises:
      ValueError: neither one key nor B of them.
    """
    key = typed_key(key)
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch_size))
    if key.shape != (batch_size,):
        raise ValueError(
            f"key must be one key or one per sample: got keys of shape {key.shape} for "
            f"a batch of {batch_size}."
        )
    return key


def typed_key(key: Any) -> Key[Array, "..."]:
    """Returns random keys as typed ones; they may be raw numbers of older programs.

    Raises:
      ValueError: it is something else.
    """
    if jnp.issubdtype(getattr(key, "dtype", np.int32), jax.dtypes.prng_key):
        return key
    raw = key if isinstance(key, jax.Array) else np.asarray(key)
    if raw.dtype != np.uint32 or raw.shape[-1:] != (2,):
        raise ValueError(
            f"key must be made by jax.random.key(seed): got {raw.dtype} of shape "
            f"{raw.shape}."
        )
    return jax.random.wrap_key_data(jnp.asarray(raw))


def seed_keys(
    seeds: Sequence[int] | Integer[np.ndarray, " B"],
) -> Key[Array, " B"]:
    """Makes a key per sample from its seed; a seed gives the same image in any batch.

    Raises:
      ValueError: a seed outside [0, 2^32), which would be that of another image.
    """
    seeds = np.asarray(seeds)
    if seeds.size:
        check_seeds(int(seeds.min()), int(seeds.max()))
    return jax.vmap(jax.random.key)(seeds.astype(np.uint32))


def check_seeds(lowest: int, highest: int) -> None:
    """Raises ValueError unless these seeds of images, and all between, are 32 bits."""
    if not 0 <= lowest <= highest < 2**32:
        raise ValueError(
            f"the seeds of images must be in [0, 2^32): got {lowest} to {highest}; "
            "choose another seed of the first image."
        )


def noise_like(
    keys: Key[Array, " B"], z: Float[Array, "B ..."]
) -> Float32[Array, "B ..."]:
    """Draws standard normal noise shaped like z, each sample from its own key."""
    return _normal(keys, z.shape)


def _normal(keys, shape):
    return jax.vmap(lambda key: jax.random.normal(key, shape[1:], jnp.float32))(keys)


def evaluate(
    denoiser: Denoiser, z_t: Float[Array, "B h w c"], t: Int[Array, ""]
) -> Float32[Array, "B h w c"]:
    """Calls a denoiser of x0 with one step t for the whole batch."""
    return denoiser(z_t, jnp.full(z_t.shape[:1], t, jnp.int32)).astype(jnp.float32)


def one_leg_per_step(timesteps: Int32[np.ndarray, " grid"]) -> Legs:
    """Makes S legs from t to s, for samplers with one evaluation per step."""
    return {
        "step": np.arange(len(timesteps) - 1, dtype=np.int32),
        "t": timesteps[:-1],
        "s": timesteps[1:],
    }
