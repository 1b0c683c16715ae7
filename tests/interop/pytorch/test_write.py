# SPDX-License-Identifier: Apache-2.0
"""Exported PyTorch models give the samples of this package, for every kind."""

import importlib.util
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.conditions.kinds.boxes import Box, BoxTokens
from ldm_jax.conditions.tokens import make_tokenizer
from ldm_jax.diffusion.samplers.base import initial_noise
from ldm_jax.interop.pytorch.write import export_torch
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.tasks.generate import make_generate
from ldm_jax.tasks.model import FirstStage
from ldm_jax.tasks.sampling import Sampling
from tests.interop import small
from tests.interop.small import draw, model_of, random_tree
from tests.interop.states import channels_last, relative_error

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

FIRST_STAGE = dict(small.FIRST_STAGE, attention_levels=(1,))
DEEPER = dict(
    channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_levels=(1,),
    head_channels=16,
)
MAP = np.arange(128, dtype=np.int32).reshape(2, 8, 8) % 6
IMAGES = np.random.default_rng(5).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
MASKS = (np.arange(128).reshape(2, 8, 8, 1) % 3 == 0).astype(np.float32)
TOKENS = np.arange(154, dtype=np.int32).reshape(2, 77)
LABELS = np.array([1, 7], np.int32)
SEMANTIC = dict(kind="semantic", num_classes=5, f=2)
CLASS = dict(kind="class", num_classes=10, width=8)
CLIP = dict(kind="text", encoder="clip", tokenizer="clip", width=16, depth=2)
CLIP |= dict(num_heads=2, vocab_size=49408, length=77)


KINDS = {
    "none, KL with attention, residual resampling": (
        small.diffusion(
            dict(kind="none"),
            dict(DEEPER, resblock_updown=True, scale_shift_norm=True),
            autoencoder=FIRST_STAGE,
        ),
        {},
    ),
    "none, pixels": (small.PIXELS, {}),
    "none, x0": (
        small.diffusion(
            dict(kind="none"), dict(DEEPER, conv_resample=False), prediction="x0"
        ),
        {},
    ),
    "class by cross-attention": (small.CLASSES, {"label": LABELS}),
    "class in the time embedding, v": (
        small.diffusion(
            dict(kind="class", num_classes=10, width=None),
            dict(DEEPER, num_classes=11),
            prediction="v",
        ),
        {"label": LABELS},
    ),
    "text": (small.TEXT, {"tokens": TOKENS}),
    "text by CLIP": (
        small.diffusion(CLIP, dict(small.CROSS, context_dim=16)),
        {"tokens": TOKENS},
    ),
    "text by CLIP, pooled": (
        small.diffusion(dict(CLIP, pooled=8, activation="gelu"), small.CROSS),
        {"tokens": TOKENS},
    ),
    "layout": (
        small.diffusion(
            dict(kind="layout", num_classes=5, width=8, depth=1, max_objects=2),
            small.CROSS,
        ),
        {"tokens": np.arange(16, dtype=np.int32).reshape(2, 8)},
    ),
    "semantic": (small.diffusion(SEMANTIC, more=3), {"label_map": MAP}),
    "superres": (
        small.diffusion(dict(kind="superres", f=2), more=3),
        {"low_res": IMAGES[:, ::2, ::2]},
    ),
    "inpaint": (
        small.diffusion(dict(kind="inpaint"), more=3),
        {"image": IMAGES, "mask": MASKS},
    ),
    "hybrid": (
        small.diffusion(
            dict(kind="hybrid", parts=dict(where=SEMANTIC, what=CLASS)),
            small.CROSS,
            more=3,
        ),
        {"label_map": MAP, "label": LABELS},
    ),
    "retrieval": (
        small.diffusion(dict(kind="retrieval", width=8), small.CROSS),
        {"embeddings": IMAGES[:, 0].repeat(3, -1)[..., :8]},
    ),
}


