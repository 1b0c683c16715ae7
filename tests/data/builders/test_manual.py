# SPDX-License-Identifier: Apache-2.0
"""Sets whose files a user has fetched open by name and one path."""

import logging
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ldm_jax.data.builders.files import Files
from ldm_jax.data.images.image_sets import BUILDERS
from ldm_jax.data.records import DamagedRecord
from tests.data.builders import layouts
from tests.data.builders.layouts import reds


def test_ffhq_holds_out_its_last_seventh(opened):
    layouts.ffhq(opened.root)
    assert reds(opened("ffhq")[1]) == list(range(12))  # and not the thumbnail
    assert reds(opened("ffhq", "validation")[1]) == [12, 13]


def test_the_papers_lists_decide_if_they_are_there(opened):
    layouts.ffhq(opened.root)
    lines = [f"0{i // 10}000/{i:05}.png" for i in range(14)]
    layouts.write(opened.root / "ffhqtrain.txt", "\n".join(lines[4:]))
    layouts.write(opened.root / "ffhqvalidation.txt", "\n".join(lines[:3]) + "\n")
    assert reds(opened("ffhq")[1]) == list(range(4, 14))
    assert reds(opened("ffhq", "validation")[1]) == [0, 1, 2]


def test_celebahq_is_read_from_arrays(opened):
    layouts.celebahq(opened.root)
    source, records = opened("celebahq")
    assert reds(records) == list(range(10)) and set(records[0]) == {"image"}
    assert records[3]["image"].tolist() == [[[3, 0, 0]] * 6] * 4
    assert reds(opened("celebahq", "validation")[1]) == [10, 11]
    assert source.num_classes is None


@pytest.mark.parametrize("form", ["files", "lmdb"])
@pytest.mark.parametrize(
    ("name", "category", "lists"),
    [
        ("lsun_churches", "church_outdoor", "church_outdoor_{}.txt"),
        ("lsun_bedrooms", "bedroom", "bedrooms_{}.txt"),
    ],
)
def test_lsun_is_read_from_a_database_or_files(opened, form, name, category, lists):
    if form == "lmdb":
        pytest.importorskip("lmdb")
        layouts.lsun_lmdb(opened.root, category)
    else:
        layouts.lsun(opened.root)
    train, held_out = (reds(opened(name, s)[1]) for s in ("train", "validation"))
    assert sorted(train + held_out) == list(range(20)) and len(held_out) == 2
    opened.data_dir /= "again"
    layouts.write(opened.root / lists.format("train"), "key03.webp\nx/key04.webp")
    layouts.write(opened.root / lists.format("val"), "key19.webp")
    assert sorted(reds(opened(name)[1])) == [3, 4]
    assert reds(opened(name, "validation")[1]) == [19]


