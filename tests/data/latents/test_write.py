# SPDX-License-Identifier: Apache-2.0
"""Latents: nothing is lost or doubled across kills and processes; stats are exact."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest
import tensorflow_datasets as tfds

from ldm_jax.data.latents.source import LatentTransform, open_latents
from ldm_jax.data.latents.statistics import LatentSums
from ldm_jax.data.latents.write import LatentJob, write_latents
from ldm_jax.data.loader import make_batches
from ldm_jax.data.records import DamagedRecord
from ldm_jax.data.transforms.image_transform import Then


class Squares:
    """4x4 images of noise with labels; some are damaged."""

    fingerprint = "squares"

    def __init__(self, length=20, damaged=()):
        self.images = np.random.default_rng(0).normal(size=(length, 4, 4, 3))
        self.damaged = damaged

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index in self.damaged:
            raise DamagedRecord(f"square {index} is damaged")
        return {
            "image": self.images[index].astype(np.float32),
            "label": np.int32(index % 3),
            "caption": f"Nummer {index} ä",
        }

    def __getitems__(self, indices):
        return [self[i] for i in indices]


class Keep:
    """Adds the row's own noise and keeps the rest."""

    description = {"kind": "keep"}  # noqa: RUF012

    def __call__(self, record, rng):
        return {**record, "draw": rng.random(2)}


def encode(image):
    """Mean: the image at half size; log-variance: -1, -2, -3."""
    mean = np.asarray(image)[:, ::2, ::2]
    return np.concatenate([mean, 0 * mean - np.float32([1, 2, 3])], axis=-1)


def job(**fields):
    return LatentJob(
        **{
            "latent_channels": 3,
            "autoencoder": "a1",
            "batch_size": 4,
            "records_per_shard": 8,
            **fields,
        }
    )


def write(directory, source=None, **fields):
    return write_latents(encode, source or Squares(), Keep(), directory, job(**fields))


def test_records_come_back_as_they_were_written(tmp_path):
    source = Squares()
    write(tmp_path, source)
    latents, _ = open_latents(tmp_path)
    assert len(latents) == 20
    for i, record in enumerate(latents.__getitems__(range(20))):
        expected = encode(source[i]["image"][None])[0].astype(np.float16)
        mirrored = encode(source[i]["image"][None, :, ::-1])[0].astype(np.float16)
        assert np.array_equal(record["moments"], expected)
        assert np.array_equal(record["moments_flip"], mirrored)
        assert record["source_index"] == i and record["label"] == i % 3
        assert record["caption"] == f"Nummer {i} ä" and record["draw"].dtype == float


def test_tfds_opens_the_set(tmp_path):
    """Golden: TFDS' own reader, feature by feature."""
    write(tmp_path)
    latents, _ = open_latents(tmp_path)
    from_tfds = tfds.builder_from_directory(tmp_path).as_data_source("train")
    assert len(from_tfds) == 20
    for i in (0, 7, 8, 19):
        record = from_tfds[i]
        record["caption"] = record["caption"].decode()
        assert record.keys() == latents[i].keys()
        assert all(np.array_equal(record[name], latents[i][name]) for name in record)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_moments_are_stored_in_the_requested_dtype(tmp_path, dtype):
    write(tmp_path, dtype=dtype)
    stored = open_latents(tmp_path)[0][3]["moments"]
    expected = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}.get(
        dtype, np.float32
    )
    assert stored.dtype == expected
    exact = encode(Squares()[3]["image"][None])[0]
    assert np.array_equal(stored, exact.astype(expected))


def test_crops_are_records_of_their_own(tmp_path):
    stats = write(tmp_path, num_crops=3)
    latents, _ = open_latents(tmp_path)
    records = latents.__getitems__(range(60))
    indices = [int(record["source_index"]) for record in records]
    assert stats.count == 60 and indices == list(range(20)) * 3
    assert len({record["draw"].tobytes() for record in records}) == 60


