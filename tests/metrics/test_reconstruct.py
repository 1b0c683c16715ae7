# SPDX-License-Identifier: Apache-2.0
"""Held-out images are reconstructed, measured and shown."""

import jax
import numpy as np
import pytest

from ldm_jax.files.formats import png
from ldm_jax.interop.feature_networks.lpips_file import LpipsFile
from ldm_jax.metrics.reconstruct import (
    make_pair_metrics,
    names_of_reconstruction_figures,
    reconstruct_all,
)
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.tasks.model import FirstStage
from tests.metrics.features import write_lpips


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_lpips(tmp_path_factory.mktemp("lpips") / "a.safetensors", 0)


def test_held_out_images_are_measured_and_shown(file):
    """Oracle: pixels are reconstructed exactly; padding rows do not count."""
    params = LpipsFile(file).load("squeeze")
    metrics = make_pair_metrics((24, 24), "squeeze", params)
    assert list(make_pair_metrics((24, 24), "none", None)) == ["psnr", "ssim"]
    assert list(make_pair_metrics((8, 24), "none", None)) == ["psnr"]
    metrics["mean"] = lambda image, reconstruction: reconstruction.mean((1, 2, 3))
    image = np.zeros((4, 24, 24, 3), np.float32) + np.arange(4)[:, None, None, None] / 4
    rows = [({"image": image}, 4), ({"image": image}, 2)]
    model = FirstStage(Autoencoder(bottleneck="pixels"))
    figures, sheet = reconstruct_all(model, {"autoencoder": {}}, rows, 3, metrics, 6)
    assert names_of_reconstruction_figures(model, metrics) == tuple(figures)
    # The weights of this LPIPS have both signs; compiled, equal features may differ in
    # their last bit.
    assert abs(figures["lpips"]) < 1e-12 and figures["psnr"] > 100
    assert figures["mean"] == pytest.approx(np.mean([0, 0.25, 0.5, 0.75, 0, 0.25]))
    # Each pixel is shown as five, so that people see something.
    assert sheet.shape == (5 * 24 + 4, 8 * (5 * 24 + 2) + 2, 3)
    assert sheet.dtype == np.uint8
    # Rows 0, 2 and 5 of six, each next to its reconstruction.
    shown = sheet[60, 60 :: 5 * 24 + 2][:6, 0].astype(int)
    assert shown.tolist() == [png.to_uint8(v)[()] for v in (0, 0, 0.5, 0.5, 0.25, 0.25)]


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
    figures, _ = reconstruct_all(FirstStage(model), params, rows, 1, {}, 4)
    assert names_of_reconstruction_figures(FirstStage(model), {}) == tuple(figures)
    assert figures["codebook_usage"] == len(np.unique(indices)) / 16
    assert 1 <= figures["perplexity"] <= 16
