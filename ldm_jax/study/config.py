# SPDX-License-Identifier: Apache-2.0
"""The description of a study: arms, seeds, a budget and metrics."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.experiment.config.config_files import run_file
from ldm_jax.metrics.image_sets.distribution import SET_METRICS


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long every denoiser is trained, by one of three measures.

    Attributes:
      flops: of the matrix products and convolutions of training, as `training.flops`
        counts them: equal compute. The steps of each arm follow.
      steps: equal steps.
      device_hours: equal time, hours times devices. The seconds of a step are measured
        before.
      counts_first_stage: whether training the first stage is paid from `flops` too.

    Raises:
      ValueError: not one of them is given, or it is not positive.
    """

    flops: float | None = None
    steps: int | None = None
    device_hours: float | None = None
    counts_first_stage: bool = False

    def __post_init__(self):
        given = {name: value for name, value in self._amounts().items() if value}
        if len(given) != 1 or min(given.values()) <= 0:
            raise ValueError(
                "a budget is one of flops, steps and device_hours, above 0: got "
                f"{self._amounts()}; Budget(flops=3e17), say."
            )
        if self.counts_first_stage and self.flops is None:
            raise ValueError(
                "counts_first_stage is for a budget of flops: got "
                f"{self._amounts()}; give flops, or leave it out."
            )

    def _amounts(self) -> dict[str, float | None]:
        names = ("flops", "steps", "device_hours")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        if self.flops:
            stage = "with" if self.counts_first_stage else "without"
            return f"{self.flops:.3g} FLOPs of training, {stage} the first stage"
        if self.steps:
            return f"{self.steps} steps of training"
        return f"{self.device_hours:g} device-hours of training"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the models that are compared.

    Attributes:
      denoiser: config of the task "latent_diffusion". What it leaves open (autoencoder,
        image size, classes) is taken from the first stage and the images.
      first_stage: config of the task "first_stage"; or the directory of one that is
        trained; None for a denoiser of pixels.
      paper_rows: rows of the paper's tables that are printed for comparison.
    """

    denoiser: ConfigDict
    first_stage: ConfigDict | str | None = None
    paper_rows: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Study:
    """The arms of a study, and the settings that they share.

    Attributes:
      arms: name ("f=4") -> arm.
      images: fields of the section `images` that replace those of every denoiser, and
        of first stages that name no data set.
      image_size: side of all images.
      budget: of every arm.
      seeds: of denoisers; first stages are shared.
      evaluate_at: points along the budget, evenly spaced, where samples are measured.
      num_steps: of the sampler at these points.
      sampling_steps: numbers of steps with which the last checkpoint is sampled, too.
      num_samples: at each point.
      metrics: of SET_METRICS.
      feature_network, feature_weights: of `open_feature_network`.
      reference_split: of the images that samples are compared with.
      held_out: split of the images on which first stages are measured.
      lpips_weights: file of `ldm-jax weights lpips`, for LPIPS of the first stages.
      num_shown: images of a sheet of samples; the others are deleted once they are
        measured.
      batch_size: images at once in evaluation.

    Raises:
      ValueError: there are no arms, a name is not a file name, or a number is out of
        range.
    """

    arms: Mapping[str, Arm]
    budget: Budget
    images: Mapping[str, Any]
    image_size: int
    seeds: tuple[int, ...] = (0,)
    evaluate_at: int = 8
    num_steps: int = 50
    sampling_steps: tuple[int, ...] = (10, 20, 50, 100, 200)
    num_samples: int = 5000
    metrics: tuple[str, ...] = ("fid", "kid", "is", "precision", "recall")
    feature_network: str = "inception"
    feature_weights: str = ""
    reference_split: str = "train"
    held_out: str = "test"
    lpips_weights: str = ""
    num_shown: int = 8
    batch_size: int = 64

    def __post_init__(self):
        if not self.arms:
            raise ValueError("a study has arms to compare: got none; name some.")
        for name in self.arms:
            if not name or name.startswith(".") or {"/", "\\", ","} & set(name):
                raise ValueError(
                    f"an arm is named like a file, without , and /: got {name!r}."
                )
        counts = ("image_size", "evaluate_at", "num_steps", "num_samples", "batch_size")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be 1 or more: got {getattr(self, name)}."
                )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be different numbers: got {self.seeds}.")
        unknown = sorted(set(self.metrics) - set(SET_METRICS))
        if unknown:
            raise ValueError(
                f"unknown metrics {', '.join(unknown)}; some of: "
                f"{', '.join(SET_METRICS)}."
            )


def load_study(config: str) -> Study:
    """Runs get_study of NAME or FILE.py, with the argument after its colon.

    Raises:
      ValueError: as `experiment.config.config_files.run_file`.
    """
    return run_file(config, "get_study", Study)
