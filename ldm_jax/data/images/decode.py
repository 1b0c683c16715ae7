# SPDX-License-Identifier: Apache-2.0
"""Bytes of one image file to uint8 RGB: what is converted and what is refused.

grey, 1 bit, palette         -> RGB
16 bit (grey)                -> upper 8 bits
CMYK, YCbCr, LAB, HSV        -> RGB
alpha                        -> laid over white
EXIF orientation             -> turned upright
several frames               -> the first
truncated, corrupt, no image -> DamagedRecord
more than `max_pixels`       -> DamagedRecord, before a pixel is decoded
"""

import io
import pathlib
import warnings
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ldm_jax.data.records import DamagedRecord

# 64 megapixels: beyond any camera of the sets we know, 192 MB decoded.
MAX_PIXELS = 2**26

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def open_image(file: BinaryIO, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image file by its header only; no pixel is decoded.

    Args:
      file: the file, open for reading; it must stay open while the image is used.
      name: of the file, for the error.
      max_pixels: largest width times height that is accepted.

    Returns:
      A lazy PIL image.

    Raises:
      DamagedRecord: not an image in one of FORMATS, or larger than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 megapixels on; our own bound decides below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
    except Exception as error:  # Pillow's parsers raise many kinds
        raise DamagedRecord(f"{name} is not a readable image: {error}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise DamagedRecord(
            f"{name} declares {width}x{height} pixels, more than max_pixels = "
            f"{max_pixels}."
        )
    return image


def upright_size(file: bytes | pathlib.Path, name: str) -> tuple[int, int]:
    """Finds the height and width that an image has when decoded, from its header.

    Args:
      file: its bytes, or its path.
      name: of the file, for the error.

    Raises:
      DamagedRecord: not an image.
    """
    with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as opened:
        image = open_image(opened, name)
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes an image file to RGB.

    Args:
      data: bytes of the file.
      name: of the file, for the error.
      max_pixels: largest width times height that is accepted.

    Returns:
      uint8 [H0, W0, 3].

    Raises:
      DamagedRecord: not an image, truncated, corrupt or too large.
    """
    image = open_image(io.BytesIO(data), name, max_pixels)
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        return np.array(to_rgb(image))
    except Exception as error:
        raise DamagedRecord(f"{name} cannot be decoded: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts a PIL image of any mode to RGB, 8 bits, alpha laid over white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if values.dtype.kind == "f":
            raise ValueError("float images have no agreed range")
        # `convert("RGB")` would clip 16-bit values at 255 instead of scaling them.
        return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def decode_label_map(
    data: bytes, name: str, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes a map of classes: the indices of a palette, or grey values.

    Args:
      data: bytes of the file.
      name: of the file, for the error.
      max_pixels: largest width times height that is accepted.

    Returns:
      uint8 [H0, W0].

    Raises:
      DamagedRecord: not an image, or one of colours rather than classes.
    """
    image = open_image(io.BytesIO(data), name, max_pixels)
    if image.mode not in ("L", "P"):
        raise DamagedRecord(
            f"{name} must be a grey or palette image of 8 bits: got {image.mode}."
        )
    try:
        image.load()
    except Exception as error:
        raise DamagedRecord(f"{name} cannot be decoded: {error}") from error
    return np.asarray(image)
