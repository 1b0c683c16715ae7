# SPDX-License-Identifier: Apache-2.0
"""Exported programs, run by JAX alone, compute what this package computes."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.commands.exports.stablehlo import export_stablehlo, make_programs
from ldm_jax.diffusion.samplers.base import seed_keys
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.tasks.generate import make_generate
from ldm_jax.tasks.model import FirstStage
from ldm_jax.tasks.sampling import make_sampling
from tests.tasks.test_model import tiny_model

RUNNER = pathlib.Path(__file__).with_name("stablehlo_runner.py").read_text()
SAMPLING = make_sampling(num_steps=4, eta=0.5, guidance_scale=2.0)
SIZE = 16  # pixels; f = 2 makes latents of 8x8x2

# Runs every program on inputs from a file, for each batch size; nothing but JAX and
# NumPy can be imported.
USE = """
inputs = np.load("inputs.npz")
outputs = {}
manifest = json.loads(pathlib.Path("model/manifest.json").read_text())
for name, program in manifest["programs"].items():
    run = load("model", name)
    for size in (1, 3):
        rows = {field: inputs[field][:size] for field in program["inputs"]}
        for key, value in run(**rows).items():
            outputs[f"{name}/{key}/{size}"] = np.asarray(value)
np.savez("outputs.npz", **outputs)
"""


def param_shapes(model, **y):
    """Shapes of a diffusion model's parameters; y has one row of each field."""

    def init():
        key = jax.random.key(0)
        image = jnp.zeros((1, SIZE, SIZE, 3))
        z_0 = jnp.zeros(model.autoencoder.latent_shape(image.shape))
        params = {"autoencoder": {}}
        if model.autoencoder.bottleneck != "pixels":
            params["autoencoder"] = model.autoencoder.init(key, image)["params"]
        params["conditioner"] = model.conditioner.init(key, y)
        cond = model.encode_condition(params, y)
        params["unet"] = model.unet.init(key, z_0, jnp.zeros(1), cond)["params"]
        return params

    return jax.eval_shape(init)


def draw(shapes):
    """Draws every parameter, since layers that start at zero would hide mistakes."""
    rng = np.random.default_rng(0)

    def array(path, shape):
        x = rng.standard_normal(shape.shape).astype(np.float32)
        x *= np.prod(shape.shape[:-1]) ** -0.5 if len(shape.shape) > 1 else 0.1
        return x + 1 if path[-1].key == "scale" else x

    return jax.tree_util.tree_map_with_path(array, shapes)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = tiny_model()
    params = draw(param_shapes(model, label=jnp.zeros(1, jnp.int32)))
    folder = tmp_path_factory.mktemp("exported")
    export_stablehlo(model, params, folder / "model", SIZE, SAMPLING)
    return model, params, folder


def test_jax_alone_runs_every_program_at_any_batch_size(exported):
    """Identity: the documented runner, in a process without this package."""
    model, params, folder = exported
    rng = np.random.default_rng(1)
    image = rng.uniform(-1, 1, (3, SIZE, SIZE, 3)).astype(np.float32)
    z = rng.standard_normal((3, 8, 8, 2)).astype(np.float32)
    label, t = np.array([2, 0, 1], np.int32), np.array([999, 0, 500], np.int32)
    cond = model.condition(params, class_label=label)
    null = model.null(params, class_label=label)
    keys = seed_keys([7, 8, 9])
    inputs = dict(image=image, z_0=z, z_t=z, t=t, class_label=label)
    inputs |= dict(context=cond.context, key=jax.random.key_data(keys))
    np.savez(folder / "inputs.npz", **inputs)
    # Compiled 14 times for one run each.
    fast = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    barred = "import sys; sys.modules.update(ldm_jax=None, flax=None, orbax=None)\n"
    command = [sys.executable, "-c", barred + RUNNER + USE]
    subprocess.run(command, cwd=folder, env=fast, check=True)
    outputs = np.load(folder / "outputs.npz")
    generate = make_generate(model, (8, 8, 2), SAMPLING)
    moments = jax.jit(model.moments)(params, image)
    expected = {
        "encoder/moments": moments,
        "encoder/z_0": model.latent(moments),
        "decoder/image": jax.jit(model.decode)(params, z),
        "condition/context": cond.context,
        "null/context": null.context,
        "denoiser/eps_hat": jax.jit(model.denoise)(params, z, t, cond),
        "sampler/image": generate(params, {"label": label}, keys, {}),
    }
    assert set(outputs) == {f"{name}/{size}" for name in expected for size in (1, 3)}
    for name, value in expected.items():
        for size in (1, 3):
            # Another batch size may be summed in another order: float32 rounding.
            np.testing.assert_allclose(
                outputs[f"{name}/{size}"], value[:size], rtol=1e-5, atol=1e-5
            )


def test_programs_hold_no_weights_and_know_three_platforms(exported):
    _, params, folder = exported
    manifest = json.loads((folder / "model/manifest.json").read_text())
    num_bytes = sum(x.nbytes for x in jax.tree.leaves(params))
    for entry in manifest["programs"].values():
        data = (folder / "model" / entry["file"]).read_bytes()
        program = jax.export.deserialize(bytearray(data))
        assert program.platforms == ("cpu", "cuda", "tpu")
        assert len(data) < num_bytes / 3
    sampler = manifest["programs"]["sampler"]
    assert sampler["inputs"]["key"] == {"shape": ["b", 2], "dtype": "uint32"}
    assert sampler["outputs"]["image"]["shape"] == ["b", SIZE, SIZE, 3]


