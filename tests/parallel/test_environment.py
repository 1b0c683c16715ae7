# SPDX-License-Identifier: Apache-2.0
"""Wrong variables of the shell are one line that names them, and exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ldm_jax.parallel import environment

ROOT = Path(__file__).parents[2]


def sample_with(**variables):
    """Runs `ldm-jax sample` on a directory without a model; returns (code, stderr)."""
    command = [sys.executable, "-m", "ldm_jax.cli", "sample", "--model=a", "--out=b"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **variables}
    run = subprocess.run(command, env=env, capture_output=True, text=True, cwd="/")
    return run.returncode, run.stderr


@pytest.mark.parametrize(
    ("variable", "value", "rule"),
    [
        ("JAX_ENABLE_X64", "1", "JAX_ENABLE_X64 must be 0: got 1"),
        ("JAX_ENABLE_X64", "banana", "'banana' for environment 'JAX_ENABLE_X64'"),
        ("JAX_DISABLE_JIT", "true", "JAX_DISABLE_JIT must be 0: got 1"),
        ("JAX_TRANSFER_GUARD", "disallow", "JAX_TRANSFER_GUARD must be"),
        ("JAX_PLATFORMS", "nonsense", "JAX_PLATFORMS must name devices"),
        ("SLURM_NTASKS", "2", "SLURM_NTASKS=2 means several processes"),
        ("OMPI_COMM_WORLD_SIZE", "2", "OMPI_COMM_WORLD_SIZE=2 means several"),
        ("SLURM_NTASKS", "two", "SLURM_NTASKS must be a number"),
        ("LDM_JAX_NUM_PROCESSES", "2.5", "LDM_JAX_NUM_PROCESSES must be a whole"),
        ("LDM_JAX_EXIT_WHEN_STOPPED", "no", "LDM_JAX_EXIT_WHEN_STOPPED must be a"),
    ],
)
def test_a_wrong_variable_is_one_line_and_exit_code_two(variable, value, rule):
    code, error = sample_with(**{variable: value})
    assert code == 2, error
    assert error.startswith("ldm-jax sample: ") and error.count("\n") == 1, error
    assert rule in error


def test_variables_that_change_nothing_are_left_alone():
    code, error = sample_with(JAX_ENABLE_X64="0", JAX_TRANSFER_GUARD="log")
    assert code == 2 and "a is not a model directory" in error


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("no plugin\nmore")])
def test_a_platform_that_is_absent_is_named(monkeypatch, error):
    """As JAX reports cuda without a GPU: an assertion without a message."""

    def fail():
        raise error

    monkeypatch.setattr(environment.jax, "devices", fail)
    with pytest.raises(ValueError, match=r"^JAX_PLATFORMS must name devices that") as e:
        environment.check_devices()
    assert "\n" not in str(e.value)


def test_a_device_that_another_process_uses_is_no_wrong_input(monkeypatch):
    """So that launch/retry.sh starts the command again."""

    def fail():
        raise RuntimeError("The TPU is already in use by process with pid 7.")

    monkeypatch.setattr(environment.jax, "devices", fail)
    with pytest.raises(RuntimeError, match="already in use"):
        environment.check_devices()


def test_whole_numbers_are_read_and_checked(monkeypatch):
    assert environment.whole_number(environment.PROCESS_ID) is None
    monkeypatch.setenv(environment.PROCESS_ID, "0")
    assert environment.whole_number(environment.PROCESS_ID) == 0
    monkeypatch.setenv(environment.HEARTBEAT_SECONDS, "0")
    with pytest.raises(ValueError, match="of 1 or more: got '0'"):
        environment.whole_number(environment.HEARTBEAT_SECONDS)
