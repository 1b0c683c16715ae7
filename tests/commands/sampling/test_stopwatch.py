# SPDX-License-Identifier: Apache-2.0
"""The speed of a sampler is that of full batches, without compilation."""

import time

import numpy as np

from ldm_jax.commands.sampling.stopwatch import Stopwatch


def batches(*seconds_and_sizes):
    for seconds, size in seconds_and_sizes:
        time.sleep(seconds)
        yield np.zeros((size, 2, 2, 3))


def test_the_first_batch_and_part_of_a_batch_do_not_count(tmp_path):
    watch = Stopwatch(4)
    list(watch.timed(batches((0.2, 4), (0.05, 4), (0.0, 1))))
    speed = watch.read(tmp_path)
    assert 20 < speed["images_per_second"] <= 80  # 4 in 0.05 s and what sleep adds
    assert speed["batch_size"] == 4 and speed["num_devices"] >= 1


def test_a_second_call_that_times_nothing_reads_what_the_first_one_wrote(tmp_path):
    watch = Stopwatch(4)
    list(watch.timed(batches((0, 4), (0.01, 4))))
    assert Stopwatch(4).read(tmp_path) == {}
    written = watch.read(tmp_path)
    assert Stopwatch(4).read(tmp_path) == written
