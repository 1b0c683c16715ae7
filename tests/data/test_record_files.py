# SPDX-License-Identifier: Apache-2.0
"""Records of several files: numbered through, parts of files, on a store."""

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from ldm_jax.data.record_files import RecordFile, RecordFiles
from ldm_jax.data.records import DamagedRecord
from ldm_jax.files.errors import MissingFile, UnreadableFile
from ldm_jax.files.stores.objects import delete, list_objects, put_file


@pytest.fixture
def paths(tmp_path):
    """Three files of ten records, which are their numbers."""
    created = []
    for file in range(3):
        created.append(tmp_path / str(file))
        writer = ArrayRecordWriter(str(created[-1]), "group_size:1")
        for i in range(10):
            writer.write(b"%d" % (10 * file + i))
        writer.close()
    return created


def as_numbers(records, indices):
    return [int(data) for data in records.__getitems__(indices)]


def test_records_are_numbered_through_the_files(paths):
    records = RecordFiles([RecordFile(str(p), 10) for p in paths], "set")
    order = np.random.default_rng(0).permutation(30).tolist()
    assert as_numbers(records, order) == order and len(records) == 30


def test_a_part_of_a_file_is_read_alone(paths):
    files = [RecordFile(str(paths[0]), 10, skip=8), RecordFile(str(paths[1]), 10, 2, 3)]
    records = RecordFiles(files, "set")
    assert as_numbers(records, range(len(records))) == [8, 9, 12, 13, 14]
    with pytest.raises(IndexError):
        records[5]


def test_a_file_with_another_number_of_records_is_damaged(paths):
    with pytest.raises(DamagedRecord, match="it has 10 records, not 11"):
        RecordFiles([RecordFile(str(paths[0]), 11)], "set")[0]


def test_files_that_are_cut_or_others_are_found_by_a_check(paths):
    files = [RecordFile(str(path), 10, take=3) for path in paths]
    RecordFiles(files, "set").check()
    with pytest.raises(UnreadableFile, match=r"2 must be a shard .* 10 records, not 9"):
        RecordFiles([*files[:2], RecordFile(str(paths[2]), 9)], "set").check()
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    with pytest.raises(UnreadableFile, match=r"1 must be a shard .* copy it again"):
        RecordFiles(files, "set").check()
    paths[1].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    with pytest.raises(UnreadableFile, match=r"1 must be a shard .* Git LFS pointer"):
        RecordFiles(files, "set").check()


@pytest.mark.store
class TestOnAStore:
    def open(self, paths, bucket, store):
        for path in paths:
            put_file(path, f"{bucket}/set/{path.name}")
        items = list_objects(f"{bucket}/set")
        store.requests.clear()
        return RecordFiles(
            [RecordFile(items[p.name].url, 10, item=items[p.name]) for p in paths],
            f"{bucket}/set",
        )

    def test_reading_at_random_copies_each_file_once(self, paths, bucket, store):
        records = self.open(paths, bucket, store)
        order = np.random.default_rng(0).permutation(30).tolist()
        for start in range(0, 30, 5):
            batch = order[start : start + 5]
            assert as_numbers(records, batch) == batch
        assert len(store.requests) == 3  # small files: a range each

    def test_reading_in_order_copies_what_is_needed_next(self, paths, bucket, store):
        records = self.open(paths, bucket, store)
        assert as_numbers(records, range(3)) == [0, 1, 2]
        for thread in records._copies._threads:
            thread.join()
        assert store.count("read") == 2
        assert not store.count(within="set%2F2")

    def test_an_object_that_was_deleted_is_one_line(self, paths, bucket, store):
        records = self.open(paths, bucket, store)
        delete(f"{bucket}/set/1")
        with pytest.raises(MissingFile, match=r"set/1 .* has been deleted"):
            records[15]
        assert records[25] == b"25"  # the others can be read
