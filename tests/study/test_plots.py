# SPDX-License-Identifier: Apache-2.0
"""Figures are functions of rows: means over seeds, in the order of the arms."""

import pytest

from ldm_jax.study import plots


def row(arm, seed, step, num_steps, value, speed=1.0):
    return dict(
        arm=arm,
        seed=seed,
        step=step,
        num_steps=num_steps,
        flops=100.0 * step,
        hours=None,
        images_per_second=speed,
        FID=value,
    )


ROWS = [
    row("f=2", 0, 1, 10, 4.0),
    row("f=2", 1, 1, 10, 6.0),
    row("f=2", 0, 2, 10, 2.0, 3.0),
    row("f=2", 0, 2, 5, 3.0, 6.0),
    row("f=1", 0, 2, 10, 9.0),
]


def test_curves_are_means_over_seeds_with_standard_errors():
    """Oracle: of 4 and 6 the mean is 5, the standard error 1."""
    curves = plots.mean_curves(plots._with_usual_steps(ROWS), "flops", "FID", "step")
    assert list(curves) == ["f=2", "f=1"]
    assert curves["f=2"] == plots.Curve([100.0, 200.0], [5.0, 2.0], [1.0, 0.0])
    assert plots.mean_curves(ROWS, "hours", "FID", "step") == {}


def test_the_figure_over_training_leaves_the_sweep_out_and_names_its_axes():
    (axes,) = plots.quality_over_training(ROWS, "FID", "flops").axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert drawn == {"f=2": [5.0, 2.0], "f=1": [9.0]}
    assert axes.get_xlabel() == "training compute [FLOPs of the denoiser]"
    assert axes.get_ylabel() == "FID  (lower is better)"


def test_the_figure_over_speed_has_a_point_for_each_number_of_steps():
    (axes,) = plots.quality_over_speed(ROWS, "FID").axes
    assert list(axes.get_lines()[0].get_xdata()) == [6.0, 3.0]
    assert [text.get_text() for text in axes.texts] == ["5", "10", "10"]
    assert axes.get_xscale() == "log"


def test_distortion_is_drawn_over_f_on_a_log_axis():
    stages = {"f=4": (4, {"psnr": 20.0}), "f=2": (2, {"psnr": 25.0}), "x": (8, {})}
    (axes,) = plots.distortion_over_f(stages, "psnr", "PSNR [dB]").axes
    assert list(axes.get_lines()[0].get_xdata()) == [2, 4]
    assert axes.get_xscale() == "log" and axes.get_ylabel() == "PSNR [dB]"


@pytest.mark.parametrize(
    ("label", "higher"),
    [("FID", False), ("KD(random)", False), ("IS", True), ("precision(random)", True)],
)
def test_which_way_is_better_follows_from_the_label(label, higher):
    assert plots.is_higher_better(label) == higher