def test_without_mirror_only_one_image_is_stored(tmp_path):
    write(tmp_path, mirror=False)
    assert "moments_flip" not in open_latents(tmp_path)[0][0]


def test_the_stats_are_those_of_the_whole_set(tmp_path):
    """Oracle: NumPy over all that is stored, and many draws of the posterior."""
    stats = write(tmp_path)
    latents, again = open_latents(tmp_path)
    assert again == stats
    records = latents.__getitems__(range(20))
    both = np.stack([[r["moments"], r["moments_flip"]] for r in records]).astype(float)
    mean, log_variance = both[..., :3], both[..., 3:]
    variance = mean.var() + np.exp(log_variance).mean()
    np.testing.assert_allclose(stats.mean, mean.mean(), rtol=1e-9)
    np.testing.assert_allclose(stats.std, np.sqrt(variance), rtol=1e-9)
    noise = np.random.default_rng(1).normal(size=(200, *mean.shape))
    z = mean + np.exp(log_variance / 2) * noise
    assert abs(z.std() * stats.scale - 1) < 0.01  # 200 draws of 480 values
    assert (stats.f, stats.latent_shape, stats.count) == (2, (2, 2, 3), 20)
    assert (stats.autoencoder, stats.images, stats.dropped) == ("a1", "squares", 0)
    assert stats.transform == {"kind": "keep"}


def test_the_standard_error_of_the_scale_is_right():
    """Oracle: the spread of the scale over many sets of the same distribution."""
    rng = np.random.default_rng(0)
    scales, errors = [], []
    for _ in range(300):
        shift = rng.normal(size=(200, 1, 1, 1))  # pixels of a record are correlated
        moments = shift + 0.5 * rng.normal(size=(200, 2, 2, 1)) + 0.3
        part, other = LatentSums(), LatentSums()
        part.add(moments[:80], 1)
        other.add(moments[80:], 1)
        result = LatentSums(part.sums + other.sums).result()
        scales.append(result["scale"])
        errors.append(result["scale_error"])
    assert abs(np.mean(errors) / np.std(scales) - 1) < 0.15  # 300 sets: 4 % plus bias


def test_latents_without_variance_need_no_second_half(tmp_path):
    source = Squares()
    stats = write_latents(
        lambda x: x[:, ::2, ::2], source, Keep(), tmp_path, job(dtype="float32")
    )
    latents, _ = open_latents(tmp_path)
    assert latents[0]["moments"].shape == (2, 2, 3)
    values = [
        [r["moments"], r["moments_flip"]] for r in latents.__getitems__(range(20))
    ]
    np.testing.assert_allclose(stats.std, np.std(values), rtol=1e-6)


def test_the_transform_takes_either_mirror_image(tmp_path):
    write(tmp_path)
    record = open_latents(tmp_path)[0][0]
    rng = np.random.default_rng(0)
    result = [LatentTransform()(record, rng)["moments"] for _ in range(50)]
    plain = [np.array_equal(f, record["moments"].astype(np.float32)) for f in result]
    mirror = [
        np.array_equal(f, record["moments_flip"].astype(np.float32)) for f in result
    ]
    assert np.array_equal(plain, ~np.array(mirror)) and 15 < sum(plain) < 35
    example = LatentTransform(flip=False)(record, rng)
    assert np.array_equal(example["moments"], record["moments"].astype(np.float32))
    assert set(example) == {"moments", "label", "caption", "draw"}


def test_captions_become_tokens(tmp_path):
    write(tmp_path)
    source, _ = open_latents(tmp_path)

    def tokenize(example):
        return {"tokens": np.int32([len(example.pop("caption")), 0]), **example}

    transform = Then(LatentTransform(), tokenize, "letters")
    example = transform(source[3], np.random.default_rng(0))
    assert example["tokens"].tolist() == [10, 0] and "caption" not in example
    assert transform.description["then"] == "letters"
    batch = make_batches(source, LatentTransform(), 4)(0)
    assert set(batch) == {"moments", "label", "draw"}  # words stay on the host


