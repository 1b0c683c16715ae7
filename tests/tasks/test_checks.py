# SPDX-License-Identifier: Apache-2.0
"""What a caller gives to a model in Python is checked, and named in one sentence."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ldm_jax
from ldm_jax.tasks import checks
from ldm_jax.types import Conditioning

Z_T = np.zeros((2, 4, 4, 4), np.float32)


@contextlib.contextmanager
def one_sentence(message):
    with pytest.raises(ValueError, match=message) as raised:
        yield raised
    assert len(str(raised.value).splitlines()) == 1


@pytest.fixture(scope="module")
def digits():
    return ldm_jax.load("digits")


@pytest.mark.parametrize("params", [None, [], "unet", 3])
def test_params_that_are_no_dict_are_named(params, digits, tmp_path):
    model, _ = digits
    for call in (
        lambda: checks.check_networks(params),
        lambda: model.condition(params, class_label=[1]),
        lambda: ldm_jax.save(tmp_path / "model", model, params),
    ):
        with one_sentence(f"an entry per network: got {type(params).__name__}; give"):
            call()


@pytest.mark.parametrize("network", ["x", None, np.zeros(3)])
def test_a_network_that_is_no_dict_is_named(network):
    with one_sentence(r'params\["unet"\] must be a dict of parameters: got '):
        checks.network_of({"unet": network}, "unet")


def test_parameters_of_another_network_are_named(digits, unchecked_shapes):
    model, params = digits
    image = np.zeros((1, 16, 16, 3), np.float32)
    exchanged = {"autoencoder": params["unet"], "unet": params["autoencoder"]}
    cond = model.condition(params, class_label=[1, 2])
    z_T = latents(digits)
    for name, call in {
        "autoencoder": lambda: model.encode(exchanged, image),
        "unet": lambda: model.denoise(exchanged, z_T, np.array([1, 2]), cond),
        "conditioner": lambda: model.condition({}, class_label=[1]),
    }.items():
        message = rf'params\["{name}"\] must be those of this model: got '
        with one_sentence(message) as raised:
            call()
        # Without 40 lines of Flax's frames above it, which end in the same reason.
        assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    ("array", "got"),
    [
        ([1.0], "list"),
        (np.zeros((4, 4, 4)), r"shape \(4, 4, 4\)"),
        (np.zeros((1, 4, 4, 3)), r"shape \(1, 4, 4, 3\)"),
        (np.zeros((1, 0, 4, 4)), r"shape \(1, 0, 4, 4\)"),
        (np.zeros((0, 4, 4, 4)), r"shape \(0, 4, 4, 4\)"),
    ],
)
def test_other_axes_are_named(array, got):
    with one_sentence(rf"z_T must be an array \[B, height, width, 4\]: got {got}; "):
        checks.check_axes("z_T", array, 4)
    checks.check_axes("z_T", Z_T, 4)


@pytest.mark.parametrize("t", [[0, 1000], [-1, 5], [2**32, 5], [np.nan, 5]])
def test_time_steps_outside_of_the_schedule_are_named(t):
    """2**32 is 0 in 32 bits."""
    with one_sentence(r"t must be in \[0, 1000\): got "):
        checks.check_steps(np.asarray(t), 1000)
    checks.check_steps(jnp.asarray([0, 999]), 1000)


def test_truth_values_are_no_time_steps():
    with one_sentence("t must hold numbers of steps: got booleans"):
        checks.check_steps(np.asarray([True, False]), 1000)


def test_a_condition_of_another_number_of_rows_is_named():
    with one_sentence("got 2 latents and context of 3 rows; give one row for each"):
        checks.check_batch_sizes(Z_T, Conditioning(context=np.zeros((3, 5, 8))))
    checks.check_batch_sizes(Z_T, Conditioning(context=np.zeros((2, 5, 8))))


def latents(digits, dtype=np.float32):
    model, _ = digits
    return np.zeros((2, *model.autoencoder.latent_shape((16, 16, 3))), dtype)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(dtype=complex), "z_T must be floating point"),
        (dict(dtype=int), "z_T must be floating point"),
        (dict(z_T="noise"), "z_T must be an array .*: got str"),
        (dict(z_T=[[[1.0]]]), "z_T must be an array"),
        (dict(fill=np.nan), "z_T must be standard normal noise: got NaN"),
        (dict(fill=np.inf), "z_T must be standard normal noise: got NaN or infinity"),
        (dict(null="x"), "must be one that model.condition made: got str"),
        (dict(key=0), "key must be made by jax.random.key.seed.: got int64"),
        (dict(key="0"), "key must be made by jax.random.key.seed.: got"),
        (dict(key=np.zeros((3, 2), np.uint32)), "one key or one per sample"),
        (dict(sampler="ddpm", temperature=-1.0), "temperature must be 0 or more"),
        (dict(eta=1.0, temperature=-0.5), "temperature must be 0 or more: got -0.5"),
        (dict(guidance_interval=[1, 2, 3]), "guidance_interval must be a tuple"),
    ],
)
def test_what_sampling_cannot_use_is_named(
    digits, arguments, message, unchecked_shapes
):
    model, params = digits
    cond = model.condition(params, class_label=[1, 2])
    arguments = dict(arguments)
    z_T = latents(digits, arguments.pop("dtype", np.float32))
    z_T[0, 0, 0, 0] = arguments.pop("fill", 0)
    with one_sentence(message):
        ldm_jax.sample(model, params, cond, **{"z_T": z_T, "num_steps": 2, **arguments})


def test_an_interval_may_be_a_list(digits):
    """As in JSON; identity with the tuple."""
    model, params = digits
    cond = model.condition(params, class_label=[1, 2])
    null = model.null(params, class_label=[1, 2])
    z_T = jax.random.normal(jax.random.key(0), latents(digits).shape)
    images = [
        ldm_jax.sample(
            model,
            params,
            cond,
            z_T=z_T,
            null=null,
            num_steps=2,
            guidance_scale=2.0,
            guidance_interval=interval,
        )
        for interval in ([1, 600], (1, 600))
    ]
    np.testing.assert_array_equal(*images)


def test_an_empty_condition_is_named(digits):
    model, params = digits
    with one_sentence("class_label must have a row for each image: got none"):
        model.condition(params, class_label=[])
