# SPDX-License-Identifier: Apache-2.0
"""The experiments of the paper: every config parses and has the paper's sizes."""

import functools
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.configs import open_images, small
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.experiment import models
from ldm_jax.experiment.config import config_files, schema
from ldm_jax.experiment.config.sections import LatentSet
from ldm_jax.experiment.data_metadata import DataMetadata, complete, is_open
from ldm_jax.experiment.prepare import prepare
from ldm_jax.files.writing import write_json
from ldm_jax.interop.compvis.write_config import compvis_from_spec
from ldm_jax.interop.networks import network_rows
from ldm_jax.metrics.paper import ROWS
from ldm_jax.types import Conditioning

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
# Shared pieces, and files that have their own tests.
# Photos: tests/commands/photos/; studies: tests/study/; the others are not experiments,
# or in the chain.
OTHERS = {
    "__init__",
    "common",
    "autoencoders",
    "open_images",
    "photos",
    "quickstart",
    "small",
    "study_f",
    "study_toy",
}
SMALL = (
    "small_class:kind=class",
    "small_class:kind=none",
    "small_text",
    "small_layout",
    "small_semantic",
    "small_superres",
    "small_inpaint",
    "small_retrieval:kind=retrieval",
    "small_retrieval:kind=none",
)

# Classifier -> (parameters, the diffusion config that it guides).
CLASSIFIERS = {
    "imagenet_classifier": (111_604_200, "imagenet:f=8"),
    "small_classifier": (None, "small_class:kind=class"),
}

# config -> (parameters of the denoiser, of the condition). Counted by instantiating the
# released classes; those of unpublished models agree with the paper's rounded figures.
SIZES = {
    "celebahq": (274_056_163, 0),
    "ffhq": (274_056_163, 0),
    "bedrooms": (274_056_163, 0),
    "churches": (294_966_916, 0),
    "imagenet:f=4": (400_920_579, 512_512),
    "imagenet:f=8": (394_984_196, 512_000),
    "imagenet_f:f=1": (396.84e6, 512_000),
    "imagenet_f:f=2": (390.89e6, 512_000),
    "imagenet_f:f=4": (400_920_579, 512_000),
    "imagenet_f:f=8": (394_984_196, 512_000),
    "imagenet_f:f=16": (395.00e6, 512_000),
    "imagenet_f:f=32": (395.11e6, 512_000),
    "celebahq_f:f=1": (270.46e6, 0),
    "celebahq_f:f=2": (264.51e6, 0),
    "celebahq_f:f=4": (274_056_163, 0),
    "celebahq_f:f=8": (257.73e6, 0),
    "celebahq_f:f=16": (257.75e6, 0),
    "celebahq_f:f=32": (257.86e6, 0),
    # The released text encoders also hold an output layer that nothing reads.
    "text:model=laion": (872_300_484, 581_994_042 - 30522 * 1281),
    # Stable Diffusion 1.x; CLIP ViT-L/14's text tower as CLIPTextModel counts it.
    "text:model=clip": (859_520_964, 123_060_480),
    "text:model=conceptual": (403_623_939, 186_154_682 - 30522 * 641),
    "layout:data=openimages": (246_277_379, 58_858_496 - 8192 * 513),
    "layout:data=coco": (312_241_540, 58_858_496 - 8192 * 513),
    # Tab. 9 prints 345M: 345,893,252 with the output layer that nothing reads.
    "layout:data=coco,depth=8": (312_241_540, 33_651_712 - 8192 * 513),
    "semantic:size=256": (215_229_315, 546),
    "semantic:size=512": (215_229_315, 546),
    "semantic:size=256,f=8": (215_232_772, 728),
    "superres:low_res=pil_bicubic": (113_622_563, 0),
    "superres:low_res=bsrgan_light": (113_622_563, 0),
    "inpaint:model=small": (215.23e6, 0),
    "inpaint:model=big": (387_245_827, 0),
    "inpaint:model=noattn": (215_230_467, 0),
    "inpaint:model=kl,size=512": (215_230_467, 0),
    "inpaint:model=pixels": (220_517_891, 0),
    "superres:model=pixels": (169_371_363, 0),
    "superres:model=big": (552_677_025 - 55_322_782, 0),
    "semantic:stage=kl-f4,scale=raw": (215_229_315, 546),
    # Without the three channels of a map.
    "semantic:maps=none": (215_229_315 - 3 * 9 * 128, 0),
    "layout:data=coco4": (246_277_379, 58_858_496 - 8192 * 513),
    # RDM on ImageNet: the same UNet, whose context is as wide.
    "retrieval:data=imagenet": (400_920_579, 0),
    "retrieval:data=ffhq": (414_713_603, 0),
    "layout:size=512": (246_277_379, 58_858_496 - 8192 * 513),
}


