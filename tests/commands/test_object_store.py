# SPDX-License-Identifier: Apache-2.0
"""Commands whose results are on an object store."""

import itertools
import json

import jax
import numpy as np
import pytest
from etils import epath

import ldm_jax
from ldm_jax.cli import main
from ldm_jax.files.stores.objects import create, put_file

pytestmark = pytest.mark.store


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of eight pictures."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(8):
        picture = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
    return str(folder)


def test_samples_are_written_to_a_bucket(bucket, capsys):
    url = f"{bucket}/samples"
    command = ["sample", "--model=digits", "--label=3,5", "--num-steps=2"]
    assert main([*command, f"--out={url}"]) == 0
    names = {path.name for path in epath.Path(url).iterdir()}
    assert {"000000.png", "000001.png", "grid.png", "settings.json"} <= names
    settings = json.loads((epath.Path(url) / "settings.json").read_text())
    assert settings["condition"]
    assert main([*command, f"--out={url}"]) == 2
    assert "--out must be new" in capsys.readouterr().err


def test_a_model_is_written_to_a_bucket_and_read_from_there(bucket):
    """Identity: the parameters that were saved, to the bit."""
    model, params = ldm_jax.load("digits")
    ldm_jax.save(f"{bucket}/model", model, params)
    again, stored = ldm_jax.load(f"{bucket}/model")
    assert again.latent_scale == model.latent_scale
    jax.tree.map(np.testing.assert_array_equal, stored, params)


def test_statistics_of_a_set_are_written_to_a_bucket(bucket, photos):
    url = f"{bucket}/stats.npz"
    flags = ["--size=16x16", "--split=all", "--feature-network=random"]
    assert main(["stats", photos, *flags, f"--out={url}"]) == 0
    assert epath.Path(url).exists()


# Command -> its flags; {b} is the bucket. Every path that a command takes is a URL in
# one of them. Those of `REFUSED` need a disk: what the error names is the way out.
WORKS = {
    "import": ["import", "{b}/in/model.npz", "--out={b}/imported"],
    "export npz": ["export", "{b}/model", "--to=npz", "--out={b}/a.npz"],
    "export compact": ["export", "{b}/model", "--to=compact", "--out={b}/compact"],
    "export diffusers": ["export", "{b}/model", "--to=diffusers", "--out={b}/dif"],
    "info": ["info", "{b}/model"],
    "reconstruct": [
        *("reconstruct", "--model={b}/model", "--images={photos}", "--split=all"),
        *("--size=16x16", "--out={b}/pairs.png"),
    ],
}
REFUSED = {
    "export --check": [
        ["export", "{b}/model", "--to=npz", "--check", "--out={b}/b.npz"],
        "export to a disk",
    ],
    "rules of Snakemake": [
        ["study", "--config=study_toy", "--out={b}/study", "--snakefile=S"],
        "name local files: got --out={b}/study; give a mounted bucket",
    ],
    "study on another store": [
        ["study", "--config=study_toy", "--out=az://b/study"],
        "gs:// or a file system: got az://b/study",
    ],
    "folder of pictures": [
        [
            *("stats", "{b}/photos", "--size=16x16", "--split=all"),
            *("--feature-network=random", "--out={b}/s.npz"),
        ],
        "mount the bucket",
    ],
    "weights": [
        ["weights", "inception", "{b}/missing.pth", "--out={b}/w.safetensors"],
        "no such object",
    ],
    "weights of another network": [
        ["weights", "inception", "{b}/photos/0.png", "--out={b}/w.safetensors"],
        "the SHA-256 of {b}/photos/0.png must begin with",
    ],
    "a part that is none": [
        ["weights", "lpips", "{b}/photos/0.png", "--out={b}/w.safetensors"],
        "{b}/photos/0.png is neither a .safetensors file",
    ],
    "an import that is none": [
        ["import", "{b}/photos/0.png", "--out={b}/imported3"],
        "{b}/photos/0.png",
    ],
    "statistics that are none": [
        [
            *("evaluate", "--model={b}/model", "--reference={b}/photos/0.png"),
            *("--feature-network=random", "--out={b}/e"),
        ],
        "{b}/photos/0.png",
    ],
    "import of a folder": [
        ["import", "{b}/model", "--out={b}/imported2"],
        "Copy it to a disk",
    ],
    "folder of a model": [
        [
            *("evaluate", "--model={b}/model", "--metrics=clip_score"),
            *("--clip-model={b}/clip", "--out={b}/e"),
        ],
        "--clip-model must be on a file system",
    ],
    "another scheme": [["info", "ftp://server/model"], "must begin with gs://"],
    "no package": [["info", "az://b/model"], "pip install adlfs"],
    "no package for a model": [
        ["sample", "--model=az://b/model", "--out={b}/s", "--label=1"],
        "pip install adlfs",
    ],
    "checkpoints of another store": [
        ["latents", "--model={b}/model", "--out=az://b/latents"],
        "gs:// or a file system: got az://b/latents",
    ],
    "joined paths": [
        [
            *("train", "--config=quickstart:stage=first_stage"),
            "--workdir=./{b}/run",
        ],
        "got ./{b}/run, a URL within a local path",
    ],
    "a slash lost": [["import", "gs:/b/m.npz", "--out={b}/i"], "must begin with gs:"],
    "model": [["info", "{b}/nothing"], "{b}/nothing"],
    "reference": [
        ["evaluate", "--model={b}/model", "--reference={b}/r.npz", "--out={b}/e"],
        "{b}/r.npz",
    ],
}


