# SPDX-License-Identifier: Apache-2.0
"""A fixture that opens a set which a user has fetched."""

import os

import pytest

from ldm_jax.data.images.image_sets import open_images


class Opened:
    """Opens splits of one small copy."""

    def __init__(self, tmp_path):
        self.root, self.data_dir = tmp_path / "files", tmp_path / "tfds"

    def __call__(self, name, split="train", **how):
        how = {"manual_dir": os.fspath(self.root), **how}
        source = open_images(name, split, os.fspath(self.data_dir), **how)
        return source, source.__getitems__(range(len(source)))


@pytest.fixture
def opened(tmp_path):
    return Opened(tmp_path)
