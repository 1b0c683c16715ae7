# SPDX-License-Identifier: Apache-2.0
"""One command, several processes: numbered, printed by number, ended together.

What the processes of a training run do with each other: tests/parallel/test_hosts.py.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

LAUNCHER = pathlib.Path(__file__).parents[2] / "launch" / "local_multiprocess.py"
PRINTS = """
import os
names = ("COORDINATOR", "NUM_PROCESSES", "PROCESS_ID")
print(*[os.environ["LDM_JAX_" + name] for name in names], os.environ["XLA_FLAGS"])
"""
ONE_FAILS = """
import os, sys, time
if os.environ["LDM_JAX_PROCESS_ID"] == "1":
    sys.exit(7)
time.sleep(60)
"""
WAITS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("ready", flush=True)
time.sleep(60)
"""


def launch(program, processes=2, *flags):
    return subprocess.Popen(
        [
            *(sys.executable, str(LAUNCHER), f"--processes={processes}", *flags, "--"),
            *(sys.executable, "-c", program),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XLA_FLAGS": ""},
    )


def test_every_process_gets_its_number_and_its_devices():
    launcher = launch(PRINTS, 3, "--devices-per-process=2")
    lines = sorted(launcher.communicate(timeout=60)[0].splitlines())
    assert launcher.returncode == 0
    addresses = {line.split()[1] for line in lines}
    assert len(addresses) == 1 and addresses.pop().startswith("localhost:")
    reported = [[line.split()[0], *line.split()[2:4]] for line in lines]
    assert reported == [[f"[{i}]", "3", str(i)] for i in range(3)]
    assert all(line.endswith("host_platform_device_count=2") for line in lines)


def test_when_one_fails_the_others_are_ended_and_its_code_is_handed_on():
    begin = time.monotonic()
    launcher = launch(ONE_FAILS, 3)
    launcher.communicate(timeout=60)
    assert launcher.returncode == 7 and time.monotonic() - begin < 30


def test_a_request_to_stop_reaches_every_process():
    launcher = launch(WAITS)
    assert launcher.stdout is not None
    ready = [launcher.stdout.readline() for _ in range(2)]
    assert sorted(ready) == ["[0] ready\n", "[1] ready\n"]
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=60)
    assert launcher.returncode == 0
