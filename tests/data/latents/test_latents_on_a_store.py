# SPDX-License-Identifier: Apache-2.0
"""Latents on an object store: written by many processes, read from copies."""

import threading

import numpy as np
import pytest

from ldm_jax.data.latents import write as write_module
from ldm_jax.data.latents.source import LatentTransform, open_latents
from ldm_jax.data.latents.write import write_latents
from ldm_jax.data.loader import make_batches
from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.stores.objects import create, delete, sizes_in
from tests.data.latents.test_write import Keep, Squares, encode, job

pytestmark = pytest.mark.store


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(write_module, "WAIT_EVERY", 0.02)


def write(directory, process=(0, 1), encoder=encode, **fields):
    return write_latents(
        encoder, Squares(), Keep(), directory, job(**fields), process=process
    )


def test_two_processes_write_what_one_writes_to_a_disk(bucket, tmp_path):
    """Identity: records, statistics and fingerprint."""
    expected = write(tmp_path / "local")
    threads = [
        threading.Thread(target=write, args=(f"{bucket}/latents", (i, 2)))
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    local, _ = open_latents(tmp_path / "local")
    remote, stats = open_latents(f"{bucket}/latents")
    assert stats == expected
    order = np.random.default_rng(0).permutation(20).tolist()
    for i, record in zip(order, remote.__getitems__(order), strict=True):
        assert record.keys() == local[i].keys()
        for name, value in record.items():
            np.testing.assert_array_equal(value, local[i][name])


def test_a_killed_process_repeats_only_its_unfinished_shards(bucket, store):
    class Killed(BaseException):
        pass

    calls = []

    def dies(image):
        calls.append(len(image))
        if len(calls) == 5:
            raise Killed
        return encode(image)

    with pytest.raises(Killed):
        write(f"{bucket}/latents", encoder=dies)
    assert set(sizes_in(f"{bucket}/latents")) == {
        "latents-train.array_record-00000-of-00003",
        "latents-train.array_record-00000-of-00003.done.json",
    }
    with pytest.raises(
        UnreadableFile, match=r"is unfinished \(1 shards are complete\)"
    ):
        open_latents(f"{bucket}/latents")
    calls.clear()
    store.requests.clear()
    write(f"{bucket}/latents", encoder=lambda x: calls.append(1) or encode(x))
    assert len(calls) == 6  # batches of the two other shards, both ways
    # Two shards with side files, four files of metadata; a large file is sent by two.
    assert store.count("write") <= 12 and store.count("list") <= 12


def test_a_process_that_waits_lists_once_and_reads_what_is_new(bucket, store):
    waiting = threading.Thread(target=write, args=(f"{bucket}/latents", (0, 2)))
    waiting.start()
    while sum("done.json" in name for name in sizes_in(f"{bucket}/latents")) < 2:
        assert waiting.is_alive()
        threading.Event().wait(0.02)
    write(f"{bucket}/latents", (1, 2))
    waiting.join()
    polls = store.count("list", f"{bucket[5:]}/o")
    reads = store.count("read", "done.json")
    assert reads <= 2 * 3, (polls, reads)  # of each process, every side file once


def test_reading_costs_a_request_a_shard_and_none_a_step(bucket, store):
    write(f"{bucket}/latents")
    store.requests.clear()
    source, _ = open_latents(f"{bucket}/latents")
    assert len(store.requests) <= 16  # to open a set, whatever its size
    store.requests.clear()
    batches = make_batches(source, LatentTransform(), 4, None)
    for step in range(10):
        batches(step)
    assert store.count("read") == len(store.requests) == 3
    again, _ = open_latents(f"{bucket}/latents")
    store.requests.clear()
    again.__getitems__(range(20))
    assert not store.requests  # the copies of the first run are there


def test_a_shard_that_was_changed_is_refused(bucket, tmp_path):
    write(f"{bucket}/latents")
    name = f"{bucket}/latents/latents-train.array_record-00001-of-00003"
    size = sizes_in(f"{bucket}/latents")[name.rpartition("/")[2]]
    delete(name)
    with pytest.raises(UnreadableFile, match=r"00001-of-00003 must have .* no file"):
        open_latents(f"{bucket}/latents")
    assert create(name, bytes(size))
    source, _ = open_latents(f"{bucket}/latents")
    with pytest.raises(UnreadableFile, match="00001-of-00003 is not as it was written"):
        source[9]
    assert source[1]["label"] == 1


def test_latents_of_another_job_are_not_mixed_in(bucket):
    write(f"{bucket}/latents")
    with pytest.raises(ValueError, match="holds latents of another job"):
        write(f"{bucket}/latents", autoencoder="b2")
