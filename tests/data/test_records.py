# SPDX-License-Identifier: Apache-2.0
"""Damaged records: an error in their place, or the next whole one."""

import pytest

from ldm_jax.data.mixture import Mixture
from ldm_jax.data.records import (
    MAX_IN_A_ROW,
    DamagedRecord,
    fingerprint,
    read_each,
    read_whole,
    reading_record,
)
from ldm_jax.files.errors import UnreadableFile


class Numbers:
    """Records with their own number; some are damaged."""

    fingerprint = "numbers"

    def __init__(self, length, damaged=()):
        self._length, self._damaged = length, set(damaged)

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        return self.__getitems__([index])[0]

    def __getitems__(self, indices):
        for index in indices:
            if index in self._damaged:
                raise DamagedRecord(f"record {index}: cut")
        return [{"number": index} for index in indices]


def test_an_error_is_in_the_place_of_a_damaged_record():
    first, second = read_each(Numbers(4, damaged=[1]), [1, 2])
    assert isinstance(first, DamagedRecord) and "record 1" in str(first)
    assert second == {"number": 2}


@pytest.mark.parametrize(
    ("damaged", "indices", "expected"),
    [((), [0, 3], [0, 3]), ((0, 1), [0, 3], [2, 3]), ((3,), [3], [0])],
)
def test_the_next_whole_record_replaces_a_damaged_one(damaged, indices, expected):
    read = read_whole(Numbers(4, damaged), indices)
    assert [index for index, _ in read] == expected
    assert [record["number"] for _, record in read] == expected


def test_the_replacement_in_a_mixture_is_of_the_same_set():
    """As in training: a batch keeps its share of every set."""
    mixture = Mixture([Numbers(3, damaged=[2]), Numbers(3)], [1, 1])
    ((index, record),) = read_whole(mixture, [2])
    assert (index, record) == (0, {"number": 0})


@pytest.mark.parametrize("length", [3, 10 * MAX_IN_A_ROW])
def test_many_damaged_records_in_a_row_are_an_error(length):
    with pytest.raises(DamagedRecord, match="record"):
        read_whole(Numbers(length, damaged=range(length)), [0])


@pytest.mark.parametrize("error", [UnreadableFile("a.png: cut"), OSError("cut")])
def test_a_file_that_cannot_be_read_is_a_damaged_record(error):
    with pytest.raises(DamagedRecord, match=r"7: .*cut"), reading_record("7"):
        raise error


def test_a_fingerprint_does_not_depend_on_the_order_of_fields():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
