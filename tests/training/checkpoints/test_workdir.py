# SPDX-License-Identifier: Apache-2.0
"""A working directory belongs to one run, of this or an earlier version."""

import json

import pytest
from etils import epath

from ldm_jax.training.checkpoints.workdir import (
    absolute,
    is_remote,
    keep_settings,
    make_writable,
)


def test_a_setting_that_an_earlier_version_did_not_write_has_its_default(tmp_path):
    directory = epath.Path(tmp_path)
    keep_settings(directory, {"train": {"num_steps": 5}, "unet": {"width": 8}})
    now = {"train": {"num_steps": 5, "accumulate": 1}, "unet": {"width": 8}}
    with pytest.raises(ValueError, match=r"train\.accumulate: \(absent\) -> 1"):
        keep_settings(directory, now)
    keep_settings(directory, now, defaults={"train.accumulate": 1})
    assert json.loads((tmp_path / "config.json").read_text()) == now
    now["train"]["accumulate"] = 2
    with pytest.raises(ValueError, match=r"train\.accumulate: 1 -> 2"):
        keep_settings(directory, now, defaults={"train.accumulate": 1})


def test_a_store_that_no_package_reaches_says_what_to_install():
    class Unreachable:
        def mkdir(self, **_):
            raise ImportError("gcsfs")

    with pytest.raises(ValueError, match=r"pip install 'ldm_jax\[gcs\]'"):
        make_writable(Unreachable())  # pyright: ignore[reportArgumentType]


def test_a_local_path_is_made_absolute_and_a_remote_one_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert str(absolute("runs/a")) == str(tmp_path / "runs" / "a")
    assert str(absolute("~/a")) == str(tmp_path / "home" / "a")
    assert str(absolute("gs://bucket/a")) == "gs://bucket/a"
    assert is_remote("gs://bucket/a") and not is_remote(tmp_path)
