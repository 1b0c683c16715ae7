# SPDX-License-Identifier: Apache-2.0
"""Names the partial results of writers, and removes those of killed ones.

A partial result is next to the result, `.NAME.HEX.partial`. That of a killed process is
hidden, is never read, and is removed by a later writer of the same name once it is a
day old.
"""

import contextlib
import pathlib
import re
import time
import uuid
from collections.abc import Callable

from ldm_jax.files.moving import remove
from ldm_jax.files.paths import PathLike, local

STALE_SECONDS = 24 * 3600.0
_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{32}\.partial", re.DOTALL)


def temporary_name(path: pathlib.Path) -> pathlib.Path:
    """Makes a name in the folder of `path` that no other writer uses.

    Not of the process id: in containers on several hosts it is often the same.
    """
    return path.with_name(f".{_stem(path)}.{uuid.uuid4().hex}.partial")


def remove_partials(
    folder: PathLike, is_of: Callable[[str], bool], seconds: float = STALE_SECONDS
) -> None:
    """Removes the partial results of killed writers from a folder.

    Args:
      folder: local.
      is_of: name of a result (its first 200 bytes) -> whether to remove what is left of
        it.
      seconds: how old it must be, as its writer may be alive; 0 where it cannot be.
    """
    for partial in local(folder).iterdir():
        match = _PARTIAL.fullmatch(partial.name)
        if match and is_of(match[1]):
            with contextlib.suppress(OSError):
                if time.time() - partial.stat().st_mtime >= seconds:
                    remove(partial)


def remove_stale_partials(path: pathlib.Path) -> None:
    """Removes the partial results of `path` that are at least a day old."""
    remove_partials(path.parent, _stem(path).__eq__)


def _stem(path: pathlib.Path) -> str:
    # A name may have 255 bytes; what is cut is not needed to tell writers apart.
    return path.name.encode()[:200].decode(errors="ignore")
