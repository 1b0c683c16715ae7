# SPDX-License-Identifier: Apache-2.0
"""Turns conditions into images: denoiser, guidance and sampler in one jit."""

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
from ldm_jax.tasks.guides import Guide
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.tasks.sampling import Sampling, make_sampling
from ldm_jax.types import Array, Batch, Conditioning, Denoiser, PyTree, RandomKey


class ImageLatents(NamedTuple):
    """Latents of images that sampling starts from or keeps; absent entries are None.

    Attributes:
      start: z_0 of the images to vary (image-to-image).
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
      z_T: standard normal noise; not read where `given.start` is.
      key: one key or [B] keys; sample i depends on the i-th alone.
      sampling: sampler, steps and guidance.
      given: latents to start from or to keep.
      num_previews: K, predictions to keep, of steps spread evenly over all.
      guide: of a denoiser of x0, after classifier-free guidance.

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
    """Samples latents, compiled once per model and options; may be traced, too.

    Args:
      model, params: from `ldm_jax.load`.
      cond: from `model.condition`, B rows; None of an unconditional model.
      z_T: standard normal noise.
      null: from `model.null`, for guidance.
      key: one key or [B] keys, for samplers that add noise; None is key 0.
      **options: of `make_sampling`: sampler="ddim", num_steps=50, eta=0.0,
        guidance_scale=3.0 ...

    Returns:
      z_0 for `model.decode`.

    Raises:
      ValueError: options of another type or that do not fit, or z_T and cond of
        different batch sizes.
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


@functools.lru_cache(maxsize=16)
def make_generate(
    model: LatentDiffusion,
    latent_shape: tuple[int, int, int],
    sampling: Sampling,
    num_previews: int = 0,
    guides: tuple[Guide, ...] = (),
) -> Callable[..., Array]:
    """Makes the compiled function from raw conditions to images, see `generator`.

    It is compiled on its own, with its own options, so it cannot be called by another
    compiled function.
    """
    generate = generator(model, latent_shape, sampling, num_previews, guides)
    return jax.jit(generate, compiler_options=sampling_options())


def generator(
    model: LatentDiffusion,
    latent_shape: tuple[int, int, int],
    sampling: Sampling,
    num_previews: int = 0,
    guides: tuple[Guide, ...] = (),
) -> Callable[..., Array]:
    """Makes the function from raw conditions to images, to be compiled by the caller.

    See `latent_generator` for the part of it without the decoder.

    Args:
      model: from `ldm_jax.load`.
      latent_shape: (h, w, c) of one latent.
      sampling: sampler, steps and guidance.
      num_previews: K; 0 is none.
      guides: of the denoiser of x0, the first innermost; see `tasks.guides` for the
        parameters and the fields of y that they read.

    Returns:
      (params, y, keys [B], images) -> images [B, H, W, 3], about [-1, 1]. `y` is a
      batch of the conditioner's fields; `images` is a dict, empty or with
      "start" [B, H, W, 3], or "known" [B, H, W, 3] and "hole" [B, H, W, 1], 0 where
      `known` is kept. Image i depends on row i of each alone. With previews: K
      predictions of the images on the way, then the images, [K + 1, B, H, W, 3].
    """

    sample = latent_generator(model, latent_shape, sampling, num_previews, guides)

    def generate(params, y: Batch, keys: Array, images: Batch) -> Array:
        z_0, previews = sample(params, y, keys, images)

        def finish(z):
            quantize = not sampling.unquantized
            image = _decode(model, params, z, sampling, quantize=quantize)
            return model.conditioner.finish(y, image)

        if not num_previews:
            return finish(z_0)
        return jax.lax.map(finish, jnp.concatenate([previews, z_0[None]]))

    return generate


def latent_generator(
    model: LatentDiffusion,
    latent_shape: tuple[int, int, int],
    sampling: Sampling,
    num_previews: int = 0,
    guides: tuple[Guide, ...] = (),
) -> Callable[..., tuple[Array, Array]]:
    """Makes the function from raw conditions to latents.

    The decoder runs only where an image guides the samples.

    Args:
      model, latent_shape, sampling, num_previews, guides: of `generator`.

    Returns:
      (params, y, keys [B], images) -> scaled z_0 [B, h, w, c], and K predictions of it,
      [K, B, h, w, c]; the arguments are those of `generator`'s function.
    """

    def sample(params, y: Batch, keys: Array, images: Batch) -> tuple[Array, Array]:
        cond, null = model.encode_condition(params, y), None
        if sampling.guidance_scale != 1:
            null = model.encode_condition(params, model.conditioner.null(y))
        z_T = base.initial_noise(keys, (keys.shape[0], *latent_shape))
        given = _given_latents(model, params, images)

        def decode(z, **options):
            return _decode(model, params, z, sampling, **options)

        timesteps = sampling.make_timesteps(model.schedule)

        def guide_all(denoiser):
            for guide in guides:
                denoiser = guide.guide(
                    denoiser, model.schedule, params, y, decode, timesteps
                )
            return denoiser

        return sample_latents(
            model,
            params,
            cond,
            null,
            z_T,
            keys,
            sampling,
            given,
            num_previews,
            guide_all if guides else None,
        )

    return sample


def _decode(model, params, z_0: Array, sampling: Sampling, **options) -> Array:
    """Decodes z_0, in tiles where the denoiser saw tiles."""
    if not sampling.tile:
        return model.decode(params, z_0, **options)
    return tiles.tile_apply(
        lambda z: model.decode(params, z, **options),
        z_0,
        sampling.tile,
        sampling.overlap,
        scale=model.autoencoder.f,
    )


def _given_latents(model, params, images: Batch) -> ImageLatents:
    """Encodes the images to start from or to keep; see `generator` for `images`.

    A latent is kept where all of its f x f pixels are.
    """
    latents = {
        name: model.encode(params, images[name])
        for name in ("start", "known")
        if name in images
    }
    if "hole" in images:
        f = model.autoencoder.f
        batch, height, width, _ = images["hole"].shape
        blocks = images["hole"].reshape(batch, height // f, f, width // f, f, 1)
        latents["mask"] = 1 - jnp.max(blocks, axis=(2, 4))
    return ImageLatents(**latents)
