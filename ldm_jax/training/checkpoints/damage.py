# SPDX-License-Identifier: Apache-2.0
"""Distinguishes damaged checkpoints from those that cannot be read for other reasons.

Lack of memory, of permissions or of a network is not damage: the run would lose a good
checkpoint if it were moved away for such a reason.
"""

import json
import re
from collections.abc import Iterator

from etils import epath

from ldm_jax.files.write_errors import first_line

# Without these, nothing can be read.
FILES = ("state/_METADATA", "state/manifest.ocdbt", "data/metadata")
# How tensorstore begins, or explains, an error about the bytes of a file. It has other
# codes where it lacks memory, rights or file handles.
BYTES = re.compile(
    r"^(DATA_LOSS|OUT_OF_RANGE|NOT_FOUND)\b|Error decoding|Truncated|Invalid JSON"
)


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


def _causes(error: BaseException | None) -> Iterator[Exception]:
    """Yields an error and its causes."""
    while isinstance(error, Exception):
        yield error
        error = error.__cause__ or error.__context__
