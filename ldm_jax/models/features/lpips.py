# SPDX-License-Identifier: Apache-2.0
"""LPIPS, the distance of two images in the features of a classification network.

Weights are not part of this package; parameters are passed as data and are not trained.

Source: Zhang et al. 2018, Eq. 1; v0.1 of the released linear weights.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Float32

from ldm_jax.models.layers import Conv
from ldm_jax.types import Array, PyTree

# ImageNet's mean and standard deviation of a channel, for images in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

# Side of the smallest images whose last features are not empty (an empty mean is NaN).
SMALLEST = {"vgg": 16, "squeeze": 17, "alex": 31}


class LPIPS(nn.Module):
    """Computes the perceptual distance of images.

    Attributes:
      trunk: "vgg" (VGG16, used in the paper's training), "alex" or "squeeze".
      dropout: rate on the squared differences before the linear weights; needs the rng
        "dropout". 0.5 reproduces the released training code, which leaves it on.

    Raises:
      ValueError: unknown trunk.
    """

    trunk: str = "vgg"
    dropout: float = 0.0

    def __post_init__(self):
        if self.trunk not in TRUNKS:
            raise ValueError(
                f'unknown LPIPS trunk "{self.trunk}"; one of: '
                f"{', '.join(sorted(TRUNKS))}."
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, image: Float[Array, "B H W 3"], other: Float[Array, "B H W 3"]
    ) -> Float32[Array, " B"]:
        """Compares images pairwise.

            sum_l mean_{h, w} w_l . (y_l - y'_l)^2,    y_l features of unit length

        Args:
          image, other: in [-1, 1].

        Returns:
          Distances, 0 for equal images.

        Raises:
          ValueError: the images are too small for the trunk's last features.
        """
        smallest = SMALLEST[self.trunk]
        if min(image.shape[1:3]) < smallest:
            raise ValueError(
                f"LPIPS({self.trunk}) needs images of {smallest}x{smallest} at least: "
                f"got {image.shape[1]}x{image.shape[2]}; use larger ones, or another "
                f"of {SMALLEST}."
            )
        shift, scale = (jnp.asarray(v)[None, None, None] for v in (SHIFT, SCALE))
        trunk = TRUNKS[self.trunk](name="trunk")
        # Two calls, not one batch of both, which would be divided again among devices;
        # and for an image without a gradient nothing is stored or differentiated.
        first, second = (
            trunk((x.astype(jnp.float32) - shift) / scale) for x in (image, other)
        )
        distance = jnp.zeros(image.shape[0])
        for n, features in enumerate(zip(first, second, strict=True)):
            one, two = map(unit_length, features)
            difference = jnp.square(one - two)
            difference = nn.Dropout(self.dropout, deterministic=not self.dropout)(
                difference
            )
            weight = self.param(f"lin_{n}", nn.initializers.ones, one.shape[-1:])
            distance += jnp.mean(jnp.dot(difference, weight), axis=(1, 2))
        return distance


def pooled_features(
    trunk: str, params: PyTree, image: Float[Array, "B H W 3"]
) -> Float32[Array, "B C"]:
    """Averages the last features of a trunk over space.

    Args:
      trunk: of LPIPS.
      params: of `LPIPS(trunk)`.
      image: in [-1, 1].
    """
    shift, scale = (jnp.asarray(v)[None, None, None] for v in (SHIFT, SCALE))
    x = (image.astype(jnp.float32) - shift) / scale
    return TRUNKS[trunk]().apply({"params": params["trunk"]}, x)[-1].mean((1, 2))


def unit_length(x: Float[Array, "*n C"]) -> Float[Array, "*n C"]:
    """Divides vectors by their length; a zero vector stays zero, with zero gradient."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    # The root's slope at zero is infinite, and 0 * inf is NaN: use the root of 1.
    zero = square == 0
    length = jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))
    return x / (length + 1e-10)


Features = list[Float[Array, "B _ _ _"]]


class VGG16(nn.Module):
    """The convolutions of VGG16; `conv_{n}` counts them from 0."""

    widths: tuple[tuple[int, ...], ...] = (
        (64, 64),
        (128, 128),
        (256, 256, 256),
        (512, 512, 512),
        (512, 512, 512),
    )

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Features:
        """Computes the features after relu1_2, 2_2, 3_3, 4_3, 5_3."""
        features, n = [], 0
        for block, widths in enumerate(self.widths):
            if block:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for width in widths:
                x = nn.relu(Conv(width, name=f"conv_{n}")(x))
                n += 1
            features.append(x)
        return features


class AlexNet(nn.Module):
    """The convolutions of torchvision's AlexNet; `conv_{n}` counts them from 0."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Features:
        """Computes the features after each of five ReLUs."""
        padding = ((2, 2), (2, 2))
        x = nn.relu(Conv(64, 11, stride=4, padding=padding, name="conv_0")(x))
        features: Features = [x]
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = nn.relu(Conv(192, 5, name="conv_1")(x))
        features.append(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        for n, width in ((2, 384), (3, 256), (4, 256)):
            x = nn.relu(Conv(width, name=f"conv_{n}")(x))
            features.append(x)
        return features


# Whether a pool comes first, squeezed and expanded channels, whether LPIPS reads them.
FIRES = (
    (True, 16, 64, False),
    (False, 16, 64, True),
    (True, 32, 128, False),
    (False, 32, 128, True),
    (True, 48, 192, True),
    (False, 48, 192, True),
    (False, 64, 256, True),
    (False, 64, 256, True),
)


class SqueezeNet(nn.Module):
    """The convolutions of SqueezeNet 1.1; `fire_{n}` counts its modules from 0."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Features:
        """Computes seven features, of 64 to 512 channels."""
        padding = ((0, 0), (0, 0))
        x = nn.relu(Conv(64, stride=2, padding=padding, name="conv_0")(x))
        features: Features = [x]
        for n, (pooled, squeezed, expanded, tapped) in enumerate(FIRES):
            x = pool_ceil(x) if pooled else x
            x = Fire(squeezed, expanded, name=f"fire_{n}")(x)
            if tapped:
                features.append(x)
        return features


class Fire(nn.Module):
    """SqueezeNet's module: a 1x1 convolution, then 1x1 and 3x3 in parallel."""

    squeezed: int
    expanded: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"]
    ) -> Float[Array, "B H W 2*{self.expanded}"]:
        """Applies the module."""
        x = nn.relu(Conv(self.squeezed, 1, name="squeeze")(x))
        one = Conv(self.expanded, 1, name="expand_1")(x)
        three = Conv(self.expanded, 3, name="expand_3")(x)
        return nn.relu(jnp.concatenate([one, three], axis=-1))


def pool_ceil(
    x: Float[Array, "B H W C"],
) -> Float[Array, "B out_H out_W C"]:
    """Pools 3x3 maxima with stride 2, the partial window at the end too (ceil_mode)."""
    padding = [(0, -(size - 3) % 2) for size in x.shape[1:3]]
    return nn.max_pool(x, (3, 3), (2, 2), padding)


TRUNKS: dict[str, Callable] = {"vgg": VGG16, "alex": AlexNet, "squeeze": SqueezeNet}
