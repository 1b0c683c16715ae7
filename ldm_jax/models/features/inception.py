# SPDX-License-Identifier: Apache-2.0
"""InceptionV3 of the Frechet inception distance: the TensorFlow graph of 2015.

That graph differs from the paper and from torchvision's network: average pools do not
count the padding, the last block pools by maximum, images are resized without
antialiasing, and there are 1,008 logits, used without their bias. Weights are not part
of this package; `ldm-jax weights inception` makes a file of them, in which the batch
normalisations (with constant statistics) are folded into kernel and bias.

Source: Szegedy et al. 2016; Heusel et al. 2017; the graph inception-2015-12-05.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Float32, Real

from ldm_jax.types import Array

IMAGE_SIZE = 299
NUM_LOGITS = 1008
# Channels of the spatial distance (sFID): the first of the 1x1 branch of mixed_6d.
SPATIAL_CHANNELS = 7
# Published statistics are in float32; TPUs would otherwise multiply in bfloat16.
PRECISION = lax.Precision.HIGHEST


class ConvSpec(NamedTuple):
    """Describes a convolution with folded normalisation and a ReLU."""

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"


def _strided(name: str, features: int) -> ConvSpec:
    return ConvSpec(name, features, (3, 3), 2, "VALID")


def _block_a(pool_features: int):
    return (
        (ConvSpec("branch1x1", 64),),
        (ConvSpec("branch5x5_1", 48), ConvSpec("branch5x5_2", 64, (5, 5))),
        (
            ConvSpec("branch3x3dbl_1", 64),
            ConvSpec("branch3x3dbl_2", 96, (3, 3)),
            ConvSpec("branch3x3dbl_3", 96, (3, 3)),
        ),
        ("average", ConvSpec("branch_pool", pool_features)),
    )


def _block_c(width: int):
    return (
        (ConvSpec("branch1x1", 192),),
        (
            ConvSpec("branch7x7_1", width),
            ConvSpec("branch7x7_2", width, (1, 7)),
            ConvSpec("branch7x7_3", 192, (7, 1)),
        ),
        (
            ConvSpec("branch7x7dbl_1", width),
            ConvSpec("branch7x7dbl_2", width, (7, 1)),
            ConvSpec("branch7x7dbl_3", width, (1, 7)),
            ConvSpec("branch7x7dbl_4", width, (7, 1)),
            ConvSpec("branch7x7dbl_5", 192, (1, 7)),
        ),
        ("average", ConvSpec("branch_pool", 192)),
    )


def _block_e(pool: str):
    return (
        (ConvSpec("branch1x1", 320),),
        (ConvSpec("branch3x3_1", 384), _split("branch3x3_2")),
        (
            ConvSpec("branch3x3dbl_1", 448),
            ConvSpec("branch3x3dbl_2", 384, (3, 3)),
            _split("branch3x3dbl_3"),
        ),
        (pool, ConvSpec("branch_pool", 192)),
    )


def _split(name: str):
    """Makes two branches in one: convolutions with a row and a column."""
    row, column = ConvSpec(f"{name}a", 384, (1, 3)), ConvSpec(f"{name}b", 384, (3, 1))
    return (row,), (column,)


_BLOCK_6A = (
    (_strided("branch3x3", 384),),
    (
        ConvSpec("branch3x3dbl_1", 64),
        ConvSpec("branch3x3dbl_2", 96, (3, 3)),
        _strided("branch3x3dbl_3", 96),
    ),
    ("halve",),
)
_BLOCK_7A = (
    (ConvSpec("branch3x3_1", 192), _strided("branch3x3_2", 320)),
    (
        ConvSpec("branch7x7x3_1", 192),
        ConvSpec("branch7x7x3_2", 192, (1, 7)),
        ConvSpec("branch7x7x3_3", 192, (7, 1)),
        _strided("branch7x7x3_4", 192),
    ),
    ("halve",),
)

STEM = (
    _strided("conv2d_1a_3x3", 32),
    ConvSpec("conv2d_2a_3x3", 32, (3, 3), padding="VALID"),
    ConvSpec("conv2d_2b_3x3", 64, (3, 3)),
    "halve",
    ConvSpec("conv2d_3b_1x1", 80),
    ConvSpec("conv2d_4a_3x3", 192, (3, 3), padding="VALID"),
    "halve",
)
# Name -> branches, joined along the channels. The names are the published files'.
BLOCKS = {
    "mixed_5b": _block_a(32),
    "mixed_5c": _block_a(64),
    "mixed_5d": _block_a(64),
    "mixed_6a": _BLOCK_6A,
    "mixed_6b": _block_c(128),
    "mixed_6c": _block_c(160),
    "mixed_6d": _block_c(160),
    "mixed_6e": _block_c(192),
    "mixed_7a": _BLOCK_7A,
    "mixed_7b": _block_e("average"),
    "mixed_7c": _block_e("maximum"),
}
POOLS = {
    "average": lambda x: nn.avg_pool(
        x, (3, 3), (1, 1), "SAME", count_include_pad=False
    ),
    "maximum": lambda x: nn.max_pool(x, (3, 3), (1, 1), "SAME"),
    "halve": lambda x: nn.max_pool(x, (3, 3), (2, 2), "VALID"),
}


class InceptionV3(nn.Module):
    """Computes features and logits of images."""

    @nn.compact
    def __call__(
        self, image: Real[Array, "B H W 3"]
    ) -> dict[str, Float32[Array, "B _"]]:
        """Computes the features of FID, sFID and the inception score.

        Args:
          image: in [0, 255], any size; integers or floats.

        Returns:
          "pool" [B, 2048], the features of FID; "spatial" [B, 17 * 17 * 7], those of
          sFID; "logits" [B, 1008] without bias, for the inception score.
        """
        x = resize_bilinear(image.astype(jnp.float32), IMAGE_SIZE)
        x = _run(STEM, (x - 128) / 128)
        spatial = x
        for name, branches in BLOCKS.items():
            x = Branches(branches, name=name)(x)
            if name == "mixed_6d":
                spatial = x[..., :SPATIAL_CHANNELS]
        pool = jnp.mean(x, axis=(1, 2))
        kernel = self.param(
            "logits", nn.initializers.lecun_normal(), (pool.shape[-1], NUM_LOGITS)
        )
        return {
            "pool": pool,
            "spatial": spatial.reshape(len(spatial), -1),
            "logits": jnp.dot(pool, kernel, precision=PRECISION),
        }


class Branches(nn.Module):
    """Applies several branches to one input and concatenates their channels."""

    branches: tuple

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B out_H out_W out"]:
        """Applies the branches."""
        return jnp.concatenate([_run(steps, x) for steps in self.branches], axis=-1)


class ConvRelu(nn.Module):
    """Convolution, bias and ReLU; the attributes are those of `ConvSpec`.

    "VALID" with stride 1 requires a kernel of (3, 3), and 1x1 a stride of 1: the
    network has no others.
    """

    features: int
    kernel: tuple[int, int]
    stride: int
    padding: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"]
    ) -> Float[Array, "B out_H out_W {self.features}"]:
        """Applies the layer."""
        shape = (*self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.kernel == (1, 1):
            x = jnp.dot(x, kernel[0, 0], precision=PRECISION)
        elif (self.padding, self.stride) == ("VALID", 1):
            # On a CPU, XLA takes twice as long for a convolution without padding.
            x = self._convolve(x, kernel, "SAME")[:, 1:-1, 1:-1]
        else:
            x = self._convolve(x, kernel, self.padding)
        return nn.relu(x + bias[None, None, None])

    def _convolve(self, x: Array, kernel, padding: str) -> Array:
        return lax.conv_general_dilated(
            jnp.asarray(x),
            kernel,
            (self.stride, self.stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=PRECISION,
        )


def _run(steps, x: Array) -> Array:
    """Applies steps in order: a convolution, a pool by name, or branches."""
    for step in steps:
        if isinstance(step, str):
            x = POOLS[step](x)
        elif isinstance(step, ConvSpec):
            x = ConvRelu(*step[1:], name=step.name)(x)
        else:
            x = jnp.concatenate([_run(branch, x) for branch in step], axis=-1)
    return x


def resize_bilinear(
    image: Float32[Array, "B H W C"], size: int
) -> Float32[Array, "B {size} {size} C"]:
    """Resizes as TensorFlow 1: output pixel i is at i * (in / out), without a filter.

    Args:
      image: any range.
      size: side of the result.
    """
    for axis in (1, 2):
        length = image.shape[axis]
        at = np.arange(size, dtype=np.float32) * np.float32(length / size)
        low = at.astype(np.int32)
        high = np.minimum(low + 1, length - 1)
        shape = [1] * image.ndim
        shape[axis] = size
        share = jnp.asarray((at - low).reshape(shape))
        first, second = (jnp.take(image, i, axis=axis) for i in (low, high))
        image = first + (second - first) * share
    return image
