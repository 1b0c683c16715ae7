# SPDX-License-Identifier: Apache-2.0
"""A folder of images is a source; bad files are skipped by name, or refused."""

import os

import numpy as np
import pytest
from PIL import Image, features

from ldm_jax.data.images.folder import FolderSource
from ldm_jax.data.records import DamagedRecord
from ldm_jax.files.errors import UnreadableFile


def write(path, color="red", size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def test_sub_folders_are_classes_in_sorted_order(tmp_path):
    write(tmp_path / "dog" / "1.png", "blue")
    write(tmp_path / "cat" / "deep" / "2.PNG", "red")
    source = FolderSource(tmp_path)
    assert source.class_names == ("cat", "dog") and source.num_classes == 2
    first, second = source.__getitems__([0, 1])
    assert first["label"] == 0 and first["image"][0, 0].tolist() == [255, 0, 0]
    assert second["label"] == 1 and second["image"].shape == (4, 5, 3)
    assert second["label"].dtype == np.int32


def test_a_flat_folder_has_no_labels(tmp_path):
    write(tmp_path / "1.png")
    source = FolderSource(tmp_path)
    assert source.num_classes is None and set(source[0]) == {"image"}


def test_a_class_of_one_file_is_kept(tmp_path):
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        write(tmp_path / name)
    assert [int(FolderSource(tmp_path)[i]["label"]) for i in range(3)] == [0, 1, 1]


def test_train_and_test_divide_a_folder_by_path_alone(tmp_path):
    for i in range(60):
        write(tmp_path / f"{i}.png", size=(i + 1, 1))

    def widths(split):
        source = FolderSource(tmp_path, split)
        return {source[i]["image"].shape[1] for i in range(len(source))}

    train, test = widths("train"), widths("test")
    assert train | test == widths("all") and not train & test and 1 <= len(test) <= 15
    write(tmp_path / "new.png", size=(100, 1))
    assert widths("test") - {100} == test


def test_sub_folders_named_like_splits_are_the_splits(tmp_path):
    write(tmp_path / "train" / "a" / "1.png")
    write(tmp_path / "val" / "a" / "2.png")
    write(tmp_path / "val" / "b" / "3.png")
    assert len(FolderSource(tmp_path, "train")) == 1
    assert FolderSource(tmp_path, "val").class_names == ("a", "b")


def test_unreadable_files_are_skipped_with_their_names(tmp_path):
    write(tmp_path / "good.png")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "notes.txt").write_text("other files are none of our business")
    source = FolderSource(tmp_path)
    assert len(source) == 1 and len(source.refused) == 2
    assert "empty.jpg" in source.refused[0] and "text.png" in source.refused[1]


def test_too_many_unreadable_files_are_an_error(tmp_path):
    write(tmp_path / "good.png")
    for i in range(3):
        (tmp_path / f"bad{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"3 of 4 files refused:\n  bad0\.png"):
        FolderSource(tmp_path, max_refused=2)


def test_a_truncated_file_is_damaged_when_it_is_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[:5000])
    source = FolderSource(tmp_path)
    with pytest.raises(DamagedRecord, match=r"cut\.png"):
        source[0]


def test_a_file_that_vanishes_is_damaged(tmp_path):
    path = write(tmp_path / "1.png")
    source = FolderSource(tmp_path)
    path.unlink()
    with pytest.raises(DamagedRecord, match=r"1\.png"):
        source[0]


