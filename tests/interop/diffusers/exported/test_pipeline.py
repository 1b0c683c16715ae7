# SPDX-License-Identifier: Apache-2.0
"""The pipeline of exported folders gives the samples of this package."""

import json

import jax
import numpy as np
import pytest

from ldm_jax.diffusion.samplers.base import initial_noise
from ldm_jax.interop.convert import export_model, import_model
from ldm_jax.interop.networks import condition_parts
from ldm_jax.tasks.generate import make_generate
from ldm_jax.tasks.sampling import Sampling
from tests.interop import small
from tests.interop.small import draw, model_of

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.torch
torch.set_num_threads(1)

# KL: a codebook's choice between two codes may turn on the last bit.
SPEC = dict(autoencoder=small.FIRST_STAGE)
LABELS = np.array([1, 7], np.int32)
MAP = np.arange(128, dtype=np.int32).reshape(2, 8, 8) % 6
IMAGES = np.random.default_rng(5).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
MASKS = (np.arange(128).reshape(2, 8, 8, 1) % 3 == 0).astype(np.float32)
BYTES = np.zeros((2, 77), np.int32)
BYTES[0, :4], BYTES[1, :3] = [100, 114, 106, 1], [102, 100, 1]  # "aog", "ca"
ADM = dict(small.PLAIN, num_classes=11)
LAYOUT = dict(kind="layout", num_classes=7, width=8, depth=1, vocab_size=128)
LAYOUT |= dict(max_objects=3)
BOXES = [[(3, 0.0, 0.5, 0.25, 0.5)], [(6, 0.1, 0.2, 0.3, 0.4), (0, 0.0, 0.0, 1.0, 1.0)]]


def last(array):
    """[B, H, W, k] -> PyTorch's [B, k, H, W]."""
    return torch.tensor(np.moveaxis(array, -1, 1))


# kind -> (spec, our fields, the pipeline's inputs).
KINDS = {
    "class by cross-attention": (
        small.diffusion(dict(kind="class", num_classes=10, width=8), small.CROSS),
        {"label": LABELS},
        {"class_labels": LABELS},
    ),
    "class in the time embedding, v": (
        small.diffusion(
            dict(kind="class", num_classes=10, width=None), ADM, prediction="v"
        ),
        {"label": LABELS},
        {"class_labels": [1, 7]},
    ),
    "class of pixels, x0, clipped": (
        small.diffusion(
            dict(kind="class", num_classes=10, width=8),
            dict(small.CROSS, channels=64),
            c=3,
            autoencoder={"bottleneck": "pixels"},
            latent_scale=1.0,
            sampling=dict(clip=1.0),
            # Divided by alpha, 0.06 at first, eps of random weights loses two digits.
            prediction="x0",
        ),
        {"label": LABELS},
        {"class_labels": LABELS},
    ),
    "text of bytes": (
        small.diffusion(dict(kind="text", width=8, depth=1, length=77), small.CROSS),
        {"tokens": BYTES},
        {"prompt": ["aog", "ca"]},
    ),
    "semantic, x0": (
        small.diffusion(dict(kind="semantic", num_classes=5), more=3, prediction="x0"),
        {"label_map": MAP},
        {"label_map": MAP},
    ),
    "semantic without a mapper": (
        small.diffusion(
            dict(kind="semantic", num_classes=5, f=2, out_channels=None), more=5
        ),
        {"label_map": MAP},
        {"label_map": MAP},
    ),
    "superres, scaled": (
        small.diffusion(dict(kind="superres"), more=3),
        {"low_res": IMAGES[:, ::2, ::2]},
        {"low_res": last(IMAGES[:, ::2, ::2])},
    ),
    "inpaint": (
        small.diffusion(dict(kind="inpaint"), more=3),
        {"image": IMAGES, "mask": MASKS},
        {"image": last(IMAGES), "mask_image": last(MASKS)},
    ),
    "retrieval": (
        small.diffusion(dict(kind="retrieval", width=8), small.CROSS),
        {"embeddings": IMAGES[:, 0].repeat(3, -1)[..., :8]},
        {"embeddings": IMAGES[:, 0].repeat(3, -1)[..., :8]},
    ),
    "none, images of two sides": (small.diffusion(dict(kind="none")), {}, {}),
}


