# SPDX-License-Identifier: Apache-2.0
"""The models of the package give the samples that their cards describe."""

import pathlib

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

import ldm_jax
from ldm_jax import cli, pretrained
from ldm_jax.data.builders.digits import is_held_out
from ldm_jax.experiment import stored_config
from ldm_jax.metrics.nearest import classification_accuracy
from ldm_jax.tasks.sample_images import sample_images
from ldm_jax.tasks.sampling import make_sampling

NUM_EACH = 4


def test_models_of_the_package_are_small_and_have_a_card():
    assert pretrained.pretrained_names() == ["digits"]
    files = [path for path in pretrained.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4 * 2**20
    for name in pretrained.pretrained_names():
        folder = pretrained.FOLDER / name
        card = (folder / "README.md").read_text()
        assert "trained on" in card and "licence" in card
        for path in folder.rglob("config.json"):
            assert '"/' not in path.read_text(), "a path of the machine that trained it"


def test_samples_of_digits_are_of_the_requested_class():
    """Oracle: a nearest-neighbour classifier of real digits; the card: 200 of 200."""
    model, params = ldm_jax.load("digits")
    labels = np.repeat(np.arange(10), NUM_EACH).astype(np.int32)
    images = sample_images(
        model,
        params,
        {"label": labels},
        seeds=np.arange(len(labels)),
        latent_shape=stored_config.latent_shape("digits"),
        sampling=make_sampling(num_steps=20, guidance_scale=3.0),
        batch_size=len(labels),
    )
    # 16x16 pixels are 8x8 enlarged: means of four are the original's.
    small = (
        np.concatenate(list(images))[..., 0]
        .reshape(-1, 8, 2, 8, 2)
        .mean((2, 4))[..., None]
    )
    real, label = load_digits(return_X_y=True)
    real = real.reshape(-1, 8, 8, 1) / 16 * 255
    train = ~is_held_out(label)
    accuracy = classification_accuracy(real[train], label[train], small, labels)
    assert accuracy >= 0.95


def test_a_directory_of_the_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pathlib.Path(stored_config.locate("digits")) == pretrained.FOLDER / "digits"
    (tmp_path / "digits").mkdir()
    assert stored_config.locate("digits") == "digits"


def test_commands_take_the_name(tmp_path, capsys):
    out = tmp_path / "samples"
    argv = ["sample", "--model=digits", f"--out={out}", "--label=7", "--num-steps=2"]
    assert cli.main(argv) == 0 and (out / "000000.png").exists()
    assert cli.main(["info", "digits"]) == 0
    assert "condition    class: 0, 1, 2" in capsys.readouterr().out
    assert cli.main(["sample", "--model=digit", f"--out={out}"]) == 2
    assert "a model of the package: digits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num=1000001"], "num must be 1 to 1,000,000 images"),
        (["--num=1", "--num-steps=2", "--previews=3"], "at most the steps sampled"),
        (["--num=1", "--label=" + 5000 * "9"], "a class is in 0..9"),
        (
            ["--num=100", "--seed=4294967290"],
            "the seeds of images must be in [0, 2^32): got 4294967290 to 4294967389",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_any_work(
    flags, message, tmp_path, capsys
):
    out = tmp_path / "samples"
    assert cli.main(["sample", "--model=digits", f"--out={out}", *flags]) == 2
    assert message in capsys.readouterr().err and not out.exists()


def test_an_exported_model_is_the_model_in_half_precision(tmp_path):
    """Identity: to the rounding of float16."""
    out = tmp_path / "again"
    assert cli.main(["export", "digits", "--to=compact", f"--out={out}"]) == 0
    (_, expected), (_, params) = ldm_jax.load("digits"), ldm_jax.load(str(out))
    jax.tree.map(np.testing.assert_array_equal, params, expected)
