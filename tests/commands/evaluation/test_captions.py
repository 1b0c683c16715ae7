# SPDX-License-Identifier: Apache-2.0
"""CLIP score against transformers' model of random weights."""

import json

import numpy as np
import pytest

from ldm_jax.commands.evaluation import captions
from ldm_jax.commands.evaluation.captions import read_caption_lines

SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
SMALL |= dict(intermediate_size=48, hidden_act="quick_gelu")
CONFIG = {
    "projection_dim": 16,
    "vision_config": {**SMALL, "image_size": 16, "patch_size": 4},
    "text_config": SMALL,
}


def write_words(folder):
    """Writes a vocabulary of CLIP's size that knows letters and one pair of them."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{c}</w>" for c in letters), "do", "dog</w>"]
    words += [f"w{i}" for i in range(49406 - len(words))]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nd o\ndo g</w>\n")


@pytest.mark.torch
def test_clip_score_agrees_with_transformers(tmp_path):
    """Their tokens, resize, crop and towers; a score, from files in one folder."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    other = transformers.CLIPModel(transformers.CLIPConfig(**CONFIG)).eval()
    with torch.no_grad():
        # Of fresh weights all cosines are small: towers that agree make them large.
        other.text_projection.weight *= 0.1
        other.visual_projection.weight.copy_(other.text_projection.weight)
    other.save_pretrained(tmp_path)
    write_words(tmp_path)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 41, 30, 3)).astype(np.uint8)
    texts = ["a dog", "cats", "the sea", "", "dogs and a dog", "z", "a b c", "x " * 99]
    actual = captions.open_clip(str(tmp_path))(image, texts)
    # The processor of Pillow, whose resize OpenAI's own preprocessing takes.
    shrink = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    words = transformers.CLIPTokenizer(
        vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt")
    )
    how = dict(padding="max_length", truncation=True, max_length=77)
    with torch.inference_mode():
        out = other(
            **words(texts, **how, return_tensors="pt"),
            **shrink(list(image), return_tensors="pt"),
        )
    cosines = (out.image_embeds * out.text_embeds).sum(-1).numpy()
    assert np.ptp(cosines) > 0.1 and (cosines > 0).any()
    np.testing.assert_allclose(actual, 100 * np.maximum(cosines, 0), rtol=1e-4)


def test_what_is_no_clip_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ValueError, match=r"lacks vocab\.json, merges\.txt"):
        captions.open_clip(str(tmp_path))
    with pytest.raises(ValueError, match=r"none\.txt"):
        read_caption_lines(str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="there must be a caption"):
        read_caption_lines(str(tmp_path / "empty.txt"))
