# SPDX-License-Identifier: Apache-2.0
"""Reads LPIPS weights from a file that `ldm-jax weights lpips` built.

The file is a .safetensors with the parameters of one or more trunks, by name of the
trunk: "vgg/trunk/conv_0/kernel".
"""

import dataclasses
import functools
import pathlib
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ldm_jax.files.formats.arrays import read_npz
from ldm_jax.interop.name_rows import parameter_shapes
from ldm_jax.interop.weight_files import read_weights
from ldm_jax.models.features.lpips import LPIPS, TRUNKS
from ldm_jax.types import PyTree


@functools.cache
def trunk_shapes(trunk: str) -> dict[str, tuple[int, ...]]:
    """Returns {path of a parameter: shape} of `LPIPS(trunk)`."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return parameter_shapes(LPIPS(trunk), image, image)


def read_arrays(path) -> Mapping[str, np.ndarray]:
    """Opens a .npz, or any file that `read_weights` reads, as {name: array}."""
    if pathlib.Path(path).suffix == ".npz":
        return read_npz(path)
    return read_weights(path)


def check_trunks(trunks: Collection[str]) -> None:
    """Raises ValueError for an unknown trunk."""
    unknown = sorted(set(trunks) - set(TRUNKS))
    if unknown:
        raise ValueError(
            f"unknown LPIPS trunk {unknown[0]!r}; one of: {', '.join(sorted(TRUNKS))}."
        )


@dataclasses.dataclass(frozen=True)
class LpipsFile:
    """Names a run's LPIPS weights; the section `lpips` of a first stage's config.

    Attributes:
      file: written by `ldm-jax weights lpips`; "" where there is none yet.
      fingerprint: of the parameters of the trunk in use; a run stores it, so that it is
        not resumed with others.
    """

    file: str = ""
    fingerprint: str | None = None

    def load(self, trunk: str) -> PyTree:
        """Reads the parameters of `LPIPS(trunk)`.

        Raises:
          ValueError: there is no such file, it is of another kind, or it has other
            trunks.
        """
        check_trunks([trunk])
        if not self.file or not pathlib.Path(self.file).is_file():
            raise ValueError(
                f'objective.perceptual="{trunk}" needs LPIPS weights: config.lpips.'
                f'file="{self.file}" is not a file; make one with `ldm-jax weights '
                f"lpips --download {trunk} --out FILE`, or set objective.perceptual to "
                '"none" to train without it, which makes images blurred.'
            )
        stored = read_arrays(self.file)
        shapes = trunk_shapes(trunk)
        wrong = [n for n, s in shapes.items() if _shape(stored, f"{trunk}/{n}") != s]
        if wrong:
            held = {name.partition("/")[0] for name in stored} & set(TRUNKS)
            raise ValueError(
                f"{self.file} must hold LPIPS weights of the trunk {trunk}: it lacks "
                f"{trunk}/{wrong[0]} of {shapes[wrong[0]]} and holds "
                f"{', '.join(sorted(held)) or 'no trunk'}; make a file with `ldm-jax "
                "weights lpips`."
            )
        flat = {name: np.array(stored[f"{trunk}/{name}"]) for name in shapes}
        return traverse_util.unflatten_dict(flat, sep="/")


def _shape(stored, name: str) -> tuple[int, ...] | None:
    return stored[name].shape if name in stored else None
