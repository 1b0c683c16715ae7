# SPDX-License-Identifier: Apache-2.0
"""Errors that prove damage of a checkpoint, and errors that do not."""

import json
import os

import jax
import numpy as np
import pytest
from etils import epath

from ldm_jax.files.errors import MissingFile, UnreadableFile
from ldm_jax.training.checkpoints.damage import (
    FILES,
    Damaged,
    check_claims,
    proof_of_damage,
)
from ldm_jax.training.checkpoints.params import load_params, save_params


@pytest.fixture
def checkpoint(tmp_path):
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    return epath.Path(tmp_path)


def caused(error, cause):
    error.__cause__ = cause
    return error


PROOFS = [
    Damaged("stored and read digests differ"),
    json.JSONDecodeError("Expecting value", "{", 1),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ValueError("DATA_LOSS: Error reading local file"),
    caused(Exception("while reading"), ValueError("OUT_OF_RANGE: byte range")),
    caused(Exception("while reading"), ValueError("FAILED_PRECONDITION: Truncated")),
]
OTHERS = [
    MemoryError(),
    UnicodeDecodeError("ascii", b"\xc3", 0, 1, "ordinal not in range(128)"),
    ValueError("RESOURCE_EXHAUSTED: Out of memory"),
    ValueError("PERMISSION_DENIED: Error reading local file"),
    caused(Exception("while reading"), OSError(24, "Too many open files")),
    KeyError("key_metadata"),
    FileNotFoundError("a file of the system"),
]


@pytest.mark.parametrize("error", PROOFS, ids=repr)
def test_bytes_that_are_wrong_prove_it(checkpoint, error):
    assert proof_of_damage(error, checkpoint)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_no_other_error_does(checkpoint, error):
    assert proof_of_damage(error, checkpoint) is None


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_proves_it_whatever_the_error(checkpoint, name):
    (checkpoint / name).unlink()
    assert proof_of_damage(KeyError("state"), checkpoint) == f"it lacks {name}"


def test_a_folder_that_is_not_there_is_no_damage(tmp_path):
    gone = epath.Path(tmp_path) / "unmounted"
    assert proof_of_damage(FileNotFoundError("gone"), gone) is None


def test_arrays_that_the_files_cannot_hold_are_refused_before_memory_is_taken(
    checkpoint,
):
    large = jax.ShapeDtypeStruct((2**20, 2**20), np.float32)
    with pytest.raises(UnreadableFile, match="4,398,046,511,104 bytes, its files"):
        check_claims(checkpoint, {"params": {"a": large}})
    check_claims(checkpoint, {"params": {"a": jax.ShapeDtypeStruct((9,), np.int8)}})


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def linked_to_itself(path):
    path.unlink()
    path.symlink_to(path)


HOSTILE = [
    ("0/state/manifest.ocdbt", fifo, "is a FIFO"),
    ("0/data/metadata", fifo, "is a FIFO"),
    ("0/_CHECKPOINT_METADATA", fifo, "is a FIFO"),
    ("0/state/_METADATA", linked_to_itself, "leads nowhere"),
    ("0/_CHECKPOINT_METADATA", lambda p: p.write_text("[]"), "checkpoints of Orbax"),
    (
        "0/state/manifest.ocdbt",
        lambda p: p.write_bytes(b"x"),
        "no undamaged checkpoint",
    ),
    ("0/state/_METADATA", lambda p: p.write_text("{"), "no undamaged checkpoint"),
    ("0/data/metadata", lambda p: p.write_text("{}"), "no undamaged checkpoint"),
]


@pytest.mark.parametrize(("name", "damage", "words"), HOSTILE)
def test_a_strangers_checkpoint_is_refused_by_name(tmp_path, name, damage, words):
    save_params(str(tmp_path), {"unet": {"a": np.ones(3, np.float32)}}, {"task": "x"})
    damage(tmp_path / "checkpoints" / name)
    with pytest.raises(UnreadableFile, match=words) as error:
        load_params(str(tmp_path))
    message = str(error.value)
    assert str(tmp_path) in message and len(message.splitlines()) == 1


def test_a_directory_whose_checkpoints_are_a_file_is_no_model(tmp_path):
    (tmp_path / "checkpoints").write_text("x")
    with pytest.raises(MissingFile, match="no checkpoints/"):
        load_params(str(tmp_path))