def load(folder):
    """Runs the exported file as its user would."""
    spec = importlib.util.spec_from_file_location("exported", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(folder)


def to_torch(x):
    x = torch.from_numpy(np.ascontiguousarray(x))
    return x.movedim(-1, 1).contiguous() if x.ndim == 4 else x


@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_samples_what_our_sampler_samples(kind, tmp_path):
    """Golden: guided DDIM of four steps in both frameworks, from the same noise."""
    spec, inputs = KINDS[kind]
    model = model_of(spec)
    params = draw(model, inputs)
    export_torch(tmp_path, spec, params, image_size=8)
    shape = model.autoencoder.latent_shape((8, 8, 3))
    keys = jax.random.split(jax.random.key(0), 2)
    z_T = np.asarray(initial_noise(keys, (2, *shape)))
    scale = 1.0 if spec["condition"]["kind"] == "none" else 2.0
    sampling = Sampling(num_steps=4, guidance_scale=scale)
    actual = make_generate(model, shape, sampling)(params, inputs, keys, {})
    exported = load(tmp_path)
    expected = exported.sample(
        2,
        {name: to_torch(x) for name, x in inputs.items()},
        z_T=to_torch(z_T),
        num_steps=4,
        guidance_scale=scale,
    )
    # Eight evaluations of a random network, whose latents grow: 1.2e-5 was measured.
    assert relative_error(channels_last(expected.numpy()), np.asarray(actual)) < 5e-5


@pytest.mark.parametrize("bottleneck", ["kl", "vq"])
def test_pytorch_encodes_and_decodes_as_our_first_stage(bottleneck, tmp_path):
    """Golden: both directions of a first stage alone, of either attention."""
    # With 32 channels a group is one channel, and rounding is most of what is left.
    fields = dict(FIRST_STAGE, channels=64, attn_type="linear", embed_dim=3)
    fields |= dict(bottleneck=bottleneck)
    fields |= dict(num_codes=8) if bottleneck == "vq" else dict(tanh_out=True)
    stage = FirstStage(Autoencoder(**fields))
    shapes = jax.eval_shape(stage.autoencoder.init, jax.random.key(0), IMAGES)
    params = {"autoencoder": random_tree(shapes["params"])}
    spec = {"autoencoder": fields, "latent_scale": 1.0}
    export_torch(tmp_path, spec, params, image_size=8)
    exported = load(tmp_path)
    with torch.no_grad():
        z_0 = exported.encode(to_torch(IMAGES))
        image = exported.decode(z_0)
    z_0, image = channels_last(z_0.numpy()), channels_last(image.numpy())
    assert relative_error(z_0, np.asarray(stage.encode(params, IMAGES))) < 1e-5
    assert relative_error(image, np.asarray(stage.decode(params, z_0))) < 1e-5


def test_texts_and_boxes_become_the_tokens_of_our_conditions(tmp_path):
    """Golden: the tokenizer of bytes, and layouts."""
    texts = ["", "two cats", "caf\u00e9 " * 30]
    words = make_tokenizer("bytes", 77).encode(texts)
    text = dict(kind="text", width=8, depth=1, vocab_size=384)
    spec = small.diffusion(text, small.CROSS)
    export_torch(tmp_path / "text", spec, draw(model_of(spec), {"tokens": words[:2]}))
    np.testing.assert_array_equal(load(tmp_path / "text").tokenize(texts), words)

    layout, tokens = KINDS["layout"]
    export_torch(tmp_path / "layout", layout, draw(model_of(layout), tokens))
    boxes = [(3, 0.1, 0.2, 0.5, 0.25), (0, 0.0, 0.0, 1.0, 1.0)]
    rows = [
        BoxTokens(5, max_objects=2).encode([Box(*box) for box in boxes[:n]])
        for n in (2, 1)
    ]
    ours = load(tmp_path / "layout").boxes_to_tokens([boxes, boxes[:1]])
    np.testing.assert_array_equal(ours, rows)


def test_the_file_samples_by_itself_where_this_package_is_not_imported(tmp_path):
    """The command of its first lines, in a process that refuses ldm_jax and jax."""
    spec, inputs = KINDS["class by cross-attention"]
    export_torch(tmp_path, spec, draw(model_of(spec), inputs), image_size=8)
    refuse = "import sys; sys.modules['jax'] = sys.modules['ldm_jax'] = None\n"
    argv = ["model.py", "--label", "3", "--num", "2", "--num-steps", "4", "--out"]
    argv += [str(tmp_path / "x.png"), "--guidance-scale", "2"]
    run = f"import runpy; sys.argv = {argv}; runpy.run_path('model.py', run_name="
    program = refuse + run + "'__main__')"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (16, 8)
