# SPDX-License-Identifier: Apache-2.0
"""Opens files and folders of weights of other frameworks.

Files are not trusted: nothing in them is executed, and sizes are checked against the
file before memory is allocated.
"""

import os
import pathlib
from typing import Any

from ldm_jax.files.errors import UnreadableFile, impostor_bytes, shown
from ldm_jax.files.formats.arrays import check_num_arrays
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.paths import PathLike, printable
from ldm_jax.files.reading import opened
from ldm_jax.interop.flax_files import read_flax
from ldm_jax.interop.safetensors import read_safetensors
from ldm_jax.interop.stored import Weights
from ldm_jax.interop.torch_files.legacy_format import START, read_torch_legacy
from ldm_jax.interop.torch_files.state_dicts import state_dict
from ldm_jax.interop.torch_files.zip_format import read_torch
from ldm_jax.interop.wrappers import without_wrappers

# The names under which diffusers and transformers save a model, the safe ones first.
FOLDER_FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "diffusion_flax_model.msgpack",
    "flax_model.msgpack",
)
# Endings of files that are not read, with what to do about them.
OTHER_FILES = {
    ".fp16.safetensors": "half precision: rename it without .fp16",
    ".fp16.bin": "half precision: rename it without .fp16",
    ".non_ema.safetensors": "without averaging: rename it without .non_ema",
    ".non_ema.bin": "without averaging: rename it without .non_ema",
    ".onnx": "ONNX: get the PyTorch weights of the same model",
    ".h5": "TensorFlow: get the PyTorch weights of the same model",
    ".gguf": "GGUF: get the PyTorch weights of the same model",
    ".distcp": "torch.distributed.checkpoint: convert it with python -m "
    "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pth",
}
INDEX = ".index.json"


def read_weights(path: PathLike, key: str | None = None) -> Weights:
    """Opens a file or a folder of weights as a flat {name: array}.

    Args:
      path: a .safetensors, .ckpt, .pth, .pt or .bin file (the last four as written by
        `torch.save`), a .msgpack of Flax (which is read into memory), the index of
        shards (.index.json), or a folder that holds one model as diffusers,
        transformers and accelerate save it.
      key: where a file holds the tensors: the entry of a checkpoint ("model",
        "state.ema"), or what their names begin with ("first_stage_model"). None takes
        "state_dict", or the only entry that holds tensors.

    Returns:
      {name: ndarray}; arrays are mapped from the file on access. Names are without the
      parts that wrappers add (`wrappers`), which `notes` lists.

    Raises:
      MissingFile: there is nothing at `path`.
      UnreadableFile: the file is damaged, of an unknown kind, or unsafe, or holds
        nothing at `key`.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        path = _weights_in(path)
    is_index = path.name.endswith(INDEX)
    stored = state_dict(path, _read_shards(path) if is_index else _read_file(path), key)
    names, notes = without_wrappers(stored)
    return Weights({short: stored[name] for short, name in names.items()}, notes)


def _read_file(path: pathlib.Path) -> Any:
    """Reads the objects of a file of weights, whose kind its first bytes show."""
    with opened(path, "a file of weights") as file:
        start = file.read(512)
    if other := impostor_bytes(start):
        raise UnreadableFile(f"{printable(path)} must hold weights: {other}.")
    if start[:4] == b"PK\x03\x04":
        return read_torch(path)
    if start[:4] == START:
        return read_torch_legacy(path)
    if path.suffix == ".msgpack":
        return dict(read_flax(path).stored)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return dict(read_safetensors(path).stored)
    if path.suffix in OTHER_FILES:
        raise UnreadableFile(
            f"{printable(path)} must be written by PyTorch or safetensors: it is of "
            f"{OTHER_FILES[path.suffix]}."
        )
    raise UnreadableFile(
        f"{printable(path)} is neither a .safetensors file nor written by torch.save: "
        f"it starts with {start[:4]!r}. A plain pickle is not opened, since reading "
        "one can run any code; save it again with torch.save (1.6 or later) or as "
        "safetensors, where it was made. If the download was cut off, download it "
        "again."
    )


def holds_weights(folder: pathlib.Path) -> bool:
    """Returns whether a folder itself holds the weights of a model."""
    return _known_file(folder) is not None


def _known_file(folder: pathlib.Path) -> pathlib.Path | None:
    files = [folder / f"{name}{end}" for name in FOLDER_FILES for end in ("", INDEX)]
    return next((file for file in files if file.is_file()), None)


def _weights_in(folder: pathlib.Path) -> pathlib.Path:
    """Finds the weights in the folder of one model: a file, or the index of shards."""
    if file := _known_file(folder):
        _check_alone(file)
        return file
    others = [
        f"{printable(file.name)} ({what})"
        for ending, what in OTHER_FILES.items()
        for file in sorted(folder.glob(f"*{ending}"))
    ]
    here = f", only {', '.join(others[:4])}" if others else ""
    raise UnreadableFile(
        f"{printable(folder)} holds none of {', '.join(FOLDER_FILES)}{here}; name the "
        "folder of one model (of a pipeline, its unet/ or vae/)."
    )


def _check_alone(file: pathlib.Path) -> None:
    """Raises UnreadableFile for a folder of several models, as accelerate saves them.

    accelerate calls their files model.safetensors, model_1.safetensors ...
    """
    more = sorted(file.parent.glob(f"{file.stem}_[0-9]*{file.suffix}"))
    if more:
        names = ", ".join(printable(path.name) for path in (file, *more)[:4])
        raise UnreadableFile(
            f"{printable(file.parent)} holds several models: {names}; give the file "
            "of one."
        )


def _read_shards(index: pathlib.Path) -> dict[str, Any]:
    """Opens the shards an index names; they must be in its folder."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(
        isinstance(v, str) for v in names.values()
    ):
        raise UnreadableFile(
            f'{printable(index)} must hold "weight_map": {{name: file}}.'
        )
    check_num_arrays(index, len(names))
    stored = {}
    for file in sorted(set(names.values())):
        if file != os.path.basename(file) or file in ("", ".", "..") or "\\" in file:
            raise UnreadableFile(
                f'{printable(index)} names the file "{printable(file)}"; shards must '
                "be next to the index."
            )
        path = index.parent / file
        stored.update(state_dict(path, _read_file(path)))
    if set(stored) != set(names):
        odd = sorted(set(stored) ^ set(names))
        raise UnreadableFile(
            f"{printable(index)} and its shards differ in {shown(odd)}."
        )
    return stored
