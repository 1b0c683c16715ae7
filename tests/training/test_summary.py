# SPDX-License-Identifier: Apache-2.0
"""The summary of a run: sizes, memory and length."""

import dataclasses

from ldm_jax.experiment.config import config_files
from ldm_jax.experiment.prepare import prepare
from ldm_jax.training import estimate
from ldm_jax.training.optimizer import make_optimizer
from ldm_jax.training.summary import show, summarize
from ldm_jax.training.utilization import training_flops
from tests.training.toy import toy_run


def test_a_summary_has_the_sizes_of_the_run(tmp_path, monkeypatch):
    """Oracle: epochs are steps times batch over records; 8x8x2 is 16 / f."""
    monkeypatch.setattr(estimate, "flops_per_second", lambda: 1e9)
    data = f"--config.images.data_dir={tmp_path}"
    overrides = [data, "--config.train.num_steps=721"]
    run = prepare(config_files.load_config("quickstart:stage=first_stage", overrides))
    lines = summarize(run, training_flops(run.task, run.batch_shapes))
    assert lines["latents"] == "8x8x2, f = 2"
    assert lines["steps"] == "721 of 32 images: 16 epochs"
    assert lines["parameters"] == "autoencoder 208,417"
    giga = float(lines["FLOPs"].split()[0])
    expected = estimate.duration(giga * 721 * 32)
    assert lines["estimate"].startswith(f"about {expected},")
    # Parameters and two moments of 4 bytes.
    assert lines["state"] == f"{3 * 4 * 208_417 / 2**20:,.1f} MiB in all"


def test_a_summary_says_where_the_learning_rate_is_highest():
    """A warm-up longer than the run shows: the rate never reaches its peak."""

    def shown(**fields):
        optimizer = make_optimizer(learning_rate=1e-3, run_steps=11, **fields)
        run = dataclasses.replace(toy_run(num_steps=11), optimizer=optimizer)
        return summarize(run, step_flops=1)["rate"]

    assert shown() == "learning rate 0.001"
    warm_up = dict(name="warmup_cosine", start=0.1, end=0.1)
    assert shown(schedule=dict(warm_up, warmup_steps=5)) == (
        "learning rate 0.0001 at step 1, 0.001 at step 6, 0.00016 at step 11"
    )
    assert shown(schedule=dict(warm_up, warmup_steps=20)) == (
        "learning rate 0.0001 at step 1, 0.00055 at step 11"
    )


def test_a_summary_leaves_out_what_a_run_does_not_know():
    """A task without pictures has neither sizes nor a number of records."""
    lines = summarize(toy_run(num_steps=24), step_flops=1)
    assert lines["steps"] == "24 of 16 images"
    assert not {"data", "images", "latents"} & set(lines)
    assert show({"steps": "24"}) == "  steps        24"


def test_further_lines_of_a_text_are_indented():
    text = show({"a": "first\nsecond", "b": "third"})
    assert text == "  a            first\n               second\n  b            third"
