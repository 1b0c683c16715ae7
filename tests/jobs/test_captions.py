# SPDX-License-Identifier: Apache-2.0
"""CLIP score against transformers' model of random weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.jobs import captions
from ldm_jax.jobs.panel import read_captions
from ldm_jax.models.clip_image import ClipImage
from ldm_jax.tasks.tokens import Tokenizer

SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
SMALL |= dict(intermediate_size=48, hidden_act="quick_gelu")
CONFIG = {
    "projection_dim": 16,
    "vision_config": {**SMALL, "image_size": 16, "patch_size": 4},
    "text_config": {**SMALL, "vocab_size": 50, "max_position_embeddings": 10},
}


def words(*_):
    """A tokenizer of letters; 49 ends a text."""

    def encode(texts):
        rows = [[*[ord(c) % 48 for c in text][:9], 49] for text in texts]
        return np.array([row + [0] * (10 - len(row)) for row in rows], np.int32)

    return Tokenizer("clip", 50, 10, encode)


@pytest.mark.torch
def test_clip_score_agrees_with_transformers(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPConfig(**CONFIG)
    config.text_config.eos_token_id = 49
    torch.manual_seed(0)
    other = transformers.CLIPModel(config).eval()
    other.save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setattr(captions, "make_tokenizer", words)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    texts = ["a dog", "cats", "the sea"]
    found = captions.open_clip(str(tmp_path))(image, texts)
    mean, std = (
        np.array(v)
        for v in (
            transformers.image_utils.OPENAI_CLIP_MEAN,
            transformers.image_utils.OPENAI_CLIP_STD,
        )
    )
    pixels = torch.tensor((image / 255 - mean) / std, dtype=torch.float32)
    with torch.inference_mode():
        out = other(
            input_ids=torch.tensor(words().encode(texts)),
            pixel_values=pixels.permute(0, 3, 1, 2),
        )
    cosines = (out.image_embeds * out.text_embeds).sum(-1).numpy()
    np.testing.assert_allclose(found, 100 * np.maximum(cosines, 0), atol=1e-4)


def test_the_image_tower_has_the_published_number_of_parameters():
    """Golden: 303,179,776 and the projection of OpenAI's ViT-L/14."""
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(ClipImage().init, jax.random.key(0), image)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == 303_179_776 + 786_432


def test_what_is_no_clip_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ValueError, match=r"lacks vocab\.json, merges\.txt"):
        captions.open_clip(str(tmp_path))
    with pytest.raises(ValueError, match="captions are a text file"):
        read_captions(str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="there must be a caption"):
        read_captions(str(tmp_path / "empty.txt"))


def test_images_are_resized_and_cropped_in_the_center():
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, 4:12] = 255
    small = captions._square(image, 4)
    assert small.shape == (4, 4, 3) and small[:, 1:3].min() > 200
