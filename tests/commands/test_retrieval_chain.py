# SPDX-License-Identifier: Apache-2.0
"""Retrieval by commands alone: database, latents, training, samples, evaluation."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax import cli
from ldm_jax.data.embeddings import read_database
from ldm_jax.data.latents.sets import open_latent_sets
from ldm_jax.experiment import models
from ldm_jax.experiment.config.config_files import load_config
from ldm_jax.training.checkpoints.params import save_params

FEATURES = "--feature-network=random"
NUM = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Photos, a first stage, a database of the photos, and a model of two steps."""
    root = tmp_path_factory.mktemp("retrieval")
    rng = np.random.default_rng(0)
    for folder, count in (("photos", NUM), ("others", 2)):
        (root / folder).mkdir()
        for i in range(count):
            image = rng.integers(0, 256, (16, 20, 3), np.uint8)
            Image.fromarray(image).save(root / folder / f"{i}.png")
    config = load_config("small", [f"--config.images.dataset={root / 'photos'}"])
    config.transform.update(image_size=16, crop="center", min_scale=1.0)
    stage = models.make_first_stage(config).autoencoder
    image = np.zeros((1, 16, 16, 3), np.float32)
    params = stage.init(jax.random.key(0), image, jax.random.key(1))["params"]
    save_params(str(root / "stage"), {"autoencoder": params}, config.to_dict())
    database = ["database", f"{root / 'photos'}", "--split=all", FEATURES]
    assert cli.main([*database, f"--out={root / 'photos.npz'}"]) == 0
    width = read_database(str(root / "photos.npz")).width
    latents = [
        *("latents", f"--model={root / 'stage'}", "--batch-size=8"),
        *(f"--config=small_retrieval:width={width}", "--config.latents.image_size=16"),
        f"--database={root / 'photos.npz'}",
    ]
    photos = [f"--images={root / 'photos'}", f"--out={root / 'latents'}"]
    assert cli.main([*latents, *photos, "--split=all", "--neighbours=4"]) == 0
    others = [f"--images={root / 'others'}", f"--out={root / 'held'}", FEATURES]
    assert cli.main([*latents, *others, "--split=all", "--neighbours=5"]) == 0
    argv = [
        *("train", f"--config=small_retrieval:width={width}"),
        *(f"--workdir={root / 'model'}", f"--config.latents.directory={root}/latents"),
        *("--config.latents.image_size=16", "--config.batch_size=8"),
        *("--config.train.num_steps=2", "--config.train.evaluate_every=None"),
        *("--config.optimizer.schedule.warmup_steps=1", "--config.unet.channels=32"),
        # One level: compiling the step takes most of this file's time.
        *("--config.unet.channel_mult=(1,)", "--config.unet.attention_levels=(0,)"),
        "--config.sampling.num_steps=2",
    ]
    assert cli.main(argv) == 0
    return root


def test_latents_store_the_nearest_rows_without_the_image_itself(root):
    """Oracle: NumPy's cosines over the rows of the database."""
    rows = read_database(str(root / "photos.npz")).embedding
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    source, *_ = open_latent_sets(root / "latents")
    for i in range(NUM):
        nearest = np.argsort(-cosines[i])[:4]
        record = source[i]
        assert record["source_index"] == i
        expected = rows[nearest].astype(np.float16)
        np.testing.assert_array_equal(record["embeddings"], expected)
    others, *_ = open_latent_sets(root / "held")
    assert others[0]["embeddings"].shape == (5, rows.shape[1])


def test_samples_are_drawn_from_the_database_and_shown_beside_neighbours(root):
    argv = ["sample", f"--model={root / 'model'}", f"--out={root / 'drawn'}"]
    argv += [f"--database={root / 'photos.npz'}", "--num=2", "--num-steps=2"]
    assert cli.main(argv) == 0
    notes = json.loads((root / "drawn/neighbours.json").read_text())
    assert [len(note["img_id"]) for note in notes] == [4, 4]
    sheet = Image.open(root / "drawn/neighbours.png")
    assert sheet.size == (5 * 130 + 2, 2 * 130 + 2)
    # The nearest row of a query that is a row is that row: its photo comes second.
    photo = Image.open(root / f"photos/{notes[0]['img_id'][0]}.png")
    square = photo.crop((2, 0, 18, 16)).resize((128, 128), Image.Resampling.BICUBIC)
    shown = np.asarray(sheet.crop((132, 2, 260, 130)), int)
    assert abs(shown - np.asarray(square)).max() <= 1


def test_images_ask_too_and_another_network_is_refused(root, capsys):
    argv = ["sample", f"--model={root / 'model'}", f"--out={root / 'asked'}"]
    argv += [f"--query={root / 'others'}", "--num-steps=2", "--neighbours=4"]
    database = f"--database={root / 'photos.npz'}"
    assert cli.main([*argv, database, FEATURES]) == 0
    assert len(json.loads((root / "asked/neighbours.json").read_text())) == 2
    assert cli.main([*argv, database]) == 2
    assert "give --clip-model FOLDER, or --feature-network" in capsys.readouterr().err
    assert cli.main([*argv, FEATURES]) == 2
    assert "got 4 and no database; give --database" in capsys.readouterr().err


def test_the_error_is_measured_with_and_without_neighbours(root):
    argv = ["evaluate", f"--model={root / 'model'}", f"--out={root / 'gap'}"]
    assert cli.main([*argv, f"--latents={root / 'held'}"]) == 0
    results = json.loads((root / "gap/results.json").read_text())
    assert {"condition_error", "condition_gap", "null_gap"} == set(results["figures"])


def test_neighbours_are_stored_for_models_that_read_them(root, capsys):
    argv = ["latents", f"--model={root / 'stage'}", f"--out={root / 'x'}"]
    argv += [f"--images={root / 'photos'}", "--split=all", "--neighbours=2"]
    argv += [f"--database={root / 'photos.npz'}"]
    assert cli.main(argv) == 2
    assert 'that reads them: got the "none" condition' in capsys.readouterr().err