@pytest.fixture
def stocked(bucket, tmp_path, photos):
    """A bucket with a model, a file to import and a picture."""
    model, params = ldm_jax.load("digits")
    ldm_jax.save(f"{bucket}/model", model, params)
    assert main(["export", "digits", "--to=npz", f"--out={tmp_path}/m.npz"]) == 0
    put_file(tmp_path / "m.npz", f"{bucket}/in/model.npz")
    create(f"{bucket}/photos/0.png", b"picture")
    return dict(b=bucket, photos=photos)


def test_paths_of_commands_may_be_urls(stocked, capsys):
    for name, words in WORKS.items():
        argv = [word.format(**stocked) for word in words]
        assert main(argv) == 0, (name, capsys.readouterr().err)
        out = [word[6:] for word in argv if word.startswith("--out=")]
        assert all(epath.Path(path).exists() for path in out), name
    # Identity: a model that went through a store twice.
    (_, params), (_, again) = map(
        ldm_jax.load, (f"{stocked['b']}/compact", f"{stocked['b']}/imported")
    )
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_other_paths_are_refused_in_one_line_with_the_way_out(
    stocked, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    for name, (words, expected) in REFUSED.items():
        argv = [word.format(**stocked) for word in words]
        assert main(argv) == 2, name
        error = capsys.readouterr().err
        assert expected.format(**stocked) in error, (name, error)
        assert len(error.strip().splitlines()) == 1, (name, error)
        assert str(tmp_path) not in error, (name, error)  # the place of copies
        assert not any(path.name.startswith("gs") for path in tmp_path.iterdir())


# Commands that read from the bucket and write to a disk.
READERS = {
    "sample": ["sample", "--model={b}/model", "--label=3", "--out={d}/s"],
    "latents": ["latents", "--model={b}/model", "--out={d}/latents"],
    "reconstruct": ["reconstruct", "--model={b}/model", "--out={d}/p.png"],
    "export": ["export", "{b}/model", "--to=npz", "--out={d}/x.npz"],
    "import": ["import", "{b}/in/model.npz", "--out={d}/imported"],
    "info": ["info", "{b}/model"],
    "evaluate": ["evaluate", "--model={b}/model", "--reference={b}/r", "--out={d}/e"],
    "train": [
        *("train", "--config=quickstart:stage=diffusion", "--workdir={d}/run"),
        "--config.latents.directory={b}/model",
    ],
    "demo": ["demo", "--model={b}/model", "--port=0"],
}
FAULTS = {
    "no credentials": (401, ""),
    "no rights": (403, ""),
    "deleted while it is read": (404, "alt=media"),
}


def test_a_store_that_cannot_be_read_is_one_line_and_leaves_nothing(
    stocked, store, capsys, tmp_path
):
    place = tmp_path / "made"
    place.mkdir()
    for (fault, (status, part)), name in itertools.product(FAULTS.items(), READERS):
        argv = [word.format(**stocked, d=place) for word in READERS[name]]
        store.fault = lambda method, path: status if part in path else None  # noqa: B023
        assert main(argv) == 2, (fault, name)
        store.fault = lambda method, path: None
        error = capsys.readouterr().err.strip()
        assert stocked["b"] in error, (fault, name, error)
        assert len(error.splitlines()) == 1, (fault, name, error)
        assert not list(place.iterdir()), (fault, name)
