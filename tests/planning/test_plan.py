# SPDX-License-Identifier: Apache-2.0
"""Plans on 8 CPU devices instead of a slice, and with libtpu for a real slice."""

import dataclasses
import importlib.util
import math
import re

import jax
import pytest

from ldm_jax.cli import main
from ldm_jax.configs import celebahq, quickstart
from ldm_jax.experiment.prepare import prepare
from ldm_jax.parallel import chips, sharding
from ldm_jax.planning import plan, topologies
from ldm_jax.planning.plan_rows import plan_rows
from ldm_jax.training.state import make_state

CPU = chips.Chip(flops=1e12, hbm_bytes=2**30, hbm_rate=1e11, link_rate=1e10)


@pytest.fixture
def cpu_slice(monkeypatch):
    """Replaces the devices of a TPU slice by the 8 CPU devices."""
    monkeypatch.setitem(chips.CHIPS, "cpu", CPU)
    for name in ("describe_topology", "absent_devices"):
        monkeypatch.setattr(topologies, name, lambda name, slices: jax.devices())


def small(stage="diffusion", **mesh):
    config = quickstart.get_config(f"stage={stage}")
    config.mesh.update(mesh)
    config.batch_size = 16
    if stage == "diffusion":
        config.unet.channel_mult = (1,)
        config.unet.attention_levels = ()
        config.unet.num_res_blocks = 0  # one on the upward path: quick to compile
    return config


def test_a_plan_states_what_the_step_needs(cpu_slice):
    """Oracle: the size of the state and the messages follow from the config."""
    result = plan.plan(small(slices=2), "cpu", slices=2, quick=False)
    rows = dict(plan_rows(result))
    count = sum(x.size for x in jax.tree.leaves(result.work.params))
    assert rows["parameters"] == f"{count / 1e6:.1f}M"
    # params, two moments, the average of the denoiser and the step.
    assert (
        3.9 * 4 * count
        < sharding.bytes_per_device(result.work.resident)
        < 4.1 * 4 * count
    )
    sums = [one for one in result.collectives if one.kind == "all-reduce"]
    gradients = sum(one.num_bytes for one in sums)
    assert gradients == pytest.approx(4 * count, rel=0.1)
    assert any(one.crosses_slices for one in sums)
    assert result.work.minimum_traffic == pytest.approx(2 * 7 / 8 * 4 * count)
    assert rows["HBM"].startswith("fits") and "all-reduce (DCN)" in rows
    uncompiled = dict(plan_rows(dataclasses.replace(result, memory=None)))
    assert uncompiled["HBM"] == "1.00 GiB; what the step needs is not compiled"
    same = ("parameters", "state", "FLOPs", "compute")
    assert [uncompiled[name] for name in same] == [rows[name] for name in same]
    assert "schedule" not in rows  # there is no estimate for CPUs
    refused = dataclasses.replace(result, memory=None, needed=3 * 2**30)
    text = dict(plan_rows(refused))
    assert text["HBM"] == "DOES NOT FIT: 3.00 GiB of 1.00 GiB"


def test_the_denoiser_of_the_paper_is_split_over_devices():
    """Identity: each of 8 devices stores an eighth of all but the small arrays."""
    run = prepare(celebahq.get_config(), abstract=True)
    parts = (run.task, run.optimizer, run.batch_shapes, run.mesh, run.options)
    shapes, _ = make_state(*parts)

    def num_bytes(floor=0.25, **sizes):
        mesh = sharding.make_mesh(**sizes)
        return sharding.bytes_per_device(sharding.with_shardings(shapes, mesh, floor))

    whole = num_bytes()  # float32: parameters, two moments, average; and a few counters
    assert 0 <= whole - 4 * 4 * 274_056_163 < 64
    assert 1 / 8 < num_bytes(fsdp=8, data=1) / whole < 1.05 / 8
    assert 1 / 8 < num_bytes(fsdp=4, tensor=2, data=1) / whole < 1.25 / 8
    assert 1 / 2 < num_bytes(tensor=2, data=4) / whole < 0.75
    assert num_bytes(4.0, fsdp=8, data=1) > num_bytes(1.0, fsdp=8, data=1)


def test_meshes_and_batches_that_do_not_fit_are_named(cpu_slice):
    config = small()
    config.batch_size = 12
    with pytest.raises(ValueError, match="batch_size must be a multiple of data"):
        plan.plan(config, "cpu")
    with pytest.raises(ValueError, match='"data" alone reaches across slices'):
        plan.plan(small(fsdp=8, data=1, slices=2), "cpu", slices=2)


