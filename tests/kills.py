# SPDX-License-Identifier: Apache-2.0
"""Where a process can be killed: at each of its operations on files."""

import os
import signal
import sys

# Events that Python reports to audit hooks before they happen; "open" also reads.
OPERATIONS = ("open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir")


def kill_at_operation(number, folder):
    """Kills this process before its `number`-th operation on files in `folder`.

    Without a clock: the same number is the same place in every run, in all threads.
    Whatever `shutil.rmtree` removes counts, which names it from within.

    Args:
      number: of the operation; 0 kills nothing.
      folder: whose files count.

    Returns:
      A function that returns how many operations were done.
    """
    done = 0

    def count(event, args):
        nonlocal done
        if event not in OPERATIONS:
            return
        is_in_rmtree = event in ("os.remove", "os.rmdir") and args[-1] != -1
        if is_in_rmtree or str(args[0]).startswith(str(folder)):
            done += 1
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    return lambda: done
