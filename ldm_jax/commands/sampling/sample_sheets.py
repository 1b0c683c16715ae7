# SPDX-License-Identifier: Apache-2.0
"""Writes the sheet of samples and the array of all samples for metrics."""

import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.conditions.base import Condition
from ldm_jax.data.transforms.pixels import resize
from ldm_jax.files.formats import png
from ldm_jax.files.formats.pictures import read_image
from ldm_jax.files.writing import atomic_file

# Images of the sheet; conditions that are compared side by side, in columns.
GRID, COLUMNS = 100, 10


def name_conditions(
    condition: Condition, inputs: Mapping[str, Any], y: Mapping[str, np.ndarray]
) -> list[str]:
    """Names each condition by its class or prompt; [] for conditions without either.

    Args:
      condition: of the model.
      inputs: a user's, the arguments of `from_user`.
      y: what that made of them, [N, ...] by field.
    """
    if "label" in condition.fields:
        names: Sequence[str] = getattr(condition, "class_names", ())
        numbers = [int(i) for i in y["label"]]
        return [names[i] if i < len(names) else str(i) for i in numbers]
    text = inputs.get("text")
    if isinstance(text, str) and not text.endswith(".txt"):
        return [text]
    return []


def write_sheets(
    files: Sequence[pathlib.Path], writes_npz: bool, captions: Sequence[str]
) -> None:
    """Writes grid.png of the first images, and samples.npz of all, into their folder.

    With several conditions a column is one of them, for up to ten; so they can be
    compared.

    Args:
      files: of the images, in their order.
      writes_npz: whether samples.npz is written too: arr_0 [N, H, W, 3] uint8.
      captions: of the conditions, which the images have in turn; () for none.
    """
    folder = files[0].parent
    shown = np.stack([read_image(file) for file in files[:GRID]])
    num_columns = int(np.ceil(len(shown) ** 0.5))
    if 1 < len(captions) <= COLUMNS:
        num_columns = len(captions)
    texts = [captions[i % len(captions)] for i in range(len(shown))] if captions else []
    enlarge = png.enlargement(shown.shape[2])
    sheet = png.grid(shown, num_columns, enlarge=enlarge, captions=texts)
    png.save_png(folder / "grid.png", sheet)
    if writes_npz:
        _write_npz(folder / "samples.npz", files, shown[0].shape)


def write_neighbours(
    files: Sequence[pathlib.Path], neighbours: Sequence[np.ndarray]
) -> None:
    """Writes neighbours.png: in each row a sample, then the neighbours it was made of.

    Args:
      files: of the samples; sample i has the neighbours i modulo their number.
      neighbours: for each of the first queries uint8 [k, S, S, 3].
    """
    rows = []
    for file, images in zip(files, neighbours, strict=False):
        size = images.shape[1:3]
        sample = read_image(file)
        # Pixels of a sample stay visible where it is enlarged.
        kind = "nearest" if max(sample.shape[:2]) < min(size) else "bicubic"
        rows.append(np.concatenate([resize(sample, size, kind)[None], images]))
    sheet = png.grid(np.concatenate(rows), len(rows[0]))
    png.save_png(files[0].parent / "neighbours.png", sheet)


def _write_npz(
    path: pathlib.Path, files: Sequence[pathlib.Path], shape: tuple[int, ...]
) -> None:
    """Writes an .npz file image by image, because 50,000 do not fit in memory."""
    header = {"shape": (len(files), *shape), "fortran_order": False, "descr": "|u1"}
    with (
        atomic_file(path) as target,
        zipfile.ZipFile(target, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as array,
    ):
        np.lib.format.write_array_header_1_0(array, header)
        for file in files:
            array.write(read_image(file).tobytes())
