# SPDX-License-Identifier: Apache-2.0
"""Reads the statistics that torch-fidelity caches, without PyTorch and without trust.

They are `*-stat-fid-*.pt`: a zip of `torch.save` whose pickle holds two NumPy arrays,
"mu" and "sigma". Of all names a pickle may ask for, only the four that make an array
are answered, by stand-ins that make nothing else.
"""

import io
import pathlib
import pickle
import zipfile

import numpy as np

from ldm_jax.interop.stored import WeightsFileError

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
    path = pathlib.Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            if archive.getinfo(name).file_size > min(MAX_BYTES, path.stat().st_size):
                raise WeightsFileError(f"{path} is made to exhaust memory.")
            root = _Unpickler(io.BytesIO(archive.read(name))).load()
    except WeightsFileError:
        raise
    except Exception as error:  # whatever a damaged file provokes
        raise WeightsFileError(
            f"{path} holds no statistics of torch-fidelity ({type(error).__name__}: "
            f"{error}); they are *-stat-fid-*.pt of its cache."
        ) from None
    arrays = {n: getattr(x, "array", None) for n, x in _items(root)}
    if not all(isinstance(arrays.get(n), np.ndarray) for n in ("mu", "sigma")):
        raise WeightsFileError(f'{path} must hold "mu" and "sigma", NumPy arrays.')
    return {name: arrays[name] for name in ("mu", "sigma")}


def _items(root):
    return root.items() if isinstance(root, dict) else ()


class _DType:
    """Stands for a dtype: remembers its name."""

    def __init__(self, name="", *_):
        self.name = name

    def __setstate__(self, state):
        if state[1] not in ("<", "|", "="):
            raise WeightsFileError("only little-endian statistics are read.")


class _Array:
    """Stands for an array until its state comes."""

    array: np.ndarray

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, data = state
        order = "F" if is_fortran else "C"
        flat = np.frombuffer(data, DTYPES[dtype.name])
        self.array = flat.reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    """Python's way to write bytes in an old pickle."""
    if encoding != "latin1":
        raise WeightsFileError(f"bytes encoded as {encoding}.")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        """Answers four names, refuses any other."""
        is_numpy = module in (
            "numpy",
            "numpy.core.multiarray",
            "numpy._core.multiarray",
        )
        if is_numpy and name == "_reconstruct":
            return lambda *_: _Array()
        if is_numpy and name == "ndarray":
            return _Array
        if is_numpy and name == "dtype":
            return _DType
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise WeightsFileError(
            f"the file asks for {module}.{name}, which statistics have no use for; "
            "nothing was run."
        )
