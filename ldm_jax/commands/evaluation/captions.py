# SPDX-License-Identifier: Apache-2.0
"""CLIP score: how well images show what their captions say."""

import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditions.tokens import make_tokenizer
from ldm_jax.data.transforms.pixels import resize
from ldm_jax.files.structured import read_json
from ldm_jax.interop import names
from ldm_jax.interop.feature_networks.clip import import_clip
from ldm_jax.interop.weight_files import read_weights
from ldm_jax.metrics.image_sets.measure import on_devices
from ldm_jax.models.clip import ClipText
from ldm_jax.models.features.clip_image import ClipImage

FILES = ("config.json", "vocab.json", "merges.txt")


def open_clip(folder: str) -> Callable[[np.ndarray, Sequence[str]], np.ndarray]:
    """Opens both towers of a CLIP model.

    Args:
      folder: a CLIPModel as transformers saves it, with vocab.json and merges.txt.

    Returns:
      (uint8 [B, H, W, 3], B captions) -> [B] scores in [0, 100]: 100 times the cosine,
      a negative one counting as 0. Images are resized (bicubic) and cropped in the
      center as CLIP's own preprocessing does.

    Raises:
      ValueError: the folder is no such model.

    Source: Hessel et al. 2021, Eq. 1, with the weight 100 that is customary.
    """
    root = pathlib.Path(folder)
    missing = [name for name in FILES if not (root / name).is_file()]
    if missing:
        raise ValueError(
            f"a CLIP folder holds {', '.join(FILES)} and the weights: {folder} lacks "
            f"{', '.join(missing)}; copy a CLIPModel of transformers whole."
        )
    config = read_json(root / "config.json")
    tensors = read_weights(root)
    image_tower, text_tower = make_towers(config)
    words = make_tokenizer(
        "clip", text_tower.length, str(root / "vocab.json"), str(root / "merges.txt")
    )
    side = image_tower.image_size
    image_params = _params(
        image_tower, (1, side, side, 3), jnp.float32, tensors, names.CLIP_IMAGE
    )
    text_params = _params(
        text_tower, (1, text_tower.length), jnp.int32, tensors, names.CLIP_TEXT
    )

    @jax.jit
    def score(image, tokens):
        seen = image_tower.apply({"params": image_params}, image)
        said = text_tower.apply({"params": text_params}, tokens)[:, 0]
        return 100 * jnp.maximum(jnp.sum(seen * said, axis=-1), 0)

    def run(image, captions):
        small = np.stack([_square(x, side) for x in image])
        return on_devices(score, small, words.encode(list(captions)))

    return run


def make_towers(config) -> tuple[ClipImage, ClipText]:
    """Makes the towers that the config.json of a CLIPModel describes.

    What it leaves out has the default of transformers, which is ViT-B/32's.
    """
    vision, text = config.get("vision_config", {}), config.get("text_config", {})
    pooled = config.get("projection_dim", 512)

    def shared(part, width, heads):
        width = part.get("hidden_size", width)
        return dict(
            width=width,
            depth=part.get("num_hidden_layers", 12),
            num_heads=part.get("num_attention_heads", heads),
            mlp_width=part.get("intermediate_size", 4 * width),
            activation=part.get("hidden_act", "quick_gelu"),
            pooled=pooled,
        )

    image_tower = ClipImage(
        image_size=vision.get("image_size", 224),
        patch=vision.get("patch_size", 32),
        **shared(vision, 768, 12),
    )
    text_tower = ClipText(
        vocab_size=text.get("vocab_size", 49408),
        length=text.get("max_position_embeddings", 77),
        **shared(text, 512, 8),
    )
    return image_tower, text_tower


def _params(tower, shape, dtype, tensors, table):
    x = jax.ShapeDtypeStruct(shape, dtype)
    shapes = jax.eval_shape(tower.init, jax.random.key(0), x)["params"]
    return jax.device_put(import_clip(shapes, tensors, table))


def _square(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes the shorter side of uint8 [H, W, 3] and crops the middle."""
    height, width = image.shape[:2]
    short = min(height, width)
    size = (side * height // short, side * width // short)
    image = resize(image, size, "bicubic")
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return image[top : top + side, left : left + side]
