# SPDX-License-Identifier: Apache-2.0
"""The loop: one story on any mesh, however often it is broken off."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.files.lock import Unusable
from ldm_jax.parallel import sharding
from ldm_jax.parallel.compile import global_key, lower_step, on_mesh
from ldm_jax.parallel.stopping import Interrupted
from ldm_jax.training import loop
from ldm_jax.training.loop import train
from ldm_jax.training.monitoring.divergence import Diverged
from ldm_jax.training.monitoring.metric_rows import read_rows
from ldm_jax.training.optimizer import make_optimizer
from ldm_jax.training.state import make_state
from ldm_jax.training.step import make_train_step
from tests.training.toy import FIELDS, make_task, options, toy_run

NUM_STEPS = 24


def run(workdir, before=lambda step: None, **changes):
    """Trains the toy; the changes are those of `toy_run`."""
    changes = {"num_steps": NUM_STEPS, **changes}
    return train(toy_run(before=before, **changes), workdir)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed: its state and its metrics."""
    workdir = tmp_path_factory.mktemp("whole")
    return run(workdir), (workdir / "metrics.jsonl").read_text()


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def fail_at(*steps):
    """Makes a hook of the batches that raises once before each of these steps."""
    left = list(steps)

    def before(step):
        if step in left:
            left.remove(step)
            raise OSError("the disk is gone")

    return before


def test_a_run_broken_off_and_continued_ends_with_the_same_bits(tmp_path, whole):
    """Identity: broken before step 3 (no checkpoint yet), 12 and 17."""
    before = fail_at(3, 12, 17)
    for _ in range(3):
        with pytest.raises(OSError):
            run(tmp_path, before)
    same(run(tmp_path, before), whole[0])
    assert (tmp_path / "metrics.jsonl").read_text() == whole[1]


def test_a_second_run_in_the_directory_is_refused_and_does_the_first_no_harm(
    tmp_path, whole, monkeypatch
):
    """F7: it comes while the first is at step 12."""
    refused = []

    def before(step):
        if step == 12:
            with monkeypatch.context() as patch:
                patch.setattr(loop, "compile_step", lambda *_: refused.append("late"))
                match = f"in use by process {os.getpid()} on"
                with pytest.raises(Unusable, match=match):
                    run(tmp_path)
            refused.append("before anything was compiled")

    same(run(tmp_path, before), whole[0])
    assert refused == ["before anything was compiled"]
    assert (tmp_path / "metrics.jsonl").read_text() == whole[1]


def test_a_finished_run_is_only_read(tmp_path, whole):
    run(tmp_path)
    same(run(tmp_path, before=fail_at(*range(NUM_STEPS + 9))), whole[0])


def test_a_longer_run_continues_a_finished_one(tmp_path, whole):
    may_change = {"train.num_steps": True}.get
    run(tmp_path, num_steps=10, config={"train": {"num_steps": 10}})
    config = {"train": {"num_steps": NUM_STEPS}}
    state = run(tmp_path, config=config, may_change=may_change)
    same(state, whole[0])


@pytest.mark.parametrize(
    "sizes", [(1, 8, 1), (2, 2, 2)], ids=["fsdp", "fsdp and tensor"]
)
def test_every_mesh_gives_the_same_losses(tmp_path, whole, sizes):
    """Identity: with copies on 8 devices; sums of float32 differ in their order."""
    run(tmp_path, mesh=sharding.make_mesh(*sizes))
    want = tmp_path / "want.jsonl"
    want.write_text(whole[1])
    losses = [
        [row["loss"] for row in read_rows(path)]
        for path in (tmp_path / "metrics.jsonl", want)
    ]
    np.testing.assert_allclose(*losses, atol=1e-5)


