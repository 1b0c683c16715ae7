# SPDX-License-Identifier: Apache-2.0
"""Computes the training steps of every arm from the budget of a study."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.experiment import data_metadata, stored_config
from ldm_jax.experiment.config.schema import changed
from ldm_jax.experiment.prepare import prepare
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.study.config import Arm, Study
from ldm_jax.training.utilization import training_flops

HOUR = 3600.0


@dataclasses.dataclass(frozen=True)
class TrainingCost:
    """The cost of training a config.

    Attributes:
      parameters: that are trained.
      flops_per_image: of a training step: forward, backward, and what it reads.
      batch_size: images of a step.
    """

    parameters: int
    flops_per_image: float
    batch_size: int

    @property
    def flops_per_step(self) -> float:
        return self.flops_per_image * self.batch_size


@dataclasses.dataclass(frozen=True)
class ResolvedArm:
    """An arm with completed configs and counted costs.

    Attributes:
      name: of the arm.
      denoiser: its config, but for directories, seed and number of steps.
      first_stage: config of the first stage; None for pixels.
      directory: of a first stage that is trained already; "" where the study trains it.
      stage: short name of the first stage, shared by all arms that have it; "" for
        pixels.
      paper_rows: see `Arm`.
      latent_shape: (h, w, c).
      f: downsampling factor.
      cost: of the denoiser.
      stage_cost: of the first stage; None where the study trains none.
    """

    name: str
    denoiser: ConfigDict
    first_stage: ConfigDict | None
    directory: str
    stage: str
    paper_rows: tuple[str, ...]
    latent_shape: tuple[int, int, int]
    f: int
    cost: TrainingCost
    stage_cost: TrainingCost | None

    @property
    def first_stage_flops(self) -> float:
        """FLOPs of training the first stage; 0 where the study trains none."""
        if self.stage_cost is None or self.first_stage is None:
            return 0.0
        return self.stage_cost.flops_per_step * self.first_stage.train.num_steps

    def steps(self, study: Study, seconds_per_step: float | None = None) -> int:
        """Returns the steps that the budget pays for, a multiple of `evaluate_at`.

        Args:
          study: has the budget.
          seconds_per_step: as measured on all devices, for a budget of time.

        Raises:
          ValueError: it pays for less than a step between two evaluations.
        """
        budget = study.budget
        if budget.steps:
            steps = budget.steps
        elif budget.flops:
            stage = self.first_stage_flops if budget.counts_first_stage else 0.0
            steps = int((budget.flops - stage) / self.cost.flops_per_step)
        else:
            assert budget.device_hours is not None and seconds_per_step is not None
            hours = budget.device_hours / jax.device_count()
            steps = int(hours * HOUR / seconds_per_step)
        if steps < study.evaluate_at:
            raise ValueError(
                f"{self.name}: the budget must pay for a step before each of the "
                f"{study.evaluate_at} evaluations: got {max(steps, 0)} steps for "
                f"{budget}; a step is {self.cost.flops_per_step:.3g} FLOPs."
            )
        return steps - steps % study.evaluate_at


def resolve_arms(study: Study, names: tuple[str, ...] = ()) -> dict[str, ResolvedArm]:
    """Completes the configs of arms and counts their FLOPs.

    Args:
      study: has the arms.
      names: of the arms; () takes all.

    Raises:
      ValueError: an arm is unknown, or does not fit; one line for each that does not.
    """
    unknown = [name for name in names if name not in study.arms]
    if unknown:
        raise ValueError(
            f"there is no arm {', '.join(unknown)}; one of: {', '.join(study.arms)}."
        )
    arms, errors = {}, []
    for name in names or study.arms:
        try:
            arms[name] = _resolve_arm(name, study.arms[name], study)
        except (ValueError, TypeError) as error:
            errors.append(f"arm {name}: {error}")
    if errors:
        raise ValueError("\n".join(errors))
    return arms


def _resolve_arm(name: str, arm: Arm, study: Study) -> ResolvedArm:
    """Completes and counts one arm."""
    first_stage, directory, stage = _first_stage(arm, study)
    denoiser = changed(arm.denoiser, {}).unlock()
    with denoiser.ignore_type():
        denoiser.images = {**denoiser.get("images", {}), **study.images}
        denoiser.latents.update(image_size=study.image_size, directory="")
        denoiser.latents.first_stage = None
        if first_stage is None:
            denoiser.autoencoder = dict(bottleneck="pixels")
            denoiser.latents.scale = 1.0
        data_metadata.complete(denoiser, _metadata(denoiser, first_stage))
        denoiser.sampling.num_steps = study.num_steps
        if "evaluation" in denoiser:
            denoiser.evaluation.reference = ""
    autoencoder = Autoencoder(**denoiser.autoencoder)
    side = study.image_size
    return ResolvedArm(
        name=name,
        denoiser=denoiser,
        first_stage=first_stage,
        directory=directory,
        stage=stage,
        paper_rows=arm.paper_rows,
        latent_shape=autoencoder.latent_shape((side, side, autoencoder.in_channels)),
        f=autoencoder.f,
        cost=cost_of(denoiser),
        stage_cost=None if first_stage is None or directory else cost_of(first_stage),
    )


def _first_stage(arm: Arm, study: Study) -> tuple[ConfigDict | None, str, str]:
    """Returns (config, directory, short name) of an arm's first stage."""
    if arm.first_stage is None:
        return None, "", ""
    if isinstance(arm.first_stage, str):
        directory, config = stored_config.first_stage_of(arm.first_stage)
    else:
        directory, config = "", changed(arm.first_stage, {}).unlock()
        with config.ignore_type():
            if not config.images.dataset:
                config.images.update(study.images)
                config.held_out = study.held_out
            config.transform.image_size = study.image_size
    name = f"{config.autoencoder.bottleneck}-f{Autoencoder(**config.autoencoder).f}"
    content = directory or json.dumps(config.to_dict(), sort_keys=True, default=str)
    return config, directory, f"{name}-{short_digest(content)}"


