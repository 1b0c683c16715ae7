# SPDX-License-Identifier: Apache-2.0
"""Image guides: the likelihood, guided samples, and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ldm_jax.conditions.registry import make_condition
from ldm_jax.diffusion.samplers.base import seed_keys
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.features.lpips import LPIPS
from ldm_jax.models.unet import UNet
from ldm_jax.tasks import generate
from ldm_jax.tasks.guides import ImageGuide, reduce_image
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.tasks.sampling import make_sampling
from ldm_jax.types import Conditioning

SAMPLING = make_sampling(num_steps=8, grid="even")


@functools.cache
def small_model(bottleneck):
    fields = dict(channels=4, num_groups=2, num_res_blocks=1, channel_mult=(1, 1))
    fields |= dict(num_codes=16) if bottleneck == "vq" else {}
    model = LatentDiffusion(
        Autoencoder(bottleneck=bottleneck, latent_channels=2, **fields),
        unet=UNet(32, (1,), 2, num_res_blocks=1, num_heads=2),
        conditioner=make_condition("none"),
        schedule=make_schedule(),
        prediction="v",
    )
    image, z = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 4, 4, 2))
    key = jax.random.key(0)
    params = {
        "autoencoder": jax.jit(model.autoencoder.init)(key, image)["params"],
        "unet": jax.jit(model.unet.init)(key, z, jnp.zeros(1, int), Conditioning())[
            "params"
        ],
    }
    # An untrained decoder is almost constant; doubled, its layers pass on their input.
    params["autoencoder"] = jax.tree.map(lambda x: 2 * x, params["autoencoder"])
    return model, params


def draw(model, params, guide, y, size=8, sampling=SAMPLING):
    guides = () if guide is None else (guide,)
    shape = (size // 2, size // 2, 2)
    run = generate.make_generate(model, shape, sampling, guides=guides)
    return run(params, y, seed_keys(range(2)), {})


@pytest.mark.parametrize(
    ("through", "bottleneck"),
    [
        ("network", "kl"),
        ("decoder", "vq"),
        pytest.param("network", "vq", marks=pytest.mark.slow),
        pytest.param("decoder", "kl", marks=pytest.mark.slow),
    ],
)
def test_samples_come_nearer_to_what_guides_them(through, bottleneck):
    model, params = small_model(bottleneck)
    without = draw(model, params, None, {})
    small = reduce_image(without[::-1], 2)
    # With eps_hat as a constant the pull grows as 1 / alpha^2.
    guide = ImageGuide("l2", 0.3, "down2", (0, 400), through)
    image = draw(model, params, guide, {"guided_image": small})
    guided, unguided = (
        jnp.square(reduce_image(x, 2) - small).sum() for x in (image, without)
    )
    assert guided < 0.8 * unguided


def test_samples_compared_one_by_one_are_the_same():
    """Identity: the samples of a batch are guided independently."""
    model, params = small_model("kl")
    y = {"guided_image": draw(model, params, None, {})[::-1]}
    interval = (0, 400)
    whole = draw(model, params, ImageGuide(scale=0.1, interval=interval), y)
    single = ImageGuide(scale=0.1, interval=interval, at_once=1)
    np.testing.assert_allclose(draw(model, params, single, y), whole, atol=1e-4)
    assert np.abs(whole - draw(model, params, None, {})).max() > 1e-3
    with pytest.raises(ValueError, match="one sample or more is compared at once"):
        ImageGuide(at_once=0)


def test_scale_0_equals_no_guide_bit_for_bit():
    model, params = small_model("kl")
    target = {"guided_image": jnp.ones((2, 8, 8, 3))}
    off = draw(model, params, ImageGuide(scale=0.0), target)
    np.testing.assert_array_equal(off, draw(model, params, None, {}))


def test_a_guide_pulls_larger_images_in_tiles():
    model, params = small_model("kl")
    tiled = make_sampling(num_steps=4, grid="even", tile=4, overlap=2)
    y = {"guided_image": jnp.full((2, 8, 8, 3), 0.5)}
    guide = ImageGuide("l2", 0.3, "down2")
    image = draw(model, params, guide, y, size=16, sampling=tiled)
    plain = draw(model, params, None, {}, size=16, sampling=tiled)
    error = [jnp.square(reduce_image(x, 2) - 0.5).sum() for x in (image, plain)]
    assert image.shape == (2, 16, 16, 3) and error[0] < error[1]


def test_the_likelihood_is_a_sum_of_squares_or_lpips():
    """Oracle: both distances, computed by themselves."""
    rng = np.random.default_rng(0)
    image = jnp.float32(rng.uniform(-1, 1, (2, 32, 32, 3)))
    target = jnp.float32(rng.uniform(-1, 1, (2, 32, 32, 3)))
    actual = ImageGuide().log_likelihood(image, target, None)
    expected = -0.5 * np.square(np.asarray(target - image)).sum((1, 2, 3))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    lpips = LPIPS("alex")
    params = lpips.init(jax.random.key(0), image, target)
    actual = ImageGuide("lpips", trunk="alex").log_likelihood(
        image, target, params["params"]
    )
    np.testing.assert_allclose(actual, -lpips.apply(params, target, image), rtol=1e-5)


@pytest.mark.parametrize("divisor", [2, 4])
def test_images_are_reduced_as_pillow_does(divisor):
    """Golden: Pillow's antialiased bicubic, to a level of 255 where nothing is cut."""
    rng = np.random.default_rng(0)
    image = rng.uniform(60, 200, (32, 32)).round().astype(np.float32)
    side = 32 // divisor
    expected = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    actual = reduce_image(jnp.asarray(image)[None, :, :, None], divisor)[0, :, :, 0]
    np.testing.assert_allclose(actual, expected, atol=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"distance": "l1"}, "one of: l2, lpips"),
        ({"transform": "down3"}, "one of: identity, down2, down4"),
        ({"through": "encoder"}, "one of: network, decoder"),
        ({"interval": (9, 1)}, "swap them"),
    ],
)
def test_unknown_guides_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ImageGuide(**fields)


def test_a_guide_of_another_size_is_refused():
    guide = ImageGuide(transform="down4")
    guide.check_size((64, 64), (256, 256))
    with pytest.raises(ValueError, match="64x64 for samples of 256x256: got 256x256"):
        guide.check_size((256, 256), (256, 256))
    with pytest.raises(ValueError, match="needs guides of 16 pixels"):
        ImageGuide("lpips", transform="down2").check_size((8, 8), (16, 16))
