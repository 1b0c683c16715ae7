# SPDX-License-Identifier: Apache-2.0
"""The processes of a run: how they find each other, agree, and stop together."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ldm_jax.types import PyTree

T = TypeVar("T")

# Set by a launcher; JAX itself reads no such variables.
COORDINATOR = "LDM_JAX_COORDINATOR"
NUM_PROCESSES = "LDM_JAX_NUM_PROCESSES"
PROCESS_ID = "LDM_JAX_PROCESS_ID"
HEARTBEAT_SECONDS = "LDM_JAX_HEARTBEAT_SECONDS"
EXIT_WHEN_STOPPED = "LDM_JAX_EXIT_WHEN_STOPPED"


def initialize_hosts(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat_seconds: int | None = None,
) -> None:
    """Joins the processes of this run; does nothing for a single process.

    Must run before JAX is first used. The processes are taken from the arguments, else
    from LDM_JAX_COORDINATOR, LDM_JAX_NUM_PROCESSES and LDM_JAX_PROCESS_ID, else from
    the cluster (Slurm, Open MPI, TPU VMs, TPUs on GKE), which JAX recognises by itself.

    Args:
      coordinator: "host:port" of process 0.
      num_processes: number of processes.
      process_id: this process, in [0, num_processes).
      heartbeat_seconds: silence after which a process counts as lost and the others
        end with an error; None takes LDM_JAX_HEARTBEAT_SECONDS, or 100.

    Raises:
      ValueError: only some of the three are given.
    """
    env = os.environ
    coordinator = coordinator or env.get(COORDINATOR)
    if num_processes is None and NUM_PROCESSES in env:
        num_processes = int(env[NUM_PROCESSES])
    if process_id is None and PROCESS_ID in env:
        process_id = int(env[PROCESS_ID])
    given = [x is not None for x in (coordinator, num_processes, process_id)]
    if any(given) != all(given):
        raise ValueError(
            "a run of many processes needs coordinator, num_processes and process_id: "
            f"got {coordinator}, {num_processes}, {process_id}; set all of "
            f"{COORDINATOR}, {NUM_PROCESSES} and {PROCESS_ID}, or none."
        )
    if not all(given) and not in_cluster(env):
        return
    if heartbeat_seconds is None:
        heartbeat_seconds = int(env.get(HEARTBEAT_SECONDS, 100))
    # CPU devices have no network of their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        heartbeat_timeout_seconds=heartbeat_seconds,
    )


def in_cluster(env: Mapping[str, str], devices: str = "/dev") -> bool:
    """Tells whether a cluster has started, or may have, other processes of this run.

    Args:
      env: the environment.
      devices: folder of device files.
    """
    counts = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
    lists = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
    if (
        any(int(env.get(name, 1)) > 1 for name in counts)
        or any("," in env.get(name, "") for name in lists)
        or "MEGASCALE_COORDINATOR_ADDRESS" in env
    ):
        return True
    # The hosts of a pod made of TPU VMs have no variable that tells: JAX asks the
    # metadata server. Without that each host would train alone, in one directory.
    if any(name in env for name in lists) or "TPU_SKIP_MDS_QUERY" in env:
        return False
    may_use_tpu = "tpu" in env.get("JAX_PLATFORMS", "tpu")
    files = [*Path(devices).glob("accel*"), *Path(devices).glob("vfio/[0-9]*")]
    return may_use_tpu and bool(files) and find_spec("libtpu") is not None


def is_main_process() -> bool:
    """Tells whether this process is the one that logs and writes small files."""
    return jax.process_index() == 0


# Messages between processes are programs of their own, with collectives. Where a step
# is still running, the two may meet in another order on each process, which gloo ends
# with an error: wait for what was started (jax.block_until_ready) before sending any.


def agreed(flag: bool) -> bool:
    """Returns the flag of process 0 on every process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.int32(flag)))


def in_main_process(action: Callable[[], T]) -> T | None:
    """Runs an action in process 0; where it fails there, every process ends.

    Returns:
      What it returned; None in other processes.

    Raises:
      RuntimeError: in other processes, that process 0 failed; there, its own error.
    """
    result, error = None, None
    if is_main_process():
        try:
            result = action()
        except Exception as caught:
            error = caught
    if agreed(error is None):
        return result
    raise error or RuntimeError("process 0 failed; its error is in its output.")


def gathered(value: float) -> list[float]:
    """Returns the numbers of all processes, by process, on every process."""
    if jax.process_count() == 1:
        return [value]
    return multihost_utils.process_allgather(np.float32(value)).tolist()


def fetch(tree: PyTree) -> PyTree:
    """Returns global arrays whole, as NumPy, on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def is_everywhere(error: BaseException) -> bool:
    """Tells whether an error is one that all processes raise at the same step."""
    return getattr(error, "is_everywhere", False)


class Interrupted(SystemExit):
    """Raised after a run was asked to stop and has saved; ends the program quietly.

    `code` is 130 after Ctrl-C; after SIGTERM (a preemption: start the same command
    again) it is 0, or LDM_JAX_EXIT_WHEN_STOPPED where a launcher has to tell a run that
    was stopped from one that is done.
    """

    def __init__(self, step: int, signum: int):
        when_stopped = int(os.environ.get(EXIT_WHEN_STOPPED, 0))
        super().__init__(130 if signum == signal.SIGINT else when_stopped)
        self.step = step


class StopSignal:
    """Notes SIGTERM and Ctrl-C, so that the loop can save before it leaves.

    With many processes SIGTERM belongs to JAX's preemption service, which makes all of
    them stop at the same step; a handler of ours would disable it.

    A process that fails between two steps (a record it cannot read, say) leaves at
    once: were it to say goodbye to the others, who wait for it in the next step, all
    would hang for minutes.
    """

    def __init__(self):
        self._signum = None
        self._before = {}
        self._steps_began = False

    def __enter__(self):
        in_main_thread = threading.current_thread() is threading.main_thread()
        if jax.process_count() == 1 and in_main_thread:
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, kind, error, trace):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}
        is_alone = jax.process_count() > 1 and self._steps_began
        if is_alone and isinstance(error, Exception) and not is_everywhere(error):
            traceback.print_exception(kind, error, trace)
            print(f"process {jax.process_index()} failed and leaves", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    def _note(self, signum, _):
        if signum == self._signum == signal.SIGINT:  # asked twice: leave at once
            raise KeyboardInterrupt
        self._signum = signum
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nasked to stop: saves after this step\n")

    def requested(self, step: int) -> int | None:
        """Returns the signal that asked all processes to stop after `step`, or None."""
        self._steps_began = True
        if jax.process_count() == 1:
            return self._signum
        reached = multihost_utils.reached_preemption_sync_point(step)
        return signal.SIGTERM if reached else None
