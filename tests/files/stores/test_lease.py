# SPDX-License-Identifier: Apache-2.0
"""A directory on a store has one owner; a dead one is replaced, a live one is not."""

import json
import os
import threading
import time
import types

import pytest

from ldm_jax.files.lock import Unusable
from ldm_jax.files.stores import lease as lease_module
from ldm_jax.files.stores.lease import Lease
from ldm_jax.files.stores.objects import create, delete, put_bytes, sizes_in
from ldm_jax.files.stores.store_errors import StoreError

pytestmark = pytest.mark.store
ELSEWHERE = {"host": "vm-7", "pid": 12, "start": "noon", "machine": "another"}


# Longer than a test may be suspended on a busy machine.
LONG = 120.0


@pytest.fixture(autouse=True)
def _renewed_often(monkeypatch):
    """A lease is seen to be renewed after a moment, but expires late."""
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", LONG)
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.2)


@pytest.fixture
def expires_soon(monkeypatch):
    """For leases that are not renewed."""
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", 1.0)


def wait_for(condition):
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def hold(url, owner):
    assert create(f"{url}/run.lock.00000003", json.dumps(owner).encode())


def test_the_second_is_refused_while_the_first_renews(bucket, store):
    with Lease(f"{bucket}/run"):
        wait_for(lambda: store.count("write") >= 3)  # it was created, and renewed
        with pytest.raises(Unusable, match=rf"run is in use by process {os.getpid()}"):
            Lease(f"{bucket}/run")
    assert sizes_in(f"{bucket}/run") == {}
    Lease(f"{bucket}/run").release()


def test_of_several_at_once_one_is_the_owner(bucket):
    results = []

    def take():
        try:
            results.append(Lease(f"{bucket}/run"))
        except Unusable:
            results.append(None)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (owner,) = [result for result in results if result]
    owner.release()


@pytest.mark.usefixtures("expires_soon")
def test_what_ended_on_another_machine_is_replaced_after_a_lease(bucket):
    hold(f"{bucket}/run", ELSEWHERE)
    start = time.monotonic()
    with Lease(f"{bucket}/run"):
        assert time.monotonic() - start >= 1.0
        assert set(sizes_in(f"{bucket}/run")) == {"run.lock.00000004"}


def test_what_was_killed_here_is_replaced_at_once(bucket, monkeypatch):
    owner = {**ELSEWHERE, "machine": lease_module._machine(), "pid": 2**22 + 1}
    hold(f"{bucket}/run", owner)

    def sleep(seconds):
        raise AssertionError("it waited")

    clock = types.SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
    monkeypatch.setattr(lease_module, "time", clock)
    Lease(f"{bucket}/run").release()


@pytest.mark.usefixtures("expires_soon")
def test_a_living_process_of_here_is_not_replaced_at_once(bucket):
    hold(f"{bucket}/run", {**ELSEWHERE, "machine": lease_module._machine(), "pid": 1})
    start = time.monotonic()
    with Lease(f"{bucket}/run"):  # it is never renewed
        assert time.monotonic() - start >= 1.0


@pytest.mark.parametrize("how", ["taken", "deleted"])
def test_an_owner_that_was_suspended_learns_that_it_is_no_more(bucket, how):
    owner = Lease(f"{bucket}/run")
    owner.check()
    if how == "taken":
        assert create(f"{bucket}/run/run.lock.00000002", b"{}")
    else:
        delete(f"{bucket}/run/run.lock.00000001")
    wait_for(lambda: owner.lost)
    with pytest.raises(Unusable, match="was taken by another process"):
        owner.check()
    owner.release()
    assert ("run.lock.00000002" in sizes_in(f"{bucket}/run")) == (how == "taken")


def test_a_lease_outlives_errors_of_the_store(bucket, store):
    refused = []

    def refuse(method, path):
        refused.append(path)
        return 403

    with Lease(f"{bucket}/run") as owner:
        store.fault = refuse
        wait_for(lambda: len(refused) >= 3)
        store.fault = lambda method, path: None
        store.requests.clear()
        wait_for(lambda: store.count("write") >= 1)  # it is renewed again
        assert not owner.lost


def test_a_lease_costs_two_requests_a_renewal(bucket, store):
    start = time.monotonic()
    with Lease(f"{bucket}/run"):
        wait_for(lambda: store.count("write") >= 2)
        store.requests.clear()
        wait_for(lambda: store.count("write") >= 5)
        renewals = store.count("write")
        # Each renewal comes after a pause.
        assert renewals <= (time.monotonic() - start) / 0.2 + 1
        assert len(store.requests) <= 2 * (renewals + 1)


def test_a_renewal_under_way_does_not_outlive_the_release(bucket, monkeypatch):
    writing = threading.Event()

    def slow_write(url, data):
        writing.set()
        time.sleep(0.3)
        put_bytes(url, data)

    monkeypatch.setattr(lease_module, "put_bytes", slow_write)
    owner = Lease(f"{bucket}/run")
    assert writing.wait(LONG)
    owner.release()
    assert not owner._renewing.is_alive()
    assert sizes_in(f"{bucket}/run") == {}


def test_the_error_of_a_run_is_not_replaced_by_that_of_its_lease(bucket, store):
    """A store that refuses everything also refuses to delete the lease."""
    with pytest.raises(ValueError, match="the cause"), Lease(f"{bucket}/run"):
        store.fault = lambda method, path: 403
        raise ValueError("the cause")
    store.fault = lambda method, path: None
    with (
        pytest.raises(StoreError, match=r"run.lock.* could not be deleted"),
        Lease(f"{bucket}/other"),
    ):
        store.fault = lambda method, path: 403
