# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax export`: round trips of this package's formats, and errors."""

import json
import os
import pathlib

import jax
import numpy as np
import pytest

import ldm_jax
from ldm_jax import cli
from ldm_jax.commands.export import export_weights
from ldm_jax.commands.import_ import import_weights
from tests.conditions.test_tokens import write_vocab
from tests.interop import small


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A model directory of a small text model with its vocabulary."""
    root = tmp_path_factory.mktemp("text")
    vocab = write_vocab(root / "vocab.txt", 30522)
    checkpoint = small.checkpoint(root / "source", small.TEXT)
    import_weights(checkpoint, str(root / "imported"), vocab=vocab)
    return str(root / "imported")


@pytest.mark.parametrize(("form", "name"), [("npz", "a.npz"), ("safetensors", "a")])
def test_our_own_formats_come_back_bit_for_bit(form, name, text_model, tmp_path):
    """Identity: parameters, settings and vocabulary."""
    out = str(tmp_path / name)
    paths = export_weights(text_model, out, form)
    assert all(path.is_file() for path in paths)
    import_weights(out, str(tmp_path / "again"))
    model, params = ldm_jax.load(text_model)
    again, same = ldm_jax.load(str(tmp_path / "again"))
    assert jax.tree.structure(params) == jax.tree.structure(same)
    jax.tree.map(np.testing.assert_array_equal, params, same)
    assert again.latent_scale == model.latent_scale
    ids = again.conditioner.from_user(["a cat"])["tokens"][0, :5].tolist()
    assert ids == [2, 5, 8, 3, 0]
    configs = [
        json.loads((tmp_path / "again" / "config.json").read_text()),
        json.loads(pathlib.Path(f"{text_model}/config.json").read_text()),
    ]
    assert configs[0] == configs[1]


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("compvis", "a.ckpt"),
        ("diffusers", "a"),
        ("npz", "a.npz"),
        ("orbax", "a"),
        ("safetensors", "a"),
        ("stablehlo", "a"),
        ("torch", "a"),
    ],
)
def test_an_existing_output_is_refused_and_stays(form, name, text_model, tmp_path):
    out = tmp_path / name
    if "." in name:
        out.write_text("kept")
    else:
        out.mkdir()
        (out / "model_index.json").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"--out must be new: .* exists"):
        export_weights(text_model, str(out), form)
    assert sorted(tmp_path.rglob("*")) == before
    kept = out if out.is_file() else out / "model_index.json"
    assert kept.read_text() == "kept"


def test_a_home_directory_is_expanded_and_another_kind_of_url_refused(
    text_model, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", text_model, "--to=npz", "--out=~/a.npz"]) == 0
    assert (tmp_path / "a.npz").is_file() and not (tmp_path / "~").exists()
    flags = ["--to=npz", "--out=ftp://b/a.npz"]
    assert cli.main(["export", text_model, *flags]) == 2
    assert "must begin with gs://, s3://, az://: got ftp:" in capsys.readouterr().err
    assert not os.path.exists("ftp:")


def test_the_settings_of_an_own_file_are_not_given_twice(text_model, tmp_path):
    export_weights(text_model, str(tmp_path / "a.npz"), "npz")
    with pytest.raises(ValueError, match=r"contains its settings: got --config=x\.py"):
        import_weights(str(tmp_path / "a.npz"), str(tmp_path / "b"), config="x.py")
