# SPDX-License-Identifier: Apache-2.0
"""Model specs: scaling, round trips through pixels, and refused conditions."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ldm_jax
from ldm_jax.conditions.registry import make_condition
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.unet import UNet
from ldm_jax.tasks.model import FirstStage, LatentDiffusion
from ldm_jax.types import Conditioning
from tests.interop import small
from tests.interop.small import draw, model_of


def tiny_model(prediction="eps", scale=2.0, **condition):
    condition = condition or dict(kind="class", num_classes=3, width=8)
    autoencoder = Autoencoder(
        channels=32, channel_mult=(1, 1), num_res_blocks=1, latent_channels=2
    )
    unet = UNet(
        channels=32,
        channel_mult=(1,),
        num_res_blocks=1,
        num_heads=1,
        transformer_depth=1,
        context_dim=condition.get("width"),
        out_channels=2,
    )
    return LatentDiffusion(
        autoencoder,
        scale,
        unet=unet,
        conditioner=make_condition(**condition),
        schedule=make_schedule("scaled_linear", 1000, 0.0015, 0.0195),
        prediction=prediction,
    )


def test_pixels_with_a_scale_decode_to_what_was_encoded():
    stage = FirstStage(Autoencoder(bottleneck="pixels"), 0.5)
    image = np.random.default_rng(0).uniform(-1, 1, (2, 4, 6, 3)).astype(np.float32)
    z_0 = stage.encode({"autoencoder": {}}, image)
    np.testing.assert_allclose(z_0, 0.5 * image, rtol=1e-6)
    np.testing.assert_allclose(stage.decode({"autoencoder": {}}, z_0), image, rtol=1e-6)


def test_encoding_without_a_key_is_the_scaled_mean_and_with_one_a_sample():
    model = tiny_model(scale=3.0)
    image = jnp.zeros((1, 8, 8, 3))
    params = {"autoencoder": model.autoencoder.init(jax.random.key(0), image)["params"]}
    moments = model.moments(params, image)
    assert moments.shape == (1, 4, 4, 4)
    mean, log_variance = np.split(np.asarray(moments), 2, axis=-1)
    np.testing.assert_allclose(model.encode(params, image), 3 * mean, rtol=1e-5)
    keys = jax.random.split(jax.random.key(1), 4096)
    draws = jax.vmap(lambda key: model.latent(moments, key))(keys)[:, 0]
    # 4096 draws: the standard error of a mean is sd / 64, of a spread about sd / 90.
    sd = 3 * np.exp(0.5 * log_variance[0])
    np.testing.assert_array_less(abs(draws.mean(0) - 3 * mean[0]), 5 * sd / 64)
    np.testing.assert_array_less(abs(draws.std(0) / sd - 1), 5 / 90)


def test_a_ready_made_condition_is_handed_on_or_refused():
    model = tiny_model()
    context = np.ones((2, 3, 8), np.float32)
    np.testing.assert_array_equal(model.condition({}, context=context).context, context)
    for keywords, message in (
        (dict(context=np.ones((2, 3, 7))), r"takes context \[B, M, 8\]: got shape"),
        (dict(concat=np.ones((2, 4, 4, 1))), "takes concat in no form"),
        (dict(context=context, class_label=[1]), "got class_label= too"),
    ):
        with pytest.raises(ValueError, match=message):
            model.condition({}, **keywords)


@pytest.mark.parametrize(
    ("prediction", "message"), [("eps", "zero_terminal_snr=True"), ("w", "eps, x0, v")]
)
def test_a_prediction_that_cannot_be_sampled_is_refused(prediction, message):
    """A folder of diffusers with such a scheduler is then not imported, either."""
    model = tiny_model()
    schedule = make_schedule(zero_terminal_snr=True)
    assert dataclasses.replace(model, prediction="v", schedule=schedule)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(model, prediction=prediction, schedule=schedule)


def test_the_null_condition_is_the_row_of_no_class():
    model = tiny_model()
    table = jnp.arange(32.0).reshape(4, 8)
    cond = model.null({"conditioner": {"embedding": table}}, class_label=[0, 1])
    np.testing.assert_array_equal(cond.context, jnp.stack([table[3:], table[3:]]))


def test_images_in_bytes_are_refused(unchecked_shapes):
    with pytest.raises(ValueError, match="divide bytes"):
        tiny_model().encode({"autoencoder": {}}, np.zeros((1, 8, 8, 3), np.uint8))


Z_T = np.zeros((2, 4, 4, 2), np.float32)
T = np.array([1, 2], np.int32)
# Runs a model without a condition, and one with classes, by the two functions that take
# None for no condition.
CALLS = {
    "denoise": lambda model, params, cond: jax.jit(model.denoise)(params, Z_T, T, cond),
    "sample": lambda model, params, cond: ldm_jax.sample(
        model, params, cond, z_T=Z_T, num_steps=2
    ),
}


@pytest.fixture(scope="module")
def unconditional():
    """A small model without a condition, and its parameters."""
    model = model_of(small.diffusion(dict(kind="none")))
    return model, draw(model, {})


@pytest.mark.parametrize("call", CALLS)
def test_none_is_the_condition_of_an_unconditional_model(call, unconditional):
    """Identity: None computes what the empty condition computes."""
    model, params = unconditional
    results = [CALLS[call](model, params, cond) for cond in (None, Conditioning())]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("call", CALLS)
def test_a_condition_that_is_missing_or_of_another_batch_is_named(
    call, unchecked_shapes
):
    model = model_of(small.CLASSES)
    params = draw(model, {"label": T})
    with one_sentence(r'has the condition "class": got None; give .*class_label=\.'):
        CALLS[call](model, params, None)
    three = model.condition(params, class_label=[1, 2, 3])
    with one_sentence("got 2 latents and context of 3 rows"):
        CALLS[call](model, params, three)


def test_time_steps_that_do_not_fit_are_named(unconditional, unchecked_shapes):
    model, params = unconditional
    for t in (5, [1, 2, 3]):
        with one_sentence("t must hold one step per sample"):
            model.denoise(params, Z_T, t)


@contextlib.contextmanager
def one_sentence(pattern):
    """Expects an error of one line."""
    with pytest.raises(ValueError, match=pattern) as error:
        yield
    assert len(str(error.value).splitlines()) == 1


# What is not an array of latents, or of images, and what the error says of it.
MISSHAPEN = {
    "no batch axis": (np.zeros((4, 4, 2), np.float32), r"got shape \(4, 4, 2\)"),
    "channels first": (np.zeros((1, 2, 4, 4), np.float32), r"got shape \(1, 2, 4, 4\)"),
    "a list": ([[0.0]], "got list"),
    "nothing": (None, "got NoneType"),
}


@pytest.mark.parametrize("form", MISSHAPEN)
def test_latents_with_other_axes_are_named(form, unconditional, unchecked_shapes):
    model, params = unconditional
    z, message = MISSHAPEN[form]
    with one_sentence(rf"z_t must be an array \[B, height, width, 2\]: {message}; "):
        model.denoise(params, z, T, None)
    with one_sentence(rf"z_T must be an array \[B, height, width, 2\]: {message}; "):
        ldm_jax.sample(model, params, None, z_T=z)
    with one_sentence(rf"z_0 must be an array \[B, height, width, 2\]: {message}; "):
        model.decode(params, z)


def test_images_with_other_axes_are_named(unconditional, unchecked_shapes):
    model, params = unconditional
    for shape in ((8, 8, 3), (1, 3, 8, 8), (1, 8, 8, 1)):
        with one_sentence(r"image must be an array \[B, height, width, 3\]: got shape"):
            model.encode(params, np.zeros(shape, np.float32))


@pytest.mark.parametrize("cond", [{"context": Z_T}, Z_T, "class"])
def test_what_is_no_condition_is_named(cond, unconditional, unchecked_shapes):
    model, params = unconditional
    with one_sentence("must be one that model.condition made: got (dict|ndarray|str);"):
        model.denoise(params, Z_T, T, cond)


def test_parameters_of_another_model_are_named(unconditional, unchecked_shapes):
    model, params = unconditional
    stage = {"autoencoder": params["autoencoder"]}
    for other, got in ((None, "NoneType"), ({}, "those of no network")):
        with one_sentence(f'params must have the entry "autoencoder": got {got}; '):
            model.decode(other, Z_T)
    with one_sentence('must have the entry "unet": got those of autoencoder; '):
        model.denoise(stage, Z_T, T, None)
    with one_sentence("sample takes .model, params, cond., .*: got dict for a"):
        ldm_jax.sample(params, model, None, z_T=Z_T)


@pytest.mark.parametrize("t", [[0, 1000], [-1, 5], np.array([3, 2**20])])
def test_time_steps_that_the_schedule_lacks_are_named(t, unconditional):
    model, params = unconditional
    with one_sentence(r"t must be in \[0, 1000\): got "):
        model.denoise(params, Z_T, np.asarray(t, np.int32), None)
