# SPDX-License-Identifier: Apache-2.0
"""Image sets open by name or path, in one form."""

import errno
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.builders.digits import Digits, is_held_out, read_digits
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.records import DamagedRecord


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return os.fspath(tmp_path_factory.mktemp("tfds"))


def test_the_digits_are_scikit_learns(data_dir):
    """Identity: with the splits joined, the images and labels of load_digits."""
    images, labels = read_digits()
    pairs = []
    for split in ("train", "test"):
        source = open_images("digits", split, data_dir)
        pairs += [
            (r["image"].tobytes(), int(r["label"]))
            for r in map(source.__getitem__, range(len(source)))
        ]
    grey = np.repeat(images[..., None], 3, axis=-1)
    assert sorted(pairs) == sorted(
        (x.tobytes(), int(y)) for x, y in zip(grey, labels, strict=True)
    )


def test_a_fixed_fifth_of_every_class_is_held_out(data_dir):
    _, labels = read_digits()
    source = open_images("digits", "test", data_dir)
    held_out = np.bincount([int(source[i]["label"]) for i in range(len(source))])
    assert held_out.tolist() == (np.bincount(labels) // 5).tolist()
    assert is_held_out(labels).sum() == len(source) == 355


def test_a_set_has_its_number_of_classes(data_dir):
    source = open_images("digits", "train", data_dir)
    assert source.num_classes == 10 and source.class_names[3] == "3"
    assert (
        source[0]["image"].shape == (8, 8, 3) and source[0]["label"].dtype == np.int32
    )


def test_a_part_of_a_split_can_be_opened(data_dir):
    part = open_images("digits", "train[:10%]", data_dir)
    whole = open_images("digits", "train", data_dir)
    assert len(part) == 144 and part.fingerprint != whole.fingerprint


def test_a_prepared_set_opens_by_its_path(data_dir):
    whole = open_images("digits", "train", data_dir)
    again = open_images(f"{data_dir}/digits/1.0.0", "train")
    assert again.fingerprint == whole.fingerprint
    assert np.array_equal(again[7]["image"], whole[7]["image"])


def test_a_folder_opens_by_its_path(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "1.png")
    assert open_images(os.fspath(tmp_path), "all")[0]["image"].shape == (2, 3, 3)


def test_records_are_kept_in_memory_up_to_a_bound(tmp_path):
    for i in range(3):
        Image.new("RGB", (300, 300)).save(tmp_path / f"{i}.png")
    kept = open_images(os.fspath(tmp_path), "all", cache_mib=1)
    assert [kept[i]["image"].shape for i in range(3)] == [(300, 300, 3)] * 3
    for path in tmp_path.iterdir():
        path.unlink()
    assert all(kept[i]["image"].shape == (300, 300, 3) for i in range(3))
    with pytest.raises(ValueError, match="read-only"):
        kept[0]["image"][:] = 0
    bare = open_images(data_with(tmp_path, 1), "all", cache_mib=0)
    bare[0]
    next(tmp_path.iterdir()).unlink()
    with pytest.raises(DamagedRecord):
        bare[0]


def data_with(folder, count):
    for i in range(count):
        Image.new("RGB", (3, 2)).save(folder / f"{i}.png")
    return os.fspath(folder)


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("digit", "train", r"one of: .*, digits, .*, a TFDS name, or a folder"),
        ("digits", "valid", "one of: train, test|one of: test, train"),
        ("/no/such/folder", "train", "not a directory"),
        ("cifar10", "train", "download=True"),
        ("digits,nothing", "train", 'unknown image set "nothing"'),
        ("kaggle:cats", "train", "must be one of TFDS itself"),
        ("huggingface:mnist/all", "train", "must be one of TFDS itself"),
        ("my photos", "train", r"write \./my photos for one in this directory"),
        ("", "train", r"write \./FOLDER for one"),
        ("mnist/none", "train", "BuilderConfig none not found"),
        ("mnist:9.9.9", "train", "cannot be loaded at version 9.9.9"),
    ],
)
def test_what_cannot_be_opened_is_refused(data_dir, name, split, words):
    with pytest.raises(ValueError, match=words):
        open_images(name, split, data_dir)


def test_a_flipped_bit_in_a_shard_is_a_damaged_record(tmp_path):
    """One record is lost by name, the others are still read."""
    source = open_images("digits", "test", os.fspath(tmp_path), cache_mib=0)
    length = len(source)
    path = next((tmp_path / "digits" / "1.0.0").glob("digits-test*"))
    data = bytearray(path.read_bytes())
    data[10_000] ^= 16  # somewhere among the records
    path.write_bytes(data)
    source = open_images("digits", "test", os.fspath(tmp_path), cache_mib=0)
    damaged = 0
    for i in range(length):
        try:
            source[i]
        except DamagedRecord as error:
            assert "digits" in str(error)
            damaged += 1
    assert damaged == 1


