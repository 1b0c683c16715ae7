# SPDX-License-Identifier: Apache-2.0
"""The training benchmark runs on a real config and prints its figures."""

import re

import pytest

from ldm_jax.cli import main

SMALL = (
    "bench",
    "train",
    "--config=configs/quickstart.py:stage=diffusion",
    "--config.batch_size=8",
    "--config.unet.channel_mult=(1,)",
    "--config.unet.attention_levels=()",
    "--config.unet.num_res_blocks=0",
    "--repeats=1",
)


def figures(text):
    return dict(re.findall(r"^(\w+) +([\d.e+-]+)", text, re.MULTILINE))


@pytest.mark.slow  # it compiles a whole training step
def test_a_step_is_measured_and_its_work_counted(capsys):
    """Oracle: FLOP/s printed are the step's work over its time."""
    assert main([*SMALL, "--no-torch"]) == 0
    text = capsys.readouterr().out
    assert set(figures(text)) >= {"compile", "memory", "work", "ldm_jax"}
    assert re.search(r"^from cache +[\d.]+ s", text, re.MULTILINE)
    work, seconds = float(figures(text)["work"]), float(figures(text)["ldm_jax"])
    rate = float(re.search(r"images/s, ([\d.e+]+) FLOP/s", text)[1])
    assert rate == pytest.approx(work / seconds, rel=1e-2)


@pytest.mark.torch
@pytest.mark.slow
def test_the_same_unet_is_trained_by_pytorch(capsys):
    pytest.importorskip("diffusers")
    # diffusers has no UNet without blocks on the way down.
    assert main([*SMALL, "--config.unet.num_res_blocks=1"]) == 0
    assert {"torch", "compiled", "ratio"} <= set(figures(capsys.readouterr().out))
