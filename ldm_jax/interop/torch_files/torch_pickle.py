# SPDX-License-Identifier: Apache-2.0
"""Reads the pickles of `torch.save` with substitutes, so that none of their code runs.

Functions that build tensors have substitutes in `rebuild`. Objects of known trainers,
which published checkpoints contain, become inert objects. Any other name is refused.
"""

import pathlib
from typing import Any

from ldm_jax.files.errors import UnreadableFile, shown
from ldm_jax.files.paths import printable
from ldm_jax.interop.torch_files import rebuild
from ldm_jax.interop.torch_files.rebuild import (
    ALL_STORAGES,
    MAX_SIZE,
    TORCH_DTYPES,
    Storage,
    StorageType,
    TorchDtype,
    Unreadable,
)
from ldm_jax.interop.torch_files.unpickler import (
    Dict,
    Function,
    Inert,
    SafeUnpickler,
    run_pickle,
)

# Packages whose objects occur in honest training checkpoints.
INERT_PACKAGES = frozenset(
    {
        *("pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"),
        *("torch", "torchmetrics", "numpy", "omegaconf", "ldm", "taming"),
        "transformers",
    }
)
_INERT_BUILTINS = (
    "set frozenset dict list tuple object int float complex bool str bytes bytearray "
    "slice"
)
INERT_NAMES = frozenset(
    {
        *(("typing", "Any"), ("collections", "defaultdict"), ("copyreg", "__newobj__")),
        *(("copyreg", "_reconstructor"), ("pathlib", "Path"), ("pathlib", "PosixPath")),
        *(("argparse", "Namespace"), ("datetime", "timedelta")),
        *(("builtins", name) for name in _INERT_BUILTINS.split()),
        *(("__builtin__", name) for name in _INERT_BUILTINS.split()),
    }
)
# Stand-ins that need nothing of the file.
STAND_INS = {
    ("collections", "OrderedDict"): Dict,
    ("torch", "Size"): Function(tuple),
    ("_codecs", "encode"): Function(rebuild.encode),
    ("numpy", "dtype"): rebuild.NumpyDtype,
    ("numpy.core.multiarray", "_reconstruct"): Function(rebuild.reconstruct),
    ("numpy._core.multiarray", "_reconstruct"): Function(rebuild.reconstruct),
}


class TorchUnpickler(SafeUnpickler):
    """Unpickler that resolves names from a list and storages from the file."""

    def __init__(
        self,
        path: pathlib.Path,
        pickled: bytes,
        offsets: dict[str, tuple[Any, int]],
    ):
        """Takes the path of the file, and {storage key: (offset, bytes)}."""
        super().__init__(pickled)
        self._path = path
        self.offsets = offsets
        self._known = {**STAND_INS, **rebuild.Rebuilder(path).functions()}

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in for a global; refuses one that weights do not need."""
        if (module, name) in self._known:
            return self._known[module, name]
        if module in ("torch", "torch.storage") and name in ALL_STORAGES:
            return StorageType(name)
        if module == "torch" and name in TORCH_DTYPES:
            return TorchDtype(name)
        if module == "torch._utils" and name.startswith("_rebuild"):
            return Function(lambda *_: Unreadable(name[:60]))
        if (module, name) in INERT_NAMES or module.split(".")[0] in INERT_PACKAGES:
            return type(name.split(".")[-1], (Inert,), {"__slots__": ()})
        raise UnreadableFile(
            f"{self._path} asks for {printable(module)}.{printable(name)}, which "
            "weights have no use for; nothing was run. If you trust the file, open it "
            "with PyTorch and save its state_dict as safetensors."
        )

    def persistent_load(self, pid: Any) -> Storage:
        """Finds the storage ("storage", dtype, key, device, numel) in the file."""
        key, dtype, numel = self.parse(pid)
        if key not in self.offsets:
            raise UnreadableFile(f"{self._path}: storage {shown(key)} is missing.")
        offset, size = self.offsets[key]
        if numel * dtype.itemsize > size:
            raise UnreadableFile(
                f'{self._path}: storage "{key}" must hold {numel} of {dtype}: it has '
                f"{size} bytes."
            )
        return Storage(offset, dtype, numel)

    def parse(self, pid: Any) -> tuple[Any, Any, Any]:
        """Returns (key, dtype, numel) of a storage's persistent id."""
        if type(pid) is not tuple or len(pid) not in (5, 6):
            raise UnreadableFile(f"{self._path}: unknown storage {shown(pid)}.")
        kind, storage_type, key, _, numel, *view = pid
        if (
            kind != "storage"
            or type(storage_type) is not StorageType
            or type(key) is not str
            or type(numel) is not int
            or not 0 <= numel < MAX_SIZE
            or any(entry is not None for entry in view)
        ):
            raise UnreadableFile(f"{self._path}: unknown storage {shown(pid)}.")
        return key, ALL_STORAGES[storage_type], numel


def unpickle(
    path: pathlib.Path,
    pickled: bytes,
    offsets: dict[str, tuple[Any, int]],
    unpickler: type[TorchUnpickler] = TorchUnpickler,
) -> Any:
    """Runs a pickle of `torch.save`.

    Args:
      path: of the file, for tensors and errors.
      pickled: the pickle.
      offsets: {key of a storage: (offset, bytes)}.
      unpickler: the class that runs it.

    Raises:
      UnreadableFile: the pickle is damaged, or asks for what weights do not need.
    """
    return run_pickle(path, pickled, lambda: unpickler(path, pickled, offsets))
