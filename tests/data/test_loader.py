# SPDX-License-Identifier: Apache-2.0
"""Batches are a pure function of (seed, step); the state shows what changed."""

import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ldm_jax.data.loader import Placement, iterate_once, make_batches
from ldm_jax.data.order import shuffled_rows
from ldm_jax.data.reading import read_ahead
from ldm_jax.data.records import DamagedRecord


class Numbers:
    """Record i is the number i; some are damaged."""

    def __init__(self, length, damaged=()):
        self.length, self.damaged, self.fingerprint = length, damaged, f"n{length}"

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.damaged:
            raise DamagedRecord(f"number {index} is damaged")
        return {"x": np.int32(index)}

    def __getitems__(self, indices):
        return [self[i] for i in indices]


def transform(record, rng):
    return {"x": record["x"], "noise": rng.random(3, np.float32)}


def mesh_sharding(*shape):
    devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
    names = ("data", "fsdp", "tensor")
    mesh = Mesh(devices, names, axis_types=(AxisType.Auto,) * 3)
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def numbers_of(batch):
    return np.asarray(batch["x"]).tolist()


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_a_batch_is_the_same_on_every_mesh(shape):
    plain = make_batches(Numbers(20), transform, 8, seed=1)
    spread = make_batches(Numbers(20), transform, 8, mesh_sharding(*shape), seed=1)
    for step in (0, 1, 7):
        for name in ("x", "noise"):
            assert np.array_equal(plain(step)[name], spread(step)[name])
    assert spread(0)["noise"].sharding == mesh_sharding(*shape)


def test_a_batch_holds_the_records_of_its_place_in_the_order():
    batches = make_batches(Numbers(10), transform, 4, seed=3)
    numbers = [x for step in range(5) for x in numbers_of(batches(step))]
    assert numbers == [row.index for row in shuffled_rows(3, 10, 0, 20)]
    assert numbers == [index for step in range(5) for index in batches.records(step)]


def test_a_records_randomness_does_not_depend_on_batch_size_or_threads():
    def noise(**how):
        batches = make_batches(Numbers(12), transform, seed=1, **how)
        rows = [batches(step) for step in range(12 // how["batch_size"])]
        x = np.concatenate([b["x"] for b in rows])
        return np.concatenate([b["noise"] for b in rows])[np.argsort(x)]

    expected = noise(batch_size=12)
    assert np.array_equal(noise(batch_size=3), expected)
    assert np.array_equal(noise(batch_size=6, num_threads=3), expected)


def test_the_stream_begins_at_any_step():
    batches = make_batches(Numbers(10), transform, 4)
    stream = batches.stream(5)
    assert [numbers_of(next(stream)) for _ in range(3)] == [
        numbers_of(batches(step)) for step in (5, 6, 7)
    ]
    stream.close()


def test_a_batch_may_be_larger_than_the_set():
    batch = make_batches(Numbers(3), transform, 8)(0)
    assert sorted(numbers_of(batch)[:3]) == sorted(numbers_of(batch)[3:6]) == [0, 1, 2]


def test_shapes_are_those_of_a_batch():
    batches = make_batches(Numbers(10), transform, 8, mesh_sharding(4, 2, 1))
    batch = batches(0)
    assert batches.shapes() == {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        for name, x in batch.items()
    }


def test_the_state_of_the_same_data_is_accepted():
    state = make_batches(Numbers(10), transform, 4, mesh_sharding(2, 1, 1)).state(7)
    assert state["step"] == 7
    make_batches(Numbers(10), transform, 4, mesh_sharding(4, 1, 1)).check(state)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"batch_size": 8}, "batch_size was 4, is 8"),
        ({"source": Numbers(11)}, "num_records was 10, is 11; source was n10, is n11"),
    ],
)
def test_changed_data_is_refused_by_name(changed, words):
    how = {"source": Numbers(10), "transform": transform, "batch_size": 4, "seed": 0}
    state = make_batches(**how).state(7)
    with pytest.raises(ValueError, match=words):
        make_batches(**{**how, **changed}).check(state)


