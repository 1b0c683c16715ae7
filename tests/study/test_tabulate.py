# SPDX-License-Identifier: Apache-2.0
"""The table has a row for each arm, finished or not, and no empty columns."""

import csv
import io

from ldm_jax.study import tabulate


def test_the_table_has_a_row_an_arm_and_a_dash_for_what_is_missing(written):
    heads, rows = tabulate.make_table(written)
    pixels, latents = (dict(zip(heads, row, strict=True)) for row in rows)
    assert latents["R-FD(random)"] == "0.5" and latents["PSNR [dB]"] == "21.5"
    assert latents["KD(random)"] == "2" and latents["latent"] == "4x4x2"
    assert latents["images/s, 1 steps"] == "10" and latents["steps"] == "2"
    assert pixels["arm"] == "f=1" and pixels["KD(random)"] == tabulate.MISSING
    assert "LPIPS" not in heads and "codes used" not in heads


def test_a_number_over_seeds_comes_with_its_standard_error():
    assert tabulate._over_seeds([1.0, 3.0]) == "2 ± 1"
    assert tabulate._over_seeds([2.0]) == "2"


def test_markdown_and_csv_hold_the_same_cells():
    """Round trip: what Python's csv reads is what was written."""
    heads, rows = ["arm", "paper"], [["f=1", 'FID 1, "x"']]
    assert tabulate.to_markdown(heads, rows).splitlines()[2] == '| f=1 | FID 1, "x" |'
    text = tabulate.to_csv(heads, rows)
    assert [*csv.reader(io.StringIO(text))] == [heads, *rows]


def test_only_differing_settings_are_listed():
    arms = {
        "a": dict(settings={"unet.channels": "32", "seed": "0"}),
        "b": dict(settings={"unet.channels": "64", "seed": "0", "new": "1"}),
    }
    heads, rows = tabulate.differing_settings(arms)
    assert heads == ["setting", "a", "b"]
    assert rows == [["new", "–", "1"], ["unet.channels", "32", "64"]]


def test_the_papers_row_is_shown_for_comparison():
    assert tabulate._paper("vq-f8").endswith(
        "psnr 23.07, lpips 1.17, ssim 0.65 (Tab. 8)"
    )
