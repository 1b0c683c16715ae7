# SPDX-License-Identifier: Apache-2.0
"""A working directory on an object store: few requests, faults, one run at a time."""

import json

import jax
import numpy as np
import pytest
from etils import epath

from ldm_jax.files.lock import Unusable
from ldm_jax.files.stores import lease
from ldm_jax.files.stores.objects import sizes_in
from ldm_jax.training import loop
from ldm_jax.training.checkpoints.checkpointer import Checkpointer
from tests.training.toy import toy_run

pytestmark = pytest.mark.store


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours handles it."""


def train(url, num_steps=24, **options):
    return loop.train(toy_run(num_steps, **options), url)


def dies_at(step):
    def before(now):
        if now == step:
            raise Killed

    return before


def test_a_run_that_was_killed_resumes_to_the_same_bits(bucket, tmp_path, monkeypatch):
    """Identity: the run on a disk that was not killed."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    expected = train(str(tmp_path / "whole"))
    for step in (3, 12, 20):
        with pytest.raises(Killed):
            train(f"{bucket}/run", before=dies_at(step))
    state = train(f"{bucket}/run")
    jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)
    rows = (epath.Path(f"{bucket}/run") / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [5, 10, 15, 20, 24]
    assert set(sizes_in(f"{bucket}/run")) >= {"metrics.jsonl", "report.html"}
    assert not any(name.startswith("run.lock") for name in sizes_in(f"{bucket}/run"))


def test_requests_are_few_and_do_not_grow_with_steps(bucket, store, monkeypatch):
    """Oracle: twice the steps between checkpoints cost nothing more."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 3600.0)  # none falls in
    counts = {}
    for steps in (40, 80):
        store.requests.clear()
        train(f"{bucket}/{steps}", steps, checkpoint_every=steps, report_every=5)
        counts[steps] = len(store.requests)
    assert counts[80] <= counts[40] + 15, counts  # a renewal of the lease may fall in
    store.requests.clear()
    train(f"{bucket}/many", 40, checkpoint_every=4, report_every=5, keep=1)
    per_checkpoint = (len(store.requests) - counts[40]) / 9
    assert per_checkpoint <= 160, per_checkpoint
    listed = store.count("list") / 10
    assert listed <= 60, listed


@pytest.mark.parametrize("fault", [503, 429, "reset"])
def test_errors_that_pass_cost_time_and_nothing_else(bucket, store, tmp_path, fault):
    """Every 25th request fails, whichever it is."""
    expected = train(str(tmp_path / "whole"), 8)
    number = [0]

    def sometimes(method, path):
        number[0] += 1
        return fault if number[0] % 25 == 0 else None

    store.fault = sometimes
    state = train(f"{bucket}/run", 8)
    store.fault = lambda method, path: None
    jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)
    assert number[0] > 50


@pytest.mark.parametrize("methods", [("POST", "PUT"), ("POST", "PUT", "GET", "DELETE")])
def test_a_store_that_refuses_is_one_line_and_loses_no_checkpoint(
    bucket, store, methods, monkeypatch
):
    """It may refuse to delete the lease, too."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    train(f"{bucket}/run", 8)
    refuses = [False]

    def refuse(method, path):
        return 403 if refuses[0] and method in methods else None

    store.fault = refuse

    def before(step):
        refuses[0] = step > 12

    with pytest.raises(OSError, match=rf"{bucket}/run.* could not be written") as error:
        train(f"{bucket}/run", 24, before=before)
    assert len(str(error.value).splitlines()) == 1
    store.fault = lambda method, path: None
    state = train(f"{bucket}/run", 24)
    assert int(state.step) == 24


def test_a_second_run_in_a_workdir_is_refused(bucket, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.3)
    with (
        Checkpointer(f"{bucket}/run"),
        pytest.raises(Unusable, match=r"/run is in use by process"),
    ):
        train(f"{bucket}/run")


def test_a_run_whose_directory_was_taken_writes_no_checkpoint(bucket, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)

    def before(step):
        if step == 10:
            lease.create(f"{bucket}/run/run.lock.00000002", b"{}")
            for _ in range(400):
                if sizes_in(f"{bucket}/run") and before.checkpointer_lost():
                    break

    before.checkpointer_lost = lambda: any(map(_is_lost, _leases))
    _leases, init = [], lease.Lease.__init__

    def noted(self, *args, **kwargs):
        init(self, *args, **kwargs)
        _leases.append(self)

    monkeypatch.setattr(lease.Lease, "__init__", noted)
    with pytest.raises(Unusable, match="was taken by another process"):
        train(f"{bucket}/run", before=before)
    assert [name for name in _steps(f"{bucket}/run")] == ["8"]


def _is_lost(owner):
    return owner.lost


def _steps(url):
    return sorted(p.name for p in (epath.Path(url) / "checkpoints").iterdir())
