# SPDX-License-Identifier: Apache-2.0
"""Computes the CLIP score: how well images match their captions."""

from collections.abc import Callable, Sequence

import numpy as np

from ldm_jax.experiment.retrieval.clip_folder import ClipFolder
from ldm_jax.files.reading import read_lines


def open_clip(folder: str) -> Callable[[np.ndarray, Sequence[str]], np.ndarray]:
    """Opens both towers of a CLIP model.

    Args:
      folder: a CLIPModel as transformers saves it, with vocab.json and merges.txt.

    Returns:
      (uint8 [B, H, W, 3], B captions) -> [B] scores in [0, 100]: 100 times the cosine,
      a negative one counting as 0. Images are resized (bicubic) and cropped in the
      center as CLIP's own preprocessing does.

    Raises:
      ValueError: the folder is not such a model.

    Source: Hessel et al. 2021, Eq. 1, with the weight 100 that is customary.
    """
    clip = ClipFolder(folder)

    def run(image, captions):
        cosine = np.sum(clip.embed_images(image) * clip.embed_texts(captions), axis=-1)
        return 100 * np.maximum(cosine, 0)

    return run


def read_caption_lines(path: str) -> list[str]:
    """Reads the captions of a text file, one per line; empty lines are left out.

    Raises:
      UnreadableFile: it is missing, no text, or too large.
      ValueError: it holds no caption.
    """
    lines = read_lines(path)
    if not lines:
        raise ValueError(f"there must be a caption: {path} holds none.")
    return lines
