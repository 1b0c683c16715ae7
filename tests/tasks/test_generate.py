# SPDX-License-Identifier: Apache-2.0
"""Options of sampling: errors, and their effect on images of a model of pixels."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditions.registry import make_condition
from ldm_jax.diffusion.samplers.base import seed_keys
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.tasks import generate
from ldm_jax.tasks.classifier import NoisyLatentClassifier
from ldm_jax.tasks.guides import ClassifierGuide
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.tasks.sampling import make_sampling
from tests.diffusion.oracles import two_mode_denoiser
from tests.tasks.conftest import SIDE


def draw(model_and_params, images, **options):
    model, params = model_and_params
    sampling = make_sampling(**{"num_steps": 4, "grid": "even", **options})
    run = generate.make_generate(model, (SIDE, SIDE, 3), sampling)
    return np.asarray(run(params, {}, seed_keys([1, 2]), images))


def test_a_known_region_comes_back_as_it_was_and_the_rest_is_sampled(model_and_params):
    known = np.random.default_rng(0).uniform(-1, 1, (2, SIDE, SIDE, 3)).astype("f4")
    mask = np.zeros((2, SIDE, SIDE, 1), "f4")
    mask[:, :, :4] = 1
    image = draw(model_and_params, {"known": known, "hole": 1 - mask})
    np.testing.assert_allclose(image[:, :, :4], known[:, :, :4], atol=1e-5)
    assert np.abs(image[:, :, 4:] - known[:, :, 4:]).min() > 1e-4


def test_a_quarter_of_the_strength_starts_from_the_noised_image(model_and_params):
    """Oracle: a denoiser that predicts no noise divides z_t by alpha_t in one step."""
    model, _ = model_and_params
    start = np.random.default_rng(1).uniform(-1, 1, (2, SIDE, SIDE, 3)).astype("f4")
    image = draw(model_and_params, {"start": start}, strength=0.25)
    # T = 1000 in 4 even steps: the last goes from t = 249 to clean.
    alpha, sigma = model.schedule.levels(jnp.asarray(249))
    noise = (image - start) * alpha / sigma
    # 384 normal values: the standard error of their spread is 0.036.
    assert abs(noise.std() - 1) < 0.15 and abs(noise.mean()) < 0.2


def test_clipping_bounds_the_predictions_of_a_model_of_pixels(model_and_params):
    assert np.abs(draw(model_and_params, {})).max() > 1
    assert np.abs(draw(model_and_params, {}, clip=0.5)).max() <= 0.5 + 1e-6
    assert np.abs(draw(model_and_params, {}, threshold=0.9)).max() <= 1 + 1e-6


def test_tiles_of_a_pointwise_denoiser_change_nothing(model_and_params):
    """Identity: no noise is predicted in a tile as in the whole."""
    whole, tiles = (
        draw(model_and_params, {}, **options)
        for options in ({}, dict(tile=4, overlap=2))
    )
    np.testing.assert_allclose(tiles, whole, rtol=1e-4, atol=1e-4)


def test_codes_need_a_codebook(model_and_params):
    with pytest.raises(ValueError, match="codes need a first stage with bottleneck"):
        draw(model_and_params, {}, snap_to_codebook=True)
    with pytest.raises(ValueError, match='"vq" are quantized: got "pixels"; leave un'):
        draw(model_and_params, {}, unquantized=True)


def test_previews_end_in_the_image_and_the_last_step_predicts_it(model_and_params):
    """Identity: the even grid's last step jumps to its own prediction."""
    model, params = model_and_params
    sampling = make_sampling(num_steps=4, grid="even", eta=1.0)
    shape, keys = (SIDE, SIDE, 3), seed_keys([1, 2])
    seen = generate.make_generate(model, shape, sampling, 2)(params, {}, keys, {})
    assert seen.shape == (3, 2, SIDE, SIDE, 3)
    image = draw(model_and_params, {}, eta=1.0)
    np.testing.assert_allclose(seen[2], image, rtol=1e-4)
    np.testing.assert_allclose(seen[1], seen[2], rtol=1e-4)
    assert np.abs(seen[0] - seen[2]).max() > 1e-3
    with pytest.raises(ValueError, match="at most the steps sampled: got 5 for 4"):
        generate.make_generate(model, shape, sampling, 5)(params, {}, keys, {})


MODES, WEIGHTS, STD = (-1.0, 1.5), (0.3, 0.7), 0.2


class ExactDenoiser(nn.Module):
    """E[z_0 | z_t] of values that are N(-1, 0.2^2) or N(1.5, 0.2^2)."""

    schedule: object

    @nn.compact
    def __call__(self, z_t, t, cond, is_training=False):
        return two_mode_denoiser(self.schedule, MODES, WEIGHTS, STD)(z_t, t)


class ExactClassifier(nn.Module):
    """Which of the two the first channel is: logits ln p(z_t | mode) + ln p(mode)."""

    schedule: object

    @nn.compact
    def __call__(self, z_t, t, is_training=False):
        alpha, sigma = (level[:, None] for level in self.schedule.levels(t))
        error = z_t[:, 0, 0, :1] - alpha * jnp.array(MODES)[None]
        variance = (alpha * STD) ** 2 + sigma**2
        return jnp.log(jnp.array(WEIGHTS))[None] - error**2 / (2 * variance)


def draw_modes(guide, label, num=256):
    schedule = make_schedule()
    model = LatentDiffusion(
        Autoencoder(bottleneck="pixels"),
        unet=ExactDenoiser(schedule),
        conditioner=make_condition("none"),
        schedule=schedule,
        prediction="x0",
    )
    guides = () if guide is None else (guide,)
    run = generate.make_generate(
        model, (1, 1, 3), make_sampling(num_steps=50, grid="even"), guides=guides
    )
    params = {"unet": {}, "autoencoder": {}, "classifier": {}}
    y = {} if guide is None else {"guided_label": jnp.full(num, label)}
    return np.asarray(run(params, y, seed_keys(range(num)), {}))[:, 0, 0]


def exact_guide(scale):
    schedule = make_schedule()
    classifier = NoisyLatentClassifier(
        Autoencoder(bottleneck="pixels"),
        classifier=ExactClassifier(schedule),
        schedule=schedule,
    )
    return ClassifierGuide(classifier, scale)


@pytest.mark.parametrize("label", [0, 1])
def test_an_exact_classifier_guides_an_unconditional_model_to_its_class(label):
    """Oracle: Bayes. At scale 1 the first channel is of the class, others are free."""
    values = draw_modes(exact_guide(1.0), label)
    assert (abs(values[:, 0] - MODES[label]) < 5 * STD).all()
    # 256 samples: a standard error of 0.2 / 16 = 0.0125; 50 steps are a little off.
    assert abs(values[:, 0].mean() - MODES[label]) < 0.06
    share = (values[:, 1:] > 0).mean()  # 512 values: a standard error of 0.02
    assert abs(share - WEIGHTS[1]) < 0.08


def test_a_classifier_of_scale_0_changes_no_bit():
    unguided = draw_modes(None, 0, num=8)
    np.testing.assert_array_equal(draw_modes(exact_guide(0.0), 0, num=8), unguided)
