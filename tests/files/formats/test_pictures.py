# SPDX-License-Identifier: Apache-2.0
"""Every kind of image file is converted or refused by the table in pictures.py."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.formats import pictures
from ldm_jax.files.formats.pictures import decode_image

RED = np.zeros((4, 6, 3), np.uint8) + np.uint8([255, 0, 0])


def as_file(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_rgb_is_kept_bit_for_bit():
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(decode_image(as_file(Image.fromarray(noise)), "x"), noise)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode):
    """Oracle: white is white in every mode."""
    image = Image.new("RGB", (6, 4), "white").convert("L" if mode == "LA" else mode)
    image = image.convert(mode)
    kind = "PNG" if mode in ("L", "1", "P", "LA", "RGBA") else "TIFF"
    result = decode_image(as_file(image, kind), "x")
    assert result.shape == (4, 6, 3) and result.dtype == np.uint8
    assert result.min() >= 254  # YCbCr rounds


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 256, 32768, 65535]], np.uint16)
    result = decode_image(as_file(Image.fromarray(values)), "x")
    assert result[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparent_pixels_become_white():
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert decode_image(as_file(image), "x").min() == 255


def test_exif_orientation_is_applied():
    """Oracle: orientation 6 means the first row of pixels is the right-hand column."""
    image = Image.fromarray(RED)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(as_file(image, "JPEG", exif=exif), "x").shape == (6, 4, 3)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (3, 3), color) for color in ("red", "blue")]
    data = as_file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data, "x")[0, 0].tolist() == [255, 0, 0]


def noise_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return as_file(Image.fromarray(noise), "JPEG")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"just some text",
        noise_jpeg()[: len(noise_jpeg()) // 2],
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["empty", "text", "truncated", "only a signature"],
)
def test_what_is_no_whole_image_is_refused_by_name(data):
    with pytest.raises(UnreadableFile, match=r"cat\.jpg"):
        decode_image(data, "cat.jpg")


@pytest.mark.parametrize(("side", "words"), [(12000, "12000x12000"), (30000, "bomb")])
def test_a_bomb_is_refused_before_it_is_decoded(side, words):
    """A PNG huge by its header, a few bytes long; Pillow refuses the larger."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk
    data += struct.pack(">I", zlib.crc32(chunk))
    body = b"IDAT" + zlib.compress(b"")
    data += (
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    )
    with pytest.raises(UnreadableFile, match=words):
        decode_image(data, "bomb.png")


def test_more_pixels_than_pillow_opens_are_refused_like_others():
    """200 megapixels, in a file of some kilobytes."""
    stream = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(stream, "PNG")
    with pytest.raises(UnreadableFile, match="too many pixels: max_pixels = 99; make"):
        decode_image(stream.getvalue(), "x", max_pixels=99)


def test_the_bound_on_pixels_can_be_set():
    data = as_file(Image.fromarray(RED))
    assert decode_image(data, "x", max_pixels=24).shape == (4, 6, 3)
    with pytest.raises(UnreadableFile, match="max_pixels = 23"):
        decode_image(data, "x", max_pixels=23)


def test_a_large_image_is_converted_in_strips_bit_for_bit(monkeypatch):
    """Identity: as in one piece, for every way of conversion."""
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (50, 7, 4), np.uint8))
    images = [rgba, rgba.convert("LA"), rgba.convert("P"), rgba.convert("RGB")]
    whole = [decode_image(as_file(image), "x") for image in images]
    monkeypatch.setattr(pictures, "STRIP_PIXELS", 7 * 8)
    for image, expected in zip(images, whole, strict=True):
        assert np.array_equal(decode_image(as_file(image), "x"), expected)


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        b"%PDF-1.4\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"<!doctype html>",
    ],
)
def test_no_format_that_runs_a_program_is_opened(data):
    with pytest.raises(UnreadableFile, match=r"x\.png must be readable"):
        decode_image(data, "x.png")


def test_a_file_is_read_as_its_bytes_are(tmp_path):
    data = noise_jpeg()
    (tmp_path / "a.jpg").write_bytes(data)
    assert np.array_equal(
        pictures.read_image(tmp_path / "a.jpg"), decode_image(data, "x")
    )


@pytest.mark.parametrize(
    "read", [pictures.read_image, pictures.read_mask, pictures.read_label_map]
)
def test_a_picture_must_be_a_regular_file(tmp_path, read):
    os.mkfifo(tmp_path / "z.png")
    with pytest.raises(UnreadableFile, match="is a FIFO"):
        read(tmp_path / "z.png")
    with pytest.raises(UnreadableFile, match="is a FIFO"):
        pictures.upright_size(tmp_path / "z.png", "z.png")


def test_the_size_is_that_of_the_decoded_image_and_honours_the_bound():
    exif = Image.Exif()
    exif[0x0112] = 8
    data = as_file(Image.fromarray(RED), "JPEG", exif=exif)
    assert pictures.upright_size(data, "x") == decode_image(data, "x").shape[:2]
    with pytest.raises(UnreadableFile, match="max_pixels = 23"):
        pictures.upright_size(data, "x", max_pixels=23)


CLASSES = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)


