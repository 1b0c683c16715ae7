# SPDX-License-Identifier: Apache-2.0
"""Model directories of parameters only, and the names of parameters by value."""

import numpy as np
import pytest

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.formats import arrays
from ldm_jax.training.checkpoints.checkpointer import Checkpointer
from ldm_jax.training.checkpoints.digest import params_fingerprint
from ldm_jax.training.checkpoints.params import load_params, save_params


def params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "autoencoder": {"conv": {"kernel": rng.standard_normal((3, 4)).astype("f4")}}
    }


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    save_params(str(tmp_path), params(), {"task": "first_stage"})
    loaded = load_params(str(tmp_path))
    kernel = loaded["autoencoder"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, params()["autoencoder"]["conv"]["kernel"])
    assert params_fingerprint(loaded) == params_fingerprint(params())


def test_saving_again_is_nothing_and_other_settings_are_refused(tmp_path):
    save_params(str(tmp_path), params(), {"task": "first_stage"})
    save_params(str(tmp_path), params(), {"task": "first_stage"})
    with pytest.raises(ValueError, match="other settings"):
        save_params(str(tmp_path), params(), {"task": "another"})


def test_a_training_without_a_checkpoint_yet_is_described_as_such(tmp_path):
    """Between the start of a training and its first checkpoint."""
    with Checkpointer(tmp_path), pytest.raises(FileNotFoundError, match="wait for it"):
        load_params(tmp_path)


def test_a_fingerprint_changes_with_any_value_and_with_any_name():
    other = params()
    other["autoencoder"]["conv"]["kernel"][2, 3] += 1e-6
    renamed = {"autoencoder": {"conv_1": params()["autoencoder"]["conv"]}}
    names = {params_fingerprint(tree) for tree in (params(), other, renamed)}
    assert len(names) == 3


def test_a_relative_path_and_a_home_path_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    save_params("here/model", params(), {})
    assert params_fingerprint(load_params("here/model")) == params_fingerprint(params())
    assert params_fingerprint(load_params("~/here/model")) == params_fingerprint(
        params()
    )


def test_more_arrays_than_any_model_has_are_refused_unopened(tmp_path, monkeypatch):
    """Orbax opens every array that a checkpoint lists, even for its shape."""
    save_params(str(tmp_path), params(), {})
    monkeypatch.setattr(arrays, "MAX_ARRAYS", 1)
    with pytest.raises(UnreadableFile, match="checkpoints/0 must hold at most 1 array"):
        load_params(tmp_path)