def test_a_damaged_database_is_refused(opened):
    layouts.write(opened.root / "bedroom_train_lmdb/data.mdb", b"not a database" * 99)
    with pytest.raises(ValueError, match=r"data\.mdb must be a complete LMDB database"):
        opened("lsun_bedrooms")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_database_that_is_cut_off_is_refused(opened, share):
    """Reading its lost pages would kill the process (SIGBUS)."""
    pytest.importorskip("lmdb")
    layouts.lsun_lmdb(opened.root, "bedroom", count=2000)
    path = opened.root / "bedroom_train_lmdb/data.mdb"
    os.truncate(path, int(path.stat().st_size * share) // 4096 * 4096)
    with pytest.raises(ValueError, match=r"a complete LMDB database: .* it has"):
        opened("lsun_bedrooms")


def test_imagenet_is_read_from_its_tars(opened):
    layouts.imagenet_tars(opened.root)
    source, records = opened("imagenet")
    assert reds(records) == [0, 0, 1, 1, 2, 2]
    assert [int(r["label"]) for r in records] == [0, 0, 1, 1, 2, 2]
    assert source.num_classes == 1000 and source.class_names[2] == "n01484850"
    source, records = opened("imagenet", "validation")
    assert reds(records) == [1, 3]
    names = [source.class_names[r["label"]] for r in records]
    assert names == ["n01751748", "n02105855"]


def test_imagenet_is_read_from_folders(opened):
    layouts.imagenet_folders(opened.root)
    for split in ("train", "validation"):
        records = opened("imagenet", split)[1]
        assert reds(records) == [int(r["label"]) for r in records] == [0, 2]


def test_an_unknown_synset_is_refused(opened):
    layouts.write(opened.root / "train/n99999999/1.JPEG", layouts.picture(0))
    with pytest.raises(ValueError, match="n99999999 is not a synset"):
        opened("imagenet")


def test_places_are_read_from_folders_and_tars(opened):
    layouts.places(opened.root)
    assert reds(opened("places")[1]) == [0, 1]
    assert reds(opened("places", "validation")[1]) == [2]
    with pytest.raises(ValueError, match='unknown split "test" of places'):
        opened("places", "test")


@pytest.mark.parametrize("as_zips", [False, True])
def test_coco_has_captions_boxes_and_maps(opened, as_zips):
    layouts.coco(opened.root, as_zips)
    layouts.stuff_maps(opened.root, as_zips)
    source, records = opened("coco2017_stuff")
    assert reds(records) == [3, 5] and source.box_names == ("person", "dog")
    assert records[0]["captions"] == ("a 3", "the 3")
    assert records[0]["boxes"].shape == (0, 4) and not records[0]["box_labels"].size
    assert records[1]["boxes"].tolist() == [[0.5, 0, 0.5, 1]]
    assert records[1]["box_labels"].tolist() == [1]
    assert records[1]["box_labels"].dtype == np.int32
    assert np.array_equal(records[1]["label_map"], np.full((4, 6), 5))
    assert reds(opened("coco2017_stuff", "validation")[1]) == [7]


def test_coco_without_maps(opened):
    layouts.coco(opened.root)
    assert set(opened("coco2017")[1][0]) == {
        "image",
        "captions",
        "boxes",
        "box_labels",
    }
    (opened.root / "annotations/captions_val2017.json").unlink()
    opened.data_dir /= "again"
    with pytest.raises(ValueError, match=r"no annotations/captions_val2017\.json"):
        opened("coco2017")


def test_landscapes_have_maps(opened):
    layouts.landscapes(opened.root)
    result = [opened("landscapes", split)[1] for split in ("train", "validation")]
    assert [len(records) for records in result] == [18, 2]
    for record in result[0] + result[1]:
        assert (record["label_map"] == record["image"][:, :, 0]).all()


def test_pairs_are_read_from_shards_whose_keys_repeat(opened):
    layouts.image_text(opened.root)
    _, records = opened("image_text")
    assert reds(records) == [0, 2]  # that without a caption is left out
    captions = [record["captions"] for record in records]
    assert captions == [("a red thing",), ("a dark thing",)]
    info = tfds.builder_from_directory(opened.data_dir / "image_text/1.0.0").info
    assert info.metadata["refused"] == ["00000/1.png has no caption"]


def test_folders_of_shards_are_splits(opened):
    layouts.image_text(opened.root / "train")
    layouts.image_text(opened.root / "val")
    assert len(opened("image_text", "validation")[1]) == 2
    assert len(opened("image_text")[1]) == 2


@pytest.mark.parametrize("name", sorted(set(BUILDERS) - {"digits"}))
def test_every_set_names_its_files_and_their_source(opened, name):
    """Without a folder, with one that is not there, and with an empty one."""
    wants = BUILDERS[name].MANUAL_DOWNLOAD_INSTRUCTIONS
    assert wants.startswith("The folder holds ")
    assert "http" in wants or name in ("landscapes", "image_text")
    for folder in ("empty", "other"):
        (opened.root / folder).mkdir(parents=True)
    layouts.write(opened.root / "other/readme", "hello")
    for folder, words in (
        (None, "Set manual_dir"),
        ("/no/such", "/no/such is not a directory"),
        (os.fspath(opened.root / "empty"), "is empty"),
        (os.fspath(opened.root / "other"), "does not hold the files"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            opened(name, manual_dir=folder)
        assert wants in str(error.value)
    assert not list(opened.data_dir.rglob("dataset_info.json"))


def test_the_folder_is_needed_only_once(opened):
    layouts.places(opened.root)
    opened("places")
    assert reds(opened("places", manual_dir=None)[1]) == [0, 1]


def test_tfds_reads_what_is_prepared(opened):
    """Golden: TFDS' own reader on the same shards."""
    layouts.coco(opened.root)
    opened("coco2017")
    set_directory = opened.data_dir / "coco2017/1.0.0"
    record = tfds.builder_from_directory(set_directory).as_data_source("train")[1]
    assert record["file_name"] == b"train2017/000000000005.jpg"
    assert record["captions"] == [b"a 5", b"the 5"]
    (box,) = record["objects"]["bbox"]
    assert box.tolist() == [0, 0.5, 1, 1]  # y, x, y, x
    assert record["image"][0, 0].tolist() == [5, 0, 0]


def test_images_keep_their_bytes(opened):
    from ldm_jax.data.examples import read_example

    layouts.places(opened.root)
    opened("places")
    builder = tfds.builder_from_directory(opened.data_dir / "places/1.0.0")
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    stored = builder.as_data_source("train", deserialize_method=raw)[1]
    path = opened.root / "data_large/z/zen_garden/00000001.jpg"
    assert read_example(stored)["image"] == [path.read_bytes()]


def test_unreadable_images_are_left_out_and_listed(opened, caplog):
    layouts.ffhq(opened.root)
    for i, data in ((1, b""), (2, b"text"), (4, layouts.picture(0)[:20])):
        layouts.write(opened.root / f"images1024x1024/00000/{i:05}.png", data)
    with caplog.at_level(logging.WARNING):
        source, records = opened("ffhq")
    assert reds(records) == [0, 3, *range(5, 12)] and len(source) == 9
    assert "ffhq: left out: images1024x1024/00000/00001.png" in caplog.text
    assert "train has 12 images, the paper's has 60000" in caplog.text
    info = tfds.builder_from_directory(opened.data_dir / "ffhq/1.0.0").info
    assert len(info.metadata["refused"]) == 3
    opened.data_dir /= "strict"
    with pytest.raises(ValueError, match="more than max_refused = 2"):
        opened("ffhq", max_refused=2)
    assert not list(opened.data_dir.rglob("dataset_info.json"))


def test_the_bound_on_pixels_reaches_the_builder(opened):
    layouts.ffhq(opened.root)
    with pytest.raises(ValueError, match=r"6x4 pixels: max_pixels = 23"):
        opened("ffhq", max_pixels=23, max_refused=0)


def test_many_images_make_many_shards(opened, monkeypatch):
    from ldm_jax.data.builders import manual

    monkeypatch.setattr(manual, "SHARD_MIB", 3 * len(layouts.picture(0)) / 2**20)
    layouts.ffhq(opened.root)
    assert reds(opened("ffhq")[1]) == list(range(12))
    assert len(list(opened.data_dir.rglob("ffhq-train*-of-00004"))) == 4


def test_one_list_without_the_other_is_refused(opened):
    layouts.ffhq(opened.root)
    layouts.write(opened.root / "ffhqtrain.txt", "00000.png")
    with pytest.raises(ValueError, match=r"both ffhqtrain\.txt and ffhqvalidation"):
        opened("ffhq")


def test_a_list_of_images_that_are_not_there_is_refused(opened):
    layouts.ffhq(opened.root)
    layouts.write(opened.root / "ffhqtrain.txt", "00000.png\n00099.png")
    layouts.write(opened.root / "ffhqvalidation.txt", "00001.png")
    with pytest.raises(ValueError, match=r"train\.txt lists 1 images that are not in"):
        opened("ffhq")


def test_two_images_of_one_number_are_refused(opened):
    layouts.celebahq(opened.root)
    layouts.write(opened.root / "copy/00003.jpg", layouts.picture(3))
    with pytest.raises(ValueError, match="two images of one name"):
        opened("celebahq")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((1, 3, 4, 6), np.float32), "must be uint8"),
        (np.zeros((4, 6), np.uint8), "must be uint8"),
        (None, "not a NumPy array"),
    ],
)
def test_other_arrays_are_left_out(opened, array, words):
    layouts.celebahq(opened.root)
    path = opened.root / "imgHQ00000.npy"
    path.write_bytes(b"x") if array is None else np.save(path, array)
    with pytest.raises(ValueError, match=words):
        opened("celebahq", max_refused=0)