def test_the_encoder_always_sees_whole_batches(tmp_path):
    seen = set()

    def watched(image):
        seen.add(image.shape)
        return encode(image)

    write_latents(watched, Squares(19), Keep(), tmp_path, job())
    assert seen == {(4, 4, 4, 3)} and len(open_latents(tmp_path)[0]) == 19


def test_progress_counts_up_to_the_total(tmp_path):
    calls = []
    write_latents(
        encode, Squares(19), Keep(), tmp_path, job(), lambda *now: calls.append(now)
    )
    assert calls == [(n, 19) for n in (0, 4, 8, 12, 16, 19)]


def test_many_processes_write_one_set(tmp_path):
    """Each writes its shards; the last makes the set readable; all results agree."""
    results = {}

    def run(index):
        results[index] = write_latents(
            encode, Squares(), Keep(), tmp_path / "three", job(), process=(index, 3)
        )

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = write(tmp_path / "one")
    assert results == {0: alone, 1: alone, 2: alone}
    assert shards_of(tmp_path / "three") == shards_of(tmp_path / "one")


def shards_of(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir() if "json" not in p.name}


PROGRAM = """
import sys, os, signal
from tests.data.latents.test_write import Squares, Keep, encode, job
from ldm_jax.data.latents.write import write_latents
calls = 0
def dying(image):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(image)
write_latents(dying, Squares(), Keep(), sys.argv[1], job())
"""


def test_a_killed_run_picks_up_where_it_stopped(tmp_path):
    """Killed in the second shard, then in the third: bit for bit as one run."""
    for call in (6, 6):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, tmp_path / "cut", str(call)],
            cwd=pathlib.Path(__file__).parents[3],
        )
        assert run.returncode == -signal.SIGKILL
        with pytest.raises(ValueError, match="unfinished"):
            open_latents(tmp_path / "cut")
    calls = []
    stats = write_latents(
        encode,
        Squares(),
        Keep(),
        tmp_path / "cut",
        job(),
        lambda *now: calls.append(now),
    )
    assert calls[0] == (16, 20)  # what was whole is not encoded again
    assert stats == write(tmp_path / "one")
    assert shards_of(tmp_path / "cut") == shards_of(tmp_path / "one")


PLACES = """
import sys
from tests.kills import kill_at_operation
from tests.data.latents.test_write import write
kill_at_operation(int(sys.argv[2]), sys.argv[1] + "/")
write(sys.argv[1])
"""


@pytest.mark.slow
def test_killed_at_any_place_nothing_is_left_over(tmp_path):
    """F1: around the renaming of a shard and of its side file; then all shards are
    whole, and around the writing and renaming of the metadata.
    """
    for number in (4, 5, 6, 13, 11, 14, 16, 18):
        run = subprocess.run(
            [sys.executable, "-c", PLACES, tmp_path / "cut", str(number)],
            cwd=pathlib.Path(__file__).parents[3],
        )
        assert run.returncode == -signal.SIGKILL
    assert write(tmp_path / "cut") == write(tmp_path / "one")
    # Metadata that are half written may be another process's, until they are old.
    left = list((tmp_path / "cut").glob(".dataset_info.json.*.partial"))
    assert left
    for folder in left:
        os.utime(folder, (0, 0))
    write(tmp_path / "cut")
    names = [{p.name for p in (tmp_path / d).iterdir()} for d in ("cut", "one")]
    assert names[0] == names[1]
    assert shards_of(tmp_path / "cut") == shards_of(tmp_path / "one")


def test_a_finished_set_is_not_written_again(tmp_path):
    first = write(tmp_path)
    again = write_latents(None, Squares(), Keep(), tmp_path, job())
    assert again == first


