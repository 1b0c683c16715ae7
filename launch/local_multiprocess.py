# SPDX-License-Identifier: Apache-2.0
"""Starts one command as several processes of one run, on this machine.

    python launch/local_multiprocess.py --processes=2 -- ldm-jax train --config=...

For trying out what a pod does: the processes find each other on a local port and,
on CPUs, exchange data by gloo. Every line is printed with the number of its process.
If one process fails the others are stopped; SIGTERM and Ctrl-C are handed on.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 60.0


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the first exit status that is not 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--devices-per-process",
        type=int,
        help="CPU devices that each process pretends to have",
    )
    parser.add_argument("command", nargs="+", help="after --")
    args = parser.parse_args(argv)
    children = start(args.command, args.processes, args.devices_per_process)

    def hand_on(signum, _):
        for child in children:
            if child.poll() is None:
                child.send_signal(signum)

    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGINT, hand_on)
    return wait(children)


def start(
    command: list[str], processes: int, devices: int | None = None
) -> list[subprocess.Popen]:
    """Starts the processes; LDM_JAX_* variables hold the index of each."""
    env = dict(os.environ, LDM_JAX_NUM_PROCESSES=str(processes))
    env["LDM_JAX_COORDINATOR"] = f"localhost:{_free_port()}"
    if devices is not None:
        flag = f"--xla_force_host_platform_device_count={devices}"
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {flag}"
        env["JAX_PLATFORMS"] = "cpu"
    children = []
    for index in range(processes):
        child = subprocess.Popen(
            command,
            env={**env, "LDM_JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A terminal sends Ctrl-C to the whole group: it shall come once, from us.
            start_new_session=True,
        )
        threading.Thread(target=_print_lines, args=(index, child)).start()
        children.append(child)
    return children


def wait(children: list[subprocess.Popen]) -> int:
    """Waits for all; stops the rest when one fails."""
    while True:
        states = [child.poll() for child in children]
        failed = [state for state in states if state]
        if failed:
            for child in children:
                child.terminate()
            for child in children:
                try:
                    child.wait(GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    child.kill()
            return failed[0]
        if all(state == 0 for state in states):
            return 0
        time.sleep(0.2)


def _print_lines(index: int, child: subprocess.Popen) -> None:
    for line in child.stdout:
        print(f"[{index}] {line}", end="", flush=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