def test_a_map_of_another_size_is_a_damaged_record(opened):
    layouts.landscapes(opened.root)
    for i in range(20):
        small = layouts.label_map(1, size=(3, 3))
        layouts.write(opened.root / f"maps/{i}.png", small)
    with pytest.raises(DamagedRecord, match=r"label map of landscapes.*images/.*\.jpg"):
        opened("landscapes")


def test_no_file_outside_the_folder_is_read(tmp_path):
    """F21: links out of the folder, and members of archives that are links or climb."""
    import io
    import tarfile

    secret = tmp_path / "secret"
    layouts.write(secret / "s.jpg", layouts.picture(0))
    layouts.tar(secret / "s.tar", {"in.jpg": b"x"})
    root = tmp_path / "root"
    layouts.write(root / "here.jpg", layouts.picture(1))
    for name in ("s.jpg", "s.tar"):
        os.symlink(secret / name, root / name)
    os.symlink(secret, root / "folder")
    os.symlink(root / "here.jpg", root / "within.jpg")
    with tarfile.open(root / "links.tar", "w") as archive:
        for kind, name in (
            (tarfile.SYMTYPE, "soft.jpg"),
            (tarfile.LNKTYPE, "hard.jpg"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, os.fspath(secret / "s.jpg")
            archive.addfile(info)
        info = tarfile.TarInfo("../../secret/s.jpg")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"own"))
    files = Files(root)
    assert files.names() == ["../../secret/s.jpg", "here.jpg", "within.jpg"]
    assert files.read("../../secret/s.jpg") == b"own"  # a name, never a path
    before = sorted(tmp_path.rglob("*"))
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_archives_are_refused(tmp_path):
    layouts.write(tmp_path / "x.tar", b"no tar" * 200)
    with pytest.raises(ValueError, match=r"x\.tar is damaged"):
        Files(tmp_path)
    (tmp_path / "x.tar").rename(tmp_path / "x.zip")
    with pytest.raises(ValueError, match=r"x\.zip is damaged"):
        Files(tmp_path)


