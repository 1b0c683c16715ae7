# SPDX-License-Identifier: Apache-2.0
"""The Python example of README.md, run on models of the original."""

import pathlib
import re

import jax
import numpy as np
import pytest

import ldm_jax
from ldm_jax.commands.import_ import import_weights
from ldm_jax.interop.compvis.state_dict import export_compvis
from ldm_jax.interop.torch_files.writer import write_ckpt
from tests.interop import small
from tests.interop.states import channels_last, load_golden, relative_error

README = pathlib.Path(__file__).parents[1] / "README.md"


def imported(folder, state, spec):
    """Imports a state dict's raw weights with a config of ours."""
    write_ckpt(folder / "model.ckpt", state)
    sections = dict(seed=0, batch_size=1, mesh={}, optimizer={}, train={})
    if spec["task"] == "first_stage":
        sections |= dict(images=dict(dataset="digits"), objective={}, held_out="test")
        sections |= dict(transform=dict(image_size=96))
    else:
        latents = dict(directory="", image_size=64, scale=spec["latent_scale"])
        sections |= dict(latents=latents, sampling=dict(num_steps=8))
    sections |= {k: v for k, v in spec.items() if k != "latent_scale"}
    config = folder / "config.py"
    config.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config(arg=None):\n    return ConfigDict({sections!r})\n"
    )
    import_weights(
        str(folder / "model.ckpt"), str(folder / "model"), str(config), which="raw"
    )
    return str(folder / "model")


def test_the_lines_of_the_readme_run_as_they_stand(tmp_path):
    spec = small.CLASSES
    directory = imported(tmp_path, export_compvis(spec, small.drawn(spec)), spec)
    block = re.search(
        r"```python\nimport jax, ldm_jax\n(.*?)```", README.read_text(), re.S
    )[1]
    image = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3))  # float64
    names = dict(jax=jax, ldm_jax=ldm_jax, image=image)
    exec(block.replace('"runs/b"', repr(directory)), names)
    shapes = {
        name: names[name].shape for name in ("moments", "z_0", "eps_hat", "image")
    }
    latent = (2, 8, 8, 2)
    assert shapes == dict(moments=latent, z_0=latent, eps_hat=latent, image=image.shape)
    assert names["cond"].context.shape == names["null"].context.shape == (2, 1, 8)
    for name in shapes:
        assert np.isfinite(names[name]).all()


def test_an_imported_model_samples_as_the_original_does(tmp_path):
    """Golden: eps, and 8 DDIM steps guided away from the class that says "any"."""
    state, spec, golden = load_golden("tiny-cin256")
    spec["condition"] |= dict(num_classes=10, has_null=True)
    directory = imported(tmp_path, state, spec)
    model, params = ldm_jax.load(directory)
    cond = model.condition(params, class_label=golden["class_label"])
    null = model.null(params, class_label=golden["class_label"])
    z_t, t = channels_last(golden["x_t"]), golden["t"].astype(np.int32)
    eps_hat = jax.jit(model.denoise)(params, z_t, t, cond)
    assert relative_error(eps_hat, channels_last(golden["eps"])) < 1e-4
    z_0 = ldm_jax.sample(
        model,
        params,
        cond,
        z_T=channels_last(golden["x_T"]),
        sampler="ddim",
        num_steps=8,
        eta=0.0,
        guidance_scale=3.0,
        null=null,
    )
    # Float32 through eight evaluations of a random network, whose latents grow to 30.
    assert relative_error(z_0, channels_last(golden["ddim8"])) < 1e-3


@pytest.mark.parametrize("name", ["tiny-kl-f8", "tiny-vq-f8"])
def test_a_first_stage_alone_has_the_same_door(tmp_path, name):
    """Golden: moments and image of the original's first stages."""
    state, spec, golden = load_golden(name)
    directory = imported(tmp_path, state, spec)
    model, params = ldm_jax.load(directory)
    image = jax.numpy.asarray(channels_last(golden["image"]))
    moments = jax.jit(model.moments)(params, image)
    assert relative_error(moments, channels_last(golden["moments_or_prequant"])) < 1e-4
    mode = moments[..., :4]  # of both: the mean, or what will be quantized
    np.testing.assert_array_equal(model.latent(moments), mode)
    drawn_z_0 = model.latent(moments, jax.random.key(0))
    assert (name == "tiny-vq-f8") == bool((drawn_z_0 == mode).all())
    decoded = jax.jit(model.decode)(params, np.asarray(mode))
    assert relative_error(decoded, channels_last(golden["dec"])) < 1e-4
    # Of the config it was imported with: what to train on.
    config = ldm_jax.experiment.stored_config.read_config(directory)
    assert config.images.dataset == "digits" and config.transform.image_size == 96
