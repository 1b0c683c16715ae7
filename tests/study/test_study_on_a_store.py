# SPDX-License-Identifier: Apache-2.0
"""Studies in a bucket: stages, results and the report."""

import pytest
from etils import epath

from ldm_jax.cli import main
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.lock import Unusable
from ldm_jax.files.stores import lease
from ldm_jax.files.stores.objects import delete_many, put_file
from ldm_jax.study import engine, results
from ldm_jax.study.report import write_study_report
from tests.study.conftest import RATE

pytestmark = pytest.mark.store


def test_stages_fail_resume_and_refuse_other_settings_in_a_bucket(calls, study, bucket):
    (ran, broken), out = calls, f"{bucket}/study"
    with pytest.raises(engine.StudyFailed, match=r"\(c/x\): it does not fit"):
        engine.run_study(study, out)
    failure = epath.Path(out) / "c/x/failed.json"
    assert read_json(failure) == {"error": "it does not fit"}
    assert "it does not fit" in (epath.Path(out) / "index.html").read_text()
    broken.clear()
    engine.run_study(study, out)
    assert ran == ["a/x", "b/x", "c/x", "c/x", "d/x"] and not failure.exists()
    engine.run_one(study, out, "d/x")
    assert len(ran) == 5
    RATE[0] = 2
    with pytest.raises(ValueError, match=r"a/x is finished .*\n  rate: 1 -> 2\n") as e:
        engine.run_study(study, out)
    assert f"delete {out}/a/x." in str(e.value)


def test_a_stage_is_run_by_one_process(calls, study, bucket, monkeypatch):
    """The lease is beside the stage's folder, and is gone afterwards."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    (ran, _), out = calls, f"{bucket}/study"
    with (
        lease.Lease(f"{out}/.locks/a/x"),
        pytest.raises(Unusable, match=r"study/\.locks/a/x is in use by process"),
    ):
        engine.run_one(study, out, "a/x")
    assert ran == []
    engine.run_one(study, out, "a/x")
    assert ran == ["a/x"] and not (epath.Path(out) / ".locks").exists()


def test_the_report_is_written_to_the_bucket(written, bucket, store, capsys):
    """The tables and pictures of the local report; requests are bounded."""
    out = f"{bucket}/study"
    for path in written.rglob("*.*"):
        if path.is_file():
            put_file(path, f"{out}/{path.relative_to(written)}")
    store.clear()
    assert main(["study", f"--out={out}/", "--report-only"]) == 0
    assert f"report: {out}/index.html" in capsys.readouterr().out
    assert store.count() < 150
    write_study_report(written)
    names = ["table.md", "table.csv", "results.jsonl"]
    names += [f"plots/{path.name}" for path in (written / "plots").glob("*.png")]
    for name in names:
        assert (epath.Path(out) / name).read_bytes() == (written / name).read_bytes()
    assert results(out) == results(written)
    page = (epath.Path(out) / "index.html").read_text()
    assert "Failed stages:" in page and "evaluate/f=1/seed0" in page


def test_measured_images_are_deleted_several_at_once(bucket, tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    put_file(tmp_path / "a", f"{bucket}/a")
    delete_many([f"{bucket}/a", f"{bucket}/missing"])
    delete_many([tmp_path / "a", tmp_path / "missing"])
    assert not (epath.Path(bucket) / "a").exists() and not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_study_runs_whole_and_once_in_a_bucket(study, bucket, store):
    out = f"{bucket}/study"
    engine.run_study(study, out)
    rows = results(out)
    assert [(row["arm"], row["step"], row["num_steps"]) for row in rows] == [
        *(("f=1", 1, 2), ("f=1", 2, 2), ("f=1", 2, 1)),
        *(("f=2", 1, 2), ("f=2", 2, 2), ("f=2", 2, 1)),
    ]
    images = epath.Path(out) / rows[0]["folder"] / "images"
    assert len(list(images.glob("0*.png"))) == study.num_shown
    assert "Not finished yet" not in (epath.Path(out) / "index.html").read_text()
    store.clear()
    engine.run_study(study, out)
    assert not store.count(within="checkpoints")  # nothing ran again
