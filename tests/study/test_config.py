# SPDX-License-Identifier: Apache-2.0
"""Studies that cannot be compared are refused when they are made."""

import dataclasses

import pytest

from ldm_jax.study.config import Budget, Study, load_study


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "one of flops, steps and device_hours"),
        ({"flops": 1e9, "steps": 3}, "one of flops, steps and device_hours"),
        ({"steps": -1}, "one of flops, steps and device_hours, above 0"),
        ({"steps": 3, "counts_first_stage": True}, "is for a budget of flops"),
    ],
)
def test_a_budget_is_one_amount(fields, message):
    with pytest.raises(ValueError, match=message):
        Budget(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arms": {}}, "has arms to compare: got none"),
        ({"arms": {"a/b": None}}, "named like a file"),
        ({"seeds": (0, 0)}, "seeds must be different"),
        ({"evaluate_at": 0}, "evaluate_at must be 1 or more"),
        ({"metrics": ("fdi",)}, "unknown metrics fdi"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(study, fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(study, **fields)


def test_the_studies_of_the_package_have_the_papers_arms():
    study = load_study("study_f")
    assert list(study.arms) == ["f=1", "f=2", "f=4", "f=8", "f=16", "f=32"]
    assert study.arms["f=1"].first_stage is None
    assert study.arms["f=8"].first_stage.autoencoder.num_codes == 16384
    assert study.arms["f=8"].paper_rows == ("vq-f8", "imagenet-f8")
    # Tab. 13 has 32 channels at f = 32; Tab. 8 evaluates first stages of 16.
    assert study.arms["f=32"].first_stage.autoencoder.latent_channels == 32
    assert study.arms["f=32"].paper_rows == ()
    named = load_study("study_f:data=celebahq,bottleneck=kl,first_stages=./models")
    assert named.arms["f=4"].first_stage == "./models/kl-f4"
    assert named.arms["f=8"].paper_rows == ("kl-f8",)
    assert named.arms["f=32"].first_stage == "./models/kl-f32"
    assert named.arms["f=32"].paper_rows == ("kl-f32",)


def test_another_axis_is_another_set_of_arms():
    study = load_study("study_toy:axis=bottleneck")
    assert list(study.arms) == ["kl f=2", "kl f=4", "vq f=2", "vq f=4"]
    kinds = [arm.first_stage.autoencoder.bottleneck for arm in study.arms.values()]
    assert kinds == ["kl", "kl", "vq", "vq"]


def test_a_file_without_get_study_is_refused_in_a_line(tmp_path):
    path = tmp_path / "user.py"
    path.write_text("x = 1\n")
    with pytest.raises(ValueError, match="must have a function get_study: got none"):
        load_study(str(path))
    path.write_text("def get_study():\n    return 3\n")
    with pytest.raises(ValueError, match="get_study must return a Study: got a int"):
        load_study(str(path))
    assert isinstance(load_study("study_toy"), Study)
