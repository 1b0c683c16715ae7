# SPDX-License-Identifier: Apache-2.0
"""Pairs of image and caption in parquet files."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldm_jax.data.builders.files import Files
from ldm_jax.data.builders.tables import Tables
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.records import DamagedRecord
from tests.data.builders import layouts

# A caption without an image, and an image without a caption.
COUNT, DAMAGED = 40, {7: "image", 21: "caption"}


def rows(form, count=COUNT):
    """Columns as Hugging Face's datasets, or img2dataset, write them."""
    images = [
        None if DAMAGED.get(i) == "image" else layouts.picture(i) for i in range(count)
    ]
    captions = [
        " " if DAMAGED.get(i) == "caption" else f"number {i}" for i in range(count)
    ]
    if form == "struct":
        structs = [{"bytes": image, "path": None} for image in images]
        return {
            "url": captions,
            "image": structs,
            "text": [[s, "a picture"] for s in captions],
        }
    return {"caption": captions, "key": captions, "jpg": images}


def write(path, columns, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=15, **how)


@pytest.mark.parametrize("form", ["struct", "bytes"])
def test_rows_are_read_in_any_order(tmp_path, form):
    """Identity: what was written; forwards, backwards, across groups of 15."""
    write(tmp_path / "data" / "a.parquet", rows(form))
    files = Files(tmp_path)
    tables = Tables(files, files.names(suffixes=(".parquet",)))
    names = tables.names()
    assert len(names) == COUNT and names[3] == "data/a.parquet/00000003"
    for i in [0, 1, 5, 4, 39, 14, 15, 15, 30, 2]:
        result = tables.example(names[i])
        assert result["image"] == layouts.picture(i)
        more = ["a picture"] if form == "struct" else []
        assert result["captions"] == [f"number {i}", *more]
    with pytest.raises(DamagedRecord, match="00000007 has no bytes of an image"):
        tables.example(names[7])
    if form == "bytes":
        with pytest.raises(DamagedRecord, match="00000021 has no caption"):
            tables.example(names[21])
    assert 0 < tables.size(names[0]) < 3 * len(layouts.picture(0))


def test_a_set_of_parquet_files_opens_by_name(tmp_path):
    """Splits follow the beginnings of names; files next to tars are passed over."""
    root = tmp_path / "files"
    write(root / "data" / "train-00000-of-00002.parquet", rows("struct", 9))
    write(root / "data" / "train-00001-of-00002.parquet", rows("bytes", 3))
    write(root / "data" / "validation-00000-of-00001.parquet", rows("bytes", 4))
    write(root / "data" / "train-info.parquet", {"url": ["x"], "caption": ["a"]})

    def opened(split):
        how = dict(manual_dir=os.fspath(root))
        source = open_images("image_text", split, os.fspath(tmp_path / "tfds"), **how)
        return source.__getitems__(range(len(source)))

    records = opened("train")
    reds = [int(record["image"][0, 0, 0]) for record in records]
    assert reds == [0, 1, 2, 3, 4, 5, 6, 8, 0, 1, 2]
    assert records[8]["captions"] == ("number 0",)
    assert records[0]["captions"] == ("number 0", "a picture")
    assert len(opened("validation")) == 4


def test_damage_is_reported_by_name(tmp_path):
    """A footer that is cut off refuses the set; a damaged row is one record's loss."""
    write(
        tmp_path / "a.parquet", rows("bytes"), use_dictionary=False, compression="none"
    )
    whole = (tmp_path / "a.parquet").read_bytes()
    files = Files(tmp_path)
    (tmp_path / "a.parquet").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"a\.parquet is damaged"):
        Tables(files, ["a.parquet"])
    # The header of the first page of images.
    at = pq.ParquetFile(pa.BufferReader(whole)).metadata.row_group(0).column(2)
    at = at.data_page_offset
    broken = whole[:at] + bytes(np.full(8, 255, np.uint8)) + whole[at + 8 :]
    (tmp_path / "a.parquet").write_bytes(broken)
    tables = Tables(files, ["a.parquet"])
    with pytest.raises(DamagedRecord, match=r"a\.parquet/00000000"):
        tables.example("a.parquet/00000000")
    assert tables.example("a.parquet/00000015")["captions"] == ["number 15"]


def test_a_table_without_captions_is_refused(tmp_path):
    write(tmp_path / "a.parquet", {"image": [layouts.picture(0)], "label": [3]})
    with pytest.raises(ValueError, match="must have a column of captions"):
        Tables(Files(tmp_path), ["a.parquet"])
