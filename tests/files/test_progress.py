# SPDX-License-Identifier: Apache-2.0
"""The progress bar of a file that is written: its name and its share."""

import numpy as np
import pytest

from ldm_jax.files import progress as progress_module
from ldm_jax.interop.own_files import write_own_folder, write_own_npz, write_own_orbax
from ldm_jax.training.checkpoints.compact import write_compact

PARAMS = {"unet": {"kernel": np.ones((100, 100), np.float32)}}
WRITERS = {
    "a.npz": lambda folder: write_own_npz(folder / "a.npz", {}, PARAMS),
    "model.safetensors": lambda folder: write_own_folder(folder / "b", {}, PARAMS),
    "params": lambda folder: write_own_orbax(folder / "c", {}, PARAMS),
    "params.npz": lambda folder: write_compact(folder / "d", {}, PARAMS),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_of_parameters_shows_how_far_it_is(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(progress_module, "DELAY", 0)
    WRITERS[name](tmp_path)
    shown = capsys.readouterr().err
    assert f"writing {name}" in shown and "100%" in shown
