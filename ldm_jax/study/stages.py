# SPDX-License-Identifier: Apache-2.0
"""Defines the stages of a study; each runs a command in its own folder.

    first_stage/STAGE       train          images -> autoencoder
    reconstructions/STAGE   evaluate       R-FID, PSNR, codes used
    latents/STAGE           latents        images -> latents
    reference               stats          statistics of the real images
    speed/ARM               (a budget of time) seconds of a training step
    denoiser/ARM/seedN      train          latents -> denoiser
    evaluate/ARM/seedN      evaluate       samples along the budget, and sampling steps

A stage is named after its folder, and finished when that contains result.json.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from ldm_jax.experiment.config.schema import changed
from ldm_jax.files.paths import resolve
from ldm_jax.study import work
from ldm_jax.study.budget import ResolvedArm, as_json, short_digest
from ldm_jax.study.config import Study
from ldm_jax.study.rows import RESULT, read_result


@dataclasses.dataclass(frozen=True)
class Stage:
    """One job of a study.

    Attributes:
      name: of the stage, and of its folder in the study's.
      arms: names of the arms that need it.
      needs: names of the stages whose results it reads.
      settings: JSON-able; a finished stage with other settings is refused.
      run: does the work in the folder that it is given, and returns the result.
      flops: of training; 0 for other stages.
      disk: bytes that it writes, about.
      note: what it does, in a few words.
    """

    name: str
    arms: tuple[str, ...]
    needs: tuple[str, ...]
    settings: Mapping[str, Any]
    run: Callable[[epath.Path], dict[str, Any]]
    flops: float = 0.0
    disk: float = 0.0
    note: str = ""

    @property
    def kind(self) -> str:
        """The first part of the name: what `--stage` selects."""
        return self.name.partition("/")[0]


def make_stages(study: Study, arms: Mapping[str, ResolvedArm], out: str) -> list[Stage]:
    """Lists the stages of arms in order of dependency.

    Args:
      study: what is compared.
      arms: of `budget.resolve_arms`.
      out: directory of the study.
    """
    stages: dict[str, Stage] = {}
    for arm in arms.values():
        sharing = tuple(a.name for a in arms.values() if a.stage == arm.stage)
        made = [*_of_first_stage(study, arm, sharing, out)]
        for seed in study.seeds:
            made += _of_denoiser(study, arm, seed, out)
        stages |= {stage.name: stage for stage in made}
    reference = _reference(study, tuple(arms))
    return sorted([reference, *stages.values()], key=lambda stage: _ORDER[stage.kind])


_ORDER = {
    kind: place
    for place, kind in enumerate(
        (
            *("reference", "first_stage", "reconstructions", "latents"),
            *("speed", "denoiser", "evaluate"),
        )
    )
}


def _reference(study: Study, arms: tuple[str, ...]) -> Stage:
    settings = dict(
        images=as_json(study.images),
        split=study.reference_split,
        image_size=study.image_size,
        network=study.feature_network,
        weights=study.feature_weights,
    )
    run = functools.partial(work.measure_reference, study=study)
    return Stage("reference", arms, (), settings, run, note="of the real images")


def _of_first_stage(
    study: Study, arm: ResolvedArm, arms: tuple[str, ...], out: str
) -> list[Stage]:
    """Lists the stages of an arm's first stage; none for pixels."""
    if arm.first_stage is None:
        return []
    directory, stages = arm.directory, []
    if not directory:
        stages = [_training_of_first_stage(arm, arms)]
        directory = f"{out}/{stages[0].name}"
    needs = tuple(stage.name for stage in stages)
    shared = dict(model_dir=directory, study=study)
    evaluated = dict(
        images=as_json(study.images),
        held_out=study.held_out,
        metrics=list(study.metrics),
        network=study.feature_network,
    )
    encoded = _encoded(arm)
    h, w, c = arm.latent_shape
    stages += [
        Stage(
            f"reconstructions/{arm.stage}",
            arms,
            needs,
            evaluated,
            functools.partial(work.measure_reconstructions, **shared),
            note=f"of the split {study.held_out}",
        ),
        Stage(
            latents_name(arm),
            arms,
            needs,
            encoded,
            functools.partial(
                work.encode_images, model_dir=directory, config=arm.denoiser
            ),
            note=f"{h}x{w}x{c}",
        ),
    ]
    return stages


def _training_of_first_stage(arm: ResolvedArm, arms: tuple[str, ...]) -> Stage:
    """Makes the stage that trains an arm's first stage."""
    config, cost = arm.first_stage, arm.stage_cost
    assert config is not None and cost is not None
    return Stage(
        f"first_stage/{arm.stage}",
        arms,
        (),
        as_json(config),
        functools.partial(work.train_in, config=config),
        flops=arm.first_stage_flops,
        disk=16.0 * cost.parameters * (config.train.keep + 1),
        note=_training_note(cost, config.train.num_steps),
    )


