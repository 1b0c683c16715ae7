# SPDX-License-Identifier: Apache-2.0
"""Reading collectives and times from compiled programs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ldm_jax.models.conditioners import TokenTransformer
from ldm_jax.models.layers import Dense
from ldm_jax.models.transformer import SpatialTransformer
from ldm_jax.parallel.sharding import (
    batch_sharding,
    bytes_per_device,
    make_mesh,
    replicated,
    with_shardings,
)
from ldm_jax.planning.hlo import minimum_traffic, read_collectives, read_schedule

LINES = {
    "pairs of brackets": (
        "  %all-reduce.1 = (f32[8,4]{1,0:T(8,128)}, /*index=1*/bf16[]{:T(256)}) "
        "all-reduce(%a, %b), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add",
        ("all-reduce", 8 * 4 * 4 + 2, 4, False),
    ),
    "iota, transposed": (
        "  ROOT %g = bf16[16,8]{1,0} all-gather(%a), dimensions={0}, "
        "replica_groups=[4,2]<=[2,4]T(1,0)",
        ("all-gather", 256, 2, True),
    ),
    "axes of a mesh": (
        "  %r = f32[2]{0} reduce-scatter(%a), "
        "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, to_apply=%add",
        ("reduce-scatter", 8, 4, False),
    ),
    "axes of a mesh in another order": (
        "  %g = f32[8]{0} all-gather(%a), dimensions={0}, "
        "replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) "
        "{'axis_0'}",
        # The matrix 0 1 / 2 3 / 4 5 / 6 7, turned, has rows 0 2 4 6 and 1 3 5 7.
        ("all-gather", 32, 2, False),
    ),
    "first of two halves": (
        "  %s = (f32[2]{0}, f32[8]{0}) all-gather-start(%a), "
        "replica_groups={{0,1,2,3}}",
        ("all-gather", 32, 4, False),
    ),
    "pairs": (
        "  %p = u8[5]{0} collective-permute(%a), source_target_pairs={{0,4},{4,0}}",
        ("collective-permute", 5, 2, True),
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_collectives_are_read_in_every_notation(name):
    line, expected = LINES[name]
    (collective,) = read_collectives(line, num_devices=8, slices=2)
    assert tuple(collective) == expected


def test_an_unknown_notation_is_refused():
    for groups in ("v3[2,4]", "{0,1}"):
        with pytest.raises(ValueError, match=r"an unknown notation: .*groups="):
            read_collectives(
                f"  %r = f32[2] all-reduce(%a), replica_groups={groups}", 8
            )
    for groups in ("", ", replica_groups={}"):
        (collective,) = read_collectives(f"  %r = f32[2] all-reduce(%a){groups}", 8)
        assert collective.num_devices == 8


# Of a program for v5e:2x4, data 2 x fsdp 4, shortened.
SCATTERED = """
%all-reduce-scatter.1 (input: f32[2048,64]) -> f32[512,64] {
  %all = f32[2048,64] all-reduce(%input), replica_groups={{0,1,2,3},{4,5,6,7}}
  ROOT %cut = f32[512,64] dynamic-slice(%all, %i, %z), dynamic_slice_sizes={512,64}
}

ENTRY %main (a: f32[2048,64]) -> f32[512,64] {
  ROOT %fusion = f32[512,64] fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
}
"""

# Likewise: an all-gather that starts, overlaps with a product, and is done.
TRAVELLING = """
%fused_computation.1 (p: bf16[128,64]) -> (bf16[512,64], s32[2]) {
  %g.1 = bf16[512,64] all-gather(%p), channel_id=3, replica_groups={{0,1,2,3}}
}

%async_collective_fusion.2 (p: bf16[128,64]) -> (f32[8,64], bf16[512,64]) {
  %g.2 = bf16[512,64] all-gather(%p), channel_id=3, replica_groups={{0,1,2,3}}
}

%fused_computation.3 (p: bf16[128,64]) -> bf16[512,64] {
  %g.3 = bf16[512,64] all-gather(%p), channel_id=3, replica_groups={{0,1,2,3}}
}

