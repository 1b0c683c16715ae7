# SPDX-License-Identifier: Apache-2.0
"""Open fields of a denoiser's config are taken from its data."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from ldm_jax.commands.latents import encode_image_set
from ldm_jax.commands.train import train_config
from ldm_jax.configs import small, small_class
from ldm_jax.experiment import model_directory, stored_config
from ldm_jax.experiment.config.schema import changed
from ldm_jax.experiment.data_metadata import DataMetadata, complete
from ldm_jax.experiment.prepare import prepare

SIDE = 16
DATA = DataMetadata("./latents", dict(bottleneck="kl"), 32, 3, ("a", "b", "c"))


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    """Latents of photos in two class folders, by a first stage of one step."""
    root = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for i in range(8):
        folder = root / "photos" / ("roses" if i % 2 else "daisies")
        folder.mkdir(parents=True, exist_ok=True)
        picture = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
    stage = small.get_config()
    stage.images.dataset = str(root / "photos")
    stage.transform.image_size = SIDE
    stage.autoencoder = dict(small.AUTOENCODER, channels=4)
    stage.train.update(num_steps=1, evaluate_every=None)
    train_config(stage, str(root / "stage"))
    photos, config = str(root / "photos"), small_class.get_config()
    stage_dir, out = str(root / "stage"), str(root / "latents")
    encode_image_set(stage_dir, out, photos, "all", config=config)
    return root


def test_classes_that_a_config_leaves_open_come_from_the_latents(latents, tmp_path):
    """Identity: autoencoder, size, count and names are those of the images."""
    config = small_class.get_config()
    config.latents.directory = str(latents / "latents")
    config.train.update(num_steps=1, evaluate_every=None)
    config.unet.update(channel_mult=(1,), attention_levels=())
    train_config(config, str(tmp_path))
    stored = stored_config.read_config(str(tmp_path))
    stage = stored_config.read_config(str(latents / "stage"))
    assert stored.autoencoder == stage.autoencoder
    assert stored.latents.image_size == SIDE
    assert stored.condition.num_classes == 2
    assert stored.condition.class_names == ("daisies", "roses")
    model, _ = model_directory.load(str(tmp_path))
    assert model.conditioner.from_user("roses")["label"].tolist() == [1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"condition.num_classes": 10},
            r"config\.condition\.num_classes must be .* the data: got 10, .* has 2",
        ),
        (
            {"condition.class_names": ("cats", "dogs")},
            r"config\.condition\.class_names must be .*got cats, dogs.*daisies, roses",
        ),
        ({"latents.image_size": 64}, r"config\.latents\.image_size=64"),
        ({"autoencoder.latent_channels": 3}, r"config\.autoencoder must be the first"),
    ],
)
def test_what_contradicts_the_data_is_refused_by_name(latents, values, message):
    config = small_class.get_config()
    config.latents.directory = str(latents / "latents")
    with config.unlocked(), config.condition.unlocked():
        config.condition.class_names = ()
    if "autoencoder.latent_channels" in values:
        config.autoencoder = dict(small.AUTOENCODER)
    with config.ignore_type():
        config = changed(config, values)
    with pytest.raises(ValueError, match=message):
        prepare(config, abstract=False)


def test_fields_that_the_data_lack_must_be_given():
    config = small_class.get_config().unlock()
    for missing in ("autoencoder", "image_size", "num_classes"):
        known = dict(autoencoder=DATA.autoencoder, image_size=32, num_classes=3)
        known[missing] = None
        with pytest.raises(ValueError, match=rf"{missing} must be given: \./x does"):
            complete(ConfigDict(config.to_dict()), DataMetadata("./x", **known))


def test_an_error_names_the_data_that_complete_an_open_config():
    with pytest.raises(ValueError, match="leaves its autoencoder, image size or class"):
        prepare(small_class.get_config(), abstract=True)


def test_the_parts_of_a_hybrid_condition_are_completed():
    config = small_class.get_config().unlock()
    config.condition = dict(
        kind="hybrid",
        parts=dict(
            label=dict(kind="class", num_classes=None, width=8),
            low=dict(kind="superres", factor=2),
        ),
    )
    complete(config, DATA)
    assert config.condition.parts.label.num_classes == 3
    assert config.condition.parts.label.class_names == ("a", "b", "c")
    assert "num_classes" not in config.condition.parts.low
