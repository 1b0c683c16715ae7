# SPDX-License-Identifier: Apache-2.0
"""What a command prints besides its own lines: warnings, and no error twice."""

import contextlib
import os
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
from ldm_jax.cli.terminal import checked_streams, set_up_output
with checked_streams():
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


FULL = "/dev/full"
needs_full = pytest.mark.skipif(not os.path.exists(FULL), reason="no /dev/full")


def run_into(argv, **streams):
    """Runs `ldm-jax` with streams given by the path of a file."""
    command = [sys.executable, "-m", "ldm_jax.cli", *argv]
    with contextlib.ExitStack() as stack:
        files = {n: stack.enter_context(open(p, "w")) for n, p in streams.items()}
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE) | files
        return subprocess.run(command, text=True, **pipes)


@needs_full
@pytest.mark.parametrize("argv", [["configs"], ["--help"], ["sample", "--help"]])
def test_a_result_that_cannot_be_printed_is_one_line_and_exit_code_two(argv):
    run = run_into(argv, stdout=FULL)
    assert run.returncode == 2
    assert run.stderr == (
        "ldm-jax: standard output cannot be written: No space left on device; free "
        "space there, or send it to another file.\n"
    )


@needs_full
@pytest.mark.parametrize(
    ("argv", "code"),
    [(["configs"], 0), (["info", "./nothing"], 2), (["sample", "--num=x"], 2)],
)
def test_messages_that_cannot_be_printed_leave_the_exit_code(argv, code):
    assert run_into(argv, stderr=FULL).returncode == code


@needs_full
def test_two_full_streams_leave_the_exit_code():
    assert run_into(["configs"], stdout=FULL, stderr=FULL).returncode == 2


def test_a_reader_that_ends_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ldm_jax.cli", "configs"]
    run = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (run.returncode, run.stderr) == (141, b"")
