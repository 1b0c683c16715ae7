# SPDX-License-Identifier: Apache-2.0
"""Reads both towers of a CLIP model from a folder that transformers saved."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditions.tokens import make_tokenizer
from ldm_jax.data.transforms.pixels import resize
from ldm_jax.files.formats.structured import read_json
from ldm_jax.interop import names
from ldm_jax.interop.feature_networks.clip import import_clip
from ldm_jax.interop.weight_files import read_weights
from ldm_jax.metrics.image_sets.measure import on_devices
from ldm_jax.models.clip import ClipText
from ldm_jax.models.features.clip_image import ClipImage
from ldm_jax.training.checkpoints.digest import params_fingerprint

CLIP_FILES = ("config.json", "vocab.json", "merges.txt")


class ClipFolder:
    """Embeds images and texts as vectors of unit length.

    Args:
      folder: a CLIPModel as transformers saves it, with vocab.json and merges.txt.

    Attributes:
      width: numbers of an embedding.
      side: of the images that the image tower reads.
      fingerprint: of the image tower's parameters.

    Raises:
      ValueError: the folder is not such a model.
    """

    def __init__(self, folder: str):
        root = pathlib.Path(folder)
        missing = [name for name in CLIP_FILES if not (root / name).is_file()]
        if missing:
            raise ValueError(
                f"a CLIP folder holds {', '.join(CLIP_FILES)} and the weights: "
                f"{folder} lacks {', '.join(missing)}; copy a CLIPModel of "
                "transformers whole."
            )
        tensors = read_weights(root)
        image_tower, text_tower = make_towers(read_json(root / "config.json"))
        self.width, self.side = image_tower.pooled, image_tower.image_size
        self._words = make_tokenizer(
            "clip",
            text_tower.length,
            str(root / "vocab.json"),
            str(root / "merges.txt"),
        )
        shape = (1, self.side, self.side, 3)
        seen = _params(image_tower, shape, jnp.float32, tensors, names.CLIP_IMAGE)
        shape = (1, text_tower.length)
        read = _params(text_tower, shape, jnp.int32, tensors, names.CLIP_TEXT)
        self.fingerprint = params_fingerprint(seen)
        self._see = jax.jit(lambda x: image_tower.apply({"params": seen}, x))
        self._read = jax.jit(lambda x: text_tower.apply({"params": read}, x)[:, 0])

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts: [B, width]."""
        return on_devices(self._read, self._words.encode(list(texts)))

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds images uint8 [H, W, 3] as CLIP's own preprocessing: [B, width]."""
        return on_devices(self._see, np.stack([_square(x, self.side) for x in images]))

    def embed_patches(self, patches: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds square patches uint8 [S, S, 3] as for databases: [B, width].

        They are resized by a bicubic without antialiasing, with aligned corners.
        """
        matrices = [aligned_bicubic(len(patch), self.side) for patch in patches]
        small = [
            np.einsum("ph,hwc,qw->pqc", m, patch.astype(np.float32), m, optimize=True)
            for m, patch in zip(matrices, patches, strict=True)
        ]
        return on_devices(self._see, np.stack(small).astype(np.float32))


@functools.lru_cache(maxsize=64)
def aligned_bicubic(length: int, size: int) -> np.ndarray:
    """Makes the matrix [size, length] of a bicubic resize with align_corners.

    Output i reads four inputs around i (length - 1) / (size - 1), the ends repeated,
    with the cubic of a = -0.75.

    Source: torch.nn.functional.interpolate(mode="bicubic", align_corners=True).
    """
    place = np.arange(size) * ((length - 1) / max(size - 1, 1))
    first = np.floor(place).astype(int)
    matrix = np.zeros((size, length))
    for tap in range(-1, 3):
        x = np.abs(place - first - tap)
        a = -0.75
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        weight = np.where(x <= 1, near, far)
        np.add.at(matrix, (np.arange(size), (first + tap).clip(0, length - 1)), weight)
    return matrix


def make_towers(config: Any) -> tuple[ClipImage, ClipText]:
    """Makes the towers that the config.json of a CLIPModel describes.

    Fields that it leaves out have the defaults of transformers, those of ViT-B/32.
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
