# SPDX-License-Identifier: Apache-2.0
"""Requests run one after another, and those that wait are counted."""

import threading
import time

from ldm_jax.commands.demo.turns import Turns


def wait_for(state, turns):
    limit = time.monotonic() + 10
    while turns.state()["waiting"] != state and time.monotonic() < limit:
        time.sleep(0.01)
    return turns.state()["waiting"]


def test_the_second_request_waits_for_the_first():
    turns, order = Turns(), []

    def request(name):
        with turns:
            order.append(name)

    with turns:
        threads = [threading.Thread(target=request, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        assert wait_for(2, turns) == 2 and not order
    for thread in threads:
        thread.join(10)
    assert sorted(order) == [0, 1]
    assert turns.state() == {"waiting": 0, "seconds": 0}
