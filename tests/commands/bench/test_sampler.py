# SPDX-License-Identifier: Apache-2.0
"""The benchmark of samplers: configs with weights of zeros, the paper's speeds."""

import pytest

from ldm_jax import cli
from ldm_jax.metrics.paper import ROWS, SPEEDS

CONFIG = """
from ldm_jax.configs import quickstart

def get_config(arg=""):
    config = quickstart.get_config("stage=diffusion")
    config.sampling.update(num_steps=2, grid="even", guidance_scale=3.0)
    return config
"""


def test_a_config_is_measured_with_and_without_its_decoder(tmp_path, capsys):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    argv = ["bench", "sampler", f"--config={path}", "--batch-size=1", "--repeats=1"]
    argv += ["--config.sampling.num_steps=3"]
    assert cli.main(argv) == 0
    printed = capsys.readouterr().out
    assert "3 steps of ddim, guidance scale 3" in printed
    assert "with decoder" in printed and "without" in printed


def test_a_row_without_a_printed_speed_is_refused(capsys):
    argv = ["bench", "sampler", "--config=ffhq", "--paper-row=text"]
    assert cli.main(argv) == 2
    assert (
        'unknown row "text" of the paper\'s speeds; one of: bedrooms'
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--paper-row=ffhq"], "got --paper-row ffhq alone; give --config or --model"),
        (["--config.unet.channels=32"], "got no --config; give it"),
        (["--config=ffhq", "--model=m"], "one model is measured"),
    ],
)
def test_what_would_be_ignored_is_refused(flags, message, capsys):
    assert cli.main(["bench", "sampler", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(SPEEDS))
def test_speeds_are_of_rows_and_imply_a_rate_that_an_a100_has(name):
    """Paper: 2 GMAC x steps x rate is 3.6 to 4.4e13 FLOP/s; churches, whose grids go
    down to 4x4, has 2.8e13."""
    speed = SPEEDS[name]
    # At 512 pixels, Tab. 6 has a second speed of each row.
    assert name.removesuffix("-512") in ROWS
    if speed.gmac and speed.steps and not speed.guide:
        per_step = 2e9 * speed.gmac * (2 if speed.guidance_scale != 1 else 1)
        rate = per_step * speed.steps * speed.images_per_second
        assert (2.8e13 if name == "churches" else 3.6e13) < rate < 4.4e13
