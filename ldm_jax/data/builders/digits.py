# SPDX-License-Identifier: Apache-2.0
"""Scikit-learn's handwritten digits as a TFDS set: real images without a download."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 grey 8x8 images of the digits 0 to 9, with their labels.

    The held-out split is fixed and stratified: of every class, in the order of the
    set, each fifth image goes to "test" (355 images) and the others to "train" (1,442).
    The 17 grey levels of the source (0 to 16) become round(level * 255 / 16), stored
    as PNG: lossless.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (UCI),
    the test part, as `sklearn.datasets.load_digits` carries it.
    """

    VERSION = tfds.core.Version("1.0.0")
    name = "digits"
    # TFDS finds this by itself only where `importlib_resources`, which it does not
    # require, is installed.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        # Not `dataset_info_from_configs`: it needs metadata files next to the module.
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits, 8x8, from scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(8, 8, 1), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {
            "train": self._generate_examples(False),
            "test": self._generate_examples(True),
        }

    def _generate_examples(self, held_out: bool) -> Iterator[tuple[int, dict]]:
        images, labels = read_digits()
        for index in np.flatnonzero(is_held_out(labels) == held_out):
            # TFDS encodes arrays with TensorFlow; bytes it takes as they are.
            png = io.BytesIO()
            Image.fromarray(images[index]).save(png, "PNG")
            png.seek(0)
            yield int(index), {"image": png, "label": int(labels[index])}


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns all images, uint8 [1797, 8, 8], and their labels, int64 [1797]."""
    from sklearn.datasets import load_digits  # slow to import, needed once

    digits: Any = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target


def is_held_out(labels: np.ndarray) -> np.ndarray:
    """Marks every fifth image of each class: bool, shaped like `labels`."""
    held_out = np.zeros(labels.shape, bool)
    for label in np.unique(labels):
        held_out[np.flatnonzero(labels == label)[4::5]] = True
    return held_out
