# SPDX-License-Identifier: Apache-2.0
"""Initializes parameters from another model wherever they fit.

This serves fine-tuning with another f, another condition or more input channels.
Parameters of the same name and shape are taken. The weights of a first convolution for
additional input channels are zero, so that its output is unchanged at first.
"""

import dataclasses
import re
from collections.abc import Mapping

import jax
import numpy as np

from ldm_jax.files.errors import lined
from ldm_jax.parallel.sharding import path_name
from ldm_jax.types import PyTree

# Kernels [..., in, out] whose inputs are the network's own: the channels that a
# condition adds come after those of the latent or image.
WIDENED = re.compile(r"(^|/)conv_in/kernel$")


@dataclasses.dataclass(frozen=True)
class Taken:
    """Lists which arrays of a new model came from another one, by path with shapes.

    Attributes:
      taken: arrays of the same shape in both.
      widened: arrays with more input channels than in the other model; these are zero.
      made_new: arrays that the other model lacks, or has in another shape.
      left: arrays of the other model that are not used.
      share: parameters that came from the other model / all of the new model, [0, 1].
    """

    taken: list[str]
    widened: list[str]
    made_new: list[str]
    left: list[str]
    share: float

    def summary(self) -> str:
        """Summarizes the lists in one line."""
        parts = [
            f"{len(self.taken)} arrays taken ({self.share:.1%} of the numbers)",
            f"{len(self.widened)} widened by zeros",
            f"{len(self.made_new)} initialized",
            f"{len(self.left)} left",
        ]
        named = [*self.widened, *self.made_new]
        return ", ".join(parts) + lined(named[:8])


def take_params(
    new: PyTree, old: PyTree, source: str, widened: re.Pattern = WIDENED
) -> tuple[PyTree, Taken]:
    """Replaces parameters by those of another model wherever they fit.

    Args:
      new: parameters as drawn, an entry per network.
      old: parameters of the other model, on the host.
      source: where `old` is from, for errors.
      widened: paths of kernels [..., in, out] that are also taken where `new` has more
        input channels than `old`; the last ones become zero.

    Returns:
      (parameters, the lists of the arrays that were taken and of those that were not).

    Raises:
      ValueError: nothing fits.
    """
    old_params = _by_path(old)
    lists: dict[str, list[str]] = {"taken": [], "widened": [], "made_new": []}
    used, kept = set(), 0

    def choose(path, x):
        nonlocal kept
        name = path_name(path)
        value = old_params.get(name)
        if value is None:
            lists["made_new"].append(f"{name} {list(x.shape)}: not there")
            return x
        shapes = f"{name} {list(value.shape)} -> {list(x.shape)}"
        if value.shape == x.shape:
            lists["taken"].append(name)
        elif widened.search(name) and _adds_inputs(value.shape, x.shape):
            lists["widened"].append(shapes)
            extra = np.zeros(
                (*x.shape[:-2], x.shape[-2] - value.shape[-2], x.shape[-1])
            )
            value = np.concatenate([value, extra], axis=-2)
        else:
            lists["made_new"].append(shapes)
            return x
        used.add(name)
        kept += old_params[name].size
        return np.asarray(value, x.dtype)

    params = jax.tree_util.tree_map_with_path(choose, new)
    if not used:
        raise ValueError(
            f"no parameter of {source} fits this model: it has "
            f"{_shown(old_params)}, this model {_shown(_by_path(new))}; "
            "name another model directory in train.init_from, or leave it out."
        )
    left = [f"{n} {list(v.shape)}" for n, v in old_params.items() if n not in used]
    total = sum(x.size for x in jax.tree.leaves(new))
    return params, Taken(**lists, left=left, share=kept / total)


def _by_path(tree: PyTree) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): x for path, x in leaves}


def _adds_inputs(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """Returns whether [..., in, out] differ in `in` alone, and it grows."""
    if len(old) != len(new) or len(old) < 2:
        return False
    return (*old[:-2], old[-1]) == (*new[:-2], new[-1]) and old[-2] < new[-2]


def _shown(arrays: Mapping[str, np.ndarray]) -> str:
    """Names the first few arrays of a model."""
    shown = [f"{name} {list(x.shape)}" for name, x in arrays.items()][:3]
    return f"{', '.join(shown)}, ... ({len(arrays)} arrays)"
