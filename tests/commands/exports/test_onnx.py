# SPDX-License-Identifier: Apache-2.0
"""ONNX files run by onnxruntime against our own functions (extra: onnx)."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from ldm_jax.commands.exports.onnx import export_onnx
from ldm_jax.diffusion.samplers.base import initial_noise
from ldm_jax.tasks.generate import make_generate
from ldm_jax.tasks.sampling import Sampling
from tests.interop import small
from tests.interop.small import draw, model_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("jax2onnx")
pytest.importorskip("onnxruntime")

# Wide enough that a group of GroupNorm is more than one channel.
WIDE = dict(small.CROSS, channels=64)
CLASSES = small.diffusion(
    dict(kind="class", num_classes=10, width=8),
    WIDE,
    autoencoder=dict(small.VQ, channels=64),
)
SEMANTIC = small.diffusion(
    dict(kind="semantic", num_classes=5, f=2), dict(small.PLAIN, channels=64), more=3
)
PIXELS = dict(
    small.PIXELS, latent_scale=0.5, unet=dict(small.PIXELS["unet"], channels=64)
)
SUPERRES = small.diffusion(
    dict(kind="superres"), dict(small.PLAIN, channels=64), more=3
)
SMALL = np.linspace(-1, 1, 96, dtype=np.float32).reshape(2, 4, 4, 3)
MAPS = np.arange(128, dtype=np.int32).reshape(2, 8, 8) % 6


@pytest.mark.parametrize(
    ("spec", "fields", "inputs", "scale"),
    [
        (
            CLASSES,
            {"label": np.array([1, 7], np.int32)},
            {"class_label": np.array([1, 7], np.int32)},
            2.0,
        ),
        (SEMANTIC, {"label_map": MAPS}, {"segmentation": MAPS}, 1.0),
        (PIXELS, {}, {}, 1.0),
        # Its condition is its input.
        (SUPERRES, {"low_res": SMALL}, {"low_res": SMALL}, 1.0),
    ],
    ids=["class", "semantic", "pixels", "superres"],
)
def test_numpy_samples_from_onnx_files_what_our_sampler_samples(
    spec, fields, inputs, scale, tmp_path
):
    """Golden: the documented sampler, in a process without JAX, for another batch."""
    model = model_of(spec)
    params = draw(model, fields)
    sampling = Sampling(num_steps=4, guidance_scale=scale)
    paths = export_onnx(model, params, tmp_path / "model", 8, sampling)
    for path in paths:
        if path.suffix == ".onnx":
            onnx.checker.check_model(str(path))
    keys = jax.random.split(jax.random.key(0), 2)
    shape = model.autoencoder.latent_shape((8, 8, 3))
    z = np.asarray(initial_noise(keys, (2, *shape)))
    np.savez(tmp_path / "inputs.npz", z=z, **inputs)
    program = (
        "import sys; sys.modules['jax'] = sys.modules['ldm_jax'] = None\n"
        "import numpy as np\n"
        "from onnx_runner import sample\n"
        "folder, scale = sys.argv[1:]\n"
        "inputs = dict(np.load(f'{folder}/inputs.npz'))\n"
        "z, model = inputs.pop('z'), f'{folder}/model'\n"
        "np.save(f'{folder}/image.npy', sample(model, z, 4, float(scale), **inputs))\n"
    )
    folder = pathlib.Path(__file__).parent
    argv = [sys.executable, "-c", program, str(tmp_path), str(scale)]
    subprocess.run(argv, cwd=folder, check=True)
    ours = np.asarray(make_generate(model, shape, sampling)(params, fields, keys, {}))
    error = np.linalg.norm(np.load(tmp_path / "image.npy") - ours)
    # Eight evaluations of a random network in float32, sums in another order.
    assert error / np.linalg.norm(ours) < 5e-5
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["programs"]["denoiser"]["inputs"]["z_t"]["shape"][0] == "B"
