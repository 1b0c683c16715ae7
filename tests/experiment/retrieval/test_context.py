# SPDX-License-Identifier: Apache-2.0
"""Queries of retrieval models: tokens, neighbours, and databases of another CLIP."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import cli
from ldm_jax.conditions.kinds.retrieval import Retrieval
from ldm_jax.data.embeddings import EmbeddingDatabase, write_database
from ldm_jax.experiment.config.config_files import load_config
from ldm_jax.experiment.models import make_latent_diffusion
from ldm_jax.experiment.retrieval import image_embedder
from ldm_jax.experiment.retrieval.context import RetrievalQuery
from ldm_jax.experiment.retrieval.image_embedder import EmbedderSource
from ldm_jax.training.checkpoints.params import save_params
from ldm_jax.types import Conditioning

CLIP = EmbedderSource("clip")


class Clip:
    """Embeds a text by its letters a to d, as vectors of unit length."""

    width, fingerprint = 4, "abc"

    def __init__(self, folder):
        assert folder == "clip"

    def embed_texts(self, texts):
        rows = np.float32([[text.count(c) for c in "abcd"] for text in texts])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def database(monkeypatch, tmp_path):
    """Rows of several lengths that point along the axes, and one between two."""
    monkeypatch.setattr(image_embedder, "ClipFolder", Clip)
    rows = np.float32([[5, 0, 0, 0], [0, 3, 0, 0], [0, 0, 2, 0], [1, 1, 0, 0]])
    coords = np.tile([0, 0, 8, 8], (4, 1))
    path = tmp_path / "d.npz"
    write_database(path, EmbeddingDatabase(rows, np.arange(4) + 10, coords, "abc"))
    return str(path)


def test_the_tokens_are_the_query_and_its_neighbours_of_unit_length(database):
    """Oracle: by hand."""
    query = RetrievalQuery(CLIP, "aaab", database=database, neighbours=2)
    tokens, notes, images = query.open(Retrieval(4))
    assert images is None  # this database does not describe its images
    assert tokens.shape == (1, 3, 4)
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(tokens[0, 0], np.float32([3, 1, 0, 0]) / 10**0.5)
    np.testing.assert_allclose(tokens[0, 1], [1, 0, 0, 0])
    np.testing.assert_allclose(tokens[0, 2], [0.5**0.5, 0.5**0.5, 0, 0], rtol=1e-6)
    assert notes[0]["img_id"] == [10, 13]
    np.testing.assert_allclose(notes[0]["similarity"][0], 3 / 10**0.5, rtol=1e-5)


def test_without_a_database_the_query_is_the_only_token(database, tmp_path):
    (tmp_path / "texts.txt").write_text("a\nbb\n")
    query = RetrievalQuery(CLIP, str(tmp_path / "texts.txt"))
    tokens, notes, _ = query.open(Retrieval(4))
    np.testing.assert_array_equal(tokens[:, 0], np.eye(4)[:2])
    assert notes == [{}, {}]


def test_a_database_or_model_of_another_clip_is_refused(database, monkeypatch):
    query = RetrievalQuery(CLIP, "a", database=database, neighbours=1)
    with pytest.raises(ValueError, match="reads embeddings of 768 numbers: clip makes"):
        query.open(Retrieval(768))
    monkeypatch.setattr(Clip, "fingerprint", "xyz")
    with pytest.raises(ValueError, match=r"is of abc with 4 numbers, .* is xyz"):
        query.open(Retrieval(4))


def test_more_neighbours_than_rows_are_refused(database):
    with pytest.raises(ValueError, match="must be 1 to 4, the rows of the database"):
        RetrievalQuery(CLIP, "a", None, database, 5).open(Retrieval(4))


def test_a_query_is_a_text_or_images():
    with pytest.raises(ValueError, match="got neither; give --prompt or --query"):
        RetrievalQuery(CLIP)
    with pytest.raises(ValueError, match="got both"):
        RetrievalQuery(CLIP, "a", "b.png")
    with pytest.raises(ValueError, match="got 3 and no database"):
        RetrievalQuery(CLIP, "a", neighbours=3)


def test_rows_of_the_database_are_the_queries_where_none_is_given(database):
    """Identity: a row's nearest neighbour is itself; of a given number, by a seed."""
    condition = Retrieval(4, length=2, has_query=False, unit_length=False)
    query = RetrievalQuery(EmbedderSource(), database=database)
    tokens, notes, _ = query.open(condition, num=6, seed=3)
    assert tokens.shape == (6, 2, 4)
    nearest = [note["img_id"][0] for note in notes]
    assert sorted(nearest[:4]) == [10, 11, 12, 13] and nearest[4:] == nearest[:2]
    rows = {10: [5, 0, 0, 0], 11: [0, 3, 0, 0], 12: [0, 0, 2, 0], 13: [1, 1, 0, 0]}
    assert tokens[:, 0].tolist() == [rows[i] for i in nearest]  # raw, as stored
    again, *_ = query.open(condition, num=2, seed=3)
    np.testing.assert_array_equal(again, tokens[:2])


def test_a_model_of_neighbours_alone_needs_a_database(database):
    condition = Retrieval(4, length=2, has_query=False)
    with pytest.raises(ValueError, match="got no database; give --database"):
        RetrievalQuery(CLIP, "a").open(condition)


def test_texts_need_clip(monkeypatch, database):
    class Features:
        width, fingerprint = 4, "abc"

    source = EmbedderSource(feature_network="mobilenet")
    monkeypatch.setattr(image_embedder, "FeatureEmbedder", lambda *args: Features())
    with pytest.raises(ValueError, match="texts are embedded by CLIP: got the feature"):
        RetrievalQuery(source, "a").open(Retrieval(4))


def test_a_text_and_its_neighbours_are_sampled_by_command(database, tmp_path):
    """Identity: neighbours are noted; without --clip-model the embeddings are read."""
    config = load_config("quickstart:stage=diffusion")
    config.latents.scale = 1.0
    config.condition = dict(kind="retrieval", width=4)
    config.unet.update(transformer_depth=1, context_dim=4)
    model = make_latent_diffusion(config)
    z_t, t = jnp.zeros((1, 8, 8, 2)), jnp.zeros(1, jnp.int32)
    context = Conditioning(jnp.zeros((1, 3, 4)))
    params = {
        "unet": jax.jit(model.unet.init)(jax.random.key(0), z_t, t, context)["params"]
    }
    save_params(str(tmp_path / "m"), params, config.to_dict())
    stage = load_config("quickstart:stage=first_stage")
    image = jnp.zeros((1, 16, 16, 3))
    first = jax.jit(model.autoencoder.init)(jax.random.key(0), image)["params"]
    save_params(
        str(tmp_path / "m" / "autoencoder"), {"autoencoder": first}, stage.to_dict()
    )
    out = tmp_path / "out"
    argv = ["sample", f"--model={tmp_path / 'm'}", f"--out={out}", "--num-steps=2"]
    argv += ["--prompt=aaab", "--clip-model=clip", f"--database={database}"]
    assert cli.main([*argv, "--neighbours=2", "--grid=even"]) == 0
    (note,) = json.loads((out / "neighbours.json").read_text())
    assert note["img_id"] == [10, 13] and (out / "000000.png").exists()
    settings = json.loads((out / "settings.json").read_text())
    assert settings["query"]["neighbours"] == 2