PARTS = dict(
    what=dict(kind="class", num_classes=10, width=8),
    where=dict(kind="semantic", num_classes=5),
    words=dict(kind="text", width=8, depth=1, length=77),
)
KINDS["hybrid of classes, label maps and texts"] = (
    small.diffusion(dict(kind="hybrid", parts=PARTS), small.CROSS, more=3),
    {"label": LABELS, "label_map": MAP, "tokens": BYTES},
    {"class_labels": LABELS, "label_map": MAP, "prompt": ["aog", "ca"]},
)
HOLES = dict(hole=dict(kind="inpaint"), like=dict(kind="retrieval", width=8))
KINDS["hybrid of holes and neighbours"] = (
    small.diffusion(dict(kind="hybrid", parts=HOLES), small.CROSS, more=3),
    {**KINDS["inpaint"][1], **KINDS["retrieval"][1]},
    {**KINDS["inpaint"][2], **KINDS["retrieval"][2]},
)


def layout_case():
    from ldm_jax.conditions.kinds.boxes import Box, BoxTokens

    tokens = BoxTokens(7, 128, 3)
    rows = [tokens.encode([Box(*box) for box in boxes]) for boxes in BOXES]
    spec = small.diffusion(LAYOUT, small.CROSS)
    return spec, {"tokens": np.stack(rows)}, {"boxes": BOXES}


KINDS["layout"] = layout_case()


@pytest.mark.parametrize("kind", KINDS)
def test_the_pipeline_samples_what_our_sampler_samples(kind, tmp_path):
    """Golden: four guided DDIM steps, images in [0, 1] within 1e-5."""
    spec, fields, inputs = KINDS[kind]
    if spec["autoencoder"] == small.VQ:
        spec = {**spec, **SPEC}
    model = model_of(spec)
    params = draw(model, fields)
    size = (8, 12) if not fields else 8
    export_model(tmp_path, "diffusers", spec, params, image_size=size)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "LatentDiffusionPipeline"]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        tmp_path, trust_remote_code=True
    )
    pipeline.set_progress_bar_config(disable=True)
    scale = 2.0 if fields else 1.0
    clip = spec.get("sampling", {}).get("clip")
    sampling = Sampling(num_steps=4, guidance_scale=scale, clip=clip)
    keys = jax.random.split(jax.random.key(0), 2)
    image_size = (8, 12, 3) if not fields else (8, 8, 3)
    shape = model.autoencoder.latent_shape(image_size)
    latents = last(np.asarray(initial_noise(keys, (2, *shape))))
    expected = pipeline(
        latents=latents,
        batch_size=2,
        num_inference_steps=4,
        guidance_scale=scale,
        output_type="np",
        **inputs,
    ).images
    actual = np.asarray(make_generate(model, shape, sampling)(params, fields, keys, {}))
    actual = np.clip(actual / 2 + 0.5, 0, 1)
    assert actual.std() > 0.01  # not one colour
    np.testing.assert_allclose(expected, actual, atol=1e-5)


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith("none")])
def test_an_exported_folder_is_imported_bit_for_bit(kind, tmp_path):
    spec, fields, _ = KINDS[kind]
    params = draw(model_of(spec), fields)
    export_model(tmp_path, "diffusers", spec, params, image_size=8)
    imported = import_model(tmp_path)
    for network, tree in params.items():
        if tree:
            jax.tree.map(
                np.testing.assert_array_equal, dict(tree), imported.params[network]
            )
    parts = condition_parts(imported.spec["condition"])
    for name, section in condition_parts(spec["condition"]).items():
        assert parts.pop(name).items() >= section.items()
    assert not parts
    assert imported.spec["latent_scale"] == spec["latent_scale"]


def test_inputs_that_do_not_fit_are_refused_in_one_sentence(tmp_path):
    spec, fields, _ = KINDS["class by cross-attention"]
    export_model(tmp_path, "diffusers", spec, draw(model_of(spec), fields))
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        tmp_path, trust_remote_code=True
    )
    with pytest.raises(ValueError, match="class takes class_labels: got prompt"):
        pipeline(prompt="a cat")
    with pytest.raises(ValueError, match="class takes class_labels: got none"):
        pipeline()
    with pytest.raises(ValueError, match="takes class_labels: got class_labels, p"):
        pipeline(class_labels=[1], prompt="a cat")
    with pytest.raises(ValueError, match=r"one batch size: got \[2, 3\]"):
        pipeline(batch_size=3, class_labels=[1, 2])


def test_the_code_is_found_by_custom_pipeline_too(tmp_path):
    spec, fields, _ = KINDS["class by cross-attention"]
    export_model(tmp_path, "diffusers", spec, draw(model_of(spec), fields))
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        tmp_path, custom_pipeline=str(tmp_path), trust_remote_code=True
    )
    assert type(pipeline).__name__ == "LatentDiffusionPipeline"
