# SPDX-License-Identifier: Apache-2.0
"""Several sets as one: exact shares, one shape per batch, pure functions of a step."""

import jax
import numpy as np
import pytest

from ldm_jax.data.loader import iterate_once, make_batches
from ldm_jax.data.mixture import BLOCK, Buckets, Mixture, quotas
from ldm_jax.data.order import turn
from ldm_jax.data.records import DamagedRecord
from tests.data.test_loader import mesh_sharding, transform


class Set:
    """Records start, start + 1, ... of one shape; some are damaged."""

    def __init__(self, start, length, shape=(), damaged=()):
        self.start, self.length, self.shape = start, length, shape
        self.damaged, self.fingerprint = damaged, f"{start}:{length}:{shape}"

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.damaged:
            raise DamagedRecord(f"{index} is damaged")
        return {"x": np.full(self.shape, self.start + index, np.int32)}

    def __getitems__(self, indices):
        return [self[i] for i in indices]


def plain(record, rng):
    return {**record, "draw": rng.random(2, np.float32)}


def firsts(batch):
    x = np.asarray(batch["x"])
    return x.reshape(len(x), -1)[:, 0].tolist()


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((1, 1), [500, 500]),
        ((2, 1), [667, 333]),
        ((1, 1, 1), [334, 333, 333]),
        ((1e6, 1), [999, 1]),
        ((3,), [1000]),
    ],
)
def test_turns_are_divided_by_weight(weights, expected):
    assert quotas(weights) == expected


def test_the_turns_of_a_part_are_counted_in_order():
    turns = [turn(3, [700, 299, 1], position) for position in range(3 * BLOCK)]
    for part, quota in enumerate((700, 299, 1)):
        counts = [count for k, count in turns if k == part]
        assert counts == list(range(3 * quota))
    assert turns != [turn(4, [700, 299, 1], position) for position in range(3 * BLOCK)]
    assert turns[:BLOCK] != turns[BLOCK : 2 * BLOCK]


def test_sets_are_mixed_by_weight_within_every_batch():
    """Oracle: of 1,000 records 750 are of the first set, and no batch has one alone."""
    mixed = Mixture([Set(0, 100), Set(1000, 40)], (3, 1))
    batches = make_batches(mixed, transform, 20, seed=1)
    result = [firsts(batches(step)) for step in range(50)]
    first = [x for batch in result for x in batch if x < 1000]
    second = [x for batch in result for x in batch if x >= 1000]
    assert len(first) == 750 and len(second) == 250
    assert all(0 < sum(x < 1000 for x in batch) < 20 for batch in result)
    # Each set is shown wholly before it starts again, in another order.
    assert sorted(first[:100]) == sorted(first[100:200]) == list(range(100))
    assert first[:100] != first[100:200]
    assert sorted(second[:40]) == list(range(1000, 1040))


def test_every_batch_of_buckets_is_of_one_shape():
    buckets = Buckets([Set(0, 30, (2, 3)), Set(100, 10, (3, 2))])
    batches = make_batches(buckets, plain, 5, seed=2)
    shapes = [batches(step)["x"].shape for step in range(40)]
    assert set(shapes) == {(5, 2, 3), (5, 3, 2)}
    turns = [turn(2, buckets.quotas, step)[0] for step in range(BLOCK)]
    assert turns.count(0) == 750  # in proportion to the sizes
    wide = [firsts(batches(s)) for s in range(40) if shapes[s] == (5, 2, 3)]
    assert sorted(x for batch in wide[:6] for x in batch) == list(range(30))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mixture([Set(0, 9, (2,)), Set(20, 5, (2,))], (1, 2)),
        lambda: Buckets([Set(0, 9, (2,)), Set(20, 5, (3,))]),
    ],
)
def test_a_batch_is_the_same_on_every_mesh_and_after_a_resume(make):
    """Also the records' own randomness, and what the trainer names after a failure."""
    plainly = make_batches(make(), plain, 8, seed=1)
    spread = make_batches(make(), plain, 8, mesh_sharding(2, 2, 2), seed=1)
    state = plainly.state(3)
    spread.check(state)
    stream = spread.stream(3)
    for step in (3, 4, 5):
        batch, again = next(stream), plainly(step)
        for name in ("x", "draw"):
            assert np.array_equal(batch[name], again[name])
        source = make()
        named = [int(source[i]["x"][0]) for i in plainly.records(step)]
        assert named == firsts(again)
    stream.close()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Mixture([Set(0, 9), Set(20, 5)], (1, 3)), "source was .*; order was"),
        (Mixture([Set(0, 9), Set(20, 6)], (1, 2)), "num_records was 14, is 15"),
        (Buckets([Set(0, 9), Set(20, 5)]), "source was"),
    ],
)
def test_a_changed_mixture_is_refused(other, words):
    state = make_batches(Mixture([Set(0, 9), Set(20, 5)], (1, 2)), plain, 4).state(0)
    with pytest.raises(ValueError, match=words):
        make_batches(other, plain, 4).check(state)


def test_a_damaged_record_is_replaced_from_its_own_set():
    buckets = Buckets([Set(0, 4, (2,), damaged=(3,)), Set(10, 4, (3,))])
    result = [firsts(b)[:valid] for b, valid in iterate_once(buckets, plain, 4)]
    assert result == [[0, 1, 2, 0], [10, 11, 12, 13]]


def test_once_over_every_set_in_turn():
    buckets = Buckets([Set(0, 3, (2,)), Set(10, 5, (3,))])
    result = [(firsts(b), valid) for b, valid in iterate_once(buckets, plain, 4)]
    assert result == [([0, 1, 2, 2], 3), ([10, 11, 12, 13], 4), ([14] * 4, 1)]


def test_the_shapes_are_those_of_the_first_set():
    batches = make_batches(Buckets([Set(0, 3, (2,)), Set(10, 5, (3,))]), plain, 4)
    assert batches.shapes()["x"].shape == (4, 2)


def test_common_metadata_is_kept():
    class Labelled(Set):
        def __init__(self, num_classes):
            super().__init__(0, 2)
            self.num_classes, self.class_names = num_classes, ("a", "b")

    same = Mixture([Labelled(2), Labelled(2)], (1, 1))
    assert same.num_classes == 2 and same.class_names == ("a", "b")
    assert Mixture([Labelled(2), Labelled(3)], (1, 1)).num_classes is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mixture([Set(0, 1)], (1, 1)), "one positive number for each set"),
        (lambda: Mixture([Set(0, 1), Set(0, 1)], (1, 0)), "one positive number"),
        (lambda: Mixture([Set(0, 0), Set(0, 1)], (1, 1)), "must hold a record"),
        (lambda: Buckets([]), "must hold a record"),
        (lambda: quotas([1] * 1001), "at most 1000 sets"),
    ],
)
def test_a_wrong_mixture_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_sets_of_other_fields_cannot_be_mixed():
    class Named(Set):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "label": np.int32(1)}

    mixed = Mixture([Set(0, 5), Named(10, 5)], (1, 1))
    with pytest.raises(ValueError, match="same fields: got"):
        make_batches(mixed, plain, 16)(0)


def test_records_are_returned_in_the_requested_order():
    mixed = Mixture([Set(0, 3), Set(10, 2)], (1, 1))
    result = mixed.__getitems__([4, 0, 3, 2, 4])
    assert [int(record["x"]) for record in result] == [11, 0, 10, 2, 11]
    assert int(mixed[1]["x"]) == 1 and len(mixed) == 5
    with pytest.raises(IndexError):
        mixed[5]
    assert isinstance(make_batches(mixed, plain, 2)(0)["x"], jax.Array)
