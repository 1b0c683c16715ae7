# SPDX-License-Identifier: Apache-2.0
"""The first stage: image to latent and back, regularised by KL or VQ, or not at all."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.models import bounds
from ldm_jax.models.bottleneck import BOTTLENECKS, KL, VQ, Pixels, nearest_code
from ldm_jax.models.bounds import check_bounds
from ldm_jax.models.coders import ATTENTION, Decoder, Encoder
from ldm_jax.models.layers import REMAT_POLICIES, Conv
from ldm_jax.types import Array


class Reconstruction(NamedTuple):
    """What one pass through the first stage yields.

    Attributes:
      image: [B, H, W, out_channels] float32.
      features: [B, H, W, channels], the input of the decoder's last convolution; None
        without a decoder.
      penalty: [] of the bottleneck.
      metrics: float32 scalars of the bottleneck.
    """

    image: Array
    features: Array | None
    penalty: Array
    metrics: dict[str, Array]


class Codebook(nn.Module):
    """[num_codes, width] vectors, drawn from U(-bound, bound)."""

    num_codes: int
    width: int
    bound: float

    @nn.compact
    def __call__(self) -> Array:
        bound = self.bound

        def init(key, shape):
            return nn.initializers.uniform(2 * bound)(key, shape) - bound

        codes = self.param("embedding", init, (self.num_codes, self.width))
        return jnp.asarray(codes)  # NumPy parameters take no traced index


class Autoencoder(nn.Module):
    """Maps images to latents f times smaller and back.

    Attributes:
      channels: width of level 0.
      channel_mult: width of each level, times `channels`; f = 2^(levels - 1).
      num_res_blocks: residual blocks of a level; the decoder has one more.
      attention_levels: levels whose blocks are followed by attention, 0 = finest.
      mid_attention: whether the coarsest level's middle has attention.
      attn_type: "vanilla" or "linear".
      num_groups: of every norm, the paper's 32; must divide every level's width. A
        group of one channel loses its mean, and with it colours: below 128 channels
        take one group for every four.
      latent_channels: channels of the encoder's output (its mean, for KL).
      embed_dim: c, channels of the latent; None takes `latent_channels`.
      in_channels, out_channels: of the images.
      bottleneck: "kl", "vq", or "pixels": no network, the latent is the image.
      num_codes: size of the codebook (VQ).
      code_range: codes are drawn from U(-code_range, code_range); None is the
        original's 1 / num_codes, from which short runs leave most codes unused.
      beta, legacy_beta: see `bottleneck.VQ`.
      dropout: rate in every residual block; needs the rng "dropout" when training.
      tanh_out: end the decoder with tanh.
      dtype: dtype of the arithmetic; parameters, norms, softmax, latents and images are
        float32 regardless.
      remat: what is recomputed in the backward pass; a key of `REMAT_POLICIES`.

    Raises:
      ValueError: options that do not fit together, or an image that f does not divide.

    Source: Rombach et al. 2022, Sec. 3.1 and App. G; the released configs.
    """

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    mid_attention: bool = True
    attn_type: str = "vanilla"
    num_groups: int = 32
    latent_channels: int = 4
    embed_dim: int | None = None
    in_channels: int = 3
    out_channels: int = 3
    bottleneck: str = "kl"
    num_codes: int | None = None
    code_range: float | None = None
    beta: float = 0.25
    legacy_beta: bool = True
    dropout: float = 0.0
    tanh_out: bool = False
    dtype: jnp.dtype | None = None
    remat: str = "none"

    def __post_init__(self):
        check_options(self)
        super().__post_init__()

    @property
    def f(self) -> int:
        """Downsampling of height and width."""
        return 1 if self.bottleneck == "pixels" else 2 ** (len(self.channel_mult) - 1)

    @property
    def embed_channels(self) -> int:
        """c, channels of the latent."""
        if self.bottleneck == "pixels":
            return self.in_channels
        return self.embed_dim or self.latent_channels

    @property
    def moments_channels(self) -> int:
        """Channels of what `encode` returns: 2c for KL, c otherwise."""
        return self.regularizer.moments_channels(self.embed_channels)

    @property
    def regularizer(self) -> KL | VQ | Pixels:
        """The bottleneck object: sample, to_decoder, penalty."""
        if self.bottleneck == "vq":
            return VQ(self.beta, self.legacy_beta)
        return BOTTLENECKS[self.bottleneck]()

    def latent_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(..., H, W, in_channels) -> (..., H/f, W/f, c).

        Raises:
          ValueError: f does not divide H or W, or the channels are not `in_channels`.
        """
        *batch, height, width, channels = image_shape
        if height % self.f or width % self.f:
            raise ValueError(
                f"height and width must be multiples of f={self.f}: got images of "
                f"{height}x{width}; crop or resize them to "
                f"{height - height % self.f}x{width - width % self.f}, or use fewer "
                "levels in channel_mult."
            )
        if channels != self.in_channels:
            raise ValueError(
                f"images must have in_channels={self.in_channels} channels, last: got "
                f"shape {tuple(image_shape)}."
            )
        return (*batch, height // self.f, width // self.f, self.embed_channels)

    def setup(self):
        if self.bottleneck == "pixels":
            return
        shared = dict(
            channels=self.channels,
            channel_mult=tuple(self.channel_mult),
            num_res_blocks=self.num_res_blocks,
            attention_levels=tuple(self.attention_levels),
            mid_attention=self.mid_attention,
            block=dict(
                attn_type=self.attn_type,
                num_groups=self.num_groups,
                dropout=self.dropout,
                dtype=self.dtype,
                remat=self.remat,
            ),
        )
        moments = self.regularizer.moments_channels
        self.encoder = Encoder(moments(self.latent_channels), **shared)
        self.decoder = Decoder(self.out_channels, tanh_out=self.tanh_out, **shared)
        self.quant_conv = Conv(self.moments_channels, 1)
        self.post_quant_conv = Conv(self.latent_channels, 1)
        if self.bottleneck == "vq":
            bound = self.code_range or 1.0 / self.num_codes
            self.codebook = Codebook(self.num_codes, self.embed_channels, bound)

    def encode(self, image: Array, is_training: bool = False) -> Array:
        """Maps images to what is stored of a latent.

        Args:
          image: [B, H, W, in_channels] in [-1, 1].

        Returns:
          [B, h, w, 2c] float32 mean and log-variance (KL), [B, h, w, c] vectors before
          quantization (VQ), or the image (pixels).

        Raises:
          ValueError: f does not divide H or W.
        """
        self.latent_shape(image.shape)
        if self.bottleneck == "pixels":
            return image
        return self.quant_conv(self.encoder(image, is_training))

    def decode(self, z: Array, is_training: bool = False) -> Array:
        """Maps z [B, h, w, c] to images [B, H, W, out_channels]; VQ quantizes first."""
        if self.bottleneck == "pixels":
            return z
        z, _ = self.regularizer.to_decoder(z, self.codes())
        return self.to_image(self.decoder_features(z, is_training))

    def encode_indices(self, image: Array) -> Array:
        """Maps images to codes, [B, h, w] int32 (VQ)."""
        self.require_codebook()
        return nearest_code(self.encode(image), self.codes())

    def decode_indices(self, indices: Array) -> Array:
        """Maps codes [B, h, w] to images [B, H, W, out_channels] (VQ)."""
        self.require_codebook()
        return self.to_image(self.decoder_features(self.codes()[indices], False))

    def __call__(
        self, image: Array, key: Array | None = None, is_training: bool = False
    ) -> Reconstruction:
        """Encodes and decodes, with everything the training loss wants to know.

        Args:
          image: [B, H, W, in_channels] in [-1, 1].
          key: a random key for the posterior (KL); None takes its mode.
          is_training: whether dropout is on.
        """
        moments = self.encode(image, is_training)
        z = self.regularizer.sample(moments, key)
        z, indices = self.regularizer.to_decoder(z, self.codes())
        penalty, metrics = self.regularizer.penalty(moments, indices, self.codes())
        if self.bottleneck == "pixels":
            return Reconstruction(z, None, penalty, metrics)
        features = self.decoder_features(z, is_training)
        return Reconstruction(self.to_image(features), features, penalty, metrics)

    def decoder_features(self, z: Array, is_training: bool = False) -> Array:
        """[B, h, w, c] decoder input -> [B, H, W, channels] before the last layer."""
        return self.decoder.features(self.post_quant_conv(z), is_training)

    def to_image(self, features: Array) -> Array:
        """Applies the decoder's last layer: [B, H, W, channels] -> image."""
        return self.decoder.to_image(features)

    def codes(self) -> Array | None:
        """[num_codes, c], or None without a codebook."""
        return self.codebook() if self.bottleneck == "vq" else None

    def require_codebook(self):
        """Raises ValueError unless the bottleneck is VQ."""
        if self.bottleneck != "vq":
            raise ValueError(
                f'code indices need bottleneck="vq": got "{self.bottleneck}"; use '
                "encode and decode."
            )


def check_options(model: Autoencoder) -> None:
    """Raises ValueError for options of an Autoencoder that do not fit together."""
    check_bounds(
        "Autoencoder",
        {
            "in_channels": (model.in_channels, bounds.MAX_CHANNELS),
            "out_channels": (model.out_channels, bounds.MAX_CHANNELS),
            "latent_channels": (model.latent_channels, bounds.MAX_CHANNELS),
            "channels": (model.channels, bounds.MAX_CHANNELS),
            "channel_mult": (model.channel_mult, bounds.MAX_CHANNELS),
            "num_res_blocks": (model.num_res_blocks, bounds.MAX_BLOCKS),
            "num_codes": (model.num_codes, bounds.MAX_CODES),
        },
    )
    choices = (
        ("bottleneck", BOTTLENECKS),
        ("attn_type", ATTENTION),
        ("remat", REMAT_POLICIES),
    )
    for name, known in choices:
        value = getattr(model, name)
        if value not in known:
            raise ValueError(
                f'unknown {name} "{value}"; one of: {", ".join(sorted(known))}.'
            )
    levels = len(model.channel_mult)
    if any(not 0 <= level < levels for level in model.attention_levels):
        raise ValueError(
            f"attention_levels must lie in [0, {levels - 1}], one per entry of "
            f"channel_mult={tuple(model.channel_mult)}: got "
            f"{tuple(model.attention_levels)}; 0 is the finest level."
        )
    widths = [model.channels * mult for mult in model.channel_mult]
    if model.num_groups < 1 or any(width % model.num_groups for width in widths):
        raise ValueError(
            f"the widths {widths} of the levels (channels={model.channels} times "
            f"channel_mult) must be multiples of num_groups: got {model.num_groups}; "
            "take one that divides them all, or other channels."
        )
    if (model.bottleneck == "vq") != (model.num_codes is not None):
        raise ValueError(
            'num_codes must be given for bottleneck="vq" and only there: got '
            f'bottleneck="{model.bottleneck}", num_codes={model.num_codes}.'
        )
    reach = model.code_range
    if reach is not None and (model.bottleneck != "vq" or reach <= 0):
        raise ValueError(
            'code_range must be positive, and given only for bottleneck="vq": got '
            f'{reach} for "{model.bottleneck}"; leave it out for 1 / num_codes.'
        )
    if model.bottleneck == "pixels" and model.in_channels != model.out_channels:
        raise ValueError(
            'bottleneck="pixels" returns the image it is given: got in_channels='
            f"{model.in_channels}, out_channels={model.out_channels}; make them equal."
        )
