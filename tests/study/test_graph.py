# SPDX-License-Identifier: Apache-2.0
"""The graph with its cost, and as rules of Snakemake."""

import pytest

from ldm_jax.study import graph
from ldm_jax.study.stages import make_stages
from tests.study.conftest import finish


def test_the_dry_run_prints_steps_flops_disk_and_time(study, arms, tmp_path):
    stages = make_stages(study, arms, str(tmp_path))
    finish(tmp_path / "reference", {})
    text = graph.describe_graph(study, stages, str(tmp_path), "h200")
    assert f"{len(stages) - 1} of {len(stages)} stages are left" in text
    assert "done reference" in text and "2 steps of 8 images" in text
    total = sum(stage.flops for stage in stages)
    assert f"{total:.3g} FLOPs of training" in text
    assert f"about {total / (0.4 * 989e12) / 3600:.3g} device-hours" in text
    with pytest.raises(ValueError, match='unknown device "x"; one of: a100, h100'):
        graph.describe_graph(study, stages, str(tmp_path), "x")


def test_every_stage_is_a_rule_that_waits_for_what_it_reads(study, arms):
    stages = make_stages(study, arms, "out dir")
    text = graph.snakefile(stages, "user.py:a={b}", "out dir")
    assert text.count("\nrule ") == len(stages) + 2
    rule = text[text.index("rule evaluate_f_2_seed0:") :].split("\n\n")[0]
    assert "input: 'out dir/denoiser/f=2/seed0/result.json', " in rule
    assert "'out dir/reference/result.json'" in rule
    assert "output: 'out dir/evaluate/f=2/seed0/result.json'" in rule
    assert "--run=evaluate/f=2/seed0" in rule and "{{b}}" in rule
