# SPDX-License-Identifier: Apache-2.0
"""What a command prints besides its own lines: warnings, and no error twice."""

import subprocess
import sys

import pytest

# Orbax and tensorstore after an array that cannot be written.
LIBRARIES = """
import asyncio, logging, sys, types
from ldm_jax.cli.terminal import set_up_output
set_up_output()
raising = compile("raise ValueError('no space')", "/site/orbax/future.py", "exec")
try:
    exec(raising)
except ValueError as error:
    record = logging.LogRecord(
        "absl", logging.ERROR, "/site/orbax/future.py", 1, "thread", (), sys.exc_info()
    )
    logging.getLogger("absl").handle(record)

class Late:
    def __init__(self, error):
        self.error = error
    def __del__(self):
        raise self.error

async def failing():
    raise ValueError("no space")

async def forgotten():
    asyncio.ensure_future(failing())
    await asyncio.sleep(0)

asyncio.run(forgotten())
Late(RuntimeError("Event loop is closed"))
print("--", file=sys.stderr)
logging.getLogger("absl").warning("record \\x1b[3 is left out")
try:
    raise ValueError("of another library")
except ValueError:
    logging.getLogger("other").exception("plugin")
Late(RuntimeError("of our own"))
"""


@pytest.fixture(scope="module")
def printed():
    def run(**variables):
        argv = [sys.executable, "-c", LIBRARIES]
        return subprocess.run(
            argv, capture_output=True, text=True, check=True, env=variables
        ).stderr

    return run


def test_an_error_that_orbax_logs_and_raises_is_not_printed_before(printed):
    before, after = printed().split("--\n")
    assert before == ""
    assert "record \\x1b[3 is left out\n" in after
    assert "plugin\nTraceback" in after and "ValueError: of another library" in after
    assert "RuntimeError: of our own" in after


def test_a_user_who_wants_tracebacks_gets_all(printed):
    before, _ = printed(LDM_JAX_TRACEBACK="1").split("--\n")
    assert "thread\nTraceback" in before and "Event loop is closed" in before
    assert "exception was never retrieved" in before


CLOSED = """
import os, sys
os.close(2)
sys.stderr = None
from ldm_jax.cli.terminal import set_up_output
set_up_output()
print("into nothing", file=sys.stderr)
with open(sys.argv[1], "w") as file:
    assert file.fileno() > 2
    os.write(2, b"a library's message")
"""


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    subprocess.run([sys.executable, "-c", CLOSED, tmp_path / "file"], check=True)
    assert (tmp_path / "file").read_text() == ""


INTERRUPTED = """
import gc, os, signal, time
from ldm_jax.cli.terminal import set_up_output
set_up_output()

def collected(phase, info):
    gc.callbacks.remove(collected)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)

gc.callbacks.append(collected)
try:
    gc.collect()
    time.sleep(20)
    print("lost")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_is_not_lost_in_a_callback_of_the_garbage_collector():
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True
    )
    assert (run.stdout, run.stderr) == ("interrupted\n", "")
