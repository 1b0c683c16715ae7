# SPDX-License-Identifier: Apache-2.0
"""The first stage's objective: against the original's terms, and its options."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.features.lpips import LPIPS
from ldm_jax.tasks.first_stage import first_stage
from tests.golden import first_stage as golden

TINY = dict(channels=32, channel_mult=(1, 1), num_res_blocks=1, mid_attention=False)
ADVERSARY = dict(disc_start=2, num_layers=1, channels=8)


def batch_of(shape=(2, 8, 8, 3), seed=0):
    image = np.random.default_rng(seed).uniform(-1, 1, shape)
    return {"image": jnp.asarray(image, jnp.float32)}


def start(task, batch, seed=0):
    """Random parameters and collections made without compiling the initializers."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(task.init, jax.random.key(0), batch)
    draw = lambda x: jnp.asarray(rng.normal(0, x.size**-0.3, x.shape), x.dtype)  # noqa: E731
    params, collections = jax.tree.map(draw, shapes)
    return params, {**collections, "frozen": task.frozen}


def value(task, batch, key=0, step=0, seed=0):
    """The scalar and the metrics at random parameters."""
    params, collections = start(task, batch, seed)
    total, (metrics, _) = task.loss(
        params, collections, batch, jax.random.key(key), step
    )
    return float(total), {name: float(x) for name, x in metrics.items()}


class AtTheOriginal(Autoencoder):
    """Our autoencoder, its reconstruction rounded to the original's.

    The two differ by 3e-6, which is enough to put one unit of the discriminator on the
    other side of its LeakyReLU's kink; that alone is 2.6e-3 of the gradient (float64
    finds units within 1e-6 of zero).
    """

    original: Any = None

    def __call__(self, image, key=None, is_training=False):
        out = super().__call__(image, key, is_training)
        original = jnp.asarray(self.original.array)
        exact = original + (out.image - jax.lax.stop_gradient(out.image))
        error = jnp.linalg.norm(out.image - original) / jnp.linalg.norm(original)
        return out._replace(image=exact, metrics=out.metrics | {"error": error})


class Stored:
    """Keeps an array out of flax's sight: a module's fields are to be hashable."""

    def __init__(self, array):
        self.array = array


@pytest.fixture(scope="module", params=["gan-kl-f8", "gan-vq-f8"])
def original(request):
    """The original's objective after and before disc_start, and ours."""
    arrays, meta, flat = golden.load(request.param)
    config = meta["meta"]["lossconfig"]["params"]
    fields = golden.autoencoder_fields(meta)
    task = first_stage(
        AtTheOriginal(**fields, original=Stored(arrays["reconstruction"])),
        perceptual="vgg",
        perceptual_params=golden.perceptual(meta),
        penalty_weight=config.get("kl_weight", config.get("codebook_weight")),
        adversary=dict(
            disc_start=config["disc_start"],
            disc_weight=config["disc_weight"],
            num_layers=config.get("disc_num_layers", 3),
        ),
    )
    params = {
        "autoencoder": golden.tree(flat, *golden.AUTOENCODER),
        "discriminator": golden.adversary(meta),
    }
    batch = {"image": jnp.asarray(arrays["image"])}
    shapes, stats = jax.eval_shape(task.init, jax.random.key(0), batch)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), stats)
    collections = {**zeros, "frozen": task.frozen}

    patch = pytest.MonkeyPatch()
    if "posterior_noise" in arrays:
        # The key's normal draw becomes the original's noise.
        noise = jnp.asarray(arrays["posterior_noise"])
        normal = jax.random.normal

        def draw(key, shape, *args):
            return noise if shape == noise.shape else normal(key, shape, *args)

        patch.setattr(jax.random, "normal", draw)
    step = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    ours, early = (
        step(params, collections, batch, jax.random.key(0), s)
        for s in (meta["global_step"], meta["global_step"] - 10)
    )
    patch.undo()
    return arrays, ours, early


