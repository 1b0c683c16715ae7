# SPDX-License-Identifier: Apache-2.0
"""The first stage of a diffusion model: its latents must fit the config."""

import jax
import pytest

from ldm_jax.configs import quickstart, small_class
from ldm_jax.experiment.config.sections import LatentSet
from ldm_jax.experiment.model_directory import load
from ldm_jax.experiment.stored_config import read_config
from ldm_jax.experiment.training_data import (
    TrainedStage,
    latent_scale,
    open_training_data,
)
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.pretrained import FOLDER


def scale_of(shapes, **changes):
    config = quickstart.get_config("stage=diffusion")
    config.latents.update(changes)
    autoencoder = Autoencoder(**config.autoencoder)
    return latent_scale(LatentSet(**config.latents), autoencoder, 0.25, shapes)


def test_latents_of_another_size_are_refused():
    assert scale_of([(4, 16, 2), (8, 8, 2)]) == 0.25
    with pytest.raises(
        ValueError, match=r"of \(8, 8, 2\): those in  are \(16, 16, 2\)"
    ):
        scale_of([(16, 16, 2)])


def test_a_given_scale_is_not_replaced_by_the_measured_one():
    assert scale_of([(8, 8, 2)], scale=1.0) == 1.0


def test_a_config_that_names_no_data_has_none():
    config = small_class.get_config()
    assert open_training_data(config.latents, {}) is None


@pytest.mark.parametrize("scale", [0.0, -0.0, 1e-320, 1e-39, 1e39, float("nan")])
def test_a_scale_that_single_precision_does_not_hold_is_refused(scale):
    with pytest.raises(ValueError, match=r"config\.latents\.scale must be a finite"):
        LatentSet("", 8, scale=scale)


def test_a_run_keeps_the_first_stage_that_it_began_with(tmp_path):
    """How often its training wrote a report is not of the model; its parameters are."""
    directory = str(FOLDER / "digits" / "autoencoder")
    params = load(directory, task="first_stage")[1]["autoencoder"]
    config = read_config(directory, "first_stage").to_dict()
    stage = TrainedStage(params, config, 0.25)
    stage.copy_to(str(tmp_path))
    config["train"] = {**config["train"], "report_every": 7}
    stage._replace(config=config).copy_to(str(tmp_path))
    others = stage._replace(params=jax.tree.map(lambda x: x + 1, params))
    with pytest.raises(ValueError, match="keeps the first stage that it began with"):
        others.copy_to(str(tmp_path))
    config["autoencoder"] = {**config["autoencoder"], "num_groups": 8}
    with pytest.raises(ValueError, match=r"autoencoder\.num_groups"):
        stage._replace(config=config).copy_to(str(tmp_path))
