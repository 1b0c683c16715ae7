# SPDX-License-Identifier: Apache-2.0
"""Every row of the data page's first table of bad input, from the file to the batch."""

import io
import logging
import os
import pathlib
import re
import zlib

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.latents.source import LatentTransform, open_latents
from ldm_jax.data.latents.write import LatentJob, write_latents
from ldm_jax.data.loader import make_batches
from ldm_jax.data.records import DamagedRecord
from ldm_jax.data.transforms.image_transform import ImageTransform

README = pathlib.Path(__file__).parents[2] / "ldm_jax" / "data" / "README.md"
TRANSFORM = ImageTransform(8)
CASES = {}


def case(row):
    """Notes which row of the table a function tries."""
    return lambda function: CASES.setdefault(row, function)


def save(path, mode="RGB", colour=0, size=(8, 8), **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **how)


def noise(path, side=64):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


def opened(folder, **how):
    return open_images(os.fspath(folder), "all", **{"cache_mib": 0, **how})


def some_good(folder, count=3):
    for i in range(count):
        save(folder / f"good{i}.png")


@case("image in grey, 16 bits, palette, CMYK or with transparency")
def converted(folder, caplog):
    save(folder / "1.png", "L", 7)
    save(folder / "2.png", "I;16", 7 * 256)
    save(folder / "3.gif", "P", 0)
    save(folder / "4.jpg", "CMYK", (0, 0, 0, 0), quality=100)
    save(folder / "5.png", "RGBA", (0, 0, 0, 0))
    source = opened(folder)
    firsts = [source[i]["image"][0, 0].tolist() for i in range(5)]
    assert firsts[:2] == [[7] * 3] * 2 and firsts[3:] == [[255] * 3] * 2
    batch = make_batches(source, TRANSFORM, 5)(0)
    assert batch["image"].shape == (5, 8, 8, 3)


@case("image with EXIF rotation, animated image")
def turned(folder, caplog):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder / "1.jpg", size=(8, 4), exif=exif)
    frames = [Image.new("L", (4, 4), value) for value in (0, 255)]
    frames[0].save(folder / "2.gif", save_all=True, append_images=frames[1:])
    source = opened(folder)
    assert source[0]["image"].shape == (8, 4, 3)
    assert source[1]["image"].max() == 0  # the first frame


@case("empty file, file that is not an image, unknown format")
def unreadable(folder, caplog):
    some_good(folder)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("hello")
    with caplog.at_level(logging.WARNING):
        assert len(opened(folder)) == 3
    assert "2 of 5 files refused" in caplog.text and "empty.jpg" in caplog.text
    with pytest.raises(ValueError, match="max_refused = 1"):
        opened(folder, max_refused=1)


@case("truncated or corrupt image")
def truncated(folder, caplog):
    some_good(folder)
    noise(folder / "cut.jpg")
    data = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    source = opened(folder)
    assert len(source) == 4  # its header is sound
    with caplog.at_level(logging.WARNING):
        batch = make_batches(source, TRANSFORM, 4)(0)
    assert np.asarray(batch["image"]).max() == -1  # replaced by its neighbour
    assert "is replaced by the next: cut.jpg cannot be decoded" in caplog.text
    with pytest.raises(DamagedRecord, match="max_damaged = 0"):
        make_batches(source, TRANSFORM, 4, max_damaged=0)(0)
    stats = encoded(source, folder / "latents")
    assert (stats.count, stats.dropped) == (3, 1)


def encoded(source, directory):
    def encode(image):
        mean = np.asarray(image)[:, ::2, ::2]
        return np.concatenate([mean, 0 * mean], axis=-1)

    return write_latents(encode, source, TRANSFORM, directory, LatentJob(3, "a", 2))


