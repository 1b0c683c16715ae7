# SPDX-License-Identifier: Apache-2.0
"""Sections of a config that describe sources of data and of weights."""

import dataclasses

from ldm_jax.data.transforms.pixels import check_side
from ldm_jax.files.errors import shown
from ldm_jax.files.value_types import MAX_FLOAT32, MIN_FLOAT32
from ldm_jax.models.autoencoder import Autoencoder


@dataclasses.dataclass(frozen=True)
class LatentSet:
    """The latents that a diffusion model is trained on: the section `latents`.

    Attributes:
      directory: written by `ldm-jax latents`; several, "a,b", are mixed. With "", the
        images of the section `images` are encoded by `first_stage` in each step.
      first_stage: a model directory; needed if `directory` is "", except for pixels.
      image_size: side of the images, f times that of the latents; or (height, width).
      flip: whether the latent of the mirror image is used with probability 1/2, if the
        set contains it.
      scale: z_0 = scale * raw latent; None takes 1 / standard deviation, as measured.
        The published VQ models have 1.
      weights: of the sets of a mixture; () takes their sizes.

    Raises:
      ValueError: a size or a scale that images and latents cannot have.
    """

    directory: str
    image_size: int | tuple[int, int]
    first_stage: str | None = None
    flip: bool = True
    scale: float | None = None
    weights: tuple[float, ...] = ()

    def __post_init__(self):
        check_side("config.latents.image_size", self.image_size)
        scale = self.scale
        if scale is None:
            return
        is_number = isinstance(scale, float | int) and not isinstance(scale, bool)
        if not is_number or not MIN_FLOAT32 <= scale <= MAX_FLOAT32:
            raise ValueError(
                "config.latents.scale must be a finite number above 0 in single "
                "precision, 1 / the standard deviation of the latents: got "
                f"{shown(scale)}."
            )

    def latent_shape(self, autoencoder: Autoencoder) -> tuple[int, int, int]:
        """Returns (h, w, c)."""
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (height, width, autoencoder.in_channels)
        return autoencoder.latent_shape(shape)


@dataclasses.dataclass(frozen=True)
class TextEncoderSource:
    """The pretrained text encoder of a diffusion model: the section `text_encoder`.

    Attributes:
      directory: a model directory with a text encoder, imported alone or with its
        diffusion model; it also defines the fields of the text condition. "" for none.
      fingerprint: of the encoder's parameters. A run stores it in its config, so that
        it cannot be resumed with another encoder.
    """

    directory: str = ""
    fingerprint: str | None = None


@dataclasses.dataclass(frozen=True)
class GuidedModel:
    """The diffusion model that a classifier guides: the section `diffusion`.

    Attributes:
      directory: of the model; its autoencoder, noise schedule and latent scale become
        the classifier's.
    """

    directory: str