@pytest.mark.parametrize("how", ["flipped", "encrypted"])
def test_one_damaged_member_of_a_zip_is_one_image_less(opened, caplog, how):
    """Whatever zipfile raises about it: zlib.error, BadZipFile, RuntimeError."""
    import zipfile

    path = opened.root / "images1024x1024.zip"
    opened.root.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(14):
            archive.writestr(f"{i:05}.png", layouts.picture(i))
        info = archive.getinfo("00003.png")
    data = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(info.filename)
    for i in range(start, start + info.compress_size, 3):
        data[i] ^= 0xFF
    if how == "encrypted":
        entry = data.rindex(b"00003.png") - 46  # in the table of contents
        data[info.header_offset + 6] |= 1
        data[entry + 8] |= 1
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert reds(opened("ffhq")[1]) == [0, 1, 2, *range(4, 12)]
    assert "images1024x1024.zip, member 00003.png" in caplog.text


def test_a_file_that_is_there_twice_is_refused(tmp_path):
    layouts.tar(tmp_path / "x.tar", {"a/1.jpg": b"x"})
    layouts.write(tmp_path / "a/1.jpg", b"x")
    with pytest.raises(ValueError, match=r"a/1\.jpg a second time"):
        Files(tmp_path)


def test_compressed_tars_are_passed_over_with_a_warning(tmp_path, caplog):
    layouts.write(tmp_path / "x.tar.gz", b"x")
    with caplog.at_level(logging.WARNING):
        assert not Files(tmp_path).names()
    assert "unpack it" in caplog.text


def test_a_bomb_in_a_zip_is_not_unpacked(tmp_path, monkeypatch):
    import zipfile

    from ldm_jax.data.builders import files

    monkeypatch.setattr(files, "MAX_FILE_MIB", 1)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jpg", bytes(2 * 2**20))
    with pytest.raises(ValueError, match=r"bomb\.jpg has 2097152 bytes"):
        Files(tmp_path).read("bomb.jpg")


def test_the_fingerprint_depends_on_the_files_of_a_set(opened):
    layouts.places(opened.root)
    first = opened("places")[0].fingerprint
    path = opened.root / "data_large/z/zen_garden/00000001.jpg"
    for again, same in ((path, True), (path.with_name("2.jpg"), False)):
        path.rename(again)
        opened.data_dir /= "again"
        assert (opened("places")[0].fingerprint == first) == same


def test_images_of_a_set_are_decoded_like_any(opened):
    """A grey and a CMYK file among ImageNet's: both become RGB."""
    layouts.places(opened.root)
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(
        opened.root / "data_large/c.jpg", "JPEG", quality=100
    )
    Image.new("L", (6, 4), 7).save(opened.root / "data_large/g.png")
    records = opened("places")[1]
    assert [r["image"].shape for r in records] == [(4, 6, 3)] * 4
    assert records[2]["image"][0, 0].tolist() == [7, 7, 7]
