# SPDX-License-Identifier: Apache-2.0
"""The flags of `ldm-jax evaluate --nearest`."""

import pytest

from ldm_jax.cli import main


@pytest.mark.parametrize(
    "flags", [["--images=samples"], ["--like=runs/a"], ["--model=runs/a"]]
)
def test_nearest_images_need_finished_images_and_a_model(flags, tmp_path, capsys):
    assert main(["evaluate", "--nearest=2", f"--out={tmp_path / 'out'}", *flags]) == 2
    assert "got --images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_flags_of_nearest_images_are_refused_without_them(tmp_path, capsys):
    flags = ["--images=samples", "--like=runs/a", f"--out={tmp_path / 'out'}"]
    assert main(["evaluate", *flags]) == 2
    assert "takes no like" in capsys.readouterr().err