def load(name):
    """Loads a config; one that leaves it open learns from ten classes of 32x32."""
    file, _, argument = name.partition(":")
    config = config_files.load_config(f"{CONFIGS / file}.py:{argument}")
    if name in SMALL and is_open(config):
        with config.unlocked():
            complete(config, DataMetadata("./latents", small.AUTOENCODER, 32, 10))
    return config


def count(shapes):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def by_depth(size, depth):
    """Size at a depth of a stack of equal layers, from the first two (cheap traces)."""
    return size(1) + (depth - 1) * (size(2) - size(1)) if depth > 1 else size(depth)


def unet_size(unet):
    """Parameters of a UNet."""
    # What does not change the sizes is made equal, so that traces are shared.
    c, width = 4, unet.channels
    plain = unet.clone(
        out_channels=c, in_channels=c, num_heads=1, head_channels=None, dropout=0.0
    )
    size = by_depth(
        lambda depth: traced_size(plain.clone(transformer_depth=depth)),
        unet.transformer_depth,
    )
    new_in = (unet.in_channels or unet.out_channels) - c
    new_out = unet.out_channels - c
    return size + new_in * 9 * width + new_out * (9 * width + 1)


@functools.cache
def traced_size(unet):
    side = 2 ** (len(unet.channel_mult) - 1)
    z = jnp.zeros((1, side, side, unet.out_channels))
    context = jnp.zeros((1, 1, unet.context_dim)) if unet.context_dim else None
    t, cond = jnp.zeros(1, int), Conditioning(context)
    return count(jax.eval_shape(unet.init, jax.random.key(0), z, t, cond))


def condition_size(conditioner):
    if conditioner.module is None:
        return 0
    (shape,) = conditioner.shapes(1, (8, 8), 8).values()
    y = jnp.zeros(shape.shape, shape.dtype)

    def size(module):
        return count(jax.eval_shape(module.init, jax.random.key(0), y))

    if not hasattr(conditioner.module, "depth"):
        return size(conditioner.module)
    return by_depth(
        lambda depth: size(conditioner.module.clone(depth=depth)),
        conditioner.module.depth,
    )


def test_every_config_is_tried_here():
    names = {path.stem for path in CONFIGS.glob("*.py")} - OTHERS
    names = {name for name in names if "first_stage" not in name}
    assert {name.partition(":")[0] for name in (*SIZES, *SMALL, *CLASSIFIERS)} == names


@pytest.mark.parametrize("name", SIZES)
def test_models_have_the_papers_sizes(name):
    """Paper: Tab. 13-15; exact where the model was released."""
    config = load(name)
    schema.check_config(config)
    model = models.make_latent_diffusion(config, latent_scale=1.0)
    denoiser, condition = SIZES[name]
    size = unet_size(model.unet)
    # Figures with a point are printed to 0.01M.
    assert abs(size - denoiser) <= (5_000 if isinstance(denoiser, float) else 0)
    assert condition_size(model.conditioner) == condition
    LatentSet(**config.latents).latent_shape(model.autoencoder)
    models.make_transform(config)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_take_what_is_open_from_the_model_they_guide(name, tmp_path):
    """Paper: 506M of LDM-8-G (Tab. 10), less the 395.0M of LDM-8."""
    size, guided = CLASSIFIERS[name]
    guided = load(guided)
    guided.latents.scale = 1.0
    write_json(tmp_path / "config.json", guided.to_dict())
    config = load(name)
    config.diffusion.directory = str(tmp_path)
    run = prepare(config, abstract=True)
    shapes, _ = jax.eval_shape(run.task.init, jax.random.key(0), run.batch_shapes)
    assert size in (None, count(shapes))
    assert run.model.classifier.num_classes == guided.condition.num_classes
    assert run.options.num_steps == config.train.num_steps


