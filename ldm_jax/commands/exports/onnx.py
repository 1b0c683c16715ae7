# SPDX-License-Identifier: Apache-2.0
"""Exports a model as ONNX files: encoder, decoder, denoiser and condition.

The folder contains one file per network, with its weights, for any batch size. Its
manifest.json describes their inputs and outputs, the noise schedule and the scale of
the latents, which is all that a sampler in NumPy needs. jax2onnx converts the networks
(extra: onnx).
"""

import logging
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ldm_jax.commands.exports.stablehlo import Program, make_programs
from ldm_jax.files.writing import atomic_file, write_json
from ldm_jax.models.attention import attention
from ldm_jax.tasks.model import FirstStage, LatentDiffusion
from ldm_jax.tasks.sampling import Sampling
from ldm_jax.types import Array, PyTree

# protobuf, in which ONNX files are written, ends at 2 GiB a file.
MAX_BYTES = 2**31


def export_onnx(
    model: FirstStage,
    params: PyTree,
    out: pathlib.Path,
    image_size: int | tuple[int, int],
    sampling: Sampling | None = None,
) -> list[pathlib.Path]:
    """Writes NAME.onnx for every program of a model, and manifest.json.

    Args:
      model, params: from `ldm_jax.load`.
      out: folder to write; made where it is missing.
      image_size: side of the images in pixels, or (height, width); it is fixed in the
        files, as the batch size is not.
      sampling: written into the manifest; a first stage alone has none.

    Returns:
      The paths written.

    Raises:
      ValueError: jax2onnx is not installed, the image size does not fit, or a network
        has more weights than one file may hold.
    """
    convert = _converter()
    out = pathlib.Path(out)
    left_out = {"sampler"}  # a loop with random numbers; NumPy runs it as well
    if model.autoencoder.bottleneck == "pixels":
        left_out |= {"encoder", "decoder"}  # z_0 is the image
    programs = make_programs(model, params, image_size, sampling)
    programs = {n: program for n, program in programs.items() if n not in left_out}
    for name, program in programs.items():
        _check_size(name, program, params)
    entries, paths = {}, []
    for name, program in tqdm(programs.items(), desc="programs", delay=3):
        outputs = _output_names(program, params)
        proto = _convert(convert, name, program, params, outputs)
        paths.append(out / f"{name}.onnx")
        with atomic_file(paths[-1]) as file:
            file.write(proto.SerializeToString())
        entries[name] = {"file": paths[-1].name, **_signature(program, outputs)}
    manifest = {"image_size": image_size, "latent_scale": float(model.latent_scale)}
    if isinstance(model, LatentDiffusion):
        manifest |= {
            "prediction": model.prediction,
            "alpha": np.asarray(model.schedule.sqrt_alphas_cumprod).tolist(),
            "sigma": np.asarray(model.schedule.sqrt_one_minus_alphas_cumprod).tolist(),
        }
    write_json(out / "manifest.json", {**manifest, "programs": entries})
    return [*paths, out / "manifest.json"]


def _converter() -> Any:
    try:
        from jax2onnx import to_onnx
    except ImportError as error:
        raise ValueError(
            "--to=onnx needs jax2onnx: pip install 'ldm_jax[onnx]'."
        ) from error
    return to_onnx


def _check_size(name: str, program: Program, params: PyTree) -> None:
    networks = {n: params[n] for n in program.networks if n in params}
    size = sum(np.asarray(x).nbytes for x in jax.tree.leaves(networks))
    if size >= MAX_BYTES:
        raise ValueError(
            f"an ONNX file holds less than 2 GiB: the {name} has "
            f"{size / 2**30:.1f} GiB of weights; use --to=stablehlo or --to=torch."
        )


def _call(program: Program, params: PyTree, arrays) -> dict[str, Any]:
    """Runs a program on arrays in the order of its inputs."""
    networks = {name: params.get(name, {}) for name in program.networks}
    return program.function(networks, dict(zip(program.inputs, arrays, strict=True)))


def _output_names(program: Program, params: PyTree) -> list[str]:
    shapes = jax.eval_shape(
        lambda *arrays: _call(program, params, arrays), *program.inputs.values()
    )
    return list(shapes)


def _convert(convert, name: str, program: Program, params: PyTree, outputs) -> Any:
    """Converts one program, its weights as constants."""

    def run(*arrays):
        values = _call(program, params, arrays)
        return tuple(_computed(values[output], arrays) for output in outputs)

    inputs = [
        jax.ShapeDtypeStruct(("B", *x.shape[1:]), x.dtype)
        for x in program.inputs.values()
    ]
    # One warning for each shape that it adds, which nothing needs the type of.
    log = logging.getLogger("onnx_ir")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with attention.portable():
            return convert(
                run,
                inputs,
                model_name=name,
                input_names=list(program.inputs),
                output_names=outputs,
            )
    finally:
        log.setLevel(level)


def _computed(value: Array, inputs: tuple[Array, ...]) -> Array:
    """Returns an output that is not an input itself, which ONNX gives one name only."""
    is_input = any(value is x for x in inputs)
    return value + jnp.zeros((), value.dtype) if is_input else value


def _signature(program: Program, outputs: list[str]) -> dict[str, Any]:
    inputs = {
        name: {"shape": ["B", *x.shape[1:]], "dtype": x.dtype.name}
        for name, x in program.inputs.items()
    }
    return {"inputs": inputs, "outputs": outputs}
