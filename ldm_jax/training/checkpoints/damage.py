# SPDX-License-Identifier: Apache-2.0
"""Distinguishes damaged checkpoints from those that cannot be read for other reasons.

Lack of memory, of permissions or of a network is not damage: the run would lose a good
checkpoint if it were moved away for such a reason.
"""

import json
import math
import pathlib
import re
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.lock import Unusable
from ldm_jax.files.paths import is_remote, printable
from ldm_jax.files.write_errors import first_line
from ldm_jax.types import PyTree

# Without these, nothing can be read.
FILES = ("state/_METADATA", "state/manifest.ocdbt", "data/metadata")
# How tensorstore begins, or explains, an error about the bytes of a file. It has other
# codes where it lacks memory, rights or file handles.
BYTES = re.compile(
    r"^(DATA_LOSS|OUT_OF_RANGE|NOT_FOUND)\b|Error decoding|Truncated|Invalid JSON"
)


# Arrays of zeros are stored in a thousandth of their size; smaller ones do no harm.
MAX_RATIO, MAX_UNCHECKED_BYTES = 1000, 2**30


class Damaged(ValueError):
    """Raised when the content of a checkpoint is not what was saved."""


def proof_of_damage(error: Exception, checkpoint: epath.Path) -> str | None:
    """Returns the evidence that a checkpoint is damaged.

    Args:
      error: raised when it was read.
      checkpoint: its directory.

    Returns:
      The proof in a line; None where the error has, or may have, another cause.
    """
    for cause in _causes(error):
        text = first_line(cause).partition(" [tensorstore_spec")[0]
        if isinstance(cause, Damaged | json.JSONDecodeError) or BYTES.search(text):
            return text
        # With a locale of another encoding, undamaged files are unreadable, too.
        if isinstance(cause, UnicodeDecodeError) and cause.encoding == "utf-8":
            return text
    try:
        missing = [name for name in FILES if not (checkpoint / name).exists()]
        is_there = checkpoint.exists()
    except OSError:
        return None
    return f"it lacks {', '.join(missing)}" if missing and is_there else None


def check_claims(checkpoint: epath.Path, shapes: PyTree) -> None:
    """Refuses a checkpoint whose arrays would take far more memory than its files.

    Args:
      checkpoint: its directory.
      shapes: of its arrays, as its metadata tell.

    Raises:
      UnreadableFile: it is damaged, or made to exhaust memory.
    """
    leaves = jax.tree.leaves(shapes)
    claimed = sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in leaves)
    if claimed <= MAX_UNCHECKED_BYTES or is_remote(checkpoint):
        return
    stored = sum(path.stat().st_size for path in pathlib.Path(checkpoint).rglob("*"))
    if claimed > MAX_RATIO * stored:
        raise UnreadableFile(
            f"{printable(checkpoint)} must hold what it claims: its arrays have "
            f"{claimed:,} bytes, its files {stored:,}; it is damaged or made to "
            "exhaust memory. Get it again."
        )


def _causes(error: BaseException | None) -> Iterator[Exception]:
    """Yields an error and its causes."""
    while isinstance(error, Exception):
        yield error
        error = error.__cause__ or error.__context__


def unreadable(checkpoint: epath.Path, error: Exception) -> Unusable:
    """Makes the error for a checkpoint that is unreadable but may be undamaged."""
    return Unusable(
        f"the checkpoint {checkpoint} could not be read ({first_line(error)}). Nothing "
        "proves that it is damaged, so it stays where it is: remove the cause (a lack "
        "of memory or of rights, a network, a locale) and run this again, or move it "
        "away to use the one before."
    )
