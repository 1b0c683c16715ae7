# SPDX-License-Identifier: Apache-2.0
"""The first stage against the original's golden values, its counts and its options."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.first_stage.bottleneck import kl_divergence, split_moments
from ldm_jax.models.layers import GroupNorm
from tests.golden import first_stage as golden
from tests.models.first_stage.tiny import TINY, init


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("attn_type", ["vanilla", "linear"])
@pytest.mark.parametrize("groups", [{}, {"num_groups": 8}])
def test_every_norm_has_the_requested_groups_and_the_first_stages_eps(
    attn_type, groups
):
    """Paper: 32 groups; 1e-6, where the UNet's blocks have 1e-5."""
    norms = []

    def note(run, args, kwargs, context):
        if isinstance(context.module, GroupNorm) and context.method_name == "__call__":
            norms.append((context.module.eps, context.module.num_groups))
        return run(*args, **kwargs)

    options = dict(attention_levels=(1,), attn_type=attn_type, **groups)
    model = Autoencoder(**options, **TINY)
    with nn.intercept_methods(note):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    assert len(norms) > 20 and set(norms) == {(1e-6, groups.get("num_groups", 32))}


@pytest.fixture(scope="module", params=["tiny-kl-f8", "tiny-vq-f8"])
def original(request):
    arrays, meta, flat = golden.load(request.param)
    model = Autoencoder(**golden.autoencoder_fields(meta))
    params = golden.tree(flat, *golden.AUTOENCODER)
    shapes = jax.eval_shape(model.init, jax.random.key(0), arrays["image"])["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    return model, {"params": params}, arrays


def test_encode_and_decode_equal_the_original(original):
    """Golden: relative error of one network evaluation in float32."""
    model, variables, arrays = original
    moments = jax.jit(model.apply, static_argnames="method")(
        variables, arrays["image"], method="encode"
    )
    assert golden.relative_error(moments, arrays["moments_or_prequant"]) < 1e-4
    z = arrays["z"] if model.bottleneck == "kl" else arrays["moments_or_prequant"]
    image = jax.jit(model.apply, static_argnames="method")(
        variables, z, method="decode"
    )
    assert golden.relative_error(image, arrays["dec"]) < 1e-4
    whole = jax.jit(model.apply)(variables, arrays["image"])
    assert golden.relative_error(whole.image, arrays["dec"]) < 1e-4
    assert whole.image.dtype == jnp.float32


def test_posterior_and_codes_equal_the_original(original):
    """Golden: mean, log-variance and KL; or indices, quantized latent and loss."""
    model, variables, arrays = original
    moments = jnp.asarray(arrays["moments_or_prequant"])
    if model.bottleneck == "kl":
        mean, log_variance = split_moments(moments)
        assert golden.relative_error(mean, arrays["mean"]) < 1e-6
        assert golden.relative_error(log_variance, arrays["logvar"]) < 1e-6
        assert golden.relative_error(kl_divergence(moments), arrays["kl"]) < 1e-5
        assert (model.bottleneck_layer.sample(moments) == arrays["z"]).all()
        return
    codebook = jnp.asarray(variables["params"]["codebook"]["embedding"])
    z_q, indices = model.bottleneck_layer.to_decoder(moments, codebook)
    assert (indices.reshape(-1) == arrays["indices"]).all()
    assert golden.relative_error(z_q, arrays["z"]) < 1e-5
    loss, _ = model.bottleneck_layer.penalty(moments, indices, codebook)
    assert golden.relative_error(loss, arrays["codebook_loss"]) < 1e-5


def test_code_indices_decode_to_what_decode_gives():
    """Identity: image -> indices -> image is image -> latent -> image."""
    model = Autoencoder(bottleneck="vq", num_codes=16, latent_channels=4, **TINY)
    variables, image = init(model)
    indices = model.apply(variables, image, method="encode_indices")
    assert indices.shape == (1, 8, 12) and indices.dtype == jnp.int32
    z = model.apply(variables, image, method="encode")
    np.testing.assert_allclose(
        model.apply(variables, indices, method="decode_indices"),
        model.apply(variables, z, method="decode"),
        atol=1e-5,  # straight-through rounds once: z + (z_q - z)
    )


def test_code_indices_need_a_codebook():
    model = Autoencoder(**TINY)
    variables, image = init(model)
    with pytest.raises(ValueError, match='bottleneck="vq"'):
        model.apply(variables, image, method="encode_indices")


def test_pixels_is_the_identity_without_parameters():
    model = Autoencoder(bottleneck="pixels")
    variables, image = init(model, (2, 5, 7, 3))
    assert count(variables) == 0 and model.f == 1
    assert (model.apply(variables, image, method="encode") == image).all()
    assert (model.apply(variables, image, method="decode") == image).all()
    assert (model.apply(variables, image).image == image).all()
    assert model.latent_shape(image.shape) == image.shape


def test_latent_has_the_announced_shape():
    model = Autoencoder(latent_channels=3, embed_dim=5, **TINY)
    variables, image = init(model)
    moments = model.apply(variables, image, method="encode")
    assert moments.shape == (1, 8, 12, model.moments_channels)
    z = model.bottleneck_layer.sample(moments, jax.random.key(0))
    assert z.shape == model.latent_shape(image.shape) == (1, 8, 12, 5)
    assert model.apply(variables, z, method="decode").shape == image.shape


def test_in_channels_and_out_channels_may_differ():
    model = Autoencoder(in_channels=1, out_channels=2, **TINY)
    variables, image = init(model, (1, 8, 8, 1))
    assert model.apply(variables, image).image.shape == (1, 8, 8, 2)


def test_dropout_acts_only_in_training():
    model = Autoencoder(dropout=0.5, **TINY)
    variables, image = init(model)
    rngs = {"dropout": jax.random.key(3)}
    still = model.apply(variables, image).image
    assert (still == model.apply(variables, image, rngs=rngs).image).all()
    trained = model.apply(variables, image, is_training=True, rngs=rngs).image
    assert float(jnp.abs(trained - still).max()) > 1e-3


def test_bfloat16_computes_with_float32_parameters_and_outputs():
    model = Autoencoder(dtype=jnp.bfloat16, attention_levels=(1,), **TINY)
    variables, image = init(model)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    exact = Autoencoder(attention_levels=(1,), **TINY).apply(variables, image)
    rounded = model.apply(variables, image)
    assert rounded.image.dtype == rounded.penalty.dtype == jnp.float32
    # 8 bits of mantissa over some twenty layers.
    assert 1e-5 < golden.relative_error(rounded.image, exact.image) < 5e-2


@pytest.mark.parametrize("remat", ["full", "convs"])
def test_autoencoder_passes_its_remat_policy_on(remat):
    """Identity: parameters keep their names, and the gradient's trace shows remat."""
    variables, image = init(Autoencoder(**TINY), (1, 4, 4, 3))
    model = Autoencoder(remat=remat, **TINY)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    assert jax.tree.structure(shapes) == jax.tree.structure(variables)
    # Encoder and decoder: a block per level (2 and 2 x 2), three of each middle.
    trace = str(jax.make_jaxpr(lambda v: model.apply(v, image).image)(variables))
    assert trace.count("remat2[") + trace.count("checkpoint[") >= 12


def test_a_size_that_f_does_not_divide_is_refused_at_trace():
    model = Autoencoder(channels=32, channel_mult=(1, 1, 1))
    with pytest.raises(ValueError, match=r"multiples of f=4: got images of 18x20"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 18, 20, 3)))


def test_images_with_other_channels_are_refused():
    with pytest.raises(ValueError, match="in_channels=3"):
        Autoencoder(**TINY).latent_shape((1, 4, 16, 16))
