# SPDX-License-Identifier: Apache-2.0
"""Recognizes picture formats that are not supported, by the first bytes of a file."""

from collections.abc import Sequence

from PIL import Image

from ldm_jax.files.errors import UnreadableFile, impostor_bytes
from ldm_jax.files.paths import PathLike, printable

# What the first bytes begin with, at an offset -> the format.
_STARTS = (
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL \r\n\x87\n", "JPEG XL"),
    (4, b"jP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"%PDF-", "PDF"),
    (8, b"CR\x02\x00", "a camera's raw format"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw format"),
    (0, b"IIU\x00", "a camera's raw format"),
    (0, b"IIRO", "a camera's raw format"),
    (0, b"gimp xcf", "GIMP (XCF)"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"\x00\x00\x01\x00", "an icon (ICO)"),
    (0, b"icns", "an icon (ICNS)"),
    (0, b"DDS ", "DirectDraw (DDS)"),
    (0, b"qoif", "QOI"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"\x93NUMPY", "an array of NumPy"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (8, b"AVI ", "a video"),
    (0, b"\x1a\x45\xdf\xa3", "a video"),
)
# Brands of the ISO media format, at byte 8 of "....ftyp".
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
    ),
    b"crx ": "a camera's raw format",
}


_WAYS_OUT = {
    "HEIC": "Install what reads it, pip install 'ldm_jax[heif]', or convert it: magick "
    "IN.heic OUT.png.",
    "AVIF": "This Pillow was built without it: upgrade Pillow, or convert it.",
    "": "It is damaged, or no picture: get it again.",
}


def foreign_picture(
    start: bytes, path: PathLike, formats: Sequence[str]
) -> UnreadableFile:
    """Makes the error for a picture in an unsupported format.

    Args:
      start: its first 512 bytes.
      path: its name.
      formats: that are read.
    """
    name = _name(start)
    reason = impostor_bytes(start) or (
        f"it is {name}" if name else "it does not begin like one"
    )
    advice = _WAYS_OUT.get(name, "Convert it, for example to PNG.")
    return UnreadableFile(
        f"{printable(path)} must be readable as a picture ({', '.join(formats)}): "
        f"{reason}. {advice}"
    )


def refuse_preview(image: Image.Image, path: PathLike) -> None:
    """Raises UnreadableFile for a TIFF that begins with a reduced image.

    So do the raw formats of cameras that are TIFF files (DNG, NEF, ARW): their first
    image is a thumbnail.
    """
    tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    kind = tags.get(_NEW_SUBFILE_TYPE, 0) if tags is not None else 0
    if isinstance(kind, int) and kind & 1:
        raise UnreadableFile(
            f"{printable(path)} must be readable as a picture: it is a TIFF that "
            "begins with a reduced image, as a camera's raw format does. Convert it, "
            "for example to PNG."
        )


_NEW_SUBFILE_TYPE = 254  # bit 0: "a reduced-resolution version of another image"


def _name(start: bytes) -> str:
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12], "a video")
    for offset, magic, name in _STARTS:
        if start[offset:].startswith(magic):
            return name
    return "SVG" if b"<svg" in start.lower() else ""
