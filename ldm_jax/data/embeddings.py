# SPDX-License-Identifier: Apache-2.0
"""Databases of embedded image patches, in the layout of the published ones.

A database is an .npz file, or a folder of them whose rows are joined in the order of
the names:

    embedding     [N, d]   of CLIP's image tower, not normalised
    img_id        [N]      whole numbers
    patch_coords  [N, 4]   x0, y0, x1, y1 of the patch in its image

Ours also contain "clip", the name of the encoder, and "images", which describes the
image set as JSON: its fingerprint and the arguments that open it.
"""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.formats.arrays import Npz
from ldm_jax.files.formats.structured import parse_json
from ldm_jax.files.writing import atomic_file

ARRAYS = {"embedding": 2, "img_id": 1, "patch_coords": 2}


class EmbeddingDatabase(NamedTuple):
    """Embedded patches.

    Attributes:
      embedding: [N, d] float.
      img_id: [N] int.
      patch_coords: [N, 4].
      clip: names the encoder; "" where the file does not name it, as the published
        ones.
      images: JSON of the image set that the patches are of; "" where the file does not
        describe it.
    """

    embedding: np.ndarray
    img_id: np.ndarray
    patch_coords: np.ndarray
    clip: str = ""
    images: str = ""

    @property
    def image_set(self) -> dict[str, Any]:
        """Arguments of `open_images` and "fingerprint" of the patches' image set.

        {} where they are not known.
        """
        if not self.images:
            return {}
        return parse_json(self.images.encode(), "images of a database")

    @property
    def width(self) -> int:
        """The length of an embedding, d."""
        return self.embedding.shape[1]


def read_database(path: str) -> EmbeddingDatabase:
    """Reads a database.

    Raises:
      ValueError: there is none, a file lacks an array, arrays do not fit, or files of
        one folder are of different encoders; by name.
    """
    place = pathlib.Path(path).expanduser()
    files = sorted(place.glob("*.npz")) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        raise ValueError(
            f"a database is an .npz file or a folder of them: got {path}; make "
            "one with ldm-jax database."
        )
    parts = [_read_file(file) for file in files]
    for name in ("width", "clip"):
        values = [getattr(part, name) for part in parts]
        other = next((i for i, v in enumerate(values) if v != values[0]), None)
        if other is not None:
            raise ValueError(
                f"the files of a database must have one {name}: {files[0]} has "
                f"{values[0]!r}, {files[other]} {values[other]!r}."
            )
    arrays = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS
    )
    image_sets = {part.images for part in parts}
    # `img_id` numbers the images of one set.
    images = image_sets.pop() if len(image_sets) == 1 else ""
    return EmbeddingDatabase(*arrays, clip=parts[0].clip, images=images)


def _read_file(file: pathlib.Path) -> EmbeddingDatabase:
    with Npz(file) as stored:
        missing = [name for name in ARRAYS if name not in stored.names]
        if missing:
            raise UnreadableFile(
                f"a database holds {', '.join(ARRAYS)}: {file} lacks "
                f"{', '.join(missing)} and holds "
                f"{', '.join(stored.names) or 'nothing'}."
            )
        arrays = {name: stored.read(name) for name in ARRAYS}
        clip, images = (
            str(stored.read(name)) if name in stored.names else ""
            for name in ("clip", "images")
        )
    count = len(arrays["embedding"]) if arrays["embedding"].ndim else 0
    for name, rank in ARRAYS.items():
        array = arrays[name]
        if array.ndim != rank or len(array) != count or array.dtype.kind not in "fiu":
            raise UnreadableFile(
                f"{name} of a database must have {rank} axes and {count} rows: {file} "
                f"has {array.dtype} {array.shape}."
            )
    if not count or not np.isfinite(arrays["embedding"]).all():
        raise UnreadableFile(f"a database needs rows of finite numbers: got {file}.")
    return EmbeddingDatabase(**arrays, clip=clip, images=images)


def write_database(path: str | os.PathLike, database: EmbeddingDatabase) -> None:
    """Writes a database as one .npz file."""
    with atomic_file(path) as file:
        np.savez(file, **database._asdict())
