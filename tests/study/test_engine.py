# SPDX-License-Identifier: Apache-2.0
"""Stages run once, resume, fail alone, and refuse other settings."""

import jax
import pytest

from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.lock import Unusable, lock_output
from ldm_jax.files.writing import write_json
from ldm_jax.study import engine
from tests.study.conftest import RATE


def test_a_stage_that_fails_does_not_stop_the_others_and_is_tried_again(
    calls, study, tmp_path, capsys
):
    ran, broken = calls
    message = (
        r"^2 of 4 stages are not done; .*: 1 stage \(c/x\): it does not fit; "
        r"1 stage \(d/x\): waiting for stages that are not done$"
    )
    with pytest.raises(engine.StudyFailed, match=message):
        engine.run_study(study, str(tmp_path))
    assert ran == ["a/x", "b/x", "c/x"]
    assert "[4/4] d/x: waits for c/x" in capsys.readouterr().out
    assert read_json(tmp_path / "c/x/failed.json") == {"error": "it does not fit"}
    assert (tmp_path / "index.html").exists()
    broken.clear()
    engine.run_study(study, str(tmp_path))
    assert ran[3:] == ["c/x", "d/x"]
    assert not (tmp_path / "c/x/failed.json").exists()
    engine.run_study(study, str(tmp_path))
    assert len(ran) == 5


def test_arms_and_kinds_of_stages_can_be_chosen(calls, study, tmp_path):
    ran, broken = calls
    broken.clear()
    engine.run_study(study, str(tmp_path), only=["f=2"], kind="c")
    assert ran == ["c/x"]
    with pytest.raises(ValueError, match="there is no arm f=3; one of: f=1, f=2"):
        engine.run_study(study, str(tmp_path), only=["f=3"])
    with pytest.raises(ValueError, match='no stage "z"; one of: a, b, c, d'):
        engine.run_study(study, str(tmp_path), kind="z")


def test_a_finished_stage_refuses_other_settings_and_lists_them(calls, study, tmp_path):
    ran, broken = calls
    broken.clear()
    engine.run_study(study, str(tmp_path))
    RATE[0] = 2
    with pytest.raises(ValueError, match=r"a/x is finished .*\n  rate: 1 -> 2\n"):
        engine.run_study(study, str(tmp_path))
    assert len(ran) == 4


def test_one_stage_runs_by_its_name_after_those_it_needs(calls, study, tmp_path):
    ran, _ = calls
    with pytest.raises(ValueError, match="b/x reads the result of a/x: got none"):
        engine.run_one(study, str(tmp_path), "b/x")
    for name in ("a/x", "b/x", "b/x", "report"):
        engine.run_one(study, str(tmp_path), name)
    assert ran == ["a/x", "b/x"]
    with pytest.raises(ValueError, match='no stage "e"; one of: a/x, b/x'):
        engine.run_one(study, str(tmp_path), "e")


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Another process that runs a/x; it ends when this one has waited once."""
    lock = lock_output(tmp_path / "a/x")
    waits, at_the_end = [], []

    def wait(seconds):
        waits.append(seconds)
        for action in at_the_end:
            action()
        lock.release()

    monkeypatch.setattr(engine.time, "sleep", wait)
    yield waits, at_the_end
    lock.release()


def test_a_stage_that_another_process_runs_is_waited_for_after_the_others(
    calls, study, tmp_path, capsys, other
):
    ran, broken = calls
    waits, at_the_end = other
    broken.clear()
    result = tmp_path / "a/x/result.json"
    at_the_end.append(lambda: write_json(result, dict(settings={}, result={})))
    engine.run_study(study, str(tmp_path))
    assert ran == ["c/x", "d/x", "b/x"]
    assert waits == [engine.POLL_SECONDS]
    lines = [n for n in capsys.readouterr().out.splitlines() if "a/x" in n]
    assert len(lines) == 1 and "is in use by process" in lines[0]
    assert not list(tmp_path.rglob("failed.json"))
    assert not list(tmp_path.rglob("*.lock"))


def test_a_stage_whose_process_ended_without_a_result_is_run(
    calls, study, tmp_path, other
):
    ran, broken = calls
    broken.clear()
    engine.run_study(study, str(tmp_path))
    assert ran == ["c/x", "d/x", "a/x", "b/x"]


def test_one_stage_that_another_process_runs_is_refused(calls, study, tmp_path, other):
    with pytest.raises(Unusable, match="x is in use by process"):
        engine.run_one(study, str(tmp_path), "a/x")
    assert calls[0] == []


def test_a_device_without_memory_fails_a_stage_and_not_the_study(
    calls, study, tmp_path, monkeypatch
):
    _, broken = calls
    broken.clear()

    def run_out(stage, out):
        text = "RESOURCE_EXHAUSTED: Out of memory\nAllocation table: ..."
        raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setattr(engine, "run_stage", run_out)
    with pytest.raises(engine.StudyFailed) as error:
        engine.run_study(study, str(tmp_path))
    line = str(error.value)
    assert "2 stages (a/x, c/x): RESOURCE_EXHAUSTED: Out of memory" in line
    assert "2 stages (b/x, d/x): waiting" in line
    assert line.count("RESOURCE_EXHAUSTED") == 1 and "Allocation table" not in line


def test_a_full_disk_fails_a_stage_in_a_line(calls, study, tmp_path, monkeypatch):
    _, broken = calls
    broken.clear()

    def full(path, content, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine, "write_json", full)
    monkeypatch.setattr(engine, "_write_summary", lambda *_: None)
    monkeypatch.setattr(engine.report, "write_study_report", lambda out: None)
    with pytest.raises(engine.StudyFailed, match="No space left on device"):
        engine.run_study(study, str(tmp_path), kind="a")


def test_many_stages_that_fail_alike_are_counted_and_three_are_named():
    names = [f"latents/{i}" for i in range(26)]
    line = engine._describe_failures(
        {"no such folder": names, "it diverged": ["a"]}, 30
    )
    assert "\n" not in line
    assert line.startswith("27 of 30 stages are not done;")
    assert "26 stages (latents/0, latents/1, latents/2, ...): no such folder;" in line
    assert line.endswith("1 stage (a): it diverged")
