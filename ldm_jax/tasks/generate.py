# SPDX-License-Identifier: Apache-2.0
"""From a condition to images: denoiser, guidance and sampler in one jit."""

import dataclasses
import functools
import inspect

import jax
import numpy as np

from ldm_jax.diffusion import guidance, process
from ldm_jax.diffusion.samplers import SAMPLERS, base
from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.types import Array, Batch, Conditioning


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How latents are sampled; the section `sampling` of a config.

    Attributes:
      sampler: a name of `SAMPLERS`.
      num_steps: S, calls of the sampler's rule.
      grid: "original" or "even", see `make_timesteps`.
      eta: for DDIM, in [0, 1]: 0 adds no noise, 1 as much as DDPM; None where the
        sampler has no such choice.
      temperature: factor of the noise a sampler adds; None leaves it.
      guidance_scale: 1 is off; papers that write w mean scale - 1.
      guidance_rescale: in [0, 1], see `classifier_free`.
      guidance_interval: (first, last) t that is guided; None guides all.

    Raises:
      ValueError: an unknown sampler, or an option that the sampler does not have.
    """

    sampler: str = "ddim"
    num_steps: int = 50
    grid: str = "original"
    eta: float | None = None
    temperature: float | None = None
    guidance_scale: float = 1.0
    guidance_rescale: float = 0.0
    guidance_interval: tuple[int, int] | None = None

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise ValueError(
                f'unknown sampler "{self.sampler}"; one of: '
                f"{', '.join(sorted(SAMPLERS))}."
            )
        known = inspect.signature(SAMPLERS[self.sampler]).parameters
        refused = [name for name in self.sampler_options() if name not in known]
        if refused:
            raise ValueError(
                f'the sampler "{self.sampler}" has no {", ".join(refused)}; leave it '
                "out, or choose another sampler."
            )

    def sampler_options(self) -> dict[str, float]:
        """Returns the options that were given to the sampler's maker."""
        options = dict(eta=self.eta, temperature=self.temperature)
        return {name: value for name, value in options.items() if value is not None}


def sample_latents(
    model: LatentDiffusion,
    params,
    cond: Conditioning,
    null: Conditioning | None,
    z_T: Array,
    key: Array,
    sampling: Sampling,
) -> Array:
    """Carries noise to latents under a condition; pure, to be traced.

    Args:
      model: networks, schedule and what is predicted.
      params: {"unet": ...}.
      cond: B rows.
      null: shaped like `cond`; not needed at guidance_scale 1.
      z_T: [B, h, w, c] standard normal noise.
      key: one key or [B] keys; sample i depends on the i-th alone.
      sampling: sampler, steps and guidance.

    Returns:
      z_0 [B, h, w, c], scaled.
    """

    def predict(z_t, t, cond):
        return model.denoise(params, z_t, t, cond)

    guided = guidance.classifier_free(
        predict,
        cond,
        null,
        sampling.guidance_scale,
        rescale=sampling.guidance_rescale,
        interval=sampling.guidance_interval,
    )
    denoiser = process.x0_denoiser(model.schedule, guided, model.prediction)
    num_timesteps = model.schedule.num_timesteps
    timesteps = make_timesteps(sampling.num_steps, num_timesteps, sampling.grid)
    sampler = SAMPLERS[sampling.sampler](model.schedule, **sampling.sampler_options())
    return base.sample(sampler, denoiser, z_T, timesteps, key)


def sample(
    model: LatentDiffusion,
    params,
    cond: Conditioning,
    *,
    z_T: Array,
    null: Conditioning | None = None,
    key: Array | None = None,
    **options,
) -> Array:
    """Samples latents, compiled once per model and options.

    Args:
      model, params: from `ldm_jax.load`.
      cond: from `model.condition`, B rows.
      z_T: [B, h, w, c] standard normal noise.
      null: from `model.null`, for guidance.
      key: one key or [B] keys, for samplers that add noise; None is key 0.
      **options: fields of `Sampling`: sampler="ddim", num_steps=50, eta=0.0,
        guidance_scale=3.0 ...

    Returns:
      z_0 [B, h, w, c] for `model.decode`.
    """
    sampling = Sampling(**options)
    key = jax.random.key(0) if key is None else key
    return _compiled_sample(model, sampling)(params, cond, null, z_T, key)


@functools.lru_cache(maxsize=16)
def _compiled_sample(model, sampling):
    return jax.jit(
        lambda params, cond, null, z_T, key: sample_latents(
            model, params, cond, null, z_T, key, sampling
        )
    )


@functools.lru_cache(maxsize=16)
def make_generate(
    model: LatentDiffusion, latent_shape: tuple[int, int, int], sampling: Sampling
):
    """Makes the compiled function from raw conditions to images.

    Args:
      model: from `ldm_jax.load`.
      latent_shape: (h, w, c) of one latent.
      sampling: sampler, steps and guidance.

    Returns:
      (params, y, keys [B]) -> images [B, H, W, 3], about [-1, 1]. `y` is a batch of the
      conditioner's fields; image i depends on row i of `y` and `keys` alone.
    """

    def generate(params, y: Batch, keys: Array) -> Array:
        cond = model.condition(params, **y)
        null = model.null(params, **y) if sampling.guidance_scale != 1 else None
        z_T = base.initial_noise(keys, (keys.shape[0], *latent_shape))
        z_0 = sample_latents(model, params, cond, null, z_T, keys, sampling)
        return model.decode(params, z_0)

    return jax.jit(generate)


def seed_keys(seeds) -> Array:
    """Makes [B] keys from [B] whole numbers; a seed gives one image, anywhere."""
    return jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))