def test_every_term_equals_the_original(original):
    """Golden: five steps past disc_start."""
    arrays, ((total, (metrics, _)), _), _ = original
    expected = {
        "loss/nll": "log_nll_loss",
        "gan/weight": "log_d_weight",
        "gan/active": "log_disc_factor",
        "gan/generator": "log_g_loss",
        "gan/discriminator": "log_disc_loss",
        "gan/logits_real": "log_logits_real",
        "gan/logits_fake": "log_logits_fake",
    }
    for actual, reference in expected.items():
        assert golden.relative_error(metrics[actual], arrays[reference]) < 1e-4, actual
    assert golden.relative_error(metrics["loss/lpips"], arrays["lpips"].mean()) < 1e-4
    penalty = ("kl", "log_kl_loss") if "log_kl_loss" in arrays else None
    penalty = penalty or ("codebook", "log_quant_loss")
    actual = metrics[f"bottleneck/{penalty[0]}"]
    assert golden.relative_error(actual, arrays[penalty[1]]) < 1e-4
    generator = total - metrics["gan/discriminator"]
    assert golden.relative_error(generator, arrays["generator_loss"]) < 1e-4
    loss = arrays["discriminator_loss"]
    assert golden.relative_error(metrics["gan/discriminator"], loss) < 1e-4
    assert metrics["bottleneck/error"] < 1e-5


def test_the_generators_gradients_equal_the_original(original):
    """Golden: by the decoder's last kernel and the encoder's first."""
    arrays, (_, grads), _ = original
    grads = grads["autoencoder"]
    last = grads["decoder"]["conv_out"]["kernel"]
    assert golden.relative_error(last, arrays["grad_last_layer"]) < 1e-4
    first = grads["encoder"]["conv_in"]["kernel"]
    assert golden.relative_error(first, arrays["grad_encoder_conv_in"]) < 1e-4


def test_before_disc_start_the_loss_equals_the_original(original):
    """Golden: no adversary in the value, no gradient for the discriminator."""
    arrays, _, ((total, (metrics, _)), grads) = original
    before = arrays["generator_loss_before_disc_start"]
    assert golden.relative_error(total, before) < 1e-4
    assert metrics["gan/active"] == 0 and metrics["gan/weight"] > 0
    assert not any(x.any() for x in jax.tree.leaves(grads["discriminator"]))


def test_plain_training_lowers_the_loss_and_the_error():
    """Without perceptual loss and adversary, as set explicitly."""
    task = first_stage(Autoencoder(**TINY), perceptual="none")
    batch = batch_of((4, 8, 8, 3))
    params, collections = start(task, batch)
    optimizer = optax.adam(3e-3)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, i):
        key = jax.random.fold_in(jax.random.key(0), i)
        (loss, (metrics, _)), grads = jax.value_and_grad(task.loss, has_aux=True)(
            params, collections, batch, key, i
        )
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss, metrics

    losses, errors = [], []
    for i in range(30):
        params, state, loss, metrics = step(params, state, i)
        losses.append(float(loss))
        errors.append(float(metrics["loss/pixel"]))
    assert losses[-1] < 0.8 * losses[0] and errors[-1] < 0.8 * errors[0]


def test_perceptual_has_to_be_chosen():
    with pytest.raises(TypeError, match="perceptual"):
        first_stage(Autoencoder(**TINY))


def test_pixel_loss_is_l1_or_l2():
    """Oracle: the mean over everything, from the same reconstruction."""
    model = Autoencoder(bottleneck="vq", num_codes=8, **TINY)
    batch = batch_of()
    params, _ = start(first_stage(model, perceptual="none"), batch)
    x_hat = model.apply({"params": params["autoencoder"]}, batch["image"]).image
    difference = np.asarray(batch["image"] - x_hat, np.float64)
    for name, expected in (("l1", abs(difference)), ("l2", difference**2)):
        task = first_stage(model, perceptual="none", pixel_loss=name)
        _, metrics = value(task, batch)
        np.testing.assert_allclose(metrics["loss/pixel"], expected.mean(), rtol=1e-5)


