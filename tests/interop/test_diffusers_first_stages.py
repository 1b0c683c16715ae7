# SPDX-License-Identifier: Apache-2.0
"""First stages of diffusers with random weights: encode, decode, and all of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.interop.convert import import_model
from ldm_jax.models.autoencoder import Autoencoder
from tests.golden.first_stage import relative_error

pytestmark = pytest.mark.torch

DOWN = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D")
UP = ("UpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D")


@pytest.fixture(scope="module", params=["AutoencoderKL", "VQModel"])
def pair(request, tmp_path_factory):
    """Their model with attention on its middle level, ours with its weights."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    torch.manual_seed(0)
    fields = dict(num_vq_embeddings=64) if request.param == "VQModel" else {}
    original = getattr(diffusers, request.param)(
        block_out_channels=(32, 64, 64),
        down_block_types=DOWN,
        up_block_types=UP,
        layers_per_block=1,
        latent_channels=4,
        **fields,
    ).eval()
    folder = tmp_path_factory.mktemp(request.param)
    original.save_pretrained(folder)
    imported = import_model(folder)
    own = Autoencoder(**imported.spec["autoencoder"])
    assert own.attention_levels == (1,) and own.f == 4
    image = torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        encoded = original.encode(image)
        moments = encoded.latent_dist.parameters if not fields else encoded.latents
        decoded = original.decode(moments[:, :4]).sample
    arrays = [a.numpy().transpose(0, 2, 3, 1) for a in (image, moments, decoded)]
    return own, {"params": imported.params["autoencoder"]}, arrays


def test_encoding_and_decoding_equal_diffusers(pair):
    """Golden: relative error under 1e-4 in float32, on an image that is not square."""
    ours, variables, (image, moments, decoded) = pair
    run = jax.jit(ours.apply, static_argnames="method")
    assert relative_error(run(variables, image, method="encode"), moments) < 1e-4
    z = jnp.asarray(moments[..., :4])
    assert relative_error(run(variables, z, method="decode"), decoded) < 1e-4
    # Without a key the posterior's mode is decoded, its mean.
    assert relative_error(run(variables, image).image, decoded) < 1e-4
    assert np.isfinite(decoded).all()