ENTRY %main (a: bf16[128,64]) -> bf16[512,64] {
  %begin = (bf16[512,64], s32[2]) fusion(%a), calls=%fused_computation.1
  %on = (f32[8,64], bf16[512,64]) fusion(%begin), calls=%async_collective_fusion.2
  %end = bf16[512,64] fusion(%on), calls=%fused_computation.3
  %p.1 = f32[4]{0} collective-permute(%x), channel_id=1, source_target_pairs={{0,1}}
  %p.2 = f32[4]{0} collective-permute(%y), channel_id=1, source_target_pairs={{0,1}}
}
"""


def test_a_reduce_scatter_of_a_tpu_is_not_counted_as_an_all_reduce():
    """Oracle: (n-1)/n of the whole is sent, half as much as for a sum to all."""
    (collective,) = read_collectives(SCATTERED, 8)
    assert tuple(collective) == ("reduce-scatter", 512 * 64 * 4, 4, False)
    assert collective.sent == 3 / 4 * 2048 * 64 * 4


def test_an_asynchronous_collective_is_counted_once():
    collectives = read_collectives(TRAVELLING, 4)
    gathered, *sent = [tuple(one) for one in collectives]
    assert gathered == ("all-gather", 512 * 64 * 2, 4, False)
    assert sent == [("collective-permute", 16, 2, False)] * 2


def test_what_a_tpu_expects_of_a_program_is_added_up():
    cycles = '{"window_config":{"estimated_cycles":"%d"}}'
    fusion = f"  %f = f32[8] fusion(%x), calls=%g, backend_config={cycles % 7}\n"
    text = LOOP.replace("CONDITION", "condition")
    text = text.replace("  %r = f32[8]", f"{fusion}  %r = f32[8]")
    text += "%more (a: f32[8]) -> f32[8] {\n  ROOT %k = f32[8] custom-call(%a), "
    text += 'custom_call_target="tpu_custom_call"\n}\n'
    assert read_schedule(text) == (25 * 7, 1)


def test_what_only_names_a_message_is_none():
    for line in (
        "  %f = f32[2] fusion(%all-gather.1), calls=%all-reduce",
        "  %d = f32[2] all-gather-done(%s)",
    ):
        assert read_collectives(line, 8) == []


LOOP = """
%body (p: (f32[8], s32[])) -> (f32[8], s32[]) {
  %r = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
}

