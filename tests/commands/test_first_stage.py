# SPDX-License-Identifier: Apache-2.0
"""A first stage's run: which LPIPS weights it has, and what it shows on the way."""

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from ldm_jax.commands.first_stage import (
    still_transform,
    with_lpips,
)
from ldm_jax.interop.feature_networks import lpips
from ldm_jax.interop.weight_files import write_safetensors
from ldm_jax.metrics.reconstruct import make_judges, reconstruct_all
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.tasks.model import FirstStage
from ldm_jax.training.checkpoints.workdir import keep_settings
from ldm_jax.training.loop import MAY_DIFFER


def weights(path, seed):
    """Writes a file of random SqueezeNet LPIPS weights."""
    rng = np.random.default_rng(seed)
    tensors = {
        f"squeeze/{name}": rng.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in lpips.shapes_of("squeeze").items()
    }
    write_safetensors(path, tensors)
    return str(path)


def config_of(perceptual, **lpips_section):
    objective = dict(perceptual=perceptual)
    return ConfigDict(dict(objective=objective, lpips=lpips_section))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("lpips") / "a.safetensors", 0)


def test_a_run_notes_which_lpips_weights_it_has(file, tmp_path):
    """A moved file is the same run; another one's weights are not."""
    before = config_of("squeeze", file=file)
    config, params = with_lpips(before)
    assert set(params) >= {"trunk", "lin_0"} and len(config.lpips.fingerprint) == 16
    assert "fingerprint" not in before.lpips
    workdir = epath.Path(tmp_path)
    keep_settings(workdir, config.to_dict(), MAY_DIFFER)

    moved = weights(tmp_path / "moved.safetensors", 0)
    again, _ = with_lpips(config_of("squeeze", file=moved))
    keep_settings(workdir, again.to_dict(), MAY_DIFFER)

    other = weights(tmp_path / "other.safetensors", 1)
    another, _ = with_lpips(config_of("squeeze", file=other))
    with pytest.raises(ValueError, match=r"lpips\.fingerprint"):
        keep_settings(workdir, another.to_dict(), MAY_DIFFER)
    named = config_of("squeeze", file=other, fingerprint=config.lpips.fingerprint)
    with pytest.raises(ValueError, match="name the file of that run"):
        with_lpips(named)


def test_without_lpips_no_file_is_read_and_with_it_one_must_be_there():
    config = config_of("none")
    assert with_lpips(config) == (config, None)
    with pytest.raises(ValueError, match="ldm-jax weights lpips --download vgg"):
        with_lpips(config_of("vgg", file="nowhere"))


def test_held_out_images_are_judged_and_shown(file):
    """Oracle: pixels are reconstructed exactly; padding rows do not count."""
    _, params = with_lpips(config_of("squeeze", file=file))
    judges = make_judges((24, 24), "squeeze", params)
    assert list(make_judges((24, 24), "none", None)) == ["psnr", "ssim"]
    assert list(make_judges((8, 24), "none", None)) == ["psnr"]
    judges["mean"] = lambda image, reconstruction: reconstruction.mean((1, 2, 3))
    image = np.zeros((4, 24, 24, 3), np.float32) + np.arange(4)[:, None, None, None] / 4
    rows = [({"image": image}, 4), ({"image": image}, 2)]
    model = FirstStage(Autoencoder(bottleneck="pixels"))
    figures, sheet = reconstruct_all(model, {"autoencoder": {}}, rows, 3, judges)
    assert figures["lpips"] == 0 and figures["psnr"] > 100
    assert figures["mean"] == pytest.approx(np.mean([0, 0.25, 0.5, 0.75, 0, 0.25]))
    assert sheet.shape == (28, 8 * 26 + 2, 3) and sheet.dtype == np.uint8


def test_codes_are_counted_over_all_held_out_images():
    """Oracle: the share of codes that the whole set uses, not a batch."""
    model = Autoencoder(
        bottleneck="vq",
        num_codes=16,
        channels=32,
        channel_mult=(1, 1),
        num_res_blocks=1,
        mid_attention=False,
    )
    images = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape), shapes)
    run = jax.jit(model.apply, static_argnames="method")
    indices = run(variables, images, method="encode_indices")
    params = {"autoencoder": variables["params"]}
    rows = [({"image": images[:2]}, 2), ({"image": images[2:]}, 2)]
    figures, _ = reconstruct_all(FirstStage(model), params, rows, 1, {})
    assert figures["codebook_usage"] == len(np.unique(indices)) / 16
    assert 1 <= figures["perplexity"] <= 16


def test_held_out_images_are_cut_the_same_way_every_time():
    fields = dict(image_size=16, crop="random", min_scale=0.5, flip=True)
    still = still_transform(fields)
    record = {"image": np.arange(40 * 24 * 3, dtype=np.uint8).reshape(40, 24, 3)}
    first, second = (still(record, np.random.default_rng(n)) for n in range(2))
    np.testing.assert_array_equal(first["image"], second["image"])
