# SPDX-License-Identifier: Apache-2.0
"""Checkpoints and numbers of steps as evaluations, each with its directory."""

from ldm_jax.commands.evaluation.points import Point, points_of


def test_one_evaluation_has_the_directory_itself():
    assert points_of("out") == [Point("out", None, None)]
    assert points_of("out", [500], [10]) == [Point("out", 500, 10)]


def test_several_have_a_folder_each_named_by_what_differs():
    steps = points_of("out", [1, 2], [10])
    assert steps == [Point("out/step1", 1, 10), Point("out/step2", 2, 10)]
    sampled = points_of("out", (), [10, 20])
    assert [point.out for point in sampled] == ["out/sampled10", "out/sampled20"]
    both = [point.out for point in points_of("out", [1, 2], [10, 20])]
    assert both == [
        *("out/step1-sampled10", "out/step1-sampled20"),
        *("out/step2-sampled10", "out/step2-sampled20"),
    ]
