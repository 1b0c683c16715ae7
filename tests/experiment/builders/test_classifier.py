# SPDX-License-Identifier: Apache-2.0
"""A classifier's run, from the diffusion model that it guides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ldm_jax.commands.latents import encode_image_set
from ldm_jax.commands.train import train_config
from ldm_jax.experiment import model_directory, resolve, stored_config, training_data
from ldm_jax.experiment.config import config_files
from ldm_jax.experiment.models import make_latent_diffusion
from ldm_jax.experiment.prepare import prepare
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.training.checkpoints.params import save_params
from ldm_jax.training.monitoring.metric_rows import read_rows

QUICKSTART = "quickstart"


def zeros(init, *args):
    shapes = jax.eval_shape(init, jax.random.key(0), *args)["params"]
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """Digits' latents and a diffusion model of them, both of untrained networks."""
    root = tmp_path_factory.mktemp("guided")
    stage = config_files.load_config(f"{QUICKSTART}:stage=first_stage")
    image = jnp.zeros((1, 16, 16, 3))
    autoencoder = Autoencoder(**stage.autoencoder)
    params = {
        "autoencoder": jax.jit(autoencoder.init)(jax.random.key(0), image)["params"]
    }
    for directory in ("a", "b/autoencoder"):
        save_params(str(root / directory), params, stage.to_dict())
    encode_image_set(str(root / "a"), str(root / "latents"), split="test")
    config = config_files.load_config(f"{QUICKSTART}:stage=diffusion")
    config.latents.update(directory=str(root / "latents"), scale=3.5)
    model = make_latent_diffusion(config)
    z_t, t = jnp.zeros((1, 8, 8, 2)), jnp.zeros(1, jnp.int32)
    label = {"label": jnp.zeros(1, jnp.int32)}
    cond = model.conditioner.init(jax.random.key(0), label)
    context = model.conditioner.encode(cond, label)
    params = {"unet": zeros(model.unet.init, z_t, t, context), "conditioner": cond}
    save_params(str(root / "b"), params, config.to_dict())
    return root


def settings(root, **changes):
    config = ConfigDict(
        dict(
            task="classifier",
            seed=0,
            batch_size=8,
            mesh={},
            optimizer=dict(name="adamw", learning_rate=1e-3),
            train=dict(num_steps=2, report_every=1),
            diffusion=dict(directory=str(root / "b")),
            latents=dict(
                directory=str(root / "latents"), image_size=16, flip=False, scale=None
            ),
            classifier=dict(
                num_classes=10,
                channels=32,
                channel_mult=(1,),
                num_res_blocks=1,
                head_channels=16,
            ),
        )
    )
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


def test_a_classifier_takes_scale_and_schedule_from_the_model_it_guides(
    guided, tmp_path
):
    train_config(settings(guided), str(tmp_path / "c"))
    model, params = model_directory.load(str(tmp_path / "c"))
    other, _ = model_directory.load(str(guided / "b"))
    assert model.latent_scale == 3.5
    np.testing.assert_array_equal(model.schedule.betas, other.schedule.betas)
    z_t, t = jnp.zeros((3, 8, 8, 2)), jnp.array([0, 5, 999])
    assert model.logits(params, z_t, t).shape == (3, 10)
    stored = stored_config.read_config(str(tmp_path / "c"))
    assert stored.latents.scale == 3.5
    assert stored.schedule == stored_config.read_config(str(guided / "b")).schedule
    # Run again it is finished, not another run.
    assert int(train_config(settings(guided), str(tmp_path / "c")).step) == 2


def test_held_out_latents_are_classified_at_ten_noise_levels(guided, tmp_path):
    held_out = {"held_out_latents": str(guided / "latents")}
    train_config(settings(guided, **held_out), str(tmp_path / "c"))
    (row,) = read_rows(tmp_path / "c" / "evaluation.jsonl")
    assert row["step"] == 2 and 0 <= row["accuracy"] <= row["accuracy_5"] <= 1
    assert sum(name.startswith("accuracy_t/") for name in row) == 10
    assert "accuracy by noise level t" in (tmp_path / "c" / "report.html").read_text()


def test_held_out_latents_of_another_size_are_refused(guided, tmp_path):
    out = str(tmp_path / "large")
    encode_image_set(str(guided / "a"), out, split="test", buckets="32x32")
    changes = {"held_out_latents": out}
    with pytest.raises(ValueError, match=f"make latents of .* those in {out} are"):
        prepare(settings(guided, **changes), str(tmp_path / "c"))


def test_first_stages_are_read_once(guided, tmp_path, monkeypatch):
    """Identity: that of the latents and the model's own, also with held-out latents."""
    read = []
    for module in (resolve, training_data):
        real = module.load_params
        monkeypatch.setattr(
            module,
            "load_params",
            lambda path, real=real: read.append(path) or real(path),
        )
    held_out = {"held_out_latents": str(guided / "latents")}
    prepare(settings(guided, **held_out), str(tmp_path / "c"))
    assert read == [f"{guided}/latents/autoencoder", f"{guided}/b/autoencoder"]


@pytest.mark.parametrize("field", ["held_out_latents", "latents.directory"])
def test_latents_of_another_first_stage_are_refused(guided, tmp_path, field):
    """They have the same networks and scale, so nothing else distinguishes them."""
    stage = config_files.load_config(f"{QUICKSTART}:stage=first_stage")
    autoencoder = Autoencoder(**stage.autoencoder)
    image = jnp.zeros((1, 16, 16, 3))
    params = {
        "autoencoder": jax.jit(autoencoder.init)(jax.random.key(1), image)["params"]
    }
    save_params(str(tmp_path / "a"), params, stage.to_dict())
    encode_image_set(str(tmp_path / "a"), str(tmp_path / "latents"), split="test")
    changes = {field: str(tmp_path / "latents")}
    message = rf"config\.{field} must be latents of the first stage of the diffusion "
    with pytest.raises(ValueError, match=message):
        prepare(settings(guided, **changes), str(tmp_path / "c"))


def test_an_abstract_run_has_the_shapes_of_latents_and_labels(guided):
    run = prepare(settings(guided), abstract=True)
    assert run.batch_shapes["moments"].shape == (8, 8, 8, 4)
    assert run.batch_shapes["label"].shape == (8,)
    params, _ = jax.eval_shape(run.task.init, jax.random.key(0), run.batch_shapes)
    assert sorted(params) == ["classifier"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents.scale": 1.0}, r"latents\.scale must be that of .*3\.5: got 1\.0"),
        ({"schedule": dict(kind="cosine")}, r"config\.schedule must be that of"),
        ({"autoencoder": dict(channels=64)}, r"config\.autoencoder must be that of"),
        ({"latents.image_size": 32}, "make latents of"),
        ({"classifier.num_classes": 5}, r"labels of the data must be in \[0, 5\)"),
        ({"classifier.latent_size": 8}, 'classifier has no "latent_size"'),
    ],
)
def test_what_contradicts_the_guided_model_is_refused(
    guided, tmp_path, changes, message
):
    with pytest.raises(ValueError, match=message):
        run = prepare(settings(guided, **changes), str(tmp_path))
        assert run.batches is not None
        next(run.batches.stream(0))


def test_only_a_diffusion_model_is_guided(guided, tmp_path):
    changes = {"diffusion.directory": str(guided / "a")}
    with pytest.raises(ValueError, match="needs a model of the task latent_diffusion"):
        prepare(settings(guided, **changes), str(tmp_path))
