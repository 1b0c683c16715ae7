# SPDX-License-Identifier: Apache-2.0
"""Opens the images of a study before its first stage runs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.study.budget import ResolvedArm, as_json
from ldm_jax.study.config import Study
from ldm_jax.study.stages import Stage


def check_images(
    study: Study, arms: Mapping[str, ResolvedArm], stages: Sequence[Stage]
) -> None:
    """Opens every image set that stages will read, once.

    Args:
      study: names the images and their splits.
      arms: of `budget.resolve_arms`.
      stages: that will be run.

    Raises:
      ValueError, OSError: a set is missing, empty or cannot be read; see `open_images`.
    """
    opened = []
    for images in _sets_of(study, arms, stages):
        if images not in opened:
            open_images(**images)
            opened.append(images)


def _sets_of(study, arms, stages) -> Iterator[dict[str, Any]]:
    """Yields the arguments of `open_images` for the images of stages."""
    shared = as_json(study.images)
    names = {stage.name for stage in stages}
    kinds = {stage.kind for stage in stages}
    if kinds & {"latents", "denoiser"}:
        yield shared
    if "reference" in kinds:
        yield shared | {"split": study.reference_split}
    if "reconstructions" in kinds:
        yield shared | {"split": study.held_out}
    for arm in arms.values():
        if f"first_stage/{arm.stage}" in names and arm.first_stage is not None:
            yield as_json(arm.first_stage.images)