def test_another_transform_is_refused():
    class Described:
        def __init__(self, size):
            self.description = {"size": size}

        __call__ = staticmethod(transform)

    state = make_batches(Numbers(9), Described(1), 4).state(0)
    with pytest.raises(ValueError, match="transform was"):
        make_batches(Numbers(9), Described(2), 4).check(state)


def test_once_over_the_set_in_its_own_order():
    all_batches = list(iterate_once(Numbers(10), transform, 4))
    assert [valid for _, valid in all_batches] == [4, 4, 2]
    assert [numbers_of(batch) for batch, _ in all_batches] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 9, 9],
    ]


def test_damaged_records_are_replaced_by_their_neighbours():
    all_batches = list(iterate_once(Numbers(6, damaged=(2, 3, 5)), transform, 6))
    assert numbers_of(all_batches[0][0]) == [0, 1, 4, 4, 4, 0]


@pytest.mark.parametrize(("length", "bound"), [(6, 1), (3, 100)])
def test_too_many_damaged_records_are_an_error(length, bound):
    """Also where all are damaged, and no neighbour is left."""
    source = Numbers(length, damaged=(0, 1, 2))
    with pytest.raises(DamagedRecord, match="number 0 is damaged"):
        list(iterate_once(source, transform, 6, max_damaged=bound))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"source": Numbers(0)}, "empty"),
        ({"seed": -1}, "non-negative"),
        ({"num_threads": 0}, "at least 1"),
        (
            {"batch_size": 6, "sharding": mesh_sharding(4, 1, 1)},
            r"multiple of 4, the parts.*got 6; choose 4 or 8\.",
        ),
    ],
)
def test_a_wrong_argument_is_refused(how, words):
    how = {"source": Numbers(4), "transform": transform, "batch_size": 4, **how}
    with pytest.raises(ValueError, match=words):
        make_batches(**how)


def test_records_of_unequal_shapes_are_refused():
    def ragged(record, rng):
        return {"x": np.zeros(int(record["x"]))}

    with pytest.raises(ValueError, match="must have one shape"):
        make_batches(Numbers(4), ragged, 4)(0)


def test_only_the_rows_this_process_holds_are_read():
    """A sharding whose process holds the second quarter, as on one of many hosts."""

    class Host:
        def addressable_devices_indices_map(self, shape):
            part = shape[0] // 4
            return {"d0": (slice(part, 2 * part),), "d1": (slice(part, 2 * part),)}

    assert Placement(16, Host()).blocks == [(4, 8)]


@pytest.mark.parametrize("num_hosts", [1, 2, 3, 4, 12])
def test_any_number_of_hosts_reads_the_same_batch(num_hosts):
    """Their rows, joined, are the batch of one host; so a run may change hosts."""

    class Host:
        def __init__(self, index):
            self.index = index

        def addressable_devices_indices_map(self, shape):
            part = shape[0] // num_hosts
            return {"d": (slice(self.index * part, (self.index + 1) * part),)}

    alone = make_batches(Numbers(50), transform, 12, seed=4)
    hosts = [Placement(12, Host(index)).blocks for index in range(num_hosts)]
    for step in (0, 7):
        of_hosts = [
            row.index
            for blocks in hosts
            for low, high in blocks
            for row in shuffled_rows(4, 50, 12 * step + low, 12 * step + high)
        ]
        assert of_hosts == alone.records(step) == numbers_of(alone(step))


def test_an_error_in_the_thread_reaches_the_consumer():
    def make():
        yield 1
        raise KeyError("broken")

    items = read_ahead(make)
    assert next(items) == 1
    with pytest.raises(KeyError, match="broken"):
        next(items)


def test_closing_the_stream_ends_its_thread():
    stream = make_batches(Numbers(10), transform, 4).stream()
    next(stream)
    stream.close()
    time.sleep(0)
    assert not [t for t in threading.enumerate() if t.name == "read-ahead"]
