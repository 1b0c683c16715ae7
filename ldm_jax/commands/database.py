# SPDX-License-Identifier: Apache-2.0
"""Makes a database of embedded patches of an image set, for retrieval models."""

import numpy as np
from tqdm import tqdm

from ldm_jax.data.embeddings import EmbeddingDatabase, write_database
from ldm_jax.data.records import DamagedRecord, Source, read_each
from ldm_jax.experiment.clip_folder import ClipFolder
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.parallel.outputs import new_output


def build_database(
    source: Source, clip_dir: str, out: str, batch_size: int = 64
) -> EmbeddingDatabase:
    """Embeds the middle square of every image; `img_id` is its number in the set.

    Args:
      source: of images.
      clip_dir: folder of a CLIP model.
      out: .npz file to write, new.
      batch_size: images at once.

    Raises:
      ValueError: no CLIP folder, `out` is taken, or no image can be read.
    """
    clip = ClipFolder(clip_dir)
    parts, ids, coords = [], [], []
    with new_output(out):
        for low in tqdm(range(0, len(source), batch_size), desc="database"):
            numbers = list(range(low, min(low + batch_size, len(source))))
            patches = []
            for number, record in zip(numbers, read_each(source, numbers), strict=True):
                if isinstance(record, DamagedRecord):
                    continue
                image = record["image"]
                side = min(image.shape[:2])
                top, left = ((x - side) // 2 for x in image.shape[:2])
                patches.append(image[top : top + side, left : left + side])
                ids.append(number)
                coords.append((left, top, left + side, top + side))
            if patches:
                parts.append(clip.embed_patches(patches))
        if not parts:
            raise ValueError(f"a database needs images: none could be read for {out}.")
        database = EmbeddingDatabase(
            np.concatenate(parts),
            np.array(ids, np.int64),
            np.array(coords, np.int64),
            clip.fingerprint,
        )
        if is_main_process():
            write_database(out, database)
    return database