def test_a_missing_or_cut_shard_is_named_at_opening_and_at_reading(tmp_path):
    source = open_images("digits", "test", os.fspath(tmp_path))
    shard = next((tmp_path / "digits" / "1.0.0").glob("digits-test*"))
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(DamagedRecord, match=r"digits/1\.0\.0:test"):
        source[3]
    with pytest.raises(ValueError, match=r"digits-test\.array_record-00000-of-00001"):
        open_images("digits", "test", os.fspath(tmp_path))
    shard.unlink()
    with pytest.raises(ValueError, match=r"digits-test\.array_record-00000-of-00001"):
        open_images("digits", "test", os.fspath(tmp_path))


def test_two_processes_may_prepare_a_set_at_once(tmp_path):
    program = (
        "from ldm_jax.data.images.image_sets import open_images; import sys;"
        f"print(len(open_images('digits', 'train', {os.fspath(tmp_path)!r})))"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [run.communicate()[0].decode().strip() for run in runs] == ["1442", "1442"]


def test_the_whole_data_path_runs_without_tensorflow(tmp_path):
    program = f"""
import sys
import numpy as np
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.latents.source import LatentTransform, open_latents
from ldm_jax.data.latents.write import LatentJob, write_latents
from ldm_jax.data.loader import make_batches
from ldm_jax.data.transforms.image_transform import ImageTransform

images = open_images("digits", "test", {os.fspath(tmp_path / "sets")!r})
encode, job = lambda image: image[:, ::2, ::2], LatentJob(3, "x")
write_latents(encode, images, ImageTransform(8), {os.fspath(tmp_path / "z")!r}, job)
source, stats = open_latents({os.fspath(tmp_path / "z")!r})
batch = make_batches(source, LatentTransform(), 4)(0)
assert batch["moments"].shape == (4, 4, 4, 3), batch["moments"].shape
assert "tensorflow" not in sys.modules
print("fine")
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert run.stdout.strip() == "fine", run.stderr


def test_several_sets_are_mixed_by_weight(data_dir, tmp_path):
    for i in range(30):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    both = open_images(f"digits, {tmp_path}", "test", data_dir, weights=(3, 1))
    assert len(both) > 355 and both.quotas == [750, 250]
    assert set(both[355]) == {"image"} and both.num_classes is None
    even = open_images("digits,digits", "test", data_dir)
    assert even.quotas == [500, 500] and even.num_classes == 10
    with pytest.raises(ValueError, match=r"weights \(1,\) need a mixture"):
        open_images("digits", "test", data_dir, weights=(1,))


def test_a_bucket_that_cannot_be_read_is_refused_with_the_way_out():
    """Without gcsfs; with it, the same code asks the bucket."""
    if importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed")
    with pytest.raises(ValueError, match=r"gs://no-such/set needs a package.*gcsfs"):
        open_images("gs://no-such/set")


def test_a_manual_directory_of_a_path_is_refused(tmp_path):
    with pytest.raises(ValueError, match="manual_dir is for sets"):
        open_images(os.fspath(tmp_path), manual_dir="x")


def test_small_images_may_be_left_out(tmp_path):
    for side in (5, 6, 7):
        save_in = tmp_path / str(side)
        save_in.mkdir()
        Image.new("RGB", (9, side)).save(save_in / "1.png")
    source = open_images(os.fspath(tmp_path), "all", min_side=6)
    assert [source[i]["image"].shape[0] for i in range(len(source))] == [6, 7]
    assert source.class_names == ("5", "6", "7") and int(source[0]["label"]) == 1
    with pytest.raises(ValueError, match="min_side = 8 or more"):
        open_images(os.fspath(tmp_path), "all", min_side=8)
    with pytest.raises(ValueError, match=r"images.min_side must be 0 or more.*got -1"):
        open_images(os.fspath(tmp_path), "all", min_side=-1)


def test_a_full_disk_is_reported_when_a_set_is_prepared(tmp_path, monkeypatch):
    def fail(self, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Digits, "download_and_prepare", fail)
    message = rf"could not write a data set to {tmp_path}/.*GiB free\): No space left"
    with pytest.raises(OSError, match=message):
        open_images("digits", data_dir=str(tmp_path))
