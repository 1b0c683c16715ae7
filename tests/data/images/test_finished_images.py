# SPDX-License-Identifier: Apache-2.0
"""Finished images are read by the one decoder, from folders and .npz files."""

import os

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.images.finished_images import open_set


def write(path, value, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value,) * 3).save(path)


def values(images) -> list[int]:
    return [int(x) for batch in images.batches(2) for x in batch[:, 0, 0, 0]]


def test_side_files_and_special_files_of_a_folder_are_passed_over(tmp_path):
    for i in range(3):
        write(tmp_path / "sub" / f"{i}.png", i)
    for name in (".DS_Store", "._1.png", "Thumbs.db", "sub/._0.png"):
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "z.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    images = open_set(tmp_path)
    assert images.count == 3 and images.size == (4, 4)
    assert values(images) == [0, 1, 2]


def test_the_endings_are_those_of_training(tmp_path):
    for i, name in enumerate(["a.jfif", "b.tiff", "c.pgm"]):
        kind = {"a": "JPEG", "b": "TIFF", "c": "PPM"}[name[0]]
        Image.new("L", (4, 4), 10 * i).save(tmp_path / name, kind)
    assert values(open_set(tmp_path)) == [0, 10, 20]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    write(tmp_path / "0.png", 0)
    (tmp_path / "1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    with pytest.raises(ValueError, match=r"1\.png must be readable"):
        values(open_set(tmp_path))


def test_an_npz_is_read_in_batches(tmp_path):
    images = np.arange(5, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(images, (5, 4, 4, 3))
    np.savez(tmp_path / "a.npz", arr_0=images, mu=np.zeros(3))
    read = open_set(tmp_path / "a.npz", num=4)
    assert read.count == 4 and values(read) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros((2, 4, 4, 3), np.float32)}, "images are bytes"),
        ({"a": np.zeros((2, 4, 4, 1), np.uint8)}, "images are bytes"),
        ({"a": np.zeros((0, 4, 4, 3), np.uint8)}, "images are bytes"),
        ({"a": np.zeros((2, 4, 4, 3), np.uint8, order="F")}, "Fortran"),
        ({"a": np.zeros(3)}, "holds one array"),
        ({"a": np.zeros((1, 1, 1, 3)), "b": np.zeros((1, 1, 1, 3))}, "holds one array"),
        ({"a": np.array([None], object)}, "numbers or texts"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays, allow_pickle=True)
    with pytest.raises(ValueError, match=words):
        open_set(tmp_path / "a.npz")


def test_a_damaged_npz_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros((9, 4, 4, 3), np.uint8))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    (tmp_path / "b.npz").write_bytes(data[:-40])
    data[300] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npz, array a.*CRC"):
        values(open_set(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match=r"b\.npz is damaged"):
        open_set(tmp_path / "b.npz")
