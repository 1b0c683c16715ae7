# SPDX-License-Identifier: Apache-2.0
"""Every kind of image file is converted or refused as the table in decode.py says."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.images.decode import decode_image
from ldm_jax.data.records import DamagedRecord

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
    found = decode_image(as_file(image, kind), "x")
    assert found.shape == (4, 6, 3) and found.dtype == np.uint8
    assert found.min() >= 254  # YCbCr rounds


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 256, 32768, 65535]], np.uint16)
    found = decode_image(as_file(Image.fromarray(values)), "x")
    assert found[0, :, 0].tolist() == [0, 1, 128, 255]


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
    with pytest.raises(DamagedRecord, match=r"cat\.jpg"):
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
    with pytest.raises(DamagedRecord, match=words):
        decode_image(data, "bomb.png")


def test_the_bound_on_pixels_can_be_set():
    data = as_file(Image.fromarray(RED))
    assert decode_image(data, "x", max_pixels=24).shape == (4, 6, 3)
    with pytest.raises(DamagedRecord, match="max_pixels = 23"):
        decode_image(data, "x", max_pixels=23)
