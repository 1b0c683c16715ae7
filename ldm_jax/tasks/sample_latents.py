# SPDX-License-Identifier: Apache-2.0
"""Samples latents, given an encoded condition: denoiser, guidance and sampler."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from ldm_jax.conditions.keywords import read_floats
from ldm_jax.diffusion import constraints, guidance, process, tiles
from ldm_jax.diffusion.samplers import base
from ldm_jax.parallel.compile import sampling_options
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.tasks.sampling import Sampling, make_sampling
from ldm_jax.types import Array, Conditioning, Denoiser, PyTree, RandomKey


class ImageLatents(NamedTuple):
    """Latents of images that sampling starts from or keeps; absent entries are None.

    Attributes:
      start: z_0 of images to vary (image-to-image).
      known: z_0 of images of which a region is kept.
      mask: in [0, 1]; 1 keeps `known`, 0 samples.
    """

    start: Float[Array, "B h w c"] | None = None
    known: Float[Array, "B h w c"] | None = None
    mask: Float[Array, "B h w 1"] | None = None


def sample_latents(
    model: LatentDiffusion,
    params,
    cond: Conditioning,
    null: Conditioning | None,
    z_T: Float[Array, "B h w c"],
    key: RandomKey,
    sampling: Sampling,
    given: ImageLatents = ImageLatents(),
    num_previews: int = 0,
    guide: Callable[[Denoiser], Denoiser] | None = None,
) -> tuple[Float[Array, "B h w c"], Float[Array, "K B h w c"]]:
    """Turns noise into latents, given a condition; a pure function that can be traced.

    Args:
      model: networks, schedule and what is predicted.
      params: {"unet": ...}.
      cond: B rows.
      null: shaped like `cond`; not needed at guidance_scale 1.
      z_T: standard normal noise; not used with `given.start`.
      key: one key, or [B] keys, of which sample i uses only the i-th.
      sampling: sampler, steps and guidance.
      given: latents to start from or to keep.
      num_previews: K, number of predictions of x0 to return, from evenly spaced steps.
      guide: is applied to the denoiser of x0 after classifier-free guidance.

    Returns:
      Scaled z_0, and the K predictions of x0.

    Raises:
      ValueError: more previews than steps.
    """
    schedule = model.schedule
    denoiser = make_denoiser(model, params, cond, null, sampling, guide)
    if given.known is not None:
        assert given.mask is not None  # the two come together
        denoiser = constraints.keep_known(
            schedule, denoiser, given.known, given.mask, key
        )
    timesteps = sampling.make_timesteps(schedule)
    if given.start is not None:
        z_T, timesteps = base.start_from_image(
            schedule, given.start, timesteps, sampling.strength, key
        )
    sampler = sampling.make_sampler(schedule)
    num_steps = len(timesteps) - 1
    check_previews(num_previews, num_steps)
    steps = np.linspace(0, num_steps - 1, num_previews).round().astype(int).tolist()
    return base.sample_with_previews(sampler, denoiser, z_T, timesteps, key, steps)


def check_previews(num_previews: int, num_steps: int) -> None:
    """Raises ValueError unless there is a step for each preview."""
    if not 0 <= num_previews <= num_steps:
        raise ValueError(
            f"previews must be at most the steps sampled: got {num_previews} for "
            f"{num_steps}; ask for fewer, or for more steps."
        )


def make_denoiser(
    model, params, cond, null, sampling: Sampling, guide=None
) -> Denoiser:
    """Makes a denoiser of x0: the network with tiles, guidance and constraints."""

    def network(z_t, t, cond):
        return model.denoise(params, z_t, t, cond)

    predict = network
    if sampling.tile:
        predict = tiles.tiled(network, sampling.tile, sampling.overlap)
    guided = guidance.classifier_free(
        predict,
        cond,
        null,
        sampling.guidance_scale,
        rescale=sampling.guidance_rescale,
        interval=sampling.guidance_interval,
    )
    denoiser = process.x0_denoiser(model.schedule, guided, model.prediction)
    if guide is not None:
        denoiser = guide(denoiser)
    if sampling.snap_to_codebook:
        denoiser = constraints.snap_x0(denoiser, lambda z: model.quantize(params, z))
    if sampling.clip is not None:
        denoiser = constraints.clip_x0(denoiser, sampling.clip)
    if sampling.threshold is not None:
        denoiser = constraints.threshold_x0(denoiser, sampling.threshold)
    return denoiser


def sample(
    model: LatentDiffusion,
    params: PyTree,
    cond: Conditioning | None,
    *,
    z_T: Float[Array, "B h w c"],
    null: Conditioning | None = None,
    key: RandomKey | None = None,
    **options,
) -> Float[Array, "B h w c"]:
    """Samples latents; compiled once per model and options, and can itself be traced.

    Args:
      model, params: from `ldm_jax.load`.
      cond: from `model.condition`, B rows; None for an unconditional model.
      z_T: standard normal noise.
      null: from `model.null`, for guidance.
      key: one key or [B] keys, for samplers that add noise; None uses seed 0.
      **options: of `make_sampling`: sampler="ddim", num_steps=50, eta=0.0,
        guidance_scale=3.0 ...

    Returns:
      z_0 for `model.decode`.

    Raises:
      ValueError: an option has another type or does not fit the model, or z_T and cond
        have different batch sizes.
    """
    if not isinstance(model, LatentDiffusion):
        raise ValueError(
            "sample takes (model, params, cond), where ldm_jax.load returns the first "
            f"two: got {type(model).__name__} for a diffusion model."
        )
    sampling = make_sampling(**options)
    cond = model.checked_condition(z_T, cond, "z_T")
    z_T = read_floats("z_T", z_T)
    if not isinstance(z_T, Tracer) and not jnp.isfinite(z_T).all():
        raise ValueError("z_T must be standard normal noise: got NaN or infinity.")
    if null is not None:
        null = model.checked_condition(z_T, null, "z_T")
    key = jax.random.key(0) if key is None else base.typed_key(key)
    if isinstance(z_T, Tracer):  # a part of the caller's program
        return sample_latents(model, params, cond, null, z_T, key, sampling)[0]
    return _compiled_sample(model, sampling)(params, cond, null, z_T, key)


@functools.lru_cache(maxsize=16)
def _compiled_sample(model, sampling):
    return jax.jit(
        lambda params, cond, null, z_T, key: sample_latents(
            model, params, cond, null, z_T, key, sampling
        )[0],
        compiler_options=sampling_options(),
    )
