# SPDX-License-Identifier: Apache-2.0
"""Makes a database of embedded patches of an image set, for retrieval models."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from tqdm import tqdm

from ldm_jax.data.embeddings import EmbeddingDatabase, write_database
from ldm_jax.data.records import DamagedRecord, Source, read_each
from ldm_jax.experiment.retrieval.image_embedder import ImageEmbedder, middle_square
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.parallel.outputs import new_output, staged


def build_database(
    open_source: Callable[[], Source],
    open_embedder: Callable[[], ImageEmbedder],
    out: str,
    batch_size: int = 64,
    images: Mapping[str, Any] = MappingProxyType({}),
) -> EmbeddingDatabase:
    """Embeds the middle square of every image; `img_id` is its number in the set.

    Args:
      open_source: returns the images; called once `out` is reserved.
      open_embedder: likewise, the network that embeds them.
      out: .npz file to write, new.
      batch_size: images at once.
      images: arguments of `open_images` that open the images; the database describes
        its images by them.

    Raises:
      ValueError: `out` exists, or no image can be read.
    """
    parts, ids, coords = [], [], []
    with staged(out) as target, new_output(target):
        embedder, source = open_embedder(), open_source()
        for low in tqdm(range(0, len(source), batch_size), desc="database"):
            numbers = list(range(low, min(low + batch_size, len(source))))
            patches = []
            for number, record in zip(numbers, read_each(source, numbers), strict=True):
                if isinstance(record, DamagedRecord):
                    continue
                patch, place = middle_square(record["image"])
                patches.append(patch)
                ids.append(number)
                coords.append(place)
            if patches:
                parts.append(embedder.embed_patches(patches))
        if not parts:
            raise ValueError(f"a database needs images: none could be read for {out}.")
        database = EmbeddingDatabase(
            np.concatenate(parts),
            np.array(ids, np.int64),
            np.array(coords, np.int64),
            embedder.fingerprint,
            json.dumps({**images, "fingerprint": source.fingerprint}),
        )
        if is_main_process():
            write_database(target, database)
    return database