def latents_name(arm: ResolvedArm) -> str:
    """Names the latents of an arm; arms with equal images and conditions share them."""
    return (
        f"latents/{arm.stage}-{short_digest(json.dumps(_encoded(arm), sort_keys=True))}"
    )


def _encoded(arm: ResolvedArm) -> dict[str, Any]:
    """Returns the settings on which latents depend, besides the first stage."""
    return as_json(
        {n: arm.denoiser[n] for n in ("images", "transform", "condition")}
        | {"flip": arm.denoiser.latents.flip}
    )


def _of_denoiser(study: Study, arm: ResolvedArm, seed: int, out: str) -> list[Stage]:
    """Lists the stages of one arm's denoiser of one seed."""
    needs = (latents_name(arm),) if arm.stage else ()
    stages, steps = [], None
    if study.budget.device_hours:
        speed = f"speed/{arm.name}"
        run = functools.partial(work.measure_speed, config=arm.denoiser)
        settings = as_json(arm.denoiser)
        note = "seconds of a step"
        stages.append(Stage(speed, (arm.name,), (), settings, run, note=note))
        needs = (*needs, speed)
        result = resolve(out) / speed / RESULT
        if result.exists():
            steps = arm.steps(study, read_result(result).get("seconds_per_step"))
    else:
        steps = arm.steps(study)
    cost, config = arm.cost, denoiser_config(study, arm, seed, steps, out)
    name, evaluation = f"denoiser/{arm.name}/seed{seed}", dataclasses.asdict(study)
    for of_arms in ("arms", "budget", "seeds", "image_size"):
        evaluation.pop(of_arms)
    count = len(work.evaluation_points(study, study.evaluate_at))
    stages += [
        Stage(
            name,
            (arm.name,),
            needs,
            as_json(config),
            functools.partial(train_denoiser, study=study, arm=arm, seed=seed, out=out),
            flops=(steps or 0) * cost.flops_per_step,
            disk=16.0 * cost.parameters * study.evaluate_at,
            note=_training_note(cost, steps),
        ),
        Stage(
            f"evaluate/{arm.name}/seed{seed}",
            (arm.name,),
            (name, "reference"),
            as_json(evaluation),
            functools.partial(
                work.measure_samples, model_dir=f"{out}/{name}", study=study, out=out
            ),
            disk=3.0 * study.image_size**2 * (study.num_samples + 2 * count),
            note=f"{count} times {study.num_samples} samples",
        ),
    ]
    return stages


def train_denoiser(
    folder: epath.Path, *, study: Study, arm: ResolvedArm, seed: int, out: str
) -> dict[str, Any]:
    """Trains a denoiser; the steps of a budget of time are known only now."""
    seconds = None
    if study.budget.device_hours:
        path = resolve(out) / "speed" / arm.name / RESULT
        seconds = read_result(path).get("seconds_per_step")
    config = denoiser_config(study, arm, seed, arm.steps(study, seconds), out)
    return work.train_in(folder, config=config)


def denoiser_config(
    study: Study, arm: ResolvedArm, seed: int, steps: int | None, out: str
) -> ConfigDict:
    """Returns the config of one training run.

    Args:
      study, arm, seed: of the run.
      steps: of the budget; None where they are not known yet.
      out: directory of the study.
    """
    config = changed(arm.denoiser, {}).unlock()
    with config.ignore_type():
        config.seed = seed
        if arm.stage:
            config.latents.directory = f"{out}/{latents_name(arm)}"
        if steps:
            config.train.num_steps = steps
            config.train.keep_every = steps // study.evaluate_at
            config.train.checkpoint_every = steps // study.evaluate_at
        config.train.evaluate_every = None
    return config


def _training_note(cost, steps: int | None) -> str:
    what = f"{cost.parameters / 1e6:.3g}M parameters"
    if steps is None:
        return f"{what}, steps follow from the measured speed"
    return (
        f"{what}, {steps} steps of {cost.batch_size} images, "
        f"{cost.flops_per_image / 1e9:.3g} GFLOP per image"
    )


def select(
    stages: Sequence[Stage], only: Sequence[str] = (), kind: str = ""
) -> list[Stage]:
    """Returns the stages of some arms, or of one kind.

    Raises:
      ValueError: there are no stages of this kind.
    """
    kinds = list(dict.fromkeys(stage.kind for stage in stages))
    if kind and kind not in kinds:
        raise ValueError(f'there is no stage "{kind}"; one of: {", ".join(kinds)}.')
    return [
        stage
        for stage in stages
        if (not only or set(only) & set(stage.arms)) and kind in ("", stage.kind)
    ]
