# SPDX-License-Identifier: Apache-2.0
"""The storage of latents: as it is written, and as the page about pods states it."""

import pathlib
import re

import numpy as np
import pytest

from ldm_jax.data.latents.write import write_latents
from ldm_jax.planning.storage import latent_storage
from tests.data.latents.test_write import Keep, job

PAGE = pathlib.Path(__file__).parents[2] / "launch" / "STORES.md"


class Noise:
    """Images of noise with labels."""

    fingerprint = "noise"

    def __len__(self):
        return 24

    def __getitem__(self, index):
        image = np.random.default_rng(index).normal(size=(64, 64, 3))
        return {"image": image.astype(np.float32), "label": np.int32(index)}

    def __getitems__(self, indices):
        return [self[i] for i in indices]


@pytest.mark.parametrize("mirror", [False, True])
def test_the_estimate_is_what_is_written(tmp_path, mirror):
    """Golden: the files of a small set."""

    def encode(image):
        mean = np.asarray(image)[:, ::2, ::2]
        return np.concatenate([mean, 0 * mean], axis=-1)

    settings = job(mirror=mirror, records_per_shard=8)
    write_latents(encode, Noise(), Keep(), tmp_path, settings)
    estimate = latent_storage(24, 32, 32, 6, mirror=mirror, records_per_shard=8)
    shards = list(tmp_path.glob("*.array_record-?????-of-?????"))
    size = sum(path.stat().st_size for path in shards)
    # A file of records ends with whole blocks of 64 KiB.
    assert 0 <= size - estimate.bytes <= 0.02 * size + len(shards) * 2 * 65536
    # One more, images.json, is of the command.
    assert len(list(tmp_path.iterdir())) == estimate.objects - 1


ROWS = {
    "f = 4, VQ": (64, 64, 3),
    "f = 4, KL": (64, 64, 6),
    "f = 8, VQ": (32, 32, 4),
    "f = 8, KL": (32, 32, 8),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_page_states_what_the_function_computes(name):
    estimate = latent_storage(1_281_167, *ROWS[name])
    (row,) = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", PAGE.read_text(), re.M)
    size, objects, writes, reads = [cell.strip() for cell in row.split("|")[1:5]]
    assert size == f"{estimate.bytes / 2**30:.1f}"
    assert objects == f"{estimate.objects:,}"
    assert (writes, reads) == (f"{estimate.writes:,}", f"{estimate.reads:,}")