def test_a_run_continues_on_another_mesh(tmp_path, whole):
    run(tmp_path, num_steps=12, mesh=sharding.make_mesh(1, 4, 2))
    state = run(tmp_path, mesh=sharding.make_mesh(devices=jax.devices()[:2]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        state.params,
        whole[0].params,
    )


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_the_run_which_then_resumes(tmp_path, whole, signum):
    def before(step):
        if step == 11:
            for _ in range(2 if signum == signal.SIGTERM else 1):
                os.kill(os.getpid(), signum)

    with pytest.raises(Interrupted) as stopped:
        run(tmp_path, before)
    assert stopped.value.code == (0 if signum == signal.SIGTERM else 130)
    assert (tmp_path / "checkpoints" / str(stopped.value.step)).exists()
    assert signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler)
    same(run(tmp_path), whole[0])
    assert (tmp_path / "metrics.jsonl").read_text() == whole[1]


def test_a_signal_in_the_last_evaluation_ends_the_run_after_it(tmp_path, whole):
    """What a quickstart does after the run must not begin."""

    def evaluate(state, step):
        os.kill(os.getpid(), signal.SIGINT)
        return {"score": 1.0}, {}

    with pytest.raises(Interrupted) as stopped:
        run(tmp_path, evaluate=evaluate)
    assert (stopped.value.code, stopped.value.step) == (130, NUM_STEPS)
    assert read_rows(tmp_path / "evaluation.jsonl") == [
        {"step": NUM_STEPS, "score": 1.0}
    ]
    same(run(tmp_path), whole[0])


def test_exit_codes_distinguish_stopped_runs_from_finished_ones(monkeypatch):
    assert Interrupted(7, signal.SIGTERM).code == 0
    monkeypatch.setenv("LDM_JAX_EXIT_WHEN_STOPPED", "75")
    assert Interrupted(7, signal.SIGTERM).code == 75
    assert Interrupted(7, signal.SIGINT).code == 130


def test_a_single_bad_step_is_skipped_and_counted(tmp_path):
    run(tmp_path, task=make_task(nan_steps=(6,)))
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["skipped"] for row in rows] == [0, 1, 0, 0, 0]
    assert all(row["loss"] is not None for row in rows)


def test_a_run_that_diverges_stops_and_keeps_its_good_checkpoint(tmp_path):
    with pytest.raises(Diverged, match="steps 11 to 13") as error:
        run(tmp_path, task=make_task(nan_steps=range(10, 99)), max_skipped=3)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["8"]
    assert f"checkpoint of step 8 in {tmp_path} is good" in str(error.value)
    report = json.loads((tmp_path / "diverged.json").read_text())
    assert report["steps"][-1]["records"][3] == "row 3 of step 12"


def test_evaluation_comes_at_its_steps_and_at_the_end(tmp_path):
    seen = []

    def evaluate(state, step):
        assert int(state.step) == step
        seen.append(step)
        return {"score": -step}, {}

    fields = dict(evaluate=evaluate, evaluate_every=8, checkpoint_every=8)
    run(tmp_path, num_steps=20, keep=1, best="score", best_is_lowest=False, **fields)
    assert seen == [8, 16, 20]
    assert [r["score"] for r in read_rows(tmp_path / "evaluation.jsonl")] == [
        -8,
        -16,
        -20,
    ]
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [8, 20]  # the best and the latest


@pytest.mark.parametrize(
    ("every", "expected"), [(6, [1, 2, 4, 6, 12, 18, 20]), (None, [1, 2, 4, 8, 16, 20])]
)
def test_early_evaluations_come_after_powers_of_two(tmp_path, every, expected):
    seen = []

    def evaluate(state, step):
        seen.append(step)
        return {}, {"sheet": np.full((2, 2, 3), step, np.uint8)}

    fields = dict(evaluate=evaluate, evaluate_every=every, evaluate_early=True)
    run(tmp_path, num_steps=20, **fields)
    assert seen == expected
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == [f"sheet_{step:08d}.png" for step in expected]


