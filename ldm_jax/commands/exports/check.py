# SPDX-License-Identifier: Apache-2.0
"""Runs an exported model with the program it was exported for, and compares it.

Encoder, denoiser and decoder are called on random inputs. Where no other program runs a
format, its parameters are read back and compared.
"""

import importlib.util
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from ldm_jax.commands.exports.stablehlo import Program
from ldm_jax.files.formats.arrays import read_npz
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.reading import read_bytes
from ldm_jax.interop.convert import import_model
from ldm_jax.interop.own_files import flatten, read_own
from ldm_jax.training.checkpoints.compact import read_compact
from ldm_jax.types import PyTree

# Relative to the norm of the result: float32 of two frameworks differs by 1e-6, a wrong
# layer by more than 1e-2; half precision, --to=compact, by 5e-4.
LARGEST = 1e-3

Run = Callable[[str, Mapping[str, np.ndarray]], np.ndarray]


class Check(NamedTuple):
    """The program that ran an export, and the difference from this package.

    Attributes:
      consumer: the program that ran the model.
      differences: {part: ||exported - original|| / ||original||}.
    """

    consumer: str
    differences: dict[str, float]

    def __str__(self) -> str:
        parts = [f"{name} {x:.1e}" for name, x in self.differences.items()]
        return f"checked with {self.consumer}: relative difference {', '.join(parts)}"


def check_export(
    form: str, path: pathlib.Path, programs: Mapping[str, Program], params: PyTree
) -> Check:
    """Compares an exported model with ours.

    Args:
      form: what it was exported to.
      path: the file or folder.
      programs: of the model, see `make_programs`; {} where it has none.
      params: of the model.

    Raises:
      ImportError: what runs the form is not installed.
      ValueError: the difference is larger than `LARGEST`.
    """
    if form in READERS or not programs:
        consumer, exported = READERS.get(form, _read_back)(path)
        return check_params(consumer, path, exported, params)
    consumer, run = RUNNERS[form](path)
    differences = {
        name: _of_program(name, programs[name], params, run)
        for name in ("encoder", "denoiser", "decoder")
        if name in programs and _has_network(programs[name], params)
    }
    return _accepted(Check(consumer, differences), path)


def check_params(
    consumer: str, path: pathlib.Path, exported: PyTree, params: PyTree
) -> Check:
    """Compares parameters that were read back with ours.

    Args:
      consumer: what has read them.
      path: the file or folder.
      exported: the parameters.
      params: of the model.

    Raises:
      ValueError: the difference is larger than `LARGEST`.
    """
    differences = {"parameters": _of_trees(exported, params)}
    return _accepted(Check(consumer, differences), path)


def _accepted(check: Check, path: pathlib.Path) -> Check:
    wrong = [name for name, x in check.differences.items() if not x < LARGEST]
    if wrong:
        raise ValueError(
            f"an exported model must compute what ours does: {check}; do not use "
            f"{path}, and report this."
        )
    return check


def _has_network(program: Program, params: PyTree) -> bool:
    """Returns whether a program has parameters; the decoder of pixels has none."""
    return any(params.get(network) for network in program.networks)


def _of_trees(exported: PyTree, params: PyTree) -> float:
    """Returns the largest relative difference of a tensor."""
    original, exported = flatten(params), flatten(exported)
    if original.keys() != exported.keys():
        return float("inf")
    return max(_relative(exported[name], x) for name, x in original.items())


def _of_program(name: str, program: Program, params: PyTree, run: Run) -> float:
    rng = np.random.default_rng(0)
    inputs = {field: _draw(rng, field, x) for field, x in program.inputs.items()}
    networks = {n: params.get(n, {}) for n in program.networks}
    original = _result(jax.jit(program.function)(networks, inputs))
    return _relative(run(name, inputs), original)


def _result(outputs: Mapping[str, Any]) -> np.ndarray:
    """Takes the output that is compared: of an encoder z_0, else the only one."""
    return np.asarray(outputs.get("z_0", next(iter(outputs.values()))))


def _draw(rng, field: str, shape: jax.ShapeDtypeStruct) -> np.ndarray:
    """Draws an input of two rows."""
    axes = (2, *shape.shape[1:])
    if shape.dtype.kind == "i":  # time steps, or classes, of which there are two
        return np.array([1, 700] if field == "t" else [0, 1], shape.dtype)
    return rng.standard_normal(axes).astype(shape.dtype)


def _relative(exported: np.ndarray, original: np.ndarray) -> float:
    exported, original = (
        np.asarray(exported, np.float64),
        np.asarray(original, np.float64),
    )
    if exported.shape != original.shape:
        return float("inf")
    norm = np.linalg.norm(original)
    return float(np.linalg.norm(exported - original) / (norm if norm else 1.0))


