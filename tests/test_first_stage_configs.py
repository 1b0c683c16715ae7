# SPDX-License-Identifier: Apache-2.0
"""The paper's first stages: sizes, adversaries, rates, and a wrong f."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.experiment.config import config_files, schema
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.tasks.adversarial import Adversary

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
# kind, argument -> parameters of the released models; all others are in the notes.
RELEASED = {
    ("kl", "f=4"): 55_312_063,
    ("kl", "f=8"): 83_653_863,
    ("kl", "f=16"): 69_610_963,
    ("kl", "f=32"): 103_880_131,
    ("vq", "f=4"): 55_322_782,
    ("vq", "f=4,variant=noattn"): 53_219_486,
    ("vq", "f=8"): 67_717_295,
    ("vq", "f=8,variant=n256"): 67_652_783,
    ("vq", "f=16"): 69_593_371,
}


def load(kind, arg):
    return config_files.load_config(f"{CONFIGS / f'first_stage_{kind}'}.py:{arg}")


def rows(kind):
    """(argument, fields) of each line of the table in a config's note."""
    for line in (CONFIGS / f"first_stage_{kind}.py").read_text().splitlines():
        match = re.match(r"    (\d+)(?:, (\w+))?\s{2,}(.*)", line)
        if match:
            f, variant, rest = match.groups()
            arg = f"f={f}" + (f",variant={variant}" if variant else "")
            yield arg, re.split(r"\s{2,}", rest)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_models_have_the_sizes_of_the_note_and_of_the_released(kind):
    """Paper: parameters, latents, codes and recipes, to the last digit."""
    sizes = {}
    for arg, (latent, *fields) in rows(kind):
        config = load(kind, arg)
        schema.check_config(config)
        model = Autoencoder(**config.autoencoder)
        image = jnp.zeros((1, model.f, model.f, 3))
        shapes = jax.eval_shape(model.init, jax.random.key(0), image)
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        sizes[kind, arg] = count
        if kind == "vq":
            assert fields.pop(0) == (f"{model.num_codes:,}" if count else "-"), arg
        assert f"{count:,}" == fields[0], arg
        if count:
            side_h, side_w, c = model.latent_shape((256, 256, 3))
            assert latent == f"{side_h}x{side_w}x{c}", arg
            assert f"{config.batch_size // 8}" == fields[1], arg
            assert f"{config.train.num_steps:,}" == fields[2], arg
            rate = config.optimizer.learning_rate
            assert rate == pytest.approx(4.5e-6 * config.batch_size)
            Adversary(**config.objective.adversary)
    assert {key: sizes[key] for key in RELEASED if key[0] == kind} == {
        key: count for key, count in RELEASED.items() if key[0] == kind
    }


@pytest.mark.parametrize(
    ("kind", "arg", "start", "weight", "layers"),
    [
        ("kl", "f=8", 50_001, 0.5, 3),
        ("vq", "f=4", 0, 0.75, 3),
        ("vq", "f=4,variant=noattn", 11, 0.75, 3),
        ("vq", "f=8", 1, 0.6, 2),
        ("vq", "f=8,variant=n256", 250_001, 0.75, 3),
        ("vq", "f=16", 250_001, 0.75, 2),
    ],
)
def test_adversaries_are_those_of_the_released_configs(
    kind, arg, start, weight, layers
):
    adversary = load(kind, arg).objective.adversary.to_dict()
    assert adversary == dict(disc_start=start, disc_weight=weight, num_layers=layers)


def test_the_rate_follows_the_devices():
    """Paper: 4.5e-6 for each image of the batch."""
    config = load("kl", "f=8,devices=2")
    assert config.batch_size == 8
    assert config.optimizer.learning_rate == pytest.approx(3.6e-5)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_f_1_is_the_pixels(kind):
    config = load(kind, "f=1")
    schema.check_config(config)
    assert config.autoencoder.bottleneck == "pixels"


def test_an_error_for_a_wrong_f_or_variant_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown f=3 of this config; one of: f=1, f="):
        load("kl", "f=3")
    with pytest.raises(ValueError, match="one of: variant=, variant=c8"):
        load("kl", "f=16,variant=n256")
    with pytest.raises(ValueError, match="this config takes f=8, variant=, devices=8"):
        load("vq", "codes=64")


@pytest.mark.parametrize("f", [2, 4, 8, 16])
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_the_small_experiments_fit_together(kind, f):
    path = CONFIGS / "flowers_first_stage.py"
    config = config_files.load_config(f"{path}:kind={kind},f={f}")
    schema.check_config(config)
    model = Autoencoder(**config.autoencoder)
    assert model.f == f and model.bottleneck == kind
    assert config.objective.adversary.disc_start == config.train.num_steps // 2
