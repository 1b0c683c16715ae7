# SPDX-License-Identifier: Apache-2.0
"""Makes the function from raw conditions to images: encoders, sampler, decoder."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.diffusion import tiles
from ldm_jax.diffusion.samplers import base
from ldm_jax.parallel.compile import sampling_options
from ldm_jax.tasks.guides import Guide
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.tasks.sample_latents import ImageLatents, sample_latents
from ldm_jax.tasks.sampling import Sampling
from ldm_jax.types import Array, Batch


@functools.lru_cache(maxsize=16)
def make_generate(
    model: LatentDiffusion,
    latent_shape: tuple[int, int, int],
    sampling: Sampling,
    num_previews: int = 0,
    guides: tuple[Guide, ...] = (),
) -> Callable[..., Array]:
    """Makes the compiled function from raw conditions to images, see `generator`.

    It is compiled with its own compiler options, so another compiled function cannot
    call it; use `generator` there.
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

    `latent_generator` makes the same function without the decoder.

    Args:
      model: from `ldm_jax.load`.
      latent_shape: (h, w, c) of one latent.
      sampling: sampler, steps and guidance.
      num_previews: K; 0 is none.
      guides: applied to the denoiser of x0 in this order; `tasks.guides` describes the
        parameters and the fields of y that they read.

    Returns:
      (params, y, keys [B], images) -> images [B, H, W, 3], about [-1, 1]. `y` is a
      batch of the conditioner's fields. `images` is a dict: empty; or "start"
      [B, H, W, 3], to vary these images; or "known" [B, H, W, 3] and "hole"
      [B, H, W, 1], 0 where `known` is kept. Image i depends only on row i of each.
      With previews, the result is [K + 1, B, H, W, 3]: K predictions during sampling,
      then the images.
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

    The decoder is used only if an image guides the samples.

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
    """Decodes z_0, in tiles if the denoiser is applied to tiles."""
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
