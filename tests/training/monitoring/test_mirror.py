# SPDX-License-Identifier: Apache-2.0
"""After every checkpoint, remote storage has all files of a run."""

import pytest

from ldm_jax.training.monitoring.metric_rows import read_rows
from ldm_jax.training.monitoring.mirror import Mirror
from tests.training.monitoring.test_report import feed, report


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A folder that counts as remote."""
    monkeypatch.setattr(
        "ldm_jax.training.monitoring.mirror.is_remote", lambda directory: True
    )
    return tmp_path


def test_a_local_directory_is_its_own_mirror(tmp_path):
    mirror = Mirror(str(tmp_path))
    (mirror.folder / "metrics.jsonl").write_text("1")
    mirror.push()
    mirror.close()
    assert (tmp_path / "metrics.jsonl").read_text() == "1"


def test_changed_files_are_copied_and_the_local_folder_goes(remote):
    mirror = Mirror(str(remote))
    (mirror.folder / "images").mkdir()
    (mirror.folder / "images" / "a.png").write_text("a")
    (mirror.folder / "metrics.jsonl").write_text("1")
    assert not list(remote.iterdir())
    mirror.push()
    (remote / "images" / "a.png").unlink()  # not copied again: it did not change
    (mirror.folder / "metrics.jsonl").write_text("1, 2")
    mirror.close()
    assert (remote / "metrics.jsonl").read_text() == "1, 2"
    assert not (remote / "images" / "a.png").exists()
    assert not mirror.folder.exists()


def test_a_killed_run_resumes_with_the_rows_of_its_last_checkpoint(remote):
    """Oracle: a row per 4 steps; saved at 6, killed at 9, resumed."""
    with report(remote) as r:
        r.start(0)
        feed(r, 1, 6)
        saved = r.state()
        assert [row["step"] for row in read_rows(remote / "metrics.jsonl")] == [4]
        feed(r, 7, 9)
        # Killed: files written after the checkpoint are in the local folder only.
        r._mirror.push = lambda: None
    assert [row["step"] for row in read_rows(remote / "metrics.jsonl")] == [4]
    with report(remote) as r:
        r.start(6, saved)
        feed(r, 7, 12)
        r.finish_pending()
    rows = read_rows(remote / "metrics.jsonl")
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert [row["loss"] for row in rows] == [2.5, 6.5, 10.5]
    assert list((remote / "tensorboard").iterdir())
