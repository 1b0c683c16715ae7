# SPDX-License-Identifier: Apache-2.0
"""Hanging processes are ended with a message and stacks, others are not."""

import subprocess
import sys
import time

from ldm_jax.training.monitoring.watchdog import EXIT_HANGS, Watchdog

HANGS = """
import time
from ldm_jax.training.monitoring.watchdog import Watchdog
def waits_for_a_batch():
    time.sleep(60)
with Watchdog(0.5) as dog:
    for dog.step in (1, 2):
        dog.enter("step")
        time.sleep(0.2)
    dog.enter("evaluation")
    time.sleep(1.0)
    dog.enter("data")
    waits_for_a_batch()
"""

# A regular expression that backtracks for hours, inside C code that keeps the
# interpreter's lock: no thread of Python's can run.
HOLDS_THE_LOCK = """
import re
from ldm_jax.training.monitoring import watchdog
watchdog.GRACE_SECONDS = 0.5
with watchdog.Watchdog(0.5) as dog:
    dog.enter("step")
    re.match("(a*)*(b*)*c", "a" * 40)
"""


def hung(program):
    """Runs a program that hangs; returns its exit code, stderr and seconds."""
    begin = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return child.returncode, child.stderr, time.monotonic() - begin


def test_a_phase_that_hangs_ends_the_process_with_its_stacks():
    code, output, seconds = hung(HANGS)
    assert code == EXIT_HANGS and seconds < 20
    assert 'the phase "data" of step 2 did not end within 0.5 s' in output
    assert "train.step_timeout" in output and "waits_for_a_batch" in output


def test_a_stuck_interpreter_is_ended_too():
    code, output, seconds = hung(HOLDS_THE_LOCK)
    assert code == 1 and seconds < 20 and "Timeout" in output


def test_no_time_set_and_no_context_watch_nothing():
    with Watchdog(None) as dog:
        dog.enter("step")
    dog = Watchdog(0.01)
    dog.enter("step")
    time.sleep(0.1)
    with dog:
        pass
    dog.enter("step")  # a report that is closed later
    time.sleep(0.1)