def test_an_evaluation_that_fails_costs_no_step_and_is_made_up_for(tmp_path, whole):
    """It fails at step 8, then at the end; a run that was whole evaluates as often."""
    seen, failing = [], [8, NUM_STEPS]

    def evaluate(state, step):
        seen.append(step)
        if step in failing:
            failing.remove(step)
            raise ValueError("sampling.num_steps must be another")
        return {"score": step}, {}

    fields = dict(evaluate=evaluate, evaluate_every=8, best="score", keep=9)
    for step in (8, NUM_STEPS):
        with pytest.raises(ValueError, match="must be another"):
            run(tmp_path, **fields)
        assert (tmp_path / "checkpoints" / str(step)).exists()
    same(run(tmp_path, before=fail_at(NUM_STEPS), **fields), whole[0])
    assert seen == [8, 8, 16, NUM_STEPS, NUM_STEPS]
    rows = read_rows(tmp_path / "evaluation.jsonl")
    assert [row["step"] for row in rows] == [8, 16, NUM_STEPS]
    run(tmp_path, **fields)
    assert len(seen) == 5  # a finished run is not evaluated again


def test_an_optimizer_may_change_if_that_is_allowed_and_keeps_its_moments(tmp_path):
    """Identity: a rate of 1e-9 leaves the parameters; step and moments go on."""
    rule = {"optimizer.learning_rate": "allow_optimizer_change"}
    rule |= {"optimizer.clip_norm": "allow_optimizer_change"}

    def changed(rate, clip_norm, **more):
        optimizer = dict(learning_rate=rate, clip_norm=clip_norm)
        fields = dict(config={"optimizer": optimizer}, may_change=rule.get)
        return dict(optimizer=make_optimizer(**optimizer), **fields, **more)

    before = run(tmp_path, num_steps=8, **changed(1e-2, None))
    with pytest.raises(
        ValueError, match=r"--config\.train\.allow_optimizer_change=True"
    ):
        run(tmp_path, num_steps=9, **changed(1e-9, 1.0))
    allowed = changed(1e-9, 1.0, allow_optimizer_change=True)
    after = run(tmp_path, num_steps=9, **allowed)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7),
        after.params,
        before.params,
    )
    counts = [int(s.opt_state["unet"][1][0].count) for s in (before, after)]
    assert counts == [8, 9]
    moments = [s.opt_state["unet"][1][0].mu["mlp"]["in"] for s in (before, after)]
    assert 0 < np.abs(moments[1]["kernel"] - moments[0]["kernel"]).max() < 0.2


def test_the_learning_rate_is_in_every_row(tmp_path, capsys):
    """Oracle: in rows of 5 steps, the last of a rate that rises by 1e-3 a step."""
    schedule = dict(name="warmup_constant_schedule", init_value=0.0, peak_value=1.0)
    schedule["warmup_steps"] = 10
    optimizer = make_optimizer(learning_rate=1e-2, schedule=schedule)
    run(tmp_path, num_steps=10, optimizer=optimizer)
    rows = read_rows(tmp_path / "metrics.jsonl")
    rates = [row["learning_rate"] for row in rows]
    np.testing.assert_allclose(rates, [4e-3, 9e-3], rtol=1e-5)
    assert "lr 0.009" in capsys.readouterr().out


def test_checkpoints_can_go_by_time(tmp_path):
    run(tmp_path, num_steps=3, checkpoint_every=None, checkpoint_seconds=0.0, keep=9)
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [1, 2, 3]


def test_changed_data_are_refused_unless_allowed(tmp_path):
    rule = {"seed": "allow_data_change"}.get
    settings = lambda seed: dict(seed=seed, config={"seed": seed}, may_change=rule)  # noqa: E731
    run(tmp_path, num_steps=8, **settings(0))
    with pytest.raises(ValueError, match="seed: 0 -> 1"):
        run(tmp_path, num_steps=9, **settings(1))
    with pytest.raises(ValueError, match=r"seed was 0 and is 1.*allow_data_change"):
        run(tmp_path, num_steps=9, seed=1)  # noticed without settings, too
    run(tmp_path, num_steps=9, allow_data_change=True, **settings(1))
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}


def test_an_average_in_the_hosts_memory_is_the_same_average(tmp_path, whole):
    """Identity: started on the host and continued on the device, or all on it."""
    state = run(tmp_path, num_steps=12, ema_on_host=True)
    kernel = state.ema["unet"]["mlp"]["in"]["kernel"]
    assert kernel.sharding.memory_kind == "pinned_host"
    jax.jit(lambda tree: jax.tree.map(jnp.sum, tree))(state.averaged_params())
    same(run(tmp_path), whole[0])


