# SPDX-License-Identifier: Apache-2.0
"""Specs of the two models, with the functions of a first stage and a diffusion model.

A spec is frozen and holds no parameters; `params` is a plain pytree with one entry per
network: "autoencoder", "unet", "conditioner". Every method is a pure function of its
arguments, so it can be called inside `jax.jit`, with the spec closed over.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Float, Int, Int32

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.keywords import read_encoded, read_floats, read_keywords
from ldm_jax.diffusion.process import check_prediction
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.first_stage.bottleneck import VQ
from ldm_jax.models.unet import UNet
from ldm_jax.tasks.checks import (
    check_axes,
    check_batch_sizes,
    check_networks,
    check_steps,
    naming_params,
    network_of,
)
from ldm_jax.types import Array, Batch, Conditioning, PyTree, RandomKey


@dataclasses.dataclass(frozen=True, eq=False)
class FirstStage:
    """An autoencoder and the scale that gives its latents unit variance.

    Attributes:
      autoencoder: the module.
      latent_scale: z_0 = latent_scale * raw latent.
    """

    autoencoder: Autoencoder
    latent_scale: float = 1.0

    def moments(
        self, params: PyTree, image: Float[Array, "B H W C"]
    ) -> Float[Array, "B h w moments"]:
        """Encodes images.

        Args:
          params: {"autoencoder": ...}.
          image: in [-1, 1]; f divides H and W.

        Returns:
          Mean and log-variance, unscaled (VQ: vectors before quantization); a data set
          of latents stores them.

        Raises:
          ValueError: f does not divide H or W, the image holds bytes or has no batch
            axis, or `params` are those of another model.
        """
        variables = {"params": network_of(params, "autoencoder")}
        image = read_floats("image", image)
        check_axes("image", image, self.autoencoder.in_channels)
        with naming_params("autoencoder"):
            return self.autoencoder.apply(variables, image, method="encode")

    def latent(
        self, moments: Float[Array, "B h w moments"], key: RandomKey | None = None
    ) -> Float[Array, "B h w c"]:
        """Draws scaled z_0 from moments; without a key, its mode."""
        moments = jnp.asarray(moments, jnp.float32)
        z_0 = self.autoencoder.bottleneck_layer.sample(moments, key)
        return self.latent_scale * z_0

    def encode(
        self,
        params: PyTree,
        image: Float[Array, "B H W C"],
        key: RandomKey | None = None,
    ) -> Float[Array, "B h w c"]:
        """Encodes images in [-1, 1] to scaled z_0.

        A KL first stage gives the posterior's mode without a key, a sample with one.
        """
        return self.latent(self.moments(params, image), key)

    def decode(
        self, params: PyTree, z_0: Float[Array, "B h w c"], *, quantize: bool = True
    ) -> Float[Array, "B H W C"]:
        """Decodes scaled z_0 to images in about [-1, 1]; VQ quantizes it first.

        Raises:
          ValueError: quantize=False for a first stage without a codebook, z_0 has
            other axes, or `params` are those of another model.
        """
        if not quantize and not isinstance(self.autoencoder.bottleneck_layer, VQ):
            raise ValueError(
                'only latents of a first stage with bottleneck="vq" are quantized: got '
                f'"{self.autoencoder.bottleneck}"; leave unquantized out.'
            )
        variables = {"params": network_of(params, "autoencoder")}
        check_axes("z_0", z_0, self.autoencoder.embed_channels)
        z = jnp.asarray(z_0) / self.latent_scale
        with naming_params("autoencoder"):
            return self.autoencoder.apply(
                variables, z, quantize=quantize, method="decode"
            )

    def quantize(
        self, params: PyTree, z_0: Float[Array, "B h w c"]
    ) -> Float[Array, "B h w c"]:
        """Moves scaled z_0 to the nearest codes (VQ).

        Raises:
          ValueError: the first stage has no codebook.
        """
        return self.latent_scale * self._to_codes(params, z_0)[0]

    def indices(
        self, params: PyTree, z_0: Float[Array, "B h w c"]
    ) -> Int32[Array, "B h w"]:
        """Finds the indices of the codes nearest to scaled z_0 (VQ).

        Raises:
          ValueError: the first stage has no codebook.
        """
        return self._to_codes(params, z_0)[1]

    def _to_codes(self, params: PyTree, z_0):
        """Returns unscaled codes [B, h, w, c] and their indices [B, h, w]."""
        quantizer = self.autoencoder.bottleneck_layer
        if not isinstance(quantizer, VQ):
            raise ValueError(
                'codes need a first stage with bottleneck="vq": got '
                f'"{self.autoencoder.bottleneck}"; leave snap_to_codebook out.'
            )
        codes = network_of(params, "autoencoder")["codebook"]["embedding"]
        check_axes("z_0", z_0, self.autoencoder.embed_channels)
        z = jnp.asarray(z_0) / self.latent_scale
        return quantizer.to_decoder(z, jnp.asarray(codes))


@dataclasses.dataclass(frozen=True, eq=False)
class ConditionEncoder:
    """tau_theta, which encodes a raw condition y for a denoiser.

    As a model of its own, it is a text encoder imported without a denoiser.

    Attributes:
      conditioner: the condition of the model.
    """

    conditioner: Condition = dataclasses.field(kw_only=True)

    def condition(self, params: PyTree, **inputs: Any) -> Conditioning:
        """Encodes a raw condition y, given by the keywords of its fields.

        Args:
          params: {"conditioner": ...} where the conditioner has any.
          **inputs: class_label=, tokens=, text=, boxes=, segmentation=, low_res=, or
            image= with mask=, as the model takes.

        Returns:
          Conditioning of B rows.

        Raises:
          ValueError: a keyword is missing or unknown, or its value does not fit.
        """
        return self.encode_condition(params, read_keywords(self.conditioner, inputs))

    def null(self, params: PyTree, **inputs: Any) -> Conditioning:
        """Encodes the null condition of the same shape, for classifier-free guidance.

        Arguments and errors as of `condition`; only the shapes of the values matter. A
        ValueError is also raised if the model has no null condition, or if the
        condition is given as context=, whose null only the caller knows.
        """
        y = self.conditioner.null(read_keywords(self.conditioner, inputs))
        return self.encode_condition(params, y)

    def encode_condition(self, params: PyTree, y: Batch) -> Conditioning:
        """Encodes a raw condition given as the fields of a batch."""
        check_networks(params)
        with naming_params("conditioner"):
            return self.conditioner.encode(params.get("conditioner", {}), y, params)


@dataclasses.dataclass(frozen=True, eq=False)
class LatentDiffusion(FirstStage, ConditionEncoder):
    """A first stage and the denoiser that was trained on its latents.

    Attributes:
      unet: the denoiser, or another module with the same arguments.
      schedule: the noise schedule of training.
      prediction: what the denoiser predicts, "eps", "x0" or "v".
      schedule_settings: arguments of `make_schedule` that made the schedule; only
        saving needs them.

    Raises:
      ValueError: an unknown prediction, or one that is undefined on the schedule.
    """

    unet: UNet | Any = dataclasses.field(kw_only=True)
    schedule: NoiseSchedule = dataclasses.field(kw_only=True)
    prediction: str = "eps"
    schedule_settings: Mapping[str, Any] | None = None

    def __post_init__(self):
        check_prediction(self.prediction, self.schedule)

    def condition(self, params: PyTree, **inputs: Any) -> Conditioning:
        """Encodes a condition as `ConditionEncoder` does, or takes an encoded one.

        context= [B, M, d] and concat= [B, h, w, k], one or both, are passed on
        unchanged; any model takes those that its denoiser reads.
        """
        if inputs.keys() & {"context", "concat"}:
            c = self.autoencoder.embed_channels
            channels = (self.unet.in_channels or c) - c
            return read_encoded(inputs, self.unet.context_dim, channels)
        return super().condition(params, **inputs)

    def denoise(
        self,
        params: PyTree,
        z_t: Float[Array, "B h w c"],
        t: Int[Array, " B"],
        cond: Conditioning | None = None,
    ) -> Float[Array, "B h w c"]:
        """Predicts the noise (or x0, v) in latents.

        Args:
          params: {"unet": ...}.
          z_t: scaled noisy latents.
          t: in [0, T).
          cond: B rows; None of an unconditional model.

        Raises:
          ValueError: z_t, t and cond are not of one batch size, `t` is not in [0, T),
            `cond` is not what the denoiser reads, or `params` are those of another
            model.
        """
        variables = {"params": network_of(params, "unet")}
        cond = self.checked_condition(z_t, cond)
        if not isinstance(t, Tracer):
            check_steps(t, self.schedule.num_timesteps)
        t = jnp.asarray(t)
        with naming_params("unet"):
            return self.unet.apply(variables, z_t, t, cond)

    def checked_condition(
        self,
        z: Float[Array, "B h w c"],
        cond: Conditioning | None,
        name: str = "z_t",
    ) -> Conditioning:
        """Checks that a condition has B rows; replaces None for an unconditional model.

        Args:
          z: latents.
          cond: their condition.
          name: of the latents, for errors.

        Raises:
          ValueError: latents and condition are not of one batch size or have other
            axes, or there is no condition and the model has one.
        """
        check_axes(name, z, self.autoencoder.embed_channels)
        if cond is None and self.conditioner.fields:
            fields = self.conditioner.fields.values()
            inputs = ", ".join(f"{field.keyword}=..." for field in fields)
            raise ValueError(
                f'this model has the condition "{self.conditioner.kind}": got None; '
                f"give model.condition(params, {inputs})."
            )
        cond = Conditioning() if cond is None else cond
        if not isinstance(cond, Conditioning):
            raise ValueError(
                "a condition must be one that model.condition made: got "
                f"{type(cond).__name__}; any model takes "
                "model.condition(params, context=...)."
            )
        check_batch_sizes(z, cond)
        return cond


def with_frozen(trained: PyTree, frozen: PyTree) -> PyTree:
    """Joins the trained and the frozen parameters of a model, by network.

    In a hybrid condition, some parts may be trained and others frozen.
    """
    both = {**trained, **frozen}
    if "conditioner" in trained and "conditioner" in frozen:
        both["conditioner"] = {**trained["conditioner"], **frozen["conditioner"]}
    return both