@pytest.mark.parametrize("where", ["missing", "empty", "only text"])
def test_a_folder_without_images_is_refused(tmp_path, where):
    path = tmp_path / "x"
    if where != "missing":
        path.mkdir()
    if where == "only text":
        (path / "readme.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"not a directory|holds no image"):
        FolderSource(path)


def test_loose_images_next_to_class_folders_are_refused(tmp_path):
    write(tmp_path / "a" / "1.png")
    write(tmp_path / "loose.png")
    with pytest.raises(ValueError, match=r"loose\.png is next to a/"):
        FolderSource(tmp_path)


def test_an_unknown_split_is_refused(tmp_path):
    write(tmp_path / "1.png")
    with pytest.raises(ValueError, match="one of: all, train, test"):
        FolderSource(tmp_path, "valid")


def test_no_file_outside_the_folder_is_read(tmp_path):
    """Links to files and folders outside are passed over; links within are followed."""
    secret = write(tmp_path / "secret" / "s.png")
    root = tmp_path / "root"
    write(root / "1.png")
    os.symlink(secret, root / "out.png")
    os.symlink(secret.parent, root / "folder")
    os.symlink(root / "1.png", root / "within.png")
    assert len(FolderSource(root)) == 2


def test_a_split_that_links_out_of_the_folder_is_refused(tmp_path):
    write(tmp_path / "secret" / "s.png")
    root = tmp_path / "root"
    write(root / "1.png")
    os.symlink(tmp_path / "secret", root / "train")
    with pytest.raises(ValueError, match="leads out of"):
        FolderSource(root, "train")
    with pytest.raises(ValueError, match="unknown split"):
        FolderSource(root, "../secret")


def test_hidden_files_are_passed_over(tmp_path):
    write(tmp_path / "1.png")
    write(tmp_path / ".thumbs" / "2.png")
    write(tmp_path / ".3.png")
    assert len(FolderSource(tmp_path)) == 1


def test_the_fingerprint_follows_the_files(tmp_path):
    write(tmp_path / "1.png")
    before = FolderSource(tmp_path).fingerprint
    assert FolderSource(tmp_path).fingerprint == before
    write(tmp_path / "2.png")
    assert FolderSource(tmp_path).fingerprint != before


def test_files_of_unknown_formats_are_listed_but_notes_are_not(tmp_path):
    write(tmp_path / "1.png")
    for name in ("a.psd", "b.eps", "c.cr2", "IMG_0001"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("readme.txt", "captions.CSV", ".DS_Store", "._1.png", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    lines = FolderSource(tmp_path).refused
    assert [line.split()[0] for line in lines] == [
        "IMG_0001",
        "a.psd",
        "b.eps",
        "c.cr2",
    ]
    assert all("unknown format" in line for line in lines)
    with pytest.raises(ValueError, match="4 of 5 files refused"):
        FolderSource(tmp_path, max_refused=3)


@pytest.mark.parametrize("suffix", ["jfif", "JPE", "pgm", "pbm", "pnm", "tif", "avif"])
def test_formats_by_less_usual_endings_are_read(tmp_path, suffix):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    kind = {"jfif": "JPEG", "jpe": "JPEG", "tif": "TIFF", "avif": "AVIF"}
    image = Image.new("L", (5, 4), 255)
    image = image.convert("1") if suffix == "pbm" else image
    image.save(tmp_path / f"1.{suffix}", kind.get(suffix.lower(), "PPM"))
    assert FolderSource(tmp_path)[0]["image"].min() >= 254


def test_special_files_are_listed_and_never_block(tmp_path):
    write(tmp_path / "1.png")
    os.mkfifo(tmp_path / "z.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    source = FolderSource(tmp_path)
    assert len(source) == 1
    assert [line.split()[0] for line in source.refused] == [
        "gone.png",
        "loop.png",
        "z.png",
    ]


@pytest.mark.parametrize("name", ["cat/1.psd", "cat/deep/IMG_1"])
def test_a_class_folder_of_only_unknown_formats_is_refused(tmp_path, name):
    """Left out, it would shift the numbers of the classes behind it."""
    write(tmp_path / "dog" / "1.png")
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match="cat/ has none, only files like cat/"):
        FolderSource(tmp_path)


def test_links_to_class_folders_are_named_where_no_image_is_left(tmp_path):
    write(tmp_path / "photos" / "cat" / "1.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "photos" / "cat")
    with pytest.raises(ValueError, match="cat is a link to a folder"):
        FolderSource(tmp_path / "set")


def test_the_bound_on_pixels_counts_for_the_sizes_too(tmp_path):
    write(tmp_path / "1.png", size=(100, 70))
    source = FolderSource(tmp_path, max_pixels=7000)
    assert source.sizes().tolist() == [[70, 100]]
    with pytest.raises(ValueError, match="is empty"):
        FolderSource(tmp_path, max_pixels=6999)


def test_names_with_line_breaks_stay_in_one_line_of_an_error(tmp_path):
    write(tmp_path / "a\nb" / "1.png")
    (tmp_path / "a\nb" / "c\nd.xyz").write_bytes(b"no image")
    with pytest.raises(UnreadableFile) as raised:
        FolderSource(tmp_path, max_refused=0)
    assert r"a\nb/c\nd.xyz" in str(raised.value)
    write(tmp_path / "loose\n.png")
    with pytest.raises(UnreadableFile, match="either all images") as raised:
        FolderSource(tmp_path)
    assert "\n" not in str(raised.value) and r"loose\n.png" in str(raised.value)
    assert str(raised.value).endswith(r"set config.images.label_maps=a\nb.")