def _palette() -> Image.Image:
    image = Image.fromarray(CLASSES).convert("P")
    image.putpalette([255, 0, 0] * 256)
    image.putdata(CLASSES.ravel().tolist())
    return image


def _png_of_bits(bits: int) -> bytes:
    """A grey PNG of few bits, which Pillow cannot write."""
    rows = b""
    for row in CLASSES:
        text = "".join(f"{value:0{bits}b}" for value in row)
        rows += b"\0" + int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(
            -(-len(text) // 8), "big"
        )
    header = struct.pack(">IIBBBBB", 4, 2, bits, 0, 0, 0, 0)
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(rows), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


@pytest.mark.parametrize(
    "data",
    [
        as_file(Image.fromarray(CLASSES)),
        as_file(_palette()),
        as_file(_palette(), transparency=1),
        as_file(_palette(), "GIF"),
        as_file(Image.fromarray(CLASSES.astype(np.uint16))),
        _png_of_bits(2),
        _png_of_bits(4),
    ],
    ids=["grey", "palette", "transparency", "gif", "16 bits", "2 bits", "4 bits"],
)
def test_class_numbers_are_read_as_they_are_stored(data):
    """Identity: no colour of a palette, no scaling of few bits."""
    decoded = pictures.decode_label_map(data, "x")
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, CLASSES)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (as_file(Image.fromarray(RED)), "save it with one channel"),
        (as_file(Image.fromarray(CLASSES), "JPEG"), "as PNG"),
        (as_file(Image.fromarray(CLASSES * np.uint16(300))), "up to 255: got 900"),
    ],
)
def test_a_label_map_of_anything_else_is_refused(data, words):
    with pytest.raises(UnreadableFile, match=rf"x\.png.*{words}"):
        pictures.decode_label_map(data, "x.png")


HOLE = np.array([[0, 0, 255, 255]] * 2, np.uint8)


def _with_alpha(alpha, color=0) -> Image.Image:
    image = Image.fromarray(np.stack([np.full_like(alpha, color)] * 3, -1))
    image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(HOLE),
        Image.fromarray(HOLE > 0),
        Image.fromarray(HOLE).convert("RGB"),
        Image.fromarray(HOLE).convert("P"),
        Image.fromarray(HOLE.astype(np.uint16) << 8),
        Image.merge(
            "RGBA", [Image.fromarray(HOLE)] * 3 + [Image.new("L", (4, 2), 255)]
        ),
    ],
    ids=["L", "1", "RGB", "P", "I;16", "RGBA"],
)
def test_a_mask_in_any_opaque_mode_is_white_where_it_is_white(image):
    assert np.array_equal(pictures.decode_mask(as_file(image), "x"), HOLE > 0)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (_with_alpha(HOLE), "alpha extract"),
        (_with_alpha(255 - HOLE, 255), "alpha extract"),
        (_with_alpha(HOLE).convert("LA"), "alpha extract"),
        (_with_alpha(np.zeros_like(HOLE)), "alpha extract"),
        (Image.fromarray(np.zeros_like(HOLE)), r"are black \(levels 0 to 0\)"),
        (Image.fromarray(HOLE // 255), r"are black \(levels 0 to 1\)"),
    ],
    ids=["hole", "rest", "LA", "clear", "black", "0 and 1"],
)
def test_a_mask_that_would_be_read_as_empty_is_refused(image, words):
    with pytest.raises(UnreadableFile, match=rf"x\.png.*{words}"):
        pictures.decode_mask(as_file(image), "x.png")


@pytest.mark.parametrize(
    "name", [".DS_Store", "._x.png", "Thumbs.db", "thumbs.db", ".x.png", "desktop.ini"]
)
def test_side_files_of_operating_systems_are_no_pictures(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    assert not pictures.is_picture(name) and not pictures.is_picture(f"a/{name}")
    with pytest.raises(UnreadableFile, match="must hold some"):
        pictures.list_pictures(tmp_path)
    for other in ("b.PNG", "a.jfif"):
        (tmp_path / other).write_bytes(b"")
    assert [p.name for p in pictures.list_pictures(tmp_path)] == ["a.jfif", "b.PNG"]


def test_a_fifo_among_pictures_is_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "z.png")
    with pytest.raises(UnreadableFile, match=r"z\.png is a FIFO"):
        pictures.list_pictures(tmp_path)


PEAK = """
import re, sys
from ldm_jax.files.formats.pictures import read_image
status = lambda: open("/proc/self/status").read()
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status())[1])
before = peak()
assert read_image(sys.argv[1]).shape == (4096, 4096, 3)
print((peak() - before) / 4096**2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("mode", "orientation", "bytes_per_pixel"), [("RGBA", 1, 7), ("RGB", 6, 8)]
)
def test_decoding_takes_the_memory_that_is_documented(
    tmp_path, mode, orientation, bytes_per_pixel
):
    """16 megapixels, and in addition buffers of a decoder and a strip: 2 a pixel."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "large.png"
    Image.new(mode, (4096, 4096)).save(path, compress_level=1, exif=exif)
    argv = [sys.executable, "-c", PEAK, str(path)]
    measured = float(subprocess.run(argv, capture_output=True, check=True).stdout)
    assert 3 < measured < bytes_per_pixel + 2
