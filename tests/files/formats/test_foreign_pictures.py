# SPDX-License-Identifier: Apache-2.0
"""Pictures in formats that are not read are named by every reader, with the way out."""

import struct

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.demo import studio
from ldm_jax.conditions.user_inputs import to_image, to_mask
from ldm_jax.data.images.folder import FolderSource
from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.formats import pictures


def iso(brand):
    """The beginning of a file of the ISO media format."""
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + brand + bytes(200)


FILES = {
    "HEIC": iso(b"heic"),
    "JPEG XL": b"\xff\x0a" + bytes(64),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64),
    "a camera's raw format": b"II*\0\x10\0\0\0CR\x02\0" + bytes(64),
    "Photoshop": b"8BPS\0\x01" + bytes(64),
    "SVG": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
    "PDF": b"%PDF-1.7\n",
    "a video": iso(b"isom"),
    "OpenEXR": b"\x76\x2f\x31\x01" + bytes(64),
    "DICOM": bytes(128) + b"DICM",
    "a zip archive": b"PK\x03\x04" + bytes(64),
}


@pytest.mark.parametrize("name", FILES)
def test_a_picture_of_another_format_is_named_whatever_its_suffix(name, tmp_path):
    (tmp_path / "a.jpg").write_bytes(FILES[name])
    with pytest.raises(UnreadableFile) as error:
        pictures.read_image(tmp_path / "a.jpg")
    message = str(error.value)
    assert f"it is {name}" in message and "a.jpg must be readable" in message
    assert "onvert it" in message and len(message.splitlines()) == 1


READERS = {
    "image": pictures.read_image,
    "label map": pictures.read_label_map,
    "mask": pictures.read_mask,
    "condition": to_image,
    "hole": to_mask,
    "upload": lambda path: studio.decode_image(path.read_bytes(), "a.heic"),
    "folder": lambda path: FolderSource(path.parent, "all", max_refused=0),
}


@pytest.mark.parametrize("name", READERS)
def test_heic_is_named_with_its_extra_wherever_pictures_are_read(name, tmp_path):
    (tmp_path / "a.heic").write_bytes(FILES["HEIC"])
    if "HEIF" in pictures.formats():
        pytest.skip("pillow-heif is installed")
    with pytest.raises(UnreadableFile, match=r"a\.heic.*it is HEIC.*ldm_jax\[heif\]"):
        READERS[name](tmp_path / "a.heic")


def test_a_preview_of_a_camera_is_not_taken_for_the_picture(tmp_path):
    """DNG, NEF and ARW are TIFF files that begin with a reduced image (tag 254)."""
    preview = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    preview.save(tmp_path / "a.tif", tiffinfo={254: 1})
    with pytest.raises(UnreadableFile, match=r"a\.tif.*reduced image.*raw"):
        pictures.read_image(tmp_path / "a.tif")
    preview.save(tmp_path / "b.tif")
    assert pictures.read_image(tmp_path / "b.tif").shape == (8, 8, 3)