def test_a_directory_of_another_job_is_refused(tmp_path):
    write(tmp_path)
    for fields in (
        {"autoencoder": "b2"},
        {"dtype": "float32"},
        {"records_per_shard": 4},
    ):
        with pytest.raises(ValueError, match="latents of another job"):
            write(tmp_path, **fields)


def test_latents_of_another_autoencoder_are_refused(tmp_path):
    stats = write(tmp_path)
    stats.check("a1")
    with pytest.raises(
        ValueError, match=r"here were written by autoencoder a1 .* is b2"
    ):
        stats.check("b2", "here")


def test_damaged_records_are_left_out_and_counted(tmp_path):
    stats = write(tmp_path, Squares(damaged=(3, 9)))
    latents, _ = open_latents(tmp_path)
    indices = [int(r["source_index"]) for r in latents.__getitems__(range(18))]
    assert indices == [i for i in range(20) if i not in (3, 9)]
    assert (stats.count, stats.dropped) == (18, 2)


def test_too_many_damaged_records_are_an_error(tmp_path):
    with pytest.raises(DamagedRecord, match="max_damaged = 1"):
        write(tmp_path, Squares(damaged=(3, 9)), max_damaged=1)


@pytest.mark.parametrize(
    ("encoder", "fields", "words"),
    [
        (lambda x: x[..., :1], {}, r"must return \[B, h, w, 3\]"),
        (lambda x: x * 1e6, {}, "not finite as float16"),
        (lambda x: x * np.nan, {"dtype": "float32"}, "not finite as float32"),
        (lambda x: x * 0, {}, "no spread"),
    ],
)
def test_moments_that_cannot_be_right_are_refused(tmp_path, encoder, fields, words):
    with pytest.raises(ValueError, match=words):
        write_latents(encoder, Squares(), Keep(), tmp_path, job(**fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"dtype": "int8"}, "one of: float16"), ({"num_crops": 0}, "positive")],
)
def test_a_wrong_job_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        job(**fields)


def test_a_random_flip_besides_both_mirror_images_is_refused(tmp_path):
    class Flips(Keep):
        description = {"flip": True}  # noqa: RUF012

    with pytest.raises(ValueError, match="mirror=False"):
        write_latents(encode, Squares(), Flips(), tmp_path, job())


def test_a_missing_or_cut_shard_is_refused_at_opening(tmp_path):
    write(tmp_path)
    shard = tmp_path / "latents-train.array_record-00001-of-00003"
    os.truncate(shard, 1000)
    with pytest.raises(ValueError, match=r"00001-of-00003 must have .* got 1000"):
        open_latents(tmp_path)
    (tmp_path / "dataset_info.json").unlink()
    write(tmp_path)  # the way out that the error names
    assert len(open_latents(tmp_path)[0]) == 20


def test_a_flipped_bit_costs_one_record(tmp_path):
    write(tmp_path)
    shard = tmp_path / "latents-train.array_record-00000-of-00003"
    data, whole = bytearray(shard.read_bytes()), open_latents(tmp_path)[0]
    needle = whole[5]["moments"].tobytes()
    data[data.index(needle) + 3] ^= 1
    shard.write_bytes(data)
    latents, damaged = open_latents(tmp_path)[0], []
    with pytest.raises(DamagedRecord):
        latents.__getitems__(range(8))
    for i in range(20):
        try:
            latents[i]
        except DamagedRecord as error:
            damaged.append(i)
            assert "00000-of-00003" in str(error)
    assert damaged == [5]


@pytest.mark.parametrize("what", ["nothing", "an image set"])
def test_what_is_no_set_of_latents_is_refused(tmp_path, what):
    if what == "an image set":
        from ldm_jax.data.images.image_sets import open_images

        open_images("digits", "test", os.fspath(tmp_path))
        tmp_path = tmp_path / "digits" / "1.0.0"
    with pytest.raises(ValueError, match=r"not there|not one of latents"):
        open_latents(tmp_path)
