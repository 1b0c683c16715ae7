# SPDX-License-Identifier: Apache-2.0
"""Images twice as large as usual, guided by samples of the usual size."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax import cli
from tests.experiment.builders.test_classifier import guided

__all__ = ["guided"]  # a fixture

STEPS = ["--num-steps=2", "--grid=even", "--guidance-scale=1"]


def test_large_images_are_guided_by_small_ones_of_the_same_call(guided, tmp_path):
    """The settings are of two sizes; the guide changes what --size alone gives."""
    argv = ["sample", f"--model={guided / 'b'}", "--label=3,4", *STEPS]
    out = tmp_path / "double"
    flags = ["--double", "--guide-scale=9", "--guide-through=decoder"]
    assert cli.main([*argv, f"--out={out}", *flags]) == 0
    small = json.loads((out / "small" / "settings.json").read_text())
    large = json.loads((out / "settings.json").read_text())
    assert small["image_size"] == [16, 16] and "guide" not in small
    assert large["image_size"] == [32, 32] and large["guide"]["transform"] == "down2"
    assert large["guide"]["images"] == f"{out}/small"

    plain = [*argv, f"--out={tmp_path / 'plain'}", "--size=32x32"]
    assert cli.main(plain) == 0
    first, other = (
        np.asarray(Image.open(folder / "000000.png"))
        for folder in (out, tmp_path / "plain")
    )
    assert first.shape == (32, 32, 3) and (first != other).any()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--guide=x.png"], "--double guides by its own samples"),
        (["--guide-transform=down4"], "leave them out"),
        (["--start=x.png"], "samples at two sizes: got --start"),
    ],
)
def test_what_contradicts_two_sizes_is_refused(
    guided, tmp_path, flags, message, capsys
):
    argv = ["sample", f"--model={guided / 'b'}", "--label=3", f"--out={tmp_path / 'o'}"]
    assert cli.main([*argv, "--double", *flags]) == 2
    assert message in capsys.readouterr().err
