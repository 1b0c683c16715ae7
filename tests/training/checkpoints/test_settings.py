# SPDX-License-Identifier: Apache-2.0
"""A working directory belongs to one run, whose settings are compared."""

import json

import pytest
from etils import epath

from ldm_jax.training.checkpoints.settings import Settings


def test_a_setting_that_a_config_leaves_out_has_its_default(tmp_path):
    directory = epath.Path(tmp_path)
    Settings({"train": {"num_steps": 5}, "unet": {"width": 8}}).write(directory)
    now = {"train": {"num_steps": 5, "accumulate": 1}, "unet": {"width": 8}}
    with pytest.raises(ValueError, match=r"train\.accumulate: \(absent\) -> 1"):
        Settings(now).write(directory)
    Settings(now, defaults={"train.accumulate": 1}).write(directory)
    assert json.loads((tmp_path / "config.json").read_text()) == now
    now["train"]["accumulate"] = 2
    with pytest.raises(ValueError, match=r"train\.accumulate: 1 -> 2"):
        Settings(now, defaults={"train.accumulate": 1}).write(directory)