def test_the_runner_is_at_most_20_lines():
    assert len(RUNNER.splitlines()) <= 20


PIXELS = Autoencoder(bottleneck="pixels")
TEXT = dict(kind="text", width=8, depth=1, length=5)
LABEL_MAP = dict(kind="semantic", num_classes=3, f=1)
# kind -> fields of the condition, widths of context and concat, shapes of the inputs.
CONDITIONS = {
    "none": (dict(kind="none"), (None, 0), {}),
    "layout": (
        dict(kind="layout", num_classes=3, width=8, depth=1, max_objects=2),
        (8, 0),
        {"tokens": (8,)},
    ),
    "superres": (dict(kind="superres"), (None, 3), {"low_res": (SIZE, SIZE, 3)}),
    "inpaint": (
        dict(kind="inpaint", autoencoder=PIXELS),
        (None, 4),
        {"image": (SIZE, SIZE, 3), "mask": (SIZE, SIZE, 1)},
    ),
    "hybrid": (
        dict(kind="hybrid", parts={"words": TEXT, "map": LABEL_MAP}),
        (8, 3),
        {"tokens": (5,), "label_map": (SIZE, SIZE)},
    ),
}


@pytest.mark.parametrize("kind", sorted(CONDITIONS))
def test_every_condition_is_traced_for_any_batch_size(kind):
    fields, (context, concat), shapes = CONDITIONS[kind]
    model = tiny_model(**fields)
    unet = model.unet.clone(context_dim=context, in_channels=3 + concat, out_channels=3)
    model = dataclasses.replace(model, autoencoder=PIXELS, unet=unet)
    dtypes = {"tokens": jnp.int32, "label_map": jnp.int32}
    y = {k: jnp.zeros((1, *s), dtypes.get(k, jnp.float32)) for k, s in shapes.items()}
    params = param_shapes(model, **y)
    programs = make_programs(model, params, SIZE, SAMPLING)
    assert ("condition" in programs) == ("null" in programs) == (kind != "none")
    inputs = programs["sampler"].inputs
    shapes_traced = {k: x.shape[1:] for k, x in inputs.items() if k != "key"}
    keywords = {k: model.conditioner.fields[k].keyword for k in shapes}
    assert shapes_traced == {keywords[k]: shape for k, shape in shapes.items()}
    for name, program in programs.items():
        read = {network: params[network] for network in program.networks}
        outputs = jax.eval_shape(program.function, read, program.inputs)
        assert {str(x.shape[0]) for x in outputs.values()} == {"b"}, name


def test_tiles_thresholds_and_codebooks_are_traced_for_any_batch_size():
    model = tiny_model()
    stage = model.autoencoder.clone(bottleneck="vq", num_codes=8)
    model = dataclasses.replace(model, autoencoder=stage)
    params = param_shapes(model, label=jnp.zeros(1, jnp.int32))
    sampling = make_sampling(
        num_steps=4,
        guidance_scale=2.0,
        guidance_rescale=0.5,
        guidance_interval=(100, 900),
        threshold=0.9,
        snap_to_codebook=True,
        tile=4,
        overlap=2,
    )
    program = make_programs(model, params, SIZE, sampling)["sampler"]
    image = jax.eval_shape(program.function, params, program.inputs)["image"]
    assert str(image.shape) == f"(b, {SIZE}, {SIZE}, 3)"


def test_a_first_stage_alone_has_an_encoder_and_a_decoder(tmp_path):
    stage = FirstStage(Autoencoder(bottleneck="pixels"), 0.5)
    paths = export_stablehlo(stage, {"autoencoder": {}}, tmp_path, (4, 6))
    names = ["params.npz", "encoder.jaxexport", "decoder.jaxexport", "manifest.json"]
    assert [path.name for path in paths] == names
    data = (tmp_path / "encoder.jaxexport").read_bytes()
    image = np.full((2, 4, 6, 3), 0.5, np.float32)
    outputs = jax.export.deserialize(bytearray(data)).call({}, {"image": image})
    np.testing.assert_array_equal(outputs["z_0"], image / 2)


def test_what_cannot_be_exported_is_refused_and_writes_nothing(tmp_path):
    model = tiny_model()
    params = {"autoencoder": {}, "unet": {}, "conditioner": {}}
    stage, pixels = FirstStage(Autoencoder(bottleneck="pixels")), {"autoencoder": {}}
    with pytest.raises(ValueError, match="give the settings"):
        export_stablehlo(model, params, tmp_path, SIZE)
    with pytest.raises(ValueError, match="leave it out"):
        export_stablehlo(stage, pixels, tmp_path, SIZE, SAMPLING)
    with pytest.raises(ValueError, match="params need an autoencoder"):
        export_stablehlo(model, params, tmp_path, SIZE, SAMPLING)
    with pytest.raises(ValueError, match="multiples of f=2"):
        export_stablehlo(
            model, {**params, "autoencoder": {"x": 0}}, tmp_path, 15, SAMPLING
        )
    assert not list(tmp_path.iterdir())
