# SPDX-License-Identifier: Apache-2.0
"""Reads the statistics that torch-fidelity caches, without PyTorch and without trust.

They are `*-stat-fid-*.pt`: a zip of `torch.save` whose pickle holds two NumPy arrays,
"mu" and "sigma". Of all names a pickle may ask for, only the four that make an array
are answered, by stand-ins that make nothing else.
"""

from typing import Any

import numpy as np

from ldm_jax.files.archives import ZipMembers
from ldm_jax.interop.stored import WeightsFileError
from ldm_jax.interop.torch_files.unpickler import (
    Function,
    SafeUnpickler,
    run_pickle,
)

# Statistics of 2,048 features take 34 MB; nothing honest is larger than this.
MAX_BYTES = 1 << 30
DTYPES = {"f8": np.float64, "f4": np.float32, "i8": np.int64}


def read_fidelity_cache(path) -> dict[str, np.ndarray]:
    """Reads cached statistics.

    Returns:
      {"mu": [D], "sigma": [D, D]}.

    Raises:
      WeightsFileError: the file is damaged, of another kind, or wants to run something.
    """
    advice = "Statistics of torch-fidelity are *-stat-fid-*.pt of its cache."
    try:
        with ZipMembers(path) as archive:
            (name,) = [name for name in archive.sizes if name.endswith("/data.pkl")]
            bound = min(MAX_BYTES, archive.path.stat().st_size)
            pickled = archive.read(name, bound)
    except ValueError as error:
        raise WeightsFileError(
            f"{path} holds no statistics of torch-fidelity ({error}). {advice}"
        ) from error
    root = run_pickle(path, pickled, lambda: _Unpickler(pickled))
    arrays = {n: x.array for n, x in _items(root) if type(x) is _Array}
    if not all(isinstance(arrays.get(n), np.ndarray) for n in ("mu", "sigma")):
        raise WeightsFileError(
            f'{path} must hold "mu" and "sigma", NumPy arrays. {advice}'
        )
    return {name: arrays[name] for name in ("mu", "sigma")}


def _items(root):
    return root.items() if isinstance(root, dict) else ()


class _DType:
    """Stands for a dtype: remembers its name."""

    __slots__ = ("name",)

    def __init__(self, name: Any = "", *_: Any):
        self.name = name if type(name) is str else ""

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or state[1] not in ("<", "|", "="):
            raise WeightsFileError("only little-endian statistics are read.")


class _Array:
    """Stands for an array until its state comes."""

    __slots__ = ("array",)

    def __init__(self, *_: Any):
        self.array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        if type(dtype) is not _DType or type(data) is not bytes:
            raise WeightsFileError("an array must be numbers: it is of objects.")
        order = "F" if is_fortran else "C"
        flat = np.frombuffer(data, DTYPES[dtype.name])
        self.array = flat.reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    """Python's way to write bytes in an old pickle."""
    if encoding != "latin1":
        raise WeightsFileError("bytes in another encoding than latin1.")
    return text.encode("latin1")


class _Unpickler(SafeUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Answers four names, refuses any other."""
        is_numpy = module in (
            "numpy",
            "numpy.core.multiarray",
            "numpy._core.multiarray",
        )
        if is_numpy and name == "_reconstruct":
            return Function(_Array)
        if is_numpy and name == "ndarray":
            return _Array
        if is_numpy and name == "dtype":
            return _DType
        if (module, name) == ("_codecs", "encode"):
            return Function(_encode)
        return super().find_class(module, name)
