# SPDX-License-Identifier: Apache-2.0
"""The experiments of a quickstart: a first stage, its latents, a denoiser of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.experiment.config.schema import changed


@dataclasses.dataclass(frozen=True)
class ResultCheck:
    """How the samples of a quickstart are checked; its section `classifier`.

    Attributes:
      samples_per_class: samples that are drawn of each class.
      num_neighbors: real images that name a sample.
      min_held_out_accuracy: of real images that were held out.
      min_sample_accuracy: of the samples.
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
      check: of the samples; None for none.
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


def make_chain(config: ConfigDict, latents: str, data_dir: str = "") -> Chain:
    """Joins the experiments of a quickstart's config.

    Args:
      config: with the sections first_stage, latents and diffusion, and perhaps
        classifier; stays as it is.
      latents: directory that the latents will be written to.
      data_dir: of image sets that are downloaded or made; "" leaves the config's.

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
