# SPDX-License-Identifier: Apache-2.0
"""Decodes untrusted image files to uint8 RGB, for every command.

grey, 1 bit, palette         -> RGB
16 bit (grey)                -> upper 8 bits
CMYK, YCbCr, LAB, HSV        -> RGB
alpha                        -> composited over white
EXIF orientation             -> rotated upright
several frames               -> the first
truncated, corrupt, no image -> UnreadableFile
more than `max_pixels`       -> UnreadableFile, before a pixel is decoded
"""

import contextlib
import functools
import importlib
import io
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from ldm_jax.files.errors import UnreadableFile, reading
from ldm_jax.files.folders import is_side_file
from ldm_jax.files.formats.foreign_pictures import foreign_picture, refuse_preview
from ldm_jax.files.paths import PathLike, printable
from ldm_jax.files.reading import read_bytes, regular_file

# 64 megapixels: more than the images of known data sets. Decoding takes 7 bytes per
# pixel, 4 in Pillow and 3 of the result, or 8 if the image is rotated: 540 MB.
MAX_PIXELS = 2**26
# Pillow itself refuses pictures from twice its own bound on.
LARGEST_MAX_PIXELS = 2 * int(Image.MAX_IMAGE_PIXELS or 89_478_485)
MAX_FILE_BYTES = 2**30

# No format that runs programs, as EPS does Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

# The one list of endings, for training, sampling and evaluating; in any case.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif"),
)

# Pixels converted at a time: bounds the memory besides the image and the result.
STRIP_PIXELS = 2**20


def is_picture(name: PathLike) -> bool:
    """Returns whether a file is a picture, by its name; the rule for all folders."""
    return os.fspath(name).lower().endswith(SUFFIXES) and not is_side_file(name)


def list_pictures(folder: PathLike) -> list[pathlib.Path]:
    """Lists the pictures of a folder, sorted by name; sub-folders do not count.

    Raises:
      UnreadableFile: it holds none, or one of them is not a regular file.
    """
    files = sorted(p for p in pathlib.Path(folder).iterdir() if is_picture(p))
    if not files:
        raise UnreadableFile(
            f"a folder of pictures must hold some: {printable(folder)} has none "
            f"({', '.join(SUFFIXES)})."
        )
    return [regular_file(file, "a picture") for file in files]