def test_a_run_reports_its_time_and_the_requested_pictures(
    tmp_path, capsys, monkeypatch
):
    def evaluate(state, step):
        time.sleep(0.01)
        return {}, {"grid": np.zeros((2, 2, 3), np.uint8)}

    monkeypatch.setattr(loop, "peak_share", lambda *_: lambda rate: 0.25)
    fields = dict(histograms_every=6, profile_steps=(3, 4))
    run(tmp_path, num_steps=12, evaluate=evaluate, **fields)
    rows = read_rows(tmp_path / "timing.jsonl", ("time",))
    assert [row["step"] for row in rows[:4]] == [0, 5, 10, 12]
    assert [row.get("steps") for row in rows[1:5]] == [5, 5, 2, 0]
    assert rows[1]["utilization"] == 0.25 and rows[1]["seconds"]["compile"] > 0
    assert rows[1]["images_per_second"] * rows[1]["seconds_per_step"] == pytest.approx(
        16
    )
    shares = rows[-1]["goodput"]
    assert sum(shares.values()) == pytest.approx(1, abs=0.02)
    assert min(shares[name] for name in ("step", "evaluation", "checkpoint")) > 0
    out = capsys.readouterr().out
    assert "25.0% of peak" in out and "time since the first start: " in out
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    (events,) = (tmp_path / "tensorboard").iterdir()
    for name in (b"unet/mlp/in/kernel", b"time/images_per_second", b"grid"):
        assert name in events.read_bytes()


def test_a_trace_of_impossible_steps_is_refused(tmp_path):
    for steps in ((4, 3), (0, 2), (5,)):
        with pytest.raises(ValueError, match=r"profile_steps must be \(first, last\)"):
            run(tmp_path, profile_steps=steps)


@pytest.mark.parametrize(
    ("precision", "written"), [("float32", "HIGHEST"), ("bfloat16", "DEFAULT")]
)
def test_the_precision_of_matrix_products_is_that_of_the_program(precision, written):
    """CPUs compute all the same: the program that a TPU would be given is read."""
    task, optimizer, mesh = make_task(), make_optimizer(), sharding.make_mesh()
    shapes, _ = make_state(task, optimizer, FIELDS, mesh, options())
    inputs = (shapes, task.frozen, on_mesh(FIELDS, mesh), global_key(0, mesh))
    step = make_train_step(task.loss, optimizer, options())
    text = lower_step(step, *inputs, precision).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) > 3
    assert all(f"precision = [{written}, {written}]" in line for line in products)


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one of bfloat16, tensorfloat32, float32"):
        run(tmp_path, matmul_precision="float64")


def test_batches_of_another_mesh_are_refused(tmp_path):
    made = toy_run()
    whole = sharding.replicated(made.mesh)
    shape = jax.ShapeDtypeStruct((16, 8), np.float32, sharding=whole)
    with pytest.raises(ValueError, match="split over the mesh"):
        train(dataclasses.replace(made, batch_shapes={"x": shape}), tmp_path)


def test_the_step_is_compiled_once(tmp_path):
    """Oracle: JAX's own count of compilations of the step."""
    names = []

    def note(event, duration, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        run(tmp_path, num_steps=3)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert sum("train_step" in name for name in names) == 1, names


CHILD = """
import os, signal, sys
from tests.training.test_loop import run
def before(step):
    if step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
run(sys.argv[1], before)
"""


def start_child(workdir, kill_at):
    command = [sys.executable, "-c", CHILD, str(workdir), str(kill_at)]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, check=False).returncode


@pytest.mark.slow
def test_a_run_killed_in_a_step_and_in_a_save_ends_with_the_same_bits(tmp_path, whole):
    """Identity: SIGKILL in step 12, then right after the save of step 16 has begun."""
    assert start_child(tmp_path, 12) == -signal.SIGKILL
    assert start_child(tmp_path, 16) == -signal.SIGKILL
    same(run(tmp_path), whole[0])
    assert (tmp_path / "metrics.jsonl").read_text() == whole[1]
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))
