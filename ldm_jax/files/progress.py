# SPDX-License-Identifier: Apache-2.0
"""Shows a progress bar while a file is written."""

import os

from tqdm import tqdm

# Seconds before the bar appears.
DELAY = 3


def progress(path: os.PathLike[str] | str, num_bytes: int) -> tqdm:
    """Returns the bar of a file that is written; it appears after DELAY seconds."""
    name = f"writing {os.path.basename(path)}"
    return tqdm(desc=name, total=num_bytes, unit="B", unit_scale=True, delay=DELAY)
