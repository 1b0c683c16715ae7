# SPDX-License-Identifier: Apache-2.0
"""Removes prefixes that PyTorch's wrappers and outer modules add to tensor names."""

from collections.abc import Iterable, Mapping

import numpy as np

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.paths import printable
from ldm_jax.interop.stored import Renamed

# Parts of names that wrappers add: DistributedDataParallel, torch.compile, Lightning,
# FullyShardedDataParallel and activation checkpointing.
WRAPPERS = (
    "module",
    "_orig_mod",
    "_forward_module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
)


def without_wrappers(names: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Removes the parts of names that wrappers add, wherever they are.

    Args:
      names: "module.conv_in.weight".

    Returns:
      {name without wrappers: name}, and a sentence for each wrapper that was removed.

    Raises:
      UnreadableFile: two names are one without their wrappers.
    """
    result: dict[str, str] = {}
    removed: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        kept = [part for part in parts if part not in WRAPPERS]
        for part in {part for part in parts if part in WRAPPERS}:
            removed[part] = removed.get(part, 0) + 1
        short = ".".join(kept)
        if short in result:
            raise UnreadableFile(
                f'tensors "{printable(result[short])}" and "{printable(name)}" are one '
                f'without their wrappers, "{printable(short)}"; save the state_dict of '
                "the module that was wrapped."
            )
        result[short] = name
    notes = [f'Removed "{part}." from {n} names.' for part, n in removed.items()]
    return result, tuple(notes)


def below(weights: Mapping[str, np.ndarray], prefix: str) -> Renamed:
    """Takes the tensors whose names begin with a prefix, and removes it."""
    names = {n.removeprefix(prefix): n for n in weights if n.startswith(prefix)}
    return Renamed(weights, names)


def common_prefix(names: Iterable[str], expected: Iterable[str]) -> str | None:
    """Finds the prefix under which all expected names occur.

    Returns:
      "" if they occur as they are; "first_stage_model." or the like; None if they occur
      under no prefix, or under several.
    """
    names, expected = set(names), list(expected)
    if not expected or all(name in names for name in expected):
        return ""
    # The longest name is the least likely to end another one.
    probe = max(expected, key=len)
    prefixes = [n.removesuffix(probe) for n in names if n.endswith(f".{probe}")]
    matches = [p for p in prefixes if all(p + name in names for name in expected)]
    return matches[0] if len(matches) == 1 else None
