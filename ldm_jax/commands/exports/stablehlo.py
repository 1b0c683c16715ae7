# SPDX-License-Identifier: Apache-2.0
"""Exports a model as StableHLO programs that run without this package.

The folder contains programs made by `jax.export`, for any batch size and for CPU, CUDA
and TPU. The weights are stored once and are arguments, so that they can be replaced:

    manifest.json      inputs and outputs of every program
    params.npz         the weights, by their flat names ("unet/conv_in/kernel")
    encoder.jaxexport  image -> moments and z_0
    decoder.jaxexport  z_0 -> image
    condition, null    raw condition -> inputs of the denoiser
    denoiser           z_t, t, condition -> prediction
    sampler            raw condition, key -> image: the whole loop, guidance included
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export
from tqdm import tqdm

from ldm_jax.conditions.keywords import read_keywords
from ldm_jax.files.formats.arrays import write_npz
from ldm_jax.files.writing import atomic_file
from ldm_jax.models.attention import attention
from ldm_jax.tasks.generate import generator
from ldm_jax.tasks.model import FirstStage, LatentDiffusion
from ldm_jax.tasks.sampling import Sampling
from ldm_jax.types import Array, Conditioning

PLATFORMS = ("cpu", "cuda", "tpu")
NETWORKS = ("autoencoder", "conditioner", "unet")

Shapes = dict[str, jax.ShapeDtypeStruct]


class Program(NamedTuple):
    """One function to export.

    Attributes:
      function: (params of `networks`, inputs by name) -> outputs by name.
      networks: entries of `params` that it reads.
      inputs: shapes [b, ...] and dtypes by name.
    """

    function: Callable[[Any, dict[str, Array]], dict[str, Array]]
    networks: tuple[str, ...]
    inputs: Shapes


def export_stablehlo(
    model: FirstStage,
    params,
    out,
    image_size: int | tuple[int, int],
    sampling: Sampling | None = None,
) -> list[pathlib.Path]:
    """Exports a model's programs and weights into a folder.

    Args:
      model, params: from `ldm_jax.load`.
      out: folder to write; made where it is missing.
      image_size: side of the images in pixels, or (height, width); it is fixed in the
        programs, as the batch size is not.
      sampling: how the sampler samples; a first stage alone has none.

    Returns:
      The paths written, the manifest last.

    Raises:
      ValueError: f does not divide the image size, `sampling` is missing or too much,
        or the params lack a network. Nothing is written.
    """
    programs = make_programs(model, params, image_size, sampling)
    exported = {
        name: _export(program, params)
        for name, program in tqdm(programs.items(), desc="programs", delay=3)
    }
    manifest = {
        "jax": jax.__version__,
        "platforms": PLATFORMS,
        "params": "params.npz",
        "image_size": image_size,
        "latent_scale": float(model.latent_scale),
        "sampling": None if sampling is None else sampling.to_dict(),
        "programs": {
            name: _describe(name, programs[name], exported[name]) for name in programs
        },
    }
    data = {name: program.serialize() for name, program in exported.items()}
    return _write(pathlib.Path(out), manifest, params, data)


def _write(folder, manifest, params, data) -> list[pathlib.Path]:
    weights = folder / manifest["params"]
    arrays: dict[str, Any] = {k: np.asarray(x) for k, x in _flat(params).items()}
    write_npz(weights, arrays.items(), sum(x.nbytes for x in arrays.values()))
    paths = [weights]
    for name, entry in manifest["programs"].items():
        paths.append(folder / entry["file"])
        with atomic_file(paths[-1]) as file:
            file.write(data[name])
    paths.append(folder / "manifest.json")
    with atomic_file(paths[-1]) as file:
        file.write((json.dumps(manifest, indent=2) + "\n").encode())
    return paths


def make_programs(
    model: FirstStage, params, image_size, sampling: Sampling | None = None
) -> dict[str, Program]:
    """Makes the programs of a model, of a symbolic batch size b; not traced yet.

    Args and errors: as `export_stablehlo`; of `params` only shapes are read.
    """
    _check(model, params, sampling)
    (b,) = export.symbolic_shape("b")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    image = (*size, model.autoencoder.in_channels)
    latent = (b, *model.autoencoder.latent_shape(image))
    image = (b, *image)
    programs = _first_stage_programs(model, image, latent)
    if sampling is not None:
        assert isinstance(model, LatentDiffusion)  # it alone is sampled
        y = _condition_inputs(model, image)
        programs |= _condition_programs(model, y)
        programs["denoiser"] = _denoiser_program(model, params, y, latent)
        programs["sampler"] = _sampler_program(model, y, latent, sampling)
    return programs


def _check(model, params, sampling) -> None:
    is_diffusion = isinstance(model, LatentDiffusion)
    if is_diffusion != (sampling is not None):
        raise ValueError(
            "sampling settings are needed for a diffusion model, and only for one: got "
            f"{type(model).__name__} and sampling={sampling}; "
            + ("give the settings." if is_diffusion else "leave it out.")
        )
    if model.autoencoder.bottleneck != "pixels" and not params.get("autoencoder"):
        raise ValueError(
            "the programs decode, so params need an autoencoder: got "
            f"{', '.join(sorted(params))}; put the first stage's model directory at "
            "autoencoder/ in that of the diffusion model."
        )


def _first_stage_programs(model, image, latent) -> dict[str, Program]:
    def encoder(params, inputs):
        moments = model.moments(params, inputs["image"])
        return {"moments": moments, "z_0": model.latent(moments)}

    def decoder(params, inputs):
        return {"image": model.decode(params, inputs["z_0"])}

    networks = ("autoencoder",)
    return {
        "encoder": Program(encoder, networks, {"image": _floats(image)}),
        "decoder": Program(decoder, networks, {"z_0": _floats(latent)}),
    }


def _condition_inputs(model: LatentDiffusion, image: tuple) -> Shapes:
    """Returns the shapes of the raw condition by keyword, for images [b, H, W, 3]."""
    condition = model.conditioner
    shapes = condition.shapes(image[0], image[1:3], model.autoencoder.f)
    return {condition.fields[name].keyword: x for name, x in shapes.items()}


def _condition_programs(model, y: Shapes) -> dict[str, Program]:
    """Makes the encoders of the raw condition and of its null, if there are any."""

    def encoder(encode):
        return lambda params, inputs: _present(encode(params, **inputs))

    networks = tuple(sorted({"conditioner", *model.conditioner.reads_frozen}))
    programs = {}
    if y:
        programs["condition"] = Program(encoder(model.condition), networks, y)
        if model.conditioner.has_null:
            programs["null"] = Program(encoder(model.null), networks, y)
    return programs


def _denoiser_program(model, params, y: Shapes, latent) -> Program:
    def denoiser(params, inputs):
        cond = {k: x for k, x in inputs.items() if k in Conditioning._fields}
        value = model.denoise(params, inputs["z_t"], inputs["t"], Conditioning(**cond))
        return {f"{model.prediction}_hat": value}

    cond = jax.eval_shape(lambda p, y: model.condition(p, **y), params, y)
    inputs = {"z_t": _floats(latent), "t": jax.ShapeDtypeStruct(latent[:1], jnp.int32)}
    return Program(denoiser, ("unet",), {**inputs, **_present(cond)})


def _sampler_program(model, y: Shapes, latent, sampling: Sampling) -> Program:
    generate = generator(model, latent[1:], sampling)

    def sampler(params, inputs):
        # Key data, not typed keys: those need JAX's own types on the other side.
        keys = jax.random.wrap_key_data(inputs["key"], impl="threefry2x32")
        fields = read_keywords(model.conditioner, {k: inputs[k] for k in y})
        return {"image": generate(params, fields, keys, {})}

    key = jax.ShapeDtypeStruct((latent[0], 2), jnp.uint32)
    return Program(sampler, NETWORKS, {**y, "key": key})


def _present(cond: Conditioning) -> dict[str, Any]:
    return {name: x for name, x in cond._asdict().items() if x is not None}


def _floats(shape) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _flat(params, networks=NETWORKS) -> dict[str, Any]:
    """Names the arrays of some networks by their paths, "unet/conv_in/kernel"."""
    kept = {name: params[name] for name in networks if name in params}
    return traverse_util.flatten_dict(kept, sep="/")


def _export(program: Program, params) -> export.Exported:
    """Traces and lowers a program for every platform; weights are its arguments."""

    def run(flat, inputs):
        nested = traverse_util.unflatten_dict(flat, sep="/")
        # A network without parameters leaves no name behind.
        return program.function(
            {name: nested.get(name, {}) for name in program.networks}, inputs
        )

    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
        _flat(params, program.networks),
    )
    with attention.portable():
        return export.export(jax.jit(run), platforms=PLATFORMS)(shapes, program.inputs)


def _describe(name, program: Program, exported: export.Exported) -> dict[str, Any]:
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)

    def shown(arrays: Mapping[str, Any]):
        return {
            key: {
                "shape": [n if isinstance(n, int) else str(n) for n in x.shape],
                "dtype": x.dtype.name,
            }
            for key, x in arrays.items()
        }

    return {
        "file": f"{name}.jaxexport",
        "params": program.networks,
        "inputs": shown(program.inputs),
        "outputs": shown(outputs),
    }
