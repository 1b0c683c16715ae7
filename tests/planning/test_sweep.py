# SPDX-License-Identifier: Apache-2.0
"""Searches for a batch and a mesh with a fake compiler of known answers."""

import types

import pytest

from ldm_jax.cli import main
from ldm_jax.configs import quickstart
from ldm_jax.parallel import chips
from ldm_jax.planning import plan, sweep, topologies

CHIP = chips.Chip(flops=1e12, hbm_bytes=2**30, hbm_rate=1e11, link_rate=1e10)


class Device:
    """Stands for an absent device of a mesh."""

    platform = device_kind = "none"
    process_index = 0


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    """Fakes 16 devices with memory for 4 images each, or 8 if parameters are split."""

    def planned(config, topology, slices=1, what="train", quick=False, compiles=True):
        fsdp, each = config.mesh.fsdp, config.batch_size / 16
        fits = each <= {1: 4, 4: 4, 16: 8}[fsdp]
        return plan.Plan(
            types.SimpleNamespace(
                flops=1e11 * config.batch_size,
                minimum_traffic=0.0,
                label="",
                params=(),
                resident=(),
            ),
            CHIP,
            dict(data=16 // fsdp, fsdp=fsdp, tensor=1),
            config.batch_size,
            needed=None if fits else 2.0**31,
            moved=1e10 * (1 + each),
            memory=types.SimpleNamespace(
                peak_memory_in_bytes=1,
                generated_code_size_in_bytes=0,
                argument_size_in_bytes=0,
                temp_size_in_bytes=0,
            )
            if fits
            else None,
        )

    monkeypatch.setattr(plan, "plan", planned)
    devices = [Device() for _ in range(16)]
    monkeypatch.setattr(topologies, "describe_topology", lambda *_: devices)


def trials(batch_size):
    config = quickstart.get_config("stage=diffusion")
    config.batch_size = batch_size
    return list(sweep.sweep(config, "v5e:4x4"))


@pytest.mark.parametrize(
    ("given", "undivided", "split"),
    [
        (16, [16, 32, 64, 128], [16, 32, 64, 128, 256]),
        (300, [288, 144, 64], [288, 144, 64]),
        (1, [16, 32, 64, 128], [16, 32, 64, 128, 256]),
    ],
)
def test_batches_grow_until_they_do_not_fit_or_shrink_until_they_do(
    given, undivided, split
):
    tried = trials(given)
    assert [t.batch_size for t in tried if t.fsdp == 1] == undivided
    assert [t.batch_size for t in tried if t.fsdp == 16] == split
    assert {t.fsdp for t in tried} == {1, 4, 16}


def test_parameters_are_split_over_powers_of_four_and_over_a_whole_slice():
    assert [sweep.splits(n) for n in (1, 4, 8)] == [[1], [1, 4], [1, 4, 8]]


def test_a_config_that_sets_the_mesh_is_refused():
    config = quickstart.get_config("stage=diffusion")
    config.mesh.fsdp = 4
    with pytest.raises(ValueError, match=r"got mesh\.fsdp=4; leave them"):
        list(sweep.sweep(config, "v5e:4x4"))


def test_the_best_is_the_fastest_that_fits():
    """Oracle: seconds are 0.1 (1 + each), so the largest batch has the best rate."""
    tried = trials(16)
    chosen = sweep.best(tried)
    assert chosen is not None
    assert (chosen.fsdp, chosen.batch_size) == (16, 128)
    assert chosen.rate == pytest.approx(128 / 0.9)
    assert sweep.best([t for t in tried if not t.fits]) is None


def test_a_sweep_prints_a_line_per_trial(capsys, monkeypatch):
    command = ["plan", "--config=configs/quickstart.py:stage=diffusion", "--sweep"]
    assert main([*command, "--topology=v5e:4x4", "--config.batch_size=16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "DOES NOT FIT: 2.00 GiB of 1.00 GiB" in lines[3]
    assert lines[-1].startswith("best: fsdp 16   batch 128")
    assert main([*command, "--topology=v5e:4x4", "--no-compile"]) == 2
    capsys.readouterr()
    monkeypatch.setattr(sweep, "best", lambda trials: None)
    assert main([*command, "--topology=v5e:4x4"]) == 0
    assert "best: nothing fits; use remat" in capsys.readouterr().out
