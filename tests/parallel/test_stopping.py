# SPDX-License-Identifier: Apache-2.0
"""Signals are recorded, handlers restored, and exit codes distinguish the cases."""

import os
import signal

import pytest

from ldm_jax.parallel.stopping import Interrupted, StopSignal, is_everywhere
from ldm_jax.training.monitoring.divergence import Diverged


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handler_put_back(signum):
    before = signal.getsignal(signum)
    with StopSignal() as stop:
        assert stop.requested(1) is None
        os.kill(os.getpid(), signum)
        assert stop.requested(2) == signum
    assert signal.getsignal(signum) == before


def test_a_second_ctrl_c_ends_the_program_at_once():
    with pytest.raises(KeyboardInterrupt), StopSignal():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_wrong_exit_code_is_refused_before_training(monkeypatch):
    monkeypatch.setenv("LDM_JAX_EXIT_WHEN_STOPPED", "seven")
    with pytest.raises(ValueError, match="LDM_JAX_EXIT_WHEN_STOPPED must be a whole"):
        StopSignal()


def test_ctrl_c_has_its_own_exit_code(monkeypatch):
    monkeypatch.setenv("LDM_JAX_EXIT_WHEN_STOPPED", "75")
    assert Interrupted(7, signal.SIGTERM).code == 75
    assert Interrupted(7, signal.SIGINT).code == 130


def test_a_divergence_is_raised_by_all_processes_at_once():
    assert is_everywhere(Diverged("")) and not is_everywhere(OSError())
