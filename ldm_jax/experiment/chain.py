# SPDX-License-Identifier: Apache-2.0
"""The experiments of a quickstart: a first stage, its latents, and a denoiser."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.experiment.config.schema import changed
from ldm_jax.models.autoencoder import Autoencoder


@dataclasses.dataclass(frozen=True)
class ResultCheck:
    """How a quickstart checks its samples; the section `classifier` of its config.

    Attributes:
      samples_per_class: number of samples of each class.
      num_neighbors: k of the k-nearest-neighbour classifier of real images.
      min_held_out_accuracy: least accuracy of this classifier on held-out images.
      min_sample_accuracy: least accuracy of this classifier on the samples.
    """

    samples_per_class: int
    num_neighbors: int
    min_held_out_accuracy: float
    min_sample_accuracy: float


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """What a quickstart trains and checks.

    Attributes:
      first_stage: config of the first stage.
      diffusion: config of the denoiser, which learns from the latents.
      encoding: arguments of `encode_image_set`.
      check: how the samples are checked; None skips the check.
    """

    first_stage: ConfigDict
    diffusion: ConfigDict
    encoding: Mapping[str, Any]
    check: ResultCheck | None = None

    @property
    def held_out(self) -> str | None:
        """Split that the first stage does not learn from; None for none."""
        return self.first_stage.held_out or None

    @property
    def num_classes(self) -> int:
        """Classes of the denoiser's condition."""
        return self.diffusion.condition.num_classes

    @property
    def inputs(self) -> dict[str, str]:
        """The size of images and latents, and the condition, in words."""
        height, width = ImageTransform(**self.first_stage.transform).size
        autoencoder = Autoencoder(**self.first_stage.autoencoder)
        shape = autoencoder.latent_shape((height, width, autoencoder.in_channels))
        return {
            "image size": f"{height}x{width}",
            "latents": f"{'x'.join(map(str, shape))}, f = {autoencoder.f}",
            "condition": self.diffusion.condition.kind,
        }

    @property
    def trainings(self) -> dict[str, str]:
        """The width and the work of both trainings, in words."""
        stages = {
            "first stage": (self.first_stage, self.first_stage.autoencoder),
            "denoiser": (self.diffusion, self.diffusion.unet),
        }
        return {
            name: f"{network.channels} channels, {stage.train.num_steps:,} steps of "
            f"{stage.batch_size}"
            for name, (stage, network) in stages.items()
        }


# "config.train" in a sentence or a flag, but not the file config.json.
_FIELD = re.compile(r"(?<![\w./])config\.(?!json\b|py\b)(?=[a-z])")


@contextlib.contextmanager
def naming_experiment(name: str) -> Iterator[None]:
    """Names an experiment of a quickstart in errors about the fields of its config.

    An experiment by itself has the field config.train.num_steps, which in the config of
    all of them is config.diffusion.train.num_steps.

    Args:
      name: "first_stage" or "diffusion".

    Raises:
      ValueError: with the full name of the field.
    """
    try:
        yield
    except ValueError as error:
        text = _FIELD.sub(f"config.{name}.", str(error))
        if text == str(error):
            raise
        raise ValueError(text) from error


def make_chain(config: ConfigDict, latents: str, data_dir: str = "") -> Chain:
    """Joins the experiments of a quickstart's config.

    Args:
      config: with the sections first_stage, latents and diffusion, and perhaps
        classifier; stays as it is.
      latents: directory that the latents will be written to.
      data_dir: folder of the prepared image sets; "" takes the config's.

    Raises:
      TypeError: the section `classifier` has other fields than `ResultCheck`.
    """
    where = {"images.data_dir": data_dir} if data_dir else {}
    stage = changed(config.first_stage, where)
    denoiser = changed(config.diffusion, {"latents.directory": latents})
    encoding = dict(config.latents)
    if denoiser.condition.kind == "text":  # its captions are stored with the latents
        captioned = changed(denoiser, {"images.split": stage.images.split})
        encoding |= {"config": captioned, "mirror": False}
    check = ResultCheck(**config.classifier) if "classifier" in config else None
    return Chain(stage, denoiser, encoding, check)
