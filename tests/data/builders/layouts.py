# SPDX-License-Identifier: Apache-2.0
"""Small copies of the sets that builders read, in the layouts of their makers.

Each function fills a folder. The colour of an image identifies it: its red is
the number that the test expects to find.
"""

import csv
import io
import json
import pathlib
import tarfile
import zipfile

import numpy as np
from PIL import Image


def picture(red: int, form: str = "PNG", size=(6, 4)) -> bytes:
    """Makes an image file; lossless for PNG and WEBP."""
    file = io.BytesIO()
    lossless = {"lossless": True} if form == "WEBP" else {}
    Image.new("RGB", size, (red, 0, 0)).save(file, form, **lossless)
    return file.getvalue()


def label_map(value: int, size=(6, 4)) -> bytes:
    """Makes a grey PNG of one value."""
    file = io.BytesIO()
    Image.new("L", size, value).save(file, "PNG")
    return file.getvalue()


def write(path: pathlib.Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def tar(path: pathlib.Path, files: dict[str, bytes]) -> bytes:
    """Writes a tar archive; returns its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path.read_bytes()


def ffhq(root: pathlib.Path, count: int = 14) -> None:
    for i in range(count):
        write(root / f"images1024x1024/0{i // 10}000/{i:05}.png", picture(i))
    write(root / "thumbnails128x128/00000/00000.png", picture(255))


def celebahq(root: pathlib.Path, count: int = 12) -> None:
    for i in range(count):
        array = np.zeros((1, 3, 4, 6), np.uint8)
        array[:, 0] = i
        root.mkdir(parents=True, exist_ok=True)
        np.save(root / f"imgHQ{i:05}.npy", array)


def lsun(root: pathlib.Path, count: int = 20) -> None:
    for i in range(count):
        write(root / f"{i % 3}/key{i:02}.webp", picture(i, "WEBP"))


def lsun_lmdb(root: pathlib.Path, name: str, count: int = 20) -> None:
    import lmdb

    folder = root / f"{name}_train_lmdb"
    folder.mkdir(parents=True)
    with lmdb.open(str(folder)) as database, database.begin(write=True) as writer:
        for i in range(count):
            writer.put(f"key{i:02}".encode(), picture(i, "WEBP"))


def imagenet_tars(root: pathlib.Path) -> None:
    inner = {}
    for red, synset in ((0, "n01440764"), (1, "n01443537"), (2, "n01484850")):
        path = root / f"{synset}.tar"
        files = {f"{synset}_{i}.JPEG": picture(red) for i in range(2)}
        inner[f"{synset}.tar"] = tar(path, files)
        path.unlink()
    tar(root / "ILSVRC2012_img_train.tar", inner)
    # By TFDS' list, images 1 and 3 show n01751748 and n02105855.
    numbers = (1, 3)
    tar(
        root / "ILSVRC2012_img_val.tar",
        {f"ILSVRC2012_val_{n:08}.JPEG": picture(n) for n in numbers},
    )


def imagenet_folders(root: pathlib.Path) -> None:
    for red, synset in ((0, "n01440764"), (2, "n01484850")):
        write(root / f"train/{synset}/{synset}_7.JPEG", picture(red))
        write(root / f"val/{synset}/ILSVRC2012_val_0000000{red}.JPEG", picture(red))
    write(root / "test/ILSVRC2012_test_00000001.JPEG", picture(9))


def places(root: pathlib.Path) -> None:
    write(root / "data_large/a/abbey/00000001.jpg", picture(0))
    write(root / "data_large/z/zen_garden/00000001.jpg", picture(1))
    tar(root / "val_large.tar", {"val_large/Places365_val_00000001.jpg": picture(2)})


def coco(root: pathlib.Path, as_zips: bool = False) -> None:
    files: dict[str, bytes] = {}
    for folder, ids in (("train2017", (3, 5)), ("val2017", (7,))):
        images = [dict(id=i, file_name=f"{i:012}.jpg", width=6, height=4) for i in ids]
        captions = [
            dict(image_id=i, id=10 * i + n, caption=f"{word} {i}")
            for i in ids
            for n, word in enumerate(("a", "the"))
        ]
        # The second half of the width; the first image has none.
        boxes = [dict(image_id=i, category_id=18, bbox=[3, 0, 3, 4]) for i in ids[-1:]]
        categories = [dict(id=1, name="person"), dict(id=18, name="dog")]
        for image in images:
            files[f"{folder}/{image['file_name']}"] = picture(image["id"])
        for kind, rows in (("captions", captions), ("instances", boxes)):
            content = dict(images=images, annotations=rows, categories=categories)
            text = json.dumps(content)
            files[f"annotations/{kind}_{folder}.json"] = text.encode()
    _write_all(root, files, as_zips)


def stuff_maps(root: pathlib.Path, as_zips: bool = False) -> None:
    for folder, ids in (("train2017", (3, 5)), ("val2017", (7,))):
        for i in ids:
            name = f"{folder}/{i:012}.png"
            if as_zips:
                archive = root / "stuffthingmaps_trainval2017.zip"
                _write_all(root, {name: label_map(i)}, True, archive)
            else:
                write(root / "stuffthingmaps" / name, label_map(i))


def _write_all(root, files, as_zips, archive=None) -> None:
    for name, data in files.items():
        if not as_zips:
            write(root / name, data)
            continue
        root.mkdir(parents=True, exist_ok=True)
        path = archive or root / f"{name.split('/')[0]}.zip"
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr(name, data)


def openimages(root: pathlib.Path) -> None:
    write(root / "train_0/000000000000000a.jpg", picture(10))
    write(root / "train_f/fffffffffffffff0.jpg", picture(11))
    write(root / "validation/000000000000000c.jpg", picture(12))
    write(root / "class-descriptions-boxable.csv", "/m/01,Tortoise\n/m/02,Box\n")
    columns = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax"
    for split, rows in (
        (
            "oidv6-train",
            [
                ("fffffffffffffff0", "/m/02", 0.5, 1.0, 0.25, 0.75),
                ("000000000000000b", "/m/01", 0.0, 1.0, 0.0, 1.0),
                ("fffffffffffffff0", "/m/01", 0.0, 0.5, 0.0, 0.5),
            ],
        ),
        ("validation", []),
    ):
        with open(root / f"{split}-annotations-bbox.csv", "w", newline="") as file:
            writer = csv.writer(file)
            file.write(columns + "\n")
            writer.writerows([i, "xclick", name, 1, *xxyy] for i, name, *xxyy in rows)


def openimages_layout(root: pathlib.Path) -> None:
    """Images of which the second alone has from 2 to 30 boxes of known classes."""
    for number, name in enumerate("abc"):
        write(root / f"train/000000000000000{name}.jpg", picture(10 + number))
    columns = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,"
        "IsTruncated,IsGroupOf,IsDepiction,IsInside"
    )
    rows = [
        ("a", "/m/0bt9lr", 0.0, 0.5, 0.0, 0.5, 0, 0, 0, 0, 0),
        ("b", "/m/04yx4", 0.0, 0.5, 0.0, 0.5, 1, 1, 0, 0, 0),  # Man, occluded
        ("b", "/m/01s55n", 0.5, 1.0, 0.25, 0.75, -1, 0, 1, 0, 1),  # Suitcase
        ("b", "/m/012074", 0.0, 1.0, 0.0, 1.0, 0, 0, 0, 0, 0),  # Magpie, not listed
        ("b", "/m/0bt9lr", 0.0, 0.01, 0.0, 0.01, 0, 0, 0, 0, 0),  # too small
        *[("c", "/m/0bt9lr", 0.0, 0.5, 0.0, 0.5, 0, 0, 0, 0, 0)] * 31,
    ]
    with open(root / "train-annotations-bbox.csv", "w", newline="") as file:
        file.write(columns + "\n")
        csv.writer(file).writerows(
            [f"000000000000000{i}", "xclick", name, 1, *rest] for i, name, *rest in rows
        )


def landscapes(root: pathlib.Path, count: int = 20) -> None:
    for i in range(count):
        write(root / f"images/{i}.jpg", picture(i))
        write(root / f"maps/{i}.png", label_map(i))


def image_text(root: pathlib.Path) -> None:
    tar(
        root / "00000.tar",
        {"0.jpg": picture(0), "0.txt": b" a red thing\n", "1.png": picture(1)},
    )
    tar(
        root / "00001.tar",
        {
            "0.webp": picture(2, "WEBP"),
            "0.json": json.dumps({"caption": "a dark thing"}).encode(),
        },
    )


def reds(records):
    """Returns the red level of each record's first pixel."""
    return [int(record["image"][0, 0, 0]) for record in records]
