# SPDX-License-Identifier: Apache-2.0
"""The two models as specs: what can be asked of a first stage and of a diffusion model.

A spec is frozen and holds no parameters; `params` is a plain pytree with one entry per
network: "autoencoder", "unet", "conditioner". Every method is a pure function of its
arguments, so it may stand inside `jax.jit`, with the spec closed over.
"""

import dataclasses

import jax.numpy as jnp

from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.unet import UNet
from ldm_jax.tasks.conditioning import Conditioner
from ldm_jax.types import Array, Conditioning


@dataclasses.dataclass(frozen=True, eq=False)
class FirstStage:
    """An autoencoder and the scale that gives its latents unit variance.

    Attributes:
      autoencoder: the module.
      latent_scale: z_0 = latent_scale * raw latent.
    """

    autoencoder: Autoencoder
    latent_scale: float = 1.0

    def moments(self, params, image: Array) -> Array:
        """Encodes images.

        Args:
          params: {"autoencoder": ...}.
          image: [B, H, W, 3] in [-1, 1]; f divides H and W.

        Returns:
          [B, h, w, 2c] mean and log-variance, unscaled (VQ: [B, h, w, c] before
          quantization); what a latent dataset stores.

        Raises:
          ValueError: f does not divide H or W.
        """
        variables = {"params": params["autoencoder"]}
        return self.autoencoder.apply(variables, jnp.asarray(image), method="encode")

    def latent(self, moments: Array, key: Array | None = None) -> Array:
        """Draws z_0 [B, h, w, c], scaled, from moments; without a key, its mode."""
        moments = jnp.asarray(moments, jnp.float32)
        return self.latent_scale * self.autoencoder.regularizer.sample(moments, key)

    def encode(self, params, image: Array, key: Array | None = None) -> Array:
        """Encodes [B, H, W, 3] in [-1, 1] to scaled z_0 [B, h, w, c].

        A KL first stage gives the posterior's mode without a key, a sample with one.
        """
        return self.latent(self.moments(params, image), key)

    def decode(self, params, z_0: Array) -> Array:
        """Decodes scaled z_0 [B, h, w, c] to [B, H, W, 3]; VQ quantizes."""
        variables = {"params": params["autoencoder"]}
        z = jnp.asarray(z_0) / self.latent_scale
        return self.autoencoder.apply(variables, z, method="decode")

    def quantize(self, params, z_0: Array) -> Array:
        """Moves scaled z_0 [B, h, w, c] to the nearest codes (VQ).

        Raises:
          ValueError: the first stage has no codebook.
        """
        if self.autoencoder.bottleneck != "vq":
            raise ValueError(
                'codes need a first stage with bottleneck="vq": got '
                f'"{self.autoencoder.bottleneck}"; leave snap_to_codebook out.'
            )
        codes = jnp.asarray(params["autoencoder"]["codebook"]["embedding"])
        z = jnp.asarray(z_0) / self.latent_scale
        return self.latent_scale * self.autoencoder.regularizer.to_decoder(z, codes)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class LatentDiffusion(FirstStage):
    """A first stage and the denoiser that was trained on its latents.

    Attributes:
      unet: the denoiser.
      conditioner: tau_theta, which turns a raw condition y into a `Conditioning`.
      schedule: the noise schedule of training.
      prediction: what the denoiser predicts, "eps", "x0" or "v".
    """

    unet: UNet = dataclasses.field(kw_only=True)
    conditioner: Conditioner = dataclasses.field(kw_only=True)
    schedule: NoiseSchedule = dataclasses.field(kw_only=True)
    prediction: str = "eps"

    def condition(self, params, **fields) -> Conditioning:
        """Encodes a raw condition y, given by the fields a batch would hold.

        Args:
          params: {"conditioner": ...} where the conditioner has any.
          **fields: `conditioner.fields` by name, e.g. label=[B] int32.

        Raises:
          ValueError: a field is missing or unknown.
        """
        y = self._fields(fields)
        return self.conditioner.encode(params.get("conditioner", {}), y, params)

    def null(self, params, **fields) -> Conditioning:
        """Encodes the null condition of the same shape, for classifier-free guidance.

        Args and errors as `condition`; ValueError also where the model has no null.
        """
        y = self.conditioner.null(self._fields(fields))
        return self.conditioner.encode(params.get("conditioner", {}), y, params)

    def _fields(self, fields):
        expected = self.conditioner.fields
        if set(fields) != set(expected):
            raise ValueError(
                f'a model with the "{self.conditioner.kind}" condition takes '
                f"{', '.join(expected) or 'none'}: got {', '.join(fields) or 'none'}."
            )
        return {name: jnp.asarray(value) for name, value in fields.items()}

    def denoise(self, params, z_t: Array, t: Array, cond: Conditioning) -> Array:
        """Predicts from z_t [B, h, w, c] and t [B] int32 in [0, T): [B, h, w, c]."""
        return self.unet.apply({"params": params["unet"]}, z_t, t, cond)
