# SPDX-License-Identifier: Apache-2.0
"""Chooses the classes that are sampled for an evaluation."""

import numpy as np

from ldm_jax.commands.sampling.drawing import Guidance
from ldm_jax.experiment.model_settings import ModelSettings, read_settings


def count_classes(model: ModelSettings, guidance: Guidance) -> int | None:
    """Returns how many classes samples are of: the model's, or its classifier's."""
    if model.is_unconditional and guidance.classifier:
        return read_settings(guidance.classifier, "classifier").num_classes
    return model.num_classes


def choose_classes(num_classes: int, how: str, num: int | None, seed: int) -> list[int]:
    """Chooses classes: each in turn, or drawn."""
    if how == "balanced":
        return list(range(num_classes))
    if how != "random":
        raise ValueError(f'classes are "balanced" or "random": got "{how}".')
    drawn = np.random.default_rng(seed).integers(num_classes, size=num or num_classes)
    return drawn.tolist()
