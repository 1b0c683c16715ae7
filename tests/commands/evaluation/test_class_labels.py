# SPDX-License-Identifier: Apache-2.0
"""Classes of an evaluation: each in turn, or drawn; of the model or its classifier."""

import pytest
from ml_collections import ConfigDict

from ldm_jax.commands.evaluation.class_labels import choose_classes, count_classes
from ldm_jax.commands.sampling.drawing import Guidance
from ldm_jax.experiment.model_settings import ModelSettings


def test_classes_are_each_in_turn_or_drawn_from_the_seed():
    assert choose_classes(4, "balanced", 100, 0) == [0, 1, 2, 3]
    drawn = choose_classes(4, "random", 100, 0)
    assert len(drawn) == 100 and set(drawn) == {0, 1, 2, 3}
    assert drawn == choose_classes(4, "random", 100, 0)
    assert drawn != choose_classes(4, "random", 100, 1)
    with pytest.raises(ValueError, match='"balanced" or "random": got "each"'):
        choose_classes(4, "each", 100, 0)


def settings(**condition):
    config = ConfigDict({"task": "latent_diffusion", "condition": condition})
    return ModelSettings("", config)


def test_classes_are_those_of_the_model():
    assert count_classes(settings(kind="class", num_classes=7), Guidance()) == 7
    assert count_classes(settings(kind="none"), Guidance()) is None
    nowhere = Guidance(classifier="nowhere")
    assert count_classes(settings(kind="text"), nowhere) is None