%condition (p: (f32[8], s32[])) -> pred[] {
  %n = s32[]{:T(128)} constant(5)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%unknown (p: (f32[8], s32[])) -> pred[] {
  ROOT %less = pred[] compare(%i, %j), direction=LT
}

%outer (p: (f32[8], s32[])) -> (f32[8], s32[]) {
  %w = (f32[8], s32[]) while(%t), condition=%condition, body=%body
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %c = (f32[8]) conditional(%i, %a, %a), branch_computations={%branch, %branch.1}
  %w = (f32[8], s32[]) while(%t), condition=%CONDITION, body=%outer
}
"""


@pytest.mark.parametrize(("condition", "times"), [("condition", 25), ("unknown", 5)])
def test_a_collective_in_loops_counts_once_per_iteration(condition, times):
    collectives = read_collectives(LOOP.replace("CONDITION", condition), 2)
    assert [tuple(one) for one in collectives] == [("all-reduce", 32, 2, False)] * times


def test_a_scan_sends_in_every_step():
    """Identity: a sum over devices in a scan of 6, as XLA compiles it."""
    mesh = make_mesh(devices=jax.devices()[:2])

    def step(total, x):
        total = total + (x @ x.T).sum()
        return total, jax.lax.with_sharding_constraint(total, replicated(mesh))

    xs = jax.ShapeDtypeStruct((6, 8, 8), jnp.float32, sharding=along(mesh))
    compiled = jax.jit(lambda xs: jax.lax.scan(step, jnp.zeros(()), xs)[0]).lower(xs)
    text = compiled.compile().as_text()
    in_text = sum(" all-reduce(" in line for line in text.splitlines())
    assert in_text and len(read_collectives(text, 2)) == 6 * in_text


def along(mesh):
    return NamedSharding(mesh, PartitionSpec(None, None, "data"))


def test_a_ring_sends_as_much_as_it_must():
    """Oracle: 2 (n-1)/n, (n-1)/n of the whole, which for a scatter is n results."""
    line = "%x = f32[100]{{0}} {}(%a), replica_groups={{{{0,1,2,3}}}}"
    sent = {
        kind: read_collectives(line.format(kind), 4)[0].sent
        for kind in ("all-reduce", "all-gather", "reduce-scatter")
    }
    assert sent == {"all-reduce": 600, "all-gather": 300, "reduce-scatter": 1200}


def compiled_gradient(**sizes):
    """Compiles the gradient of a layer of 1 MiB on 8 devices."""
    mesh = make_mesh(**sizes)
    w = {"w": jax.ShapeDtypeStruct((512, 512), jnp.float32)}
    w = with_shardings(w, mesh, 0.5)
    x = jax.ShapeDtypeStruct((4096, 512), jnp.float32, sharding=batch_sharding(mesh))

    def loss(w, x):
        return jnp.mean(jnp.tanh(x @ w["w"]) ** 2)

    place = jax.tree.map(lambda a: a.sharding, w)
    compiled = jax.jit(jax.grad(loss), out_shardings=place).lower(w, x).compile()
    return w, mesh, read_collectives(compiled.as_text(), 8)


def test_replicated_parameters_cost_one_all_reduce_of_gradients():
    """Oracle: the program sends what a ring must, and nothing else of that size."""
    w, mesh, collectives = compiled_gradient()
    large = [one for one in collectives if one.num_bytes > 2**16]
    assert [(one.kind, one.num_devices) for one in large] == [("all-reduce", 8)]
    assert minimum_traffic(w, mesh) == 2 * 7 / 8 * 2**20 == large[0].sent


def test_split_parameters_are_gathered():
    w, mesh, collectives = compiled_gradient(data=2, fsdp=4)
    assert w["w"].sharding.spec == PartitionSpec("fsdp", None)
    assert bytes_per_device(w) == 2**18
    assert minimum_traffic(w, mesh) == 3 * 3 / 4 * 2**20 + 2 * 1 / 2 * 2**18
    assert {"all-gather"} <= {one.kind for one in collectives}
    assert max(one.num_devices for one in collectives) <= 8


def messages_of_a_gradient(network, *inputs):
    """Compiles one over 8 devices that split parameters; returns their bytes, too."""
    mesh = make_mesh(data=1, fsdp=8)
    rows = batch_sharding(mesh)
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for x in inputs]
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    params = with_shardings(params, mesh, min_shard_mib=0.0)
    places = jax.tree.map(lambda x: x.sharding, params)

    def loss(params, *inputs):
        return jnp.mean(network.apply(params, *inputs) ** 2)

    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(loss), out_shardings=places)
        text = gradient.lower(params, *shapes).compile().as_text()
    size = sum(4 * x.size for x in jax.tree.leaves(params))
    return read_collectives(text, 8), size


def test_rows_stay_on_their_devices_where_attention_is_to_one_token():
    """Left to itself XLA splits products of few rows by channels, as kernels lie."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, context):
            context = Dense(32)(context)
            return SpatialTransformer(num_heads=1, head_channels=64)(x, context, False)

    x, context = jnp.zeros((16, 4, 4, 64)), jnp.zeros((16, 1, 32))
    collectives, _ = messages_of_a_gradient(Block(), x, context)
    assert {one.kind for one in collectives} == {"all-gather", "all-reduce"}


def test_rows_stay_on_their_devices_where_a_table_of_words_is_split_by_channels():
    """1001 words do not divide: twice the parameters are gathered, gradients summed."""
    network = TokenTransformer(vocab_size=1001, width=128, depth=2)
    collectives, size = messages_of_a_gradient(network, jnp.zeros((16, 77), jnp.int32))
    assert sum(one.sent for one in collectives) < 4 * size