def _in_torch(inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts arrays to PyTorch's tensors, channels first."""
    import torch

    return {
        name: torch.from_numpy(
            np.ascontiguousarray(np.moveaxis(x, -1, 1) if x.ndim == 4 else x)
        )
        for name, x in inputs.items()
    }


def _from_torch(x: Any) -> np.ndarray:
    return np.moveaxis(x.numpy(), 1, -1)


def _run_torch(path: pathlib.Path) -> tuple[str, Run]:
    import torch

    spec = importlib.util.spec_from_file_location("exported_model", path / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.load(path)

    def run(name: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            arrays = _in_torch(inputs)
            if name == "decoder":
                return _from_torch(model.decode(arrays["z_0"]))
            if name == "encoder":
                return _from_torch(model.encode(arrays["image"]))
            return _from_torch(model.unet(**arrays))

    return f"PyTorch {torch.__version__}", run


def _run_diffusers(path: pathlib.Path) -> tuple[str, Run]:
    import diffusers
    import torch

    def model(*names: str) -> Any:
        folder = next(path / n for n in names if (path / n / "config.json").is_file())
        kind = read_json(folder / "config.json")["_class_name"]
        return getattr(diffusers, kind).from_pretrained(folder)

    def run(name: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        arrays = _in_torch(inputs)
        with torch.no_grad():
            if name != "denoiser":
                stage = model("vqvae", "vae", "")
                scale = stage.config.scaling_factor
            if name == "decoder":
                return _from_torch(stage.decode(arrays["z_0"] / scale).sample)
            if name == "encoder":
                encoded = stage.encode(arrays["image"])
                is_vq = hasattr(encoded, "latents")
                z = encoded.latents if is_vq else encoded.latent_dist.mode()
                return _from_torch(scale * z)
            z_t = [arrays[n] for n in ("z_t", "concat") if n in arrays]
            names = {"context": "encoder_hidden_states", "class_label": "class_labels"}
            cond = {names[n]: arrays[n] for n in names if n in arrays}
            unet = model("unet")
            return _from_torch(unet(torch.cat(z_t, 1), arrays["t"], **cond).sample)

    return f"diffusers {diffusers.__version__}", run


def _run_onnx(path: pathlib.Path) -> tuple[str, Run]:
    import onnxruntime

    def run(name: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        session = onnxruntime.InferenceSession(path / f"{name}.onnx")
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, dict(inputs))
        return _result(dict(zip(names, values, strict=True)))

    return f"onnxruntime {onnxruntime.__version__}", run


def _run_stablehlo(path: pathlib.Path) -> tuple[str, Run]:
    programs = read_json(path / "manifest.json")["programs"]
    weights = read_npz(path / "params.npz")

    def run(name: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        program = programs[name]
        data = read_bytes(path / program["file"])
        exported = jax.export.deserialize(bytearray(data))
        names = [n for n in weights if n.split("/")[0] in program["params"]]
        params = {n: weights[n] for n in names}
        outputs: Any = exported.call(params, dict(inputs))  # the type says an array
        return _result(outputs)

    return f"JAX {jax.__version__}, from the files alone", run


def _read_safetensors(path: pathlib.Path) -> tuple[str, PyTree]:
    import safetensors.numpy

    flat: dict[str, np.ndarray] = {}
    for file in sorted(path.glob("*.safetensors")):
        flat |= safetensors.numpy.load_file(file)
    tree = traverse_util.unflatten_dict(flat, sep="/")
    return f"safetensors {safetensors.__version__}", tree


def _read_npz(path: pathlib.Path) -> tuple[str, PyTree]:
    return "ldm-jax import", read_own(path)[1]


def _read_orbax(path: pathlib.Path) -> tuple[str, PyTree]:
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(path.absolute() / "params")
    return f"orbax {ocp.__version__}", tree


def _read_compact(path: pathlib.Path) -> tuple[str, PyTree]:
    params = dict(read_compact(str(path)))
    if (path / "autoencoder").is_dir():
        params |= read_compact(str(path / "autoencoder"))
    return "ldm_jax.load, in half precision", params


def _read_back(path: pathlib.Path) -> tuple[str, PyTree]:
    return "ldm-jax import", import_model(path, which="raw").params


RUNNERS: dict[str, Callable[[pathlib.Path], tuple[str, Run]]] = {
    "diffusers": _run_diffusers,
    "onnx": _run_onnx,
    "stablehlo": _run_stablehlo,
    "torch": _run_torch,
}
READERS: dict[str, Callable[[pathlib.Path], tuple[str, PyTree]]] = {
    "compact": _read_compact,
    "compvis": _read_back,
    "npz": _read_npz,
    "orbax": _read_orbax,
    "safetensors": _read_safetensors,
}
