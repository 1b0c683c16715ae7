# SPDX-License-Identifier: Apache-2.0
"""Joins the processes of a run, and exchanges small values among them."""

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ldm_jax.files.lock import Unusable
from ldm_jax.parallel import environment
from ldm_jax.types import PyTree

T = TypeVar("T")

# Variables of schedulers that contain the number of processes, or list their hosts.
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_LISTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
_MULTISLICE = "MEGASCALE_COORDINATOR_ADDRESS"


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
        end with an error; None is LDM_JAX_HEARTBEAT_SECONDS, or 100.

    Raises:
      ValueError: only some of the three are given or they do not fit, a variable of
        the shell has a value that cannot work, or a scheduler reports several
        processes that it has not started.
    """
    environment.check_environment()
    coordinator = coordinator or os.environ.get(environment.COORDINATOR)
    if num_processes is None:
        num_processes = environment.whole_number(environment.NUM_PROCESSES)
    if process_id is None:
        process_id = environment.whole_number(environment.PROCESS_ID)
    _check_processes(coordinator, num_processes, process_id)
    if coordinator is None and not in_cluster(os.environ):
        environment.check_devices()
        return
    if heartbeat_seconds is None:
        heartbeat_seconds = environment.whole_number(environment.HEARTBEAT_SECONDS)
    # CPU devices have no own network.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=heartbeat_seconds or 100,
        )
    except ValueError as error:
        if coordinator is not None:
            raise
        raise ValueError(_not_started(os.environ)) from error
    environment.check_devices()


def _check_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Checks that all three are given, or none, and that this process is one of them.

    Raises:
      ValueError: otherwise.
    """
    given = [x is not None for x in (coordinator, num_processes, process_id)]
    if any(given) != all(given):
        raise ValueError(
            "a run of many processes needs coordinator, num_processes and process_id: "
            f"got {coordinator}, {num_processes}, {process_id}; set all of "
            f"{environment.COORDINATOR}, {environment.NUM_PROCESSES} and "
            f"{environment.PROCESS_ID}, or none."
        )
    if num_processes is None or process_id is None:
        return
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"process_id must be in [0, {num_processes}), the number of processes: got "
            f"{process_id}; correct {environment.PROCESS_ID} or "
            f"{environment.NUM_PROCESSES}."
        )


def _not_started(env: Mapping[str, str]) -> str:
    """Returns the error of several processes of which JAX finds no coordinator."""
    names = [name for name in (*_COUNTS, *_LISTS, _MULTISLICE) if name in env]
    shown = ", ".join(f"{name}={env[name]}" for name in names) or "TPU chips"
    start = "srun" if "SLURM_NTASKS" in env else "the cluster's launcher"
    alone = "SLURM_NTASKS=1" if "SLURM_NTASKS" in env else f"without {shown}"
    return (
        f"{shown} means several processes, but this one was not started as one of "
        f"them: start it by {start} (see launch/), set {environment.COORDINATOR}, "
        f"{environment.NUM_PROCESSES} and {environment.PROCESS_ID}, or run one "
        f"process alone with {alone}."
    )


def in_cluster(env: Mapping[str, str], devices: str = "/dev") -> bool:
    """Returns whether a cluster has started, or may have, other processes of this run.

    Args:
      env: the environment.
      devices: folder of device files.

    Raises:
      ValueError: a variable that should be a number is none.
    """
    if (
        any(_count(env, name) > 1 for name in _COUNTS)
        or any("," in env.get(name, "") for name in _LISTS)
        or _MULTISLICE in env
    ):
        return True
    # No variable lists the hosts of a pod of TPU VMs: JAX asks the metadata
    # server. Without that each host would train alone, in one directory.
    if any(name in env for name in _LISTS) or "TPU_SKIP_MDS_QUERY" in env:
        return False
    may_use_tpu = "tpu" in env.get("JAX_PLATFORMS", "tpu")
    files = [*Path(devices).glob("accel*"), *Path(devices).glob("vfio/[0-9]*")]
    return may_use_tpu and bool(files) and find_spec("libtpu") is not None


def _count(env: Mapping[str, str], name: str) -> int:
    """Reads a scheduler's number of processes; 1 where it is not set."""
    text = env.get(name, "1")
    if not text.isdecimal():
        raise ValueError(f"{name} must be a number of processes: got {text!r}.")
    return int(text)


def is_main_process() -> bool:
    """Returns whether this process is the one that logs and writes small files."""
    return jax.process_index() == 0


# The functions below run programs with collectives. While a training step still runs,
# their collectives may start in another order on each process, which gloo reports as an
# error: call jax.block_until_ready on the step's result first.


def agreed(flag: bool) -> bool:
    """Returns the flag of process 0 on every process."""
    return bool(_of_main_process(flag))


def in_main_process(action: Callable[[], T]) -> T | None:
    """Runs an action in process 0; if it fails, every process ends.

    Returns:
      What it returned; None in other processes.

    Raises:
      ValueError, RuntimeError: in other processes, that process 0 refused the user's
        input, or failed otherwise. There, its own error.
    """
    result, error = None, None
    if is_main_process():
        try:
            result = action()
        except Exception as caught:
            error = caught
    # All processes end with the same exit code, so that none is started again alone.
    is_input = isinstance(error, (ValueError, TypeError, OSError, Unusable))
    failure = _of_main_process(0 if error is None else 1 if is_input else 2)
    if failure == 0:
        return result
    if error is not None:
        raise error
    kind = ValueError if failure == 1 else RuntimeError
    raise kind("process 0 failed; its error is in its output.")


def _of_main_process(value: int) -> int:
    """Returns a whole number of process 0 on every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def gathered(value: float) -> list[float]:
    """Returns the values of all processes, in their order, on every process."""
    if jax.process_count() == 1:
        return [value]
    return multihost_utils.process_allgather(np.float32(value)).tolist()


def fetch(tree: PyTree) -> PyTree:
    """Returns global arrays in full, as NumPy arrays, on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
