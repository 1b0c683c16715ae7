# SPDX-License-Identifier: Apache-2.0
"""Captions, boxes and label maps that users keep next to their images."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.images.annotations import Annotations
from ldm_jax.data.images.folder import FolderSource
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.records import DamagedRecord
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.files.errors import UnreadableFile


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 4), "red").save(tmp_path / f"{name}.png")
    return tmp_path


def captions_of(folder, where):
    source = FolderSource(folder, annotations=Annotations(captions=where))
    return [source[i]["captions"] for i in range(len(source))], source.refused


def test_captions_are_read_from_text_files_next_to_the_images(folder):
    (folder / "a.txt").write_text("a cat\n\na small cat \n")
    (folder / "b.txt").write_text("ein Käfer", encoding="utf-8")
    captions, refused = captions_of(folder, "txt")
    assert captions == [("a cat", "a small cat"), ("ein Käfer",)]
    assert refused == ["c.png has no caption"]


def test_captions_are_read_from_a_csv(folder):
    (folder / "captions.csv").write_text(
        'file_name,caption\na.png,"a cat, asleep"\nb.png,a dog\na.png,a pet\n'
    )
    captions, refused = captions_of(folder, "captions.csv")
    assert captions == [("a cat, asleep", "a pet"), ("a dog",)]
    assert refused == ["c.png has no caption"]


def test_captions_are_read_from_a_jsonl(folder):
    lines = [{"file": "a.png", "text": "x"}, {"file": "c.png", "text": ["y", "z"]}]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert captions_of(folder, "m.jsonl")[0] == [("x",), ("y", "z")]


def test_captions_are_read_from_cocos_json(folder):
    content = {
        "images": [{"id": 4, "file_name": "b.png"}],
        "annotations": [
            {"image_id": 4, "caption": "one"},
            {"image_id": 4, "caption": "two"},
        ],
    }
    (folder / "captions.json").write_text(json.dumps(content))
    assert captions_of(folder, "captions.json")[0] == [("one", "two")]
    (folder / "captions.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="COCO's format"):
        captions_of(folder, "captions.json")


def test_a_caption_without_an_image_is_counted_by_name(folder):
    (folder / "a.txt").write_text("a cat")
    (folder / "ghost.txt").write_text("boo")
    assert "ghost.txt has no image" in captions_of(folder, "txt")[1]
    (folder / "c.csv").write_text("file,text\na.png,x\nghost.png,boo\n")
    assert "ghost.png has a caption but is not there" in captions_of(folder, "c.csv")[1]


def test_too_many_orphans_are_an_error(folder):
    (folder / "a.txt").write_text("a cat")
    with pytest.raises(ValueError, match=r"2 of .* refused"):
        FolderSource(folder, max_refused=1, annotations=Annotations(captions="txt"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "x.csv",
            "name,caption\na.png,x\n",
            "line 2: needs one of the columns file_name",
        ),
        ("x.jsonl", '{"file": "a.png", "text": "x"}\n{broken\n', "line 2"),
        ("x.jsonl", "[1]\n", "line 1: not an object"),
        ("../x.csv", "file,text\na.png,x\n", "leads out of"),
        ("missing.csv", None, "is not a file"),
    ],
)
def test_unreadable_captions_are_refused_with_the_line(folder, name, text, words):
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        captions_of(folder, name)


@pytest.mark.parametrize("name", ["c.csv", "c.jsonl", "c.json"])
def test_captions_with_a_byte_order_mark_are_read(folder, name):
    texts = {
        "c.csv": "file_name,caption\r\n./a.png,ein Käfer\r\n",
        "c.jsonl": '{"file": "./a.png", "text": "ein Käfer"}\n',
        "c.json": json.dumps(
            {
                "images": [{"id": 1, "file_name": "./a.png"}],
                "annotations": [{"image_id": 1, "caption": "ein Käfer"}],
            }
        ),
    }
    (folder / name).write_text("\ufeff" + texts[name], encoding="utf-8")
    assert captions_of(folder, name)[0] == [("ein Käfer",)]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "the caption of b.png is empty"),
        ("  ", "the caption of b.png is empty"),
        ([], "the caption of b.png is empty"),
        (None, "must be a text"),
        (7, "must be a text or a list of texts: got 7"),
        (["x", None], "must be a text or a list of texts"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_one_caption_that_is_none_is_one_image_less(folder, value, words, kind):
    rows = [("a.png", "x"), ("b.png", value), ("c.png", "y")]
    lines = [json.dumps({"file": f, "caption": t}) for f, t in rows]
    coco_captions = {
        "images": [{"id": f, "file_name": f} for f, _ in rows],
        "annotations": [{"image_id": f, "caption": t} for f, t in rows],
    }
    text = "\n".join(lines) if kind == "jsonl" else json.dumps(coco_captions)
    (folder / f"m.{kind}").write_text(text)
    captions, refused = captions_of(folder, f"m.{kind}")
    assert captions == [("x",), ("y",)]
    place = "line 2" if kind == "jsonl" else "annotation 1"
    assert len(refused) == 1 and f"m.{kind}, {place}: " in refused[0]
    assert words in refused[0]


def test_an_empty_caption_in_a_csv_is_one_image_less(folder):
    (folder / "c.csv").write_text("file,caption\na.png,x\nb.png,\nc.png\n")
    captions, refused = captions_of(folder, "c.csv")
    assert captions == [("x",)] and len(refused) == 2
    assert "c.csv, line 3: the caption of b.png is empty" in refused[0]


@pytest.mark.parametrize("damage", ["latin1", "fifo", "pointer"])
def test_one_text_file_that_cannot_be_read_is_one_image_less(folder, damage):
    (folder / "a.txt").write_text("a cat")
    path = folder / "b.txt"
    if damage == "fifo":
        os.mkfifo(path)
    else:
        pointer = b"version https://git-lfs.github.com/spec/v1\n"
        path.write_bytes(
            pointer if damage == "pointer" else "ein Käfer".encode("latin1")
        )
    captions, refused = captions_of(folder, "txt")
    assert captions == [("a cat",)]
    assert any("b.txt" in line for line in refused)


def coco(**changed):
    content = {
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "images": [
            {"id": 1, "file_name": "a.png", "width": 8, "height": 4},
            {"id": 2, "file_name": "b.png", "width": 8, "height": 4},
        ],
        "annotations": [
            {"image_id": 1, "bbox": [2, 1, 4, 2], "category_id": 7},
            {"image_id": 1, "bbox": [0, 0, 8, 4], "category_id": 3},
        ],
    }
    return json.dumps({**content, **changed})


def test_boxes_are_read_from_cocos_json(folder):
    (folder / "boxes.json").write_text(coco())
    source = FolderSource(folder, annotations=Annotations(boxes="boxes.json"))
    assert source.box_names == ("cat", "dog") and len(source) == 2
    assert source[0]["boxes"].tolist() == [[0.25, 0.25, 0.5, 0.5], [0, 0, 1, 1]]
    assert source[0]["box_labels"].tolist() == [1, 0]
    assert source[1]["boxes"].shape == (0, 4)
    assert source.refused == ["c.png has no boxes"]


@pytest.mark.parametrize(
    "box",
    [
        [0, 0, float("nan"), 2],
        [float("inf"), 0, 1, 1],
        [0, 0, 0, 2],
        [0, 0, 2, -1],
        [9, 0, 2, 2],
        [-5, 0, 2, 2],
        [0, 0, 8, 400],
        [1e300, 1, 1, 1],
        [1, 2, 3],
        ["1", 1, 2, 2],
        None,
        {},
    ],
    ids=str,
)
def test_one_box_of_coco_that_cannot_be_is_one_image_less(folder, box):
    """Neither dropped without a word nor made into the whole picture."""
    content = json.loads(coco())
    content["annotations"].append({"image_id": 2, "bbox": box, "category_id": 7})
    (folder / "boxes.json").write_text(json.dumps(content))
    source = FolderSource(folder, annotations=Annotations(boxes="boxes.json"))
    assert len(source) == 1 and len(source[0]["boxes"]) == 2
    assert "boxes.json, annotation 2: the box of b.png" in source.refused[0]


@pytest.mark.parametrize("size", [0, -8, float("nan"), None, "8"])
def test_boxes_of_an_image_without_a_size_are_refused(folder, size):
    content = json.loads(coco())
    content["images"][0]["width"] = size
    (folder / "boxes.json").write_text(json.dumps(content))
    source = FolderSource(folder, annotations=Annotations(boxes="boxes.json"))
    assert len(source) == 1 and "of a.png must be" in source.refused[0]


def test_a_box_that_is_rounded_out_of_its_image_is_cut_to_it(folder):
    content = json.loads(coco())
    content["annotations"] = [
        {"image_id": 1, "bbox": [-0.5, 0, 9, 4.25], "category_id": 7}
    ]
    (folder / "boxes.json").write_text(json.dumps(content))
    source = FolderSource(folder, annotations=Annotations(boxes="boxes.json"))
    assert source[0]["boxes"].tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("labels", [("dog", "cat"), (1, 0)])
def test_boxes_are_read_in_the_format_of_layouts_for_sampling(folder, labels):
    first, second = labels
    content = {
        "a.png": [
            {"label": first, "box": [0.25, 0.25, 0.5, 0.5]},
            {"label": second, "box": [0, 0, 1, 1]},
        ],
        "b.png": [],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    source = FolderSource(folder, annotations=Annotations(boxes="boxes.json"))
    names = ("cat", "dog") if first == "dog" else ("0", "1")
    assert source.box_names == names and len(source) == 2
    assert source[0]["boxes"].tolist() == [[0.25, 0.25, 0.5, 0.5], [0, 0, 1, 1]]
    assert source[0]["box_labels"].tolist() == [1, 0]
    assert source[1]["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    "entry",
    [
        {"label": 0, "box": [0.5, 0, 0.6, 1]},
        {"label": 0, "box": [0.5, 0, 0, 1]},
        {"label": 0, "box": [0.5, 0, 1]},
        {"label": -1, "box": [0, 0, 1, 1]},
        {"box": [0, 0, 1, 1]},
        "dog",
    ],
)
def test_boxes_that_cannot_be_are_refused(folder, entry):
    (folder / "boxes.json").write_text(json.dumps({"a.png": [entry]}))
    with pytest.raises(ValueError, match=r"boxes\.json must be JSON in COCO's format"):
        FolderSource(folder, annotations=Annotations(boxes="boxes.json"))


@pytest.mark.parametrize("text", ["{}", "[]", "no json", coco(images=[])])
def test_other_json_is_refused(folder, text):
    (folder / "boxes.json").write_text(text)
    with pytest.raises(ValueError, match="COCO's format"):
        FolderSource(folder, annotations=Annotations(boxes="boxes.json"))


def test_label_maps_are_read_from_a_folder_of_pngs(folder):
    (folder / "maps").mkdir()
    grey = np.arange(32, dtype=np.uint8).reshape(4, 8)
    Image.fromarray(grey).save(folder / "maps" / "a.png")
    palette = Image.fromarray(grey).convert("P")
    palette.putdata(list(grey.ravel()))
    palette.save(folder / "maps" / "b.png")
    source = FolderSource(folder, annotations=Annotations(label_maps="maps"))
    assert len(source) == 2 and source.refused == ["c.png has no label map"]
    assert np.array_equal(source[0]["label_map"], grey)
    assert np.array_equal(source[1]["label_map"], grey)


@pytest.mark.parametrize(
    ("image", "words"),
    [(Image.new("L", (8, 5)), r"is \(5, 8\)"), (Image.new("RGB", (8, 4)), "got RGB")],
)
def test_a_label_map_that_does_not_fit_is_damaged(folder, image, words):
    (folder / "maps").mkdir()
    image.save(folder / "maps" / "a.png")
    source = FolderSource(folder, annotations=Annotations(label_maps="maps"))
    with pytest.raises(DamagedRecord, match=words):
        source[0]


def test_open_images_passes_annotations_on(folder):
    (folder / "a.txt").write_text("a cat")
    source = open_images(str(folder), "all", captions="txt")
    transform = ImageTransform(4)
    assert transform(source[0], np.random.default_rng(0))["caption"] == "a cat"
    with pytest.raises(ValueError, match="are for folders"):
        open_images("digits", captions="txt")


def test_one_of_several_captions_is_drawn(folder):
    record = {"image": np.zeros((4, 4, 3), np.uint8), "captions": ("x", "y")}
    drawn = {
        ImageTransform(4)(record, np.random.default_rng(seed))["caption"]
        for seed in range(20)
    }
    assert drawn == {"x", "y"}


def test_annotations_change_the_fingerprint(folder):
    (folder / "a.txt").write_text("a cat")
    before = FolderSource(folder, annotations=Annotations(captions="txt")).fingerprint
    (folder / "a.txt").write_text("a dog")
    after = FolderSource(folder, annotations=Annotations(captions="txt")).fingerprint
    assert before != after


def test_a_label_map_may_be_as_large_as_its_image(folder, monkeypatch):
    """One bound: what max_pixels lets pass as an image is a label map too."""
    monkeypatch.setattr("ldm_jax.data.images.annotations.MAX_PIXELS", 4)
    (folder / "maps").mkdir()
    for name in ("a", "b", "c"):
        Image.new("L", (8, 4), 3).save(folder / f"maps/{name}.png")
    source = FolderSource(
        folder, max_pixels=32, annotations=Annotations(label_maps="maps")
    )
    assert source[0]["label_map"].shape == (4, 8)


@pytest.mark.parametrize("where", [{"captions": "c.csv"}, {"boxes": "c.csv"}])
def test_a_list_that_is_a_link_to_itself_is_named(folder, where):
    (folder / "c.csv").symlink_to("c.csv")
    with pytest.raises(UnreadableFile, match=r"c\.csv .*leads nowhere"):
        FolderSource(folder, annotations=Annotations(**where))


def test_a_caption_that_is_a_link_to_itself_is_one_image_less(folder):
    (folder / "a.txt").symlink_to("a.txt")
    (folder / "b.txt").write_text("a dog")
    captions, refused = captions_of(folder, "txt")
    assert captions == [("a dog",)] and "leads nowhere" in str(refused)
