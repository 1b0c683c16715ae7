# SPDX-License-Identifier: Apache-2.0
"""Errors that prove damage of a checkpoint, and errors that do not."""

import json

import pytest
from etils import epath

from ldm_jax.training.checkpoints.damage import FILES, Damaged, proof_of_damage


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
