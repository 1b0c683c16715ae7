# SPDX-License-Identifier: Apache-2.0
"""Meshes, and the place of every array on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ldm_jax.parallel.sharding import (
    batch_sharding,
    make_mesh,
    place,
    replicated,
    with_shardings,
)

ATTENTION_KERNEL = "down_0/attn_0/q/kernel"


def spec_of(path, shape, floor=0.0, **mesh):
    tree = {path: jax.ShapeDtypeStruct(shape, jnp.float32)}
    return with_shardings(tree, make_mesh(**mesh), floor)[path].sharding.spec


def test_one_axis_takes_the_devices_that_are_left():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(2, -1, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert make_mesh(devices=jax.devices()[:3]).size == 3


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, -1, 1), (-1, 3, 1), (0, 8, 1)])
def test_a_mesh_that_does_not_hold_all_devices_is_refused(sizes):
    with pytest.raises(ValueError, match="must hold all 8 devices"):
        make_mesh(*sizes)


def test_without_fsdp_and_tensor_everything_is_replicated():
    assert spec_of(ATTENTION_KERNEL, (64, 64)) == PartitionSpec(None, None)


def test_fsdp_splits_the_longest_axis_that_divides():
    assert spec_of("conv_in/kernel", (3, 3, 16, 64), fsdp=4, data=2) == PartitionSpec(
        None, None, None, "fsdp"
    )
    assert spec_of("conv_in/kernel", (3, 3, 16, 65), fsdp=4, data=2) == PartitionSpec(
        None, None, "fsdp", None
    )


def test_fsdp_splits_what_is_cut_in_halves_along_another_axis():
    path = "mid/block_0/mlp/in/kernel"
    both = dict(fsdp=4, data=2)
    assert spec_of(path, (64, 512), **both) == PartitionSpec("fsdp", None)
    assert spec_of(path, (65, 512), **both) == PartitionSpec(None, None)
    assert spec_of("mid/block_0/mlp/in/bias", (512,), **both) == PartitionSpec(None)
    both = dict(fsdp=4, tensor=2)
    assert spec_of(path, (64, 512), **both) == PartitionSpec("fsdp", "tensor")
    assert spec_of(path, (65, 512), **both) == PartitionSpec(None, "tensor")


@pytest.mark.parametrize(
    ("path", "axis"),
    [
        (ATTENTION_KERNEL, 1),
        ("up_1/attn_0/block_0/attn_2/out/kernel", 0),
        ("mid/block_0/mlp/in/kernel", 1),
        ("mid/block_0/mlp/out/kernel", 0),
        ("down_0/res_0/time/kernel", 1),
        ("norm_out/scale_table", None),
    ],
)
def test_tensor_splits_what_a_pair_of_layers_keeps_to_itself(path, axis):
    spec = spec_of(path, (64, 64), tensor=2)
    assert [i for i, name in enumerate(spec) if name == "tensor"] == (
        [] if axis is None else [axis]
    )


def test_fsdp_and_tensor_share_a_kernel():
    spec = spec_of(ATTENTION_KERNEL, (64, 64), data=2, fsdp=2, tensor=2)
    assert spec == PartitionSpec("fsdp", "tensor")


def test_arrays_below_the_floor_stay_whole():
    assert spec_of("x", (512, 512), floor=1.0, fsdp=8, data=1) != PartitionSpec()
    assert spec_of("x", (512, 511), floor=1.0, fsdp=8, data=1) == PartitionSpec()


def test_a_batch_is_split_over_data_and_fsdp():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    x = jax.device_put(np.zeros((8, 3)), batch_sharding(mesh))
    assert {s.data.shape for s in x.addressable_shards} == {(2, 3)}


def test_place_puts_host_arrays_and_leaves_those_in_place():
    mesh = make_mesh(fsdp=8, data=1)
    there = jax.device_put(jnp.ones(3), replicated(mesh))
    placed = place({"a": np.ones((16, 4), np.float32), "b": there}, mesh, 0.0)
    assert {s.data.shape for s in placed["a"].addressable_shards} == {(2, 4)}
    assert placed["b"].shape == (3,)


def test_data_alone_reaches_across_slices():
    """Identity: each half of the data axis holds one slice's devices."""
    mesh = make_mesh(data=4, fsdp=2, slices=2)
    ids = [[d.id for d in block.flat] for block in np.split(mesh.devices, 2)]
    assert sorted(map(sorted, ids)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert make_mesh(data=4, fsdp=2).size == 8


@pytest.mark.parametrize(
    ("sizes", "rule"),
    [
        (dict(data=1, fsdp=8, slices=2), '"data" alone reaches across slices'),
        (dict(slices=3), "mesh.slices must be the number of slices"),
        (dict(slices=0), "mesh.slices must be the number of slices"),
    ],
)
def test_slices_that_do_not_fit_are_refused(sizes, rule):
    with pytest.raises(ValueError, match=rule):
        make_mesh(**sizes)


def test_slices_are_read_from_the_devices():
    """Oracle: devices of two slices, listed in turns, are sorted by slice."""

    class Fake:
        platform, device_kind = "tpu", "a kind that mesh_utils does not know"

        def __init__(self, index):
            self.id, self.slice_index, self.process_index = index, index % 2, 0
            self.coords, self.core_on_chip = (index // 2, 0, 0), 0

    mesh = make_mesh(fsdp=2, devices=[Fake(i) for i in range(8)])
    slices = np.vectorize(lambda d: d.slice_index)(mesh.devices)
    assert slices.tolist() == [[[0], [0]]] * 2 + [[[1], [1]]] * 2
    with pytest.raises(ValueError, match="in 2"):
        make_mesh(slices=4, devices=[Fake(i) for i in range(8)])
