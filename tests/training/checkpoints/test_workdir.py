# SPDX-License-Identifier: Apache-2.0
"""Working directories: paths, and what cannot be written."""

import pytest

from ldm_jax.training.checkpoints.workdir import (
    absolute,
    is_remote,
    make_writable,
)


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