@case("image of more pixels than `images.max_pixels`")
def bomb(folder, caplog):
    some_good(folder)
    file = io.BytesIO()
    Image.new("1", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (10_000).to_bytes(4, "big") * 2  # the header's width and height
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (folder / "bomb.png").write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert len(opened(folder)) == 3
    assert "bomb.png" in caplog.text and "10000x10000 pixels" in caplog.text
    with pytest.raises(ValueError, match="8x8 pixels: max_pixels = 63"):
        opened(folder, max_pixels=63, max_refused=0)


@case("caption, boxes or label map without an image, or the reverse")
def orphans(folder, caplog):
    some_good(folder, 2)
    (folder / "captions.csv").write_text(
        "file,caption\ngood0.png,a black square\nlost.png,a lost square\n"
    )
    with caplog.at_level(logging.WARNING):
        source = opened(folder, captions="captions.csv")
    assert len(source) == 1 and source[0]["captions"] == ("a black square",)
    assert "good1.png has no caption" in caplog.text
    assert "lost.png has a caption but is not there" in caplog.text
    with pytest.raises(ValueError, match="max_refused = 1"):
        opened(folder, captions="captions.csv", max_refused=1)


@case("label map of another size than its image, or in colours")
def other_maps(folder, caplog):
    some_good(folder, 3)
    save(folder / "maps" / "good0.png", "L", 1)
    save(folder / "maps" / "good1.png", "L", 1, size=(4, 4))
    save(folder / "maps" / "good2.png", "RGB")
    source = opened(folder, label_maps="maps")
    with caplog.at_level(logging.WARNING):
        batch = make_batches(source, TRANSFORM, 3)(0)
    assert np.asarray(batch["label_map"]).tolist() == [[[1] * 8] * 8] * 3
    assert "label map of good1.png is (4, 4)" in caplog.text
    assert "grey or palette image" in caplog.text


@case("empty folder")
def empty(folder, caplog):
    with pytest.raises(ValueError, match="holds no image file"):
        opened(folder)


@case("class folder with one image")
def lonely(folder, caplog):
    save(folder / "cat" / "1.png")
    for i in range(3):
        save(folder / "dog" / f"{i}.png")
    source = opened(folder)
    assert source.class_names == ("cat", "dog")
    batches = make_batches(source, TRANSFORM, 4)
    assert sorted(np.asarray(batches(0)["label"]).tolist()) == [0, 1, 1, 1]


@case("damaged record")
def flipped(folder, caplog):
    for i in range(6):
        save(folder / f"{i}.png", colour=(40 * i, 0, 0))
    encoded(opened(folder), folder / "latents")
    source, _ = open_latents(folder / "latents")
    shard = next((folder / "latents").glob("*array_record*-of-00001"))
    data = bytearray(shard.read_bytes())
    data[data.index(source[3]["moments"].tobytes()) + 1] ^= 1
    shard.write_bytes(data)
    source, _ = open_latents(folder / "latents")
    with caplog.at_level(logging.WARNING):
        batch = make_batches(source, LatentTransform(), 6)(0)
    assert batch["moments"].shape == (6, 4, 4, 6)
    assert "record 3 is replaced by the next" in caplog.text


@case("missing or truncated shard")
def cut_shard(folder, caplog):
    some_good(folder)
    encoded(opened(folder), folder / "latents")
    shard = next((folder / "latents").glob("*array_record*-of-00001"))
    os.truncate(shard, 100)
    with pytest.raises(ValueError, match=r"00000-of-00001 must have .* got 100"):
        open_latents(folder / "latents")


@case("link that leads out of the folder")
def linked(folder, caplog):
    some_good(folder / "set")
    save(folder / "secret.png")
    os.symlink(folder / "secret.png", folder / "set" / "link.png")
    with caplog.at_level(logging.WARNING):
        assert len(opened(folder / "set")) == 3
    assert "leads out of" in caplog.text


def rows_of_the_table():
    section = README.read_text().split("| Problem |")[1].split("\n\n")[0]
    return re.findall(r"^\| (.+?) \|", section, re.M)


def test_the_table_and_these_cases_are_the_same():
    assert sorted(rows_of_the_table()) == sorted(CASES)


@pytest.mark.parametrize("row", sorted(CASES))
def test_bad_input_is_handled_as_the_readme_describes(row, tmp_path, caplog):
    CASES[row](tmp_path, caplog)
