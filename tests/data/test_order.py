# SPDX-License-Identifier: Apache-2.0
"""The order and the randomness of the data are pure functions of their inputs."""

import numpy as np
import pytest

from ldm_jax.data.order import RecordRng, Row, shuffled_rows


@pytest.mark.parametrize("num_records", [1, 2, 7, 100])
def test_every_epoch_shows_every_record_once(num_records):
    for epoch in range(3):
        start = epoch * num_records
        rows = shuffled_rows(5, num_records, start, start + num_records)
        assert {row.epoch for row in rows} == {epoch}
        assert sorted(row.index for row in rows) == list(range(num_records))


def test_epochs_and_seeds_have_other_orders():
    orders = [
        shuffled_rows(seed, 50, 50 * e, 50 * e + 50) for seed in (0, 1) for e in (0, 1)
    ]
    assert len({tuple(row.index for row in order) for order in orders}) == 4


def test_a_part_is_the_same_as_in_the_whole():
    assert shuffled_rows(3, 10, 0, 40)[17:29] == shuffled_rows(3, 10, 17, 29)


def test_nothing_grows_with_the_set():
    """A billion records: a permutation of them in memory would take 8 GB."""
    rows = shuffled_rows(0, 10**9, 10**12, 10**12 + 1000)
    assert len({row.index for row in rows}) == 1000
    assert {row.epoch for row in rows} == {1000}


def test_the_order_is_the_one_of_earlier_versions():
    """Golden: grain promises no stable shuffle, and checkpoints rely on this one."""
    assert [row.index for row in shuffled_rows(0, 10, 0, 12)] == [
        5,
        8,
        9,
        7,
        4,
        2,
        1,
        0,
        3,
        6,
        1,
        2,
    ]


def test_a_records_randomness_depends_on_seed_epoch_and_index_only():
    """Oracle: a fresh Philox generator with the same key and counter."""
    rngs = RecordRng(3)
    first = rngs.at(Row(2, 7)).random(5)
    rngs.at(Row(0, 1)).integers(0, 9, 3)
    assert np.array_equal(rngs.at(Row(2, 7)).random(5), first)
    fresh = np.random.Philox(key=[3, 2], counter=[0, 0, 7, 0])
    assert np.array_equal(np.random.Generator(fresh).random(5), first)
    others = [
        RecordRng(4).at(Row(2, 7)),
        RecordRng(3).at(Row(1, 7)),
        rngs.at(Row(2, 8)),
    ]
    assert all(other.random() != first[0] for other in others)
