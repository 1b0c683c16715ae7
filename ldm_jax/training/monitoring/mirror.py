# SPDX-License-Identifier: Apache-2.0
"""Writes the small files of a run locally, and copies them to remote storage.

Object stores cannot append to files, but event files grow all the time. So they are
written to a local folder and copied to the working directory with each checkpoint.
"""

import tempfile
from pathlib import Path

from etils import epath

from ldm_jax.files.paths import is_remote, resolve
from ldm_jax.files.writing import write_bytes

# What a run that resumes reads of its earlier attempts.
READ_BACK = ("metrics.jsonl", "evaluation.jsonl", "timing.jsonl", "wandb.json")


class Mirror:
    """A local copy of a remote working directory; a local one is used directly.

    Attributes:
      folder: where to write.
    """

    def __init__(self, workdir: str):
        """Makes the folder; nothing is copied yet."""
        self._remote = epath.Path(workdir) if is_remote(workdir) else None
        self._temporary = None
        self.folder = Path(resolve(workdir))
        if self._remote is not None:
            self._temporary = tempfile.TemporaryDirectory(prefix="ldm_jax_")
            self.folder = Path(self._temporary.name)
        self._copied: dict[Path, tuple[int, int]] = {}

    def fetch(self) -> None:
        """Copies the files of earlier attempts to this machine."""
        if self._remote is None:
            return
        for name in READ_BACK:
            if (self._remote / name).exists():
                write_bytes(self.folder / name, (self._remote / name).read_bytes())

    def push(self) -> None:
        """Copies every changed file to the remote folder."""
        if self._remote is None:
            return
        for path in self.folder.rglob("*"):
            seen = (path.stat().st_mtime_ns, path.stat().st_size)
            if path.is_file() and self._copied.get(path) != seen:
                target = self._remote / str(path.relative_to(self.folder))
                write_bytes(target, path.read_bytes())
                self._copied[path] = seen

    def close(self) -> None:
        """Copies the remaining files, and removes the local copy."""
        self.push()
        if self._temporary is not None:
            self._temporary.cleanup()