def _metadata(
    denoiser: ConfigDict, first_stage: ConfigDict | None
) -> data_metadata.DataMetadata:
    """Returns the metadata that the latents of a first stage will have."""
    known = denoiser if first_stage is None else first_stage
    metadata = data_metadata.DataMetadata(
        "the first stage of this arm",
        known.autoencoder.to_dict(),
        denoiser.latents.image_size,
    )
    sections = [section for _, section in data_metadata.class_sections(denoiser)]
    if all(section.get("num_classes") for section in sections):
        return metadata  # the images need not be there
    return data_metadata.with_classes(metadata, open_images(**denoiser.images))


def short_digest(text: str) -> str:
    """Returns six hexadecimal digits that name a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def cost_of(config: ConfigDict) -> TrainingCost:
    """Counts parameters and FLOPs of a complete config, without data or devices.

    A denoiser of latents is counted without the first stage, which encoded them once.

    Raises:
      ValueError: the config does not fit together.
    """
    name = json.dumps(as_json(config), sort_keys=True)
    if name not in _COSTS:
        _COSTS[name] = _count(config)
    return _COSTS[name]


# Counted once in a process: arms share first stages.
_COSTS: dict[str, TrainingCost] = {}


def _count(config: ConfigDict) -> TrainingCost:
    config = changed(config, {}).unlock()
    config.mesh, config.train.num_steps = ConfigDict(), 1  # of one device
    run = prepare(config, abstract=True, devices=jax.local_devices()[:1])
    shapes, _ = run.task.shapes(run.batch_shapes)
    flops = training_flops(run.task, run.batch_shapes)
    parameters = sum(x.size for x in jax.tree.leaves(shapes))
    return TrainingCost(parameters, flops / run.batch_size, run.batch_size)


def as_json(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """Returns a config as JSON would give it back."""
    values = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    return json.loads(json.dumps(values, default=str))