def test_reduction_is_a_sum_for_kl_and_a_mean_for_vq_by_default():
    batch = batch_of()
    ratio = {}
    for bottleneck in (dict(), dict(bottleneck="vq", num_codes=8)):
        for reduction in (None, "sum", "mean"):
            model = Autoencoder(**bottleneck, **TINY)
            task = first_stage(model, perceptual="none", reduction=reduction)
            _, metrics = value(task, batch)
            share = metrics["loss/nll"] / metrics["loss/pixel"]
            ratio[model.bottleneck, reduction] = round(share)
    size = 8 * 8 * 3
    assert ratio["kl", None] == ratio["kl", "sum"] == ratio["vq", "sum"] == size
    assert ratio["vq", None] == ratio["vq", "mean"] == ratio["kl", "mean"] == 1


def test_penalty_weight_scales_the_bottlenecks_penalty():
    batch = batch_of()
    model = Autoencoder(**TINY)
    free, metrics = value(
        first_stage(model, perceptual="none", penalty_weight=0), batch
    )
    paid, _ = value(first_stage(model, perceptual="none", penalty_weight=3.0), batch)
    assert paid - free == pytest.approx(3.0 * metrics["bottleneck/kl"], rel=1e-4)
    shipped, _ = value(first_stage(model, perceptual="none"), batch)
    assert shipped == pytest.approx(free + 1e-6 * metrics["bottleneck/kl"])


def test_perceptual_weight_and_dropout_act_on_lpips():
    batch = batch_of((1, 32, 32, 3))
    model = Autoencoder(**TINY)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
        LPIPS("squeeze").init, jax.random.key(0), *2 * [batch["image"]]
    )
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(0, x.size**-0.4, x.shape), x.dtype),
        shapes["params"],
    )

    def terms(**options):
        task = first_stage(
            model, perceptual="squeeze", perceptual_params=params, **options
        )
        return value(task, batch)[1]

    once, thrice = terms(), terms(perceptual_weight=3.0)
    size = 32 * 32 * 3
    assert once["loss/lpips"] > 0
    gain = thrice["loss/nll"] - once["loss/nll"]
    assert gain == pytest.approx(2 * size * once["loss/lpips"], rel=1e-3)
    assert terms(perceptual_dropout=0.5)["loss/lpips"] != once["loss/lpips"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(pixel_loss="l3"), "unknown pixel_loss"),
        (dict(reduction="max"), "unknown reduction"),
        (dict(perceptual=None), "perceptual must be chosen"),
        (dict(perceptual="vgg"), "perceptual_params"),
        (dict(perceptual_params={"lin_0": 1}), "perceptual_params"),
        (dict(perceptual="resnet", perceptual_params={}), "unknown LPIPS trunk"),
        (dict(adversary=dict(loss="wgan")), "unknown adversary loss"),
        (dict(adversary=dict(disc_factor=0.0)), "disc_factor"),
    ],
)
def test_options_that_do_not_fit_are_refused_when_built(
    options, message, unchecked_shapes
):
    with pytest.raises(ValueError, match=message):
        first_stage(Autoencoder(**TINY), **{"perceptual": "none", **options})


def test_pixels_have_nothing_to_learn():
    with pytest.raises(ValueError, match="nothing to learn"):
        first_stage(Autoencoder(bottleneck="pixels"), perceptual="none")


def test_images_that_f_does_not_divide_are_refused_at_init():
    task = first_stage(Autoencoder(**TINY), perceptual="none")
    image = jax.ShapeDtypeStruct((2, 9, 8, 3), jnp.float32)
    with pytest.raises(ValueError, match="multiples of f=2"):
        task.init(jax.random.key(0), {"image": image})
