# SPDX-License-Identifier: Apache-2.0
"""Copies input files at URLs (gs://...) to this machine before a command runs.

Model directories, working directories, latents, prepared image sets and results are
read and written where they are; folders of other kinds need a disk.
"""

import argparse
import os
from typing import Any

# Arguments that name one file.
FILES = frozenset(
    (
        *("boxes", "captions", "database", "embeddings", "feature_weights", "files"),
        *("guide", "guide_lpips", "hole", "image", "known", "low_res", "lpips_weights"),
        *("mask", "merges", "picture", "prompt", "query", "reference", "results"),
        *("segmentation", "source", "start", "vocab"),
    )
)
# Arguments that name a folder which is read from a disk.
FOLDERS = frozenset(("clip_model", "data_dir", "manual_dir", "pairs", "snakefile"))


def copy_inputs(args: argparse.Namespace) -> None:
    """Replaces URLs of input files by the paths of copies, in place.

    Raises:
      ValueError: a folder that needs a disk is at a URL.
      MissingFile, StoreError: a file could not be read.
    """
    for name, value in vars(args).items():
        if name in FOLDERS and _is_url(value):
            from ldm_jax.files.paths import local

            local(value, f"--{name.replace('_', '-')}")
        if name in FILES:
            is_list = isinstance(value, list)
            values = [_copied(word) for word in (value if is_list else [value])]
            setattr(args, name, values if is_list else values[0])


def _copied(value: Any) -> Any:
    if not _is_url(value):
        return value
    from ldm_jax.files.stores.copies import local_copy

    return os.fspath(local_copy(value))


def _is_url(value: Any) -> bool:
    """Returns whether a value is the URL of a store (hf://... is not).

    Also one that lost a slash, which is refused by name where it is read.
    """
    schemes = ("gs:/", "s3:/", "az:/")
    return isinstance(value, str) and value.startswith(schemes)
