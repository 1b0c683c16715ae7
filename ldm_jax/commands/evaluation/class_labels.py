# SPDX-License-Identifier: Apache-2.0
"""Chooses the classes that are sampled for an evaluation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ldm_jax.experiment import model_directory


def count_classes(config: ConfigDict, guidance: Mapping[str, Any]) -> int | None:
    """Returns how many classes samples are of: the model's, or its classifier's."""
    condition = config.get("condition", {})
    if condition.get("kind") == "class":
        return condition.num_classes
    if condition.get("kind", "none") == "none" and "classifier" in guidance:
        guide = model_directory.read_config(guidance["classifier"], "classifier")
        return guide.classifier.num_classes
    return None


def choose_classes(num_classes: int, how: str, num: int | None, seed: int) -> list[int]:
    """Chooses classes: each in turn, or drawn."""
    if how == "balanced":
        return list(range(num_classes))
    if how != "random":
        raise ValueError(f'classes are "balanced" or "random": got "{how}".')
    drawn = np.random.default_rng(seed).integers(num_classes, size=num or num_classes)
    return drawn.tolist()
