# SPDX-License-Identifier: Apache-2.0
"""The contents of progress lines."""

import pytest

from ldm_jax.training.monitoring.progress import describe_slowest, format_progress


@pytest.mark.parametrize(
    ("rate", "size", "share", "left", "line"),
    [
        (2.0, 48, 0.412, 190.0, "0.5 s/step  96 images/s  41.2% of peak  3:10 left"),
        (0.01, 256, None, 7384.0, "100 s/step  2.56 images/s  2:03:04 left"),
        (50.0, 64, None, 59.6, "0.02 s/step  3200 images/s  1:00 left"),
        (0.0, 64, None, float("inf"), "? s/step  0 images/s  ? left"),
    ],
)
def test_a_line_shows_rate_images_share_of_the_peak_and_time_left(
    rate, size, share, left, line
):
    assert format_progress(rate, size, share, left) == line


def test_the_process_that_holds_the_others_up_is_named():
    line = describe_slowest([0.01, 0.52, 0.02], seconds_per_step=0.6)
    assert line.startswith("process 1 waits 0.52 s a step") and "0.01 s" in line
    assert describe_slowest([0.01, 0.03], seconds_per_step=0.6) is None
