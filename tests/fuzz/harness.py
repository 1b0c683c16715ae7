# SPDX-License-Identifier: Apache-2.0
"""Feeds mutated files to a reader, in processes of bounded memory and time.

A reader may read an input or raise `UnreadableFile` with the file named. Anything else
is a failure: another exception, a signal, more than MAX_BYTES, more than MAX_SECONDS.
"""

import json
import multiprocessing
import os
import pathlib
import pickle
import random
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

from ldm_jax.files.errors import UnreadableFile
from tests.fuzz.mutate import Folder, mutated, write_folder

# Beyond what the process has mapped when it starts.
MAX_BYTES = 2 * 2**30
MAX_SECONDS = 10
# A reader that waits for something takes no time of the CPU.
MAX_WAIT_SECONDS = 60
# Of a message.
MAX_CHARACTERS = 3000


class Reader(NamedTuple):
    """A reader of foreign files.

    Attributes:
      seeds: makes whole inputs, each a folder {name: content}.
      read: reads such a folder.
      others: further exceptions that `read` may raise, with the reason in `readers`.
    """

    seeds: Callable[[], list[Folder]]
    read: Callable[[pathlib.Path], None]
    others: tuple[type[Exception], ...] = ()


class Failure(NamedTuple):
    """What a reader must not do: the number of the input, and what came."""

    index: int
    what: str


class Counts(NamedTuple):
    """What became of the inputs of a reader."""

    read: int
    refused: int
    failures: list[Failure]


def fuzz(name: str, seed: int, count: int, folder: pathlib.Path) -> Counts:
    """Feeds `count` mutated inputs to the reader of this name.

    Args:
      name: in `readers.READERS`.
      seed: equal seeds give equal inputs.
      count: of inputs; the seeds themselves, which must be readable, come first.
      folder: for the inputs; the last one stays there.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fuzz.readers"])
    log, read, refused, failures = folder / "log", 0, 0, []
    first = 0
    while first < count:
        log.write_text("")
        process = context.Process(target=_work, args=(name, seed, first, count, folder))
        process.start()
        process.join()
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        ended = [line for line in lines if line[1] != "begins"]
        read += sum(what == "read" for _, what in ended)
        refused += sum(what == "refused" for _, what in ended)
        failures += [Failure(i, w) for i, w in ended if w not in ("read", "refused")]
        if process.exitcode == 0:
            break
        index = lines[-1][0] if lines else first
        failures.append(Failure(index, f"ended by {_signal_name(process.exitcode)}"))
        first = index + 1
    return Counts(read, refused, failures)


def make_input(name: str, seed: int, index: int, seeds: list[Folder]) -> Folder:
    """Makes the input of a number: a seed as it is, or mutated."""
    if index < len(seeds):
        return seeds[index]
    return mutated(seeds, random.Random(f"{name}:{seed}:{index}"))


def _signal_name(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return {
        signal.SIGPROF: f"more than {MAX_SECONDS} s",
        signal.SIGALRM: f"a wait of more than {MAX_WAIT_SECONDS} s",
    }.get(-code, signal.Signals(-code).name)


def _work(name: str, seed: int, first: int, count: int, folder: pathlib.Path) -> None:
    """Reads inputs from `first` on, in a separate process; notes each in the log."""
    from tests.fuzz.readers import READERS

    reader = READERS[name]
    stored = folder / "seeds.pickle"
    if not stored.exists():
        stored.write_bytes(pickle.dumps(reader.seeds()))
    seeds = pickle.loads(stored.read_bytes())
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(folder / "log", "a", buffering=1) as log:
        for index in range(first, count):
            place = folder / "input"
            shutil.rmtree(place, ignore_errors=True)
            write_folder(place, make_input(name, seed, index, seeds))
            log.write(json.dumps([index, "begins"]) + "\n")
            what = _outcome(reader, place, is_whole=index < len(seeds))
            log.write(json.dumps([index, what]) + "\n")


def _outcome(reader: Reader, place: pathlib.Path, is_whole: bool) -> str:
    """Reads one input: "read", "refused", or the problem."""
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, MAX_WAIT_SECONDS)
    begin = time.process_time()
    try:
        reader.read(place)
        what = "read"
    except (UnreadableFile, *reader.others) as error:
        what = _problem(str(error), place) or "refused"
        if is_whole:
            what = f"a whole file is refused: {error}"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{pathlib.Path(last.filename).name}:{last.lineno}"
        what = f"{type(error).__name__} at {where}: {str(error)[:300]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.process_time() - begin
    return what if seconds < MAX_SECONDS else f"{seconds:.1f} s"


def _problem(message: str, place: pathlib.Path) -> str:
    """Returns the problem of a message: no file named, too long, not printable."""
    names = [path.name for path in place.rglob("*")] or ["input"]
    if not any(name in message for name in (*names, str(place))):
        return f"no file is named: {message[:300]}"
    if len(message) > MAX_CHARACTERS:
        return f"a message of {len(message)} characters: {message[:200]}"
    if not message.replace("\n", "").isprintable():
        return f"not printable: {message[:200]!r}"
    return ""
