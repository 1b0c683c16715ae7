# SPDX-License-Identifier: Apache-2.0
"""`ldm_jax.save`: settings and parameters are restored by `ldm_jax.load`."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ldm_jax
from ldm_jax.commands.export import SUFFIXES, check, export_weights
from ldm_jax.commands.import_ import import_weights
from ldm_jax.conditions.registry import make_condition
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.experiment.save_model import condition_section, model_spec
from ldm_jax.experiment.stored_config import read_config, read_sampling
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.classifier import POOLS, LatentClassifier
from ldm_jax.models.unet import UNet
from ldm_jax.tasks.classifier import NoisyLatentClassifier
from ldm_jax.tasks.model import FirstStage
from tests.conditions.test_tokens import write_vocab
from tests.interop import small
from tests.interop.small import draw, model_of, random_tree
from tests.models.test_classifier import TINY, param_shapes

LABELS = {"label": np.array([1, 7], np.int32)}
PARTS = dict(
    map=dict(kind="semantic", num_classes=5, f=2),
    name=dict(kind="class", num_classes=10, width=8),
)
KINDS = {
    "class, v, zero SNR": (
        small.diffusion(
            dict(kind="class", num_classes=10, width=8, has_null=False),
            small.CROSS,
            prediction="v",
            schedule=dict(kind="scaled_linear", zero_terminal_snr=True),
        ),
        LABELS,
    ),
    "pixels": (small.PIXELS, {}),
    "given betas": (
        small.diffusion(
            dict(kind="none"),
            schedule=dict(kind="given", num_timesteps=3, betas=(0.1, 0.2, 0.3)),
        ),
        {},
    ),
    "inpaint": (
        small.diffusion(dict(kind="inpaint"), more=3),
        {"image": np.zeros((2, 8, 8, 3), "f4"), "mask": np.ones((2, 8, 8, 1), "f4")},
    ),
    "hybrid": (
        small.diffusion(dict(kind="hybrid", parts=PARTS), small.CROSS, more=3),
        {"label_map": np.zeros((2, 8, 8), np.int32), **LABELS},
    ),
}


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_a_diffusion_model_comes_back(kind, tmp_path):
    """Identity: networks, schedule bit for bit, prediction, scale, parameters."""
    spec, fields = KINDS[kind]
    model = model_of(spec)
    params = draw(model, fields)
    ldm_jax.save(tmp_path / "a", model, params, image_size=(8, 12))
    again, same = ldm_jax.load(str(tmp_path / "a"))
    trees = ({k: v for k, v in tree.items() if v} for tree in (params, same))
    assert_same(*(dict(tree) for tree in trees))
    assert again.unet == model.unet and again.autoencoder == model.autoencoder
    assert again.conditioner == model.conditioner
    assert_same(again.schedule, model.schedule)
    assert (again.prediction, again.latent_scale) == (
        model.prediction,
        0.5 if spec["autoencoder"] == small.VQ else 1.0,
    )
    assert read_config(str(tmp_path / "a")).latents.image_size == (8, 12)
    if "zero SNR" in kind:  # sampled from the last step
        grid = read_sampling(str(tmp_path / "a"), {}).make_timesteps(model.schedule)
        assert grid[0] == model.schedule.num_timesteps - 1


def test_a_saved_model_is_saved_with_the_same_settings_again(tmp_path):
    model, params = ldm_jax.load("digits")
    ldm_jax.save(tmp_path / "a", model, params, image_size=32)
    again, same = ldm_jax.load(str(tmp_path / "a"))
    assert_same(params, same)
    assert model_spec(again) == model_spec(model)


def test_a_text_model_brings_its_vocabulary(tmp_path):
    vocab = write_vocab(tmp_path / "vocab.txt", 30522)
    condition = {**small.TEXT["condition"], "vocab": str(vocab)}
    model = model_of({**small.TEXT, "condition": condition})
    params = draw(model, {"tokens": np.zeros((2, 77), np.int32)})
    ldm_jax.save(tmp_path / "a", model, params)
    pathlib.Path(vocab).unlink()
    again, same = ldm_jax.load(str(tmp_path / "a"))
    one, two = (
        m.condition(p, text=["a cat", "cat"]).context
        for m, p in ((model, params), (again, same))
    )
    np.testing.assert_array_equal(one, two)


def test_a_first_stage_is_saved_without_a_scale(tmp_path):
    model = FirstStage(model_of(small.CLASSES).autoencoder)
    params = {"autoencoder": draw(model_of(small.CLASSES), LABELS)["autoencoder"]}
    ldm_jax.save(tmp_path / "a", model, params)
    again, same = ldm_jax.load(str(tmp_path / "a"))
    assert_same(params, same)
    assert again.autoencoder == model.autoencoder
    with pytest.raises(ValueError, match="without a scale of its latents: got"):
        scaled = dataclasses.replace(model, latent_scale=0.5)
        ldm_jax.save(tmp_path / "b", scaled, params)


def test_parameters_of_another_byte_order_come_back(tmp_path):
    model = FirstStage(model_of(small.CLASSES).autoencoder)
    params = {"autoencoder": draw(model_of(small.CLASSES), LABELS)["autoencoder"]}
    swapped = jax.tree.map(lambda x: np.asarray(x, ">f4"), params)
    ldm_jax.save(tmp_path / "a", model, swapped)
    assert_same(params, ldm_jax.load(str(tmp_path / "a"))[1])


def test_other_parameters_and_a_taken_directory_are_refused(tmp_path):
    model = model_of(small.CLASSES)
    params = draw(model, LABELS)
    with pytest.raises(ValueError, match=r"unet/.*missing"):
        ldm_jax.save(tmp_path / "a", model, {**params, "unet": {}})
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").write_text("kept")
    with pytest.raises(ValueError, match="exists"):
        ldm_jax.save(tmp_path / "b", model, params)
    assert (tmp_path / "b").read_text() == "kept"


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool, np.complex64])
def test_parameters_that_are_no_floating_point_numbers_are_refused(dtype, tmp_path):
    model, params = ldm_jax.load("digits")
    params = jax.tree.map(lambda x: np.zeros(x.shape, dtype), params)
    with pytest.raises(ValueError, match=f"{np.dtype(dtype)}, expected numbers of flo"):
        ldm_jax.save(tmp_path / "a", model, params)
    assert not list(tmp_path.iterdir())


def test_a_dtype_is_saved_by_its_name():
    condition = make_condition(
        kind="text", width=8, depth=1, dtype=jnp.dtype(jnp.bfloat16)
    )
    assert condition_section(condition) == dict(
        kind="text", width=8, depth=1, dtype="bfloat16"
    )


def test_the_settings_of_the_schedule_must_make_it(tmp_path):
    """Without settings, betas suffice only where float32 holds them exactly."""
    model = model_of(small.CLASSES)
    params = draw(model, LABELS)
    other = make_schedule(kind="cosine")
    for changed in (dict(schedule=other), dict(schedule_settings=None)):
        changed = dataclasses.replace(model, **changed)
        with pytest.raises(ValueError, match="schedule_settings must be the arguments"):
            ldm_jax.save(tmp_path / "a", changed, params)
    betas = (0.125, 0.25, 0.5)
    exact = make_schedule(kind="given", num_timesteps=3, betas=betas)
    changed = dataclasses.replace(model, schedule=exact, schedule_settings=None)
    ldm_jax.save(tmp_path / "a", changed, params)
    assert_same(ldm_jax.load(str(tmp_path / "a"))[0].schedule, exact)


def classifier_of(**fields):
    """A classifier of noisy latents of 4x4x2, and its random parameters."""
    network = LatentClassifier(**{**TINY, **fields})
    settings = dict(kind="linear", num_timesteps=50)
    model = NoisyLatentClassifier(
        Autoencoder(**small.FIRST_STAGE),
        0.5,
        classifier=network,
        schedule=make_schedule(**settings),
        schedule_settings=settings,
        class_names=("a", "b", "c"),
    )
    return model, {"classifier": random_tree(param_shapes(network))}


@pytest.mark.parametrize("pool", POOLS)
def test_a_classifier_of_noisy_latents_comes_back(pool, tmp_path):
    """Identity: network, first stage, scale, schedule, names of classes, parameters."""
    model, params = classifier_of(pool=pool)
    ldm_jax.save(tmp_path / "a", model, params)
    again, same = ldm_jax.load(str(tmp_path / "a"))
    assert_same(params, same)
    assert again.classifier == model.classifier
    assert again.autoencoder == model.autoencoder
    assert_same(again.schedule, model.schedule)
    assert (again.latent_scale, again.class_names) == (0.5, ("a", "b", "c"))
    assert read_config(str(tmp_path / "a")).latents.image_size == 8


@pytest.mark.parametrize("form", ["compact", "npz", "safetensors"])
def test_a_saved_classifier_is_exported_and_imported(form, tmp_path):
    """Identity: parameters, to half precision in the compact form."""
    model, params = classifier_of()
    ldm_jax.save(tmp_path / "a", model, params)
    out = str(tmp_path / f"b{SUFFIXES.get(form, '')}")
    export_weights(str(tmp_path / "a"), out, form)
    if form != "compact":
        import_weights(out, str(tmp_path / "c"))
        out = str(tmp_path / "c")
    again, same = ldm_jax.load(out)
    assert again.classifier == model.classifier
    digits = dict(rtol=1e-3, atol=1e-6) if form == "compact" else dict(rtol=0)
    for one, two in zip(jax.tree.leaves(params), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(np.float32(two), one, **digits)


def test_the_original_names_of_a_classifier_are_checked(tmp_path):
    """Identity: the parameters are read back without a YAML file."""
    ldm_jax.save(tmp_path / "a", *classifier_of())
    out = tmp_path / "b.safetensors"
    export_weights(str(tmp_path / "a"), str(out), "compvis")
    report = check(str(tmp_path / "a"), "compvis", out)
    assert report.endswith("import: relative difference parameters 0.0e+00")


def test_a_classifier_is_saved_for_the_images_that_it_reads(tmp_path):
    model, params = classifier_of()
    message = "reads images of 8x8: got image_size=16"
    with pytest.raises(ValueError, match=message):
        ldm_jax.save(tmp_path / "a", model, params, image_size=16)
    with pytest.raises(ValueError, match=r"classifier/.*missing"):
        ldm_jax.save(tmp_path / "a", model, {"classifier": {}})
    assert not (tmp_path / "a").exists()


def test_a_network_of_another_kind_is_refused(tmp_path):
    """A module of the user's own is called like a UNet, but has no section."""

    class Own(UNet):
        pass

    model = model_of(small.CLASSES)
    own = dataclasses.replace(model, unet=Own(**small.CLASSES["unet"]))
    message = "describes a UNet: got Own"
    with pytest.raises(ValueError, match=message):
        ldm_jax.save(tmp_path / "a", own, draw(model, LABELS))