@pytest.mark.parametrize("name", SMALL)
def test_small_experiments_fit_together(name):
    """Identity: the denoiser has room for what the condition says."""
    config = load(name)
    schema.check_config(config)
    model = models.make_latent_diffusion(config, latent_scale=1.0)
    _, h, w, c = model.autoencoder.latent_shape((1, 32, 32, 3))
    unet, fields = model.unet, model.conditioner.fields
    y = {
        "label": jnp.zeros(1, int),
        "tokens": jnp.zeros((1, getattr(model.conditioner.module, "length", 1)), int),
        "label_map": jnp.zeros((1, 32, 32), int),
        "low_res": jnp.zeros((1, h, w, 3)),
        "image": jnp.zeros((1, 32, 32, 3)),
        "mask": jnp.zeros((1, 32, 32, 1)),
        "embeddings": jnp.zeros((1, 4, 1280)),
    }

    def run(key):
        params = model.conditioner.init(key, y)
        autoencoder = model.autoencoder.init(key, y["image"])["params"]
        frozen = {"autoencoder": autoencoder}
        cond = model.conditioner.encode(params, {k: y[k] for k in fields}, frozen)
        z = jnp.zeros((1, h, w, c))
        return unet.init_with_output(key, z, jnp.zeros(1, int), cond)[0]

    assert jax.eval_shape(run, jax.random.key(0)).shape == (1, h, w, c)
    models.make_transform(config)


def test_what_a_condition_takes_from_the_first_stage_is_exported_too():
    """Identity: f = 4 is two halvings; an inpainting scale is more than they have."""

    def spec_of(name):
        config = load(name)
        config.autoencoder.update(channels=32, num_groups=32)  # CompVis knows no other
        config.prediction = "eps"
        return {**config.to_dict(), "latent_scale": 0.5}

    spec = spec_of("small_semantic")
    written = compvis_from_spec(spec)["model"]["params"]["cond_stage_config"]
    assert written["params"] == {"n_stages": 2, "in_channels": 12, "out_channels": 8}
    assert "conditioner" in network_rows(spec)
    with pytest.raises(ValueError, match="CompVis models do not scale"):
        compvis_from_spec(spec_of("small_inpaint"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imagenet_f:f=3", "unknown f=3 of this config; one of: f=1, f=2, f=4"),
        ("imagenet:f=16", "unknown f=16 of this config; one of: f=4, f=8"),
        ("text:model=leon", "one of: model=laion, model=conceptual"),
        ("layout:dta=coco", "this config takes data=openimages"),
        ("celebahq:f=8", "unknown config argument 'f'"),
    ],
)
def test_an_error_for_a_misspelt_variant_lists_the_known_ones(name, message):
    with pytest.raises(ValueError, match=message):
        load(name)


def test_classes_of_open_images_are_numbered_by_key():
    """Paper's code: 340 classes by rank of the key, Suitcase last; 12 are merged."""
    keys, numbers = list(open_images.CLASSES), open_images.class_numbers()
    assert len(keys) == 340 == len(set(open_images.NAMES))
    assert keys[:-1] == sorted(keys[:-1]) and keys[-1] == "/m/01s55n"
    assert len(numbers) == open_images.NUM_IDS
    for key, other in open_images.MERGED.items():
        assert key not in keys and numbers[key] == numbers[other]
    assert open_images.NAMES[numbers["/m/0bt9lr"]] == "Dog"


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("first_stage_kl:f=8", (2 / 3, 2 / 3)),
        ("first_stage_vq:f=8", (2 / 3, 2 / 3)),
        ("first_stage_vq:f=16", (2 / 3, 2 / 3)),
        ("first_stage_vq:f=4", ("native", "native")),
        ("first_stage_vq:f=4,variant=noattn", ("native", "native")),
        ("semantic:size=256", (2 / 3, 2 / 3)),
        ("superres", (0.5, 1.0)),
        ("layout:data=openimages", ("native", 1.0)),
    ],
)
def test_windows_are_those_of_the_released_data_classes(name, scales):
    config = load(name)
    fields = {"image_size": 256, **config.transform}
    transform = ImageTransform(**fields)
    assert (transform.min_scale, transform.max_scale) == scales
    assert transform.crop == "random"
    assert config.images.min_side == (256 if name == "superres" else 0)


def test_the_page_of_configs_has_every_row_of_the_paper_and_configs_that_load():
    """Identity: a row of metrics/paper.py is in one line of the table, and no other."""
    lines = (CONFIGS / "README.md").read_text().splitlines()
    cells = [line.strip("|").split("|") for line in lines if line.startswith("| ")]
    rows = [name for line in cells[1:] for name in re.findall(r"`([^`]+)`", line[3])]
    assert sorted(rows) == sorted(ROWS)
    tables = {name for line in cells for name in re.findall(r"Tab\. (\d+)", line[0])}
    assert tables == {str(n) for n in range(1, 19)}
    for line in cells[1:]:
        for name in re.findall(r"`([^`]+)`", line[2]):
            load(name)
