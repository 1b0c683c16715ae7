# SPDX-License-Identifier: Apache-2.0
"""Reads the statistics that torch-fidelity caches, without PyTorch.

The files, `*-stat-fid-*.pt`, are zip files of `torch.save` whose pickle holds two NumPy
arrays, "mu" and "sigma".
"""

import pathlib

import numpy as np

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.paths import PathLike, printable
from ldm_jax.files.reading import regular_file
from ldm_jax.interop.torch_files.rebuild import NumpyArray
from ldm_jax.interop.torch_files.zip_format import read_torch

# Statistics of 2,048 features take 34 MB.
MAX_BYTES = 2**30


def read_fidelity_cache(path: PathLike) -> dict[str, np.ndarray]:
    """Reads cached statistics.

    Returns:
      {"mu": [D], "sigma": [D, D]}.

    Raises:
      UnreadableFile: the file is damaged, of another kind, or unsafe.
    """
    path = regular_file(pathlib.Path(path), "a cache of torch-fidelity")
    if path.stat().st_size > MAX_BYTES:
        raise UnreadableFile(
            f"{printable(path)} is larger than any statistics of torch-fidelity."
        )
    root = read_torch(path)
    entries = root if isinstance(root, dict) else {}
    arrays = {
        name: entries[name].value
        for name in ("mu", "sigma")
        if type(entries.get(name)) is NumpyArray
    }
    if len(arrays) < 2 or any(array is None for array in arrays.values()):
        raise UnreadableFile(
            f'{printable(path)} must hold "mu" and "sigma", NumPy arrays: it is no '
            "*-stat-fid-*.pt of torch-fidelity's cache."
        )
    return arrays