def test_the_error_of_an_unknown_topology_lists_the_known_ones(capsys):
    for wrong in ("v5e", "v5litepod-16", "v9:2x2"):
        with pytest.raises(ValueError, match=r"Known are v4: .*v5p: .*v6e: "):
            topologies.describe_topology(wrong)
    config = "--config=configs/quickstart.py:stage=diffusion"
    assert main(["plan", config, "--topology=v5e"]) == 2
    assert "a topology is GENERATION:SHAPE" in capsys.readouterr().err


def test_the_error_without_libtpu_explains_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'ldm_jax\[tpu\]'"):
        topologies.describe_topology("v5e:2x2")


def test_without_compiling_neither_a_gpu_nor_libtpu_is_needed(monkeypatch, capsys):
    """Oracle: the roof is the FLOPs of a device over its peak."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for topology, peak in (("b200:8", 2250e12), ("v5e:2x4", 197e12)):
        result = plan.plan(small(), topology, compiles=False)
        assert result.num_devices == 8 and result.work.flops > 0
        milliseconds = 1e3 * result.work.flops / 8 / peak
        assert dict(plan_rows(result))["compute"].startswith(f"{milliseconds:.4g} ")
    for wrong in ("h100:0", "h100:2x2", "h300:8", "v5e:8"):
        with pytest.raises(ValueError, match=r"a100, h100, h200, b200:NUMBER of GPUs"):
            topologies.absent_devices(wrong)
    with pytest.raises(
        ValueError, match=r"only programs for TPUs can be compiled .* --no-compile"
    ):
        topologies.describe_topology("h100:8")


@pytest.mark.parametrize("topology", ["v4:2x2x4", "v5e:2x4", "v5e:4x4", "v6e:16x16"])
@pytest.mark.parametrize(("slices", "fsdp"), [(1, 1), (1, 16), (2, 4)])
def test_placeholder_devices_make_a_mesh_of_every_kind_of_slice(topology, slices, fsdp):
    """Identity: the mesh contains each device once; fsdp stays within a slice."""
    devices = topologies.absent_devices(topology, slices)
    if len(devices) % fsdp:
        pytest.skip("fewer devices than parts")
    mesh = sharding.make_mesh(data=-1, fsdp=fsdp, devices=devices)
    assert sorted(d.id for d in mesh.devices.flat) == list(range(len(devices)))
    for row in mesh.devices:
        assert len({d.slice_index for d in row.flat}) == 1


def test_the_state_is_known_without_compiling(cpu_slice, capsys):
    """Identity: the mesh and the minimum traffic follow from shapes alone."""
    config = "--config=configs/quickstart.py:stage=first_stage"
    command = ["plan", config, "--topology=cpu", "--no-compile", "--config.mesh.fsdp=2"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "mesh                  data 4 x fsdp 2 x tensor 1" in out
    assert "not compiled" in out and "minimum traffic" in out


def test_the_compiler_knows_all_shapes_of_slices_that_are_listed():
    """Needs libtpu (extra: tpu)."""
    pytest.importorskip("libtpu")
    for generation, shapes in topologies.GENERATIONS.items():
        for shape in shapes.replace(" ...", ",").split(", "):
            devices = topologies.describe_topology(f"{generation}:{shape}")
            assert len(devices) == math.prod(map(int, shape.split("x")))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["train", "sample"])
def test_a_plan_for_a_real_slice(what):
    """Needs libtpu (extra: tpu): a v5e slice's memory, and a program for it."""
    pytest.importorskip("libtpu")
    config = small(fsdp=4, data=1)
    config.sampling.num_steps = 2
    result = plan.plan(config, "v5e:2x2", what=what, quick=True)
    assert result.chip is chips.CHIPS["TPU v5 lite"] and result.num_devices == 4
    assert 0 < result.memory.peak_memory_in_bytes < result.chip.hbm_bytes


@pytest.mark.slow
def test_the_error_of_a_step_too_large_for_a_slice_has_both_sizes():
    """Needs libtpu (extra: tpu): the compiler refuses before it compiles."""
    pytest.importorskip("libtpu")
    config = small(fsdp=4, data=1)
    config.batch_size = 2**20
    result = plan.plan(config, "v5e:2x2", quick=True)
    assert result.memory is None and result.needed > result.chip.hbm_bytes
    assert re.fullmatch(
        r"DOES NOT FIT: [\d.]+ GiB of 15\.75 GiB", dict(plan_rows(result))["HBM"]
    )