@contextlib.contextmanager
def opened_image(
    file: bytes | pathlib.Path, name: PathLike, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """Opens an image by its header; errors of decoding in the block are turned too.

    Args:
      file: its bytes, or its path.
      name: of the file, for the error.
      max_pixels: largest width times height that is accepted.

    Yields:
      A lazy PIL image.

    Raises:
      UnreadableFile: not an image in one of FORMATS, or larger than `max_pixels`.
    """
    advice = f"It must be a complete file of {', '.join(formats())}."
    if not isinstance(file, bytes):
        file = regular_file(file, "an image")
    with io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as stream:
        start = stream.read(512)
        stream.seek(0)
        with reading(name, advice=advice, data=start):
            image = _open(stream, name, max_pixels)
        with reading(name, advice=advice, data=start, rule="cannot be decoded"):
            yield image


def _open(stream: IO[bytes], name: PathLike, max_pixels: int) -> Image.Image:
    with warnings.catch_warnings():  # Pillow's, from 89 megapixels on
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(stream, formats=formats())
        except UnidentifiedImageError:
            stream.seek(0)
            raise foreign_picture(stream.read(512), name, formats()) from None
        except Image.DecompressionBombError:
            raise _too_large(name, "too many", max_pixels) from None
    refuse_preview(image, name)
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(name, f"{width}x{height}", max_pixels)
    return image


def _too_large(name: PathLike, pixels: str, max_pixels: int) -> UnreadableFile:
    return UnreadableFile(
        f"{printable(name)} declares {pixels} pixels: max_pixels = {max_pixels}; make "
        "it smaller, or leave it out."
    )


@functools.cache
def formats() -> tuple[str, ...]:
    """Lists the formats that are read: FORMATS, AVIF and HEIF where Pillow can."""
    names = FORMATS
    if features.check("avif"):
        names += ("AVIF",)
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
        names += ("HEIF",)
    return names


def upright_size(
    file: bytes | pathlib.Path, name: PathLike, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """Finds the height and width that an image has when decoded, from its header.

    Arguments and errors as `opened_image`.
    """
    with opened_image(file, name, max_pixels) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def read_image(
    path: PathLike, max_pixels: int = MAX_PIXELS, name: PathLike = ""
) -> np.ndarray:
    """Reads an image file as RGB; result and errors as `decode_image`."""
    return decode_image(read_bytes(path, MAX_FILE_BYTES), name or path, max_pixels)


def decode_image(
    data: bytes, name: PathLike, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes an image file to RGB.

    Args:
      data: bytes of the file.
      name: of the file, for the error.
      max_pixels: largest width times height that is accepted.

    Returns:
      uint8 [H0, W0, 3].

    Raises:
      UnreadableFile: not an image, truncated, corrupt or too large.
    """
    with opened_image(data, name, max_pixels) as image:
        return to_rgb(_upright(image))


def read_label_map(
    path: PathLike, max_pixels: int = MAX_PIXELS, name: PathLike = ""
) -> np.ndarray:
    """Reads a map of classes; result and errors as `decode_label_map`."""
    return decode_label_map(read_bytes(path, MAX_FILE_BYTES), name or path, max_pixels)


def decode_label_map(
    data: bytes, name: PathLike, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes a map of classes: the indices of a palette, or grey values as stored.

    Args:
      data: bytes of the file.
      name: of the file, for the error.
      max_pixels: largest width times height that is accepted.

    Returns:
      uint8 [H0, W0].

    Raises:
      UnreadableFile: not an image, one of colours rather than classes, of more than
        256 classes, or in a format that changes values (JPEG).
    """
    with opened_image(data, name, max_pixels) as image:
        is_grey = image.mode in ("L", "P", "1") or image.mode.startswith("I")
        if not is_grey or image.format in ("JPEG", "MPO"):
            raise UnreadableFile(
                f"{printable(name)} must be a grey or palette image, a PNG of class "
                f"numbers: got {image.mode} in {image.format}; save it with one "
                "channel, as PNG."
            )
        # Pillow scales grey of 2 and 4 bits to 0..255.
        tiles = getattr(image, "tile", ())  # of formats, not of every image
        raw = tiles[0][3] if tiles and image.format == "PNG" else ""
        step = {"L;2": 85, "L;4": 17}.get(raw if isinstance(raw, str) else "", 1)
        values = np.asarray(_upright(image))
    if values.size and values.max() > 255:
        raise UnreadableFile(
            f"{printable(name)} must hold class numbers up to 255: got {values.max()}."
        )
    return (values // step).astype(np.uint8)


def read_mask(
    path: PathLike, max_pixels: int = MAX_PIXELS, name: PathLike = ""
) -> np.ndarray:
    """Reads a mask; result and errors as `decode_mask`."""
    return decode_mask(read_bytes(path, MAX_FILE_BYTES), name or path, max_pixels)


def decode_mask(
    data: bytes, name: PathLike, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes a mask drawn in white on black; split at half grey.

    Returns:
      bool [H0, W0], True where it is white.

    Raises:
      UnreadableFile: not an image; transparent pixels, which do not say whether they
        are in the mask; or all black.
    """
    with opened_image(data, name, max_pixels) as image:
        image = _upright(image)
        if _has_alpha(image) and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise UnreadableFile(
                f"a mask must be white on black and opaque: {printable(name)} has "
                "transparent pixels; save it without an alpha channel. If the mask is "
                "the alpha channel itself, extract it: magick IN.png -alpha extract "
                "MASK.png."
            )
        levels = np.asarray(Image.fromarray(to_rgb(image)).convert("L"))
    mask = levels >= 128
    if not mask.any():
        raise UnreadableFile(
            f"a mask must have white pixels, 255: all of {printable(name)} are black "
            f"(levels {levels.min()} to {levels.max()}); draw it in white on black."
        )
    return mask


def to_rgb(image: Image.Image) -> np.ndarray:
    """Converts a PIL image of any mode to uint8 [H, W, 3], alpha over white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if values.dtype.kind == "f":
            raise ValueError("float images have no agreed range")
        # `convert("RGB")` would clip 16-bit values at 255 instead of scaling them.
        grey = (values >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    width, height = image.size
    result = np.empty((height, width, 3), np.uint8)
    rows = max(1, STRIP_PIXELS // max(1, width))
    for top in range(0, height, rows):
        strip = image
        if height > rows:
            strip = image.crop((0, top, width, min(top + rows, height)))
        result[top : top + rows] = np.asarray(_strip_to_rgb(strip))
    return result


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if not _has_alpha(image):
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")


def _has_alpha(image: Image.Image) -> bool:
    has_channel = image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
    return has_channel or "transparency" in image.info


def _upright(image: Image.Image) -> Image.Image:
    """Decodes an image and rotates it by its EXIF orientation."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)  # else it copies upright ones too
    return image
