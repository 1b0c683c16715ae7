# SPDX-License-Identifier: Apache-2.0
"""The first stage, which maps images to latents and back."""

from typing import Any, NamedTuple, overload

import flax.linen as nn
from jaxtyping import Float, Float32, Int, Int32

from ldm_jax.models.first_stage.autoencoder_options import check_autoencoder
from ldm_jax.models.first_stage.bottleneck import BOTTLENECKS, KL, VQ, Pixels
from ldm_jax.models.first_stage.coders import Decoder, Encoder
from ldm_jax.models.first_stage.codes import Codebook, nearest_code
from ldm_jax.models.layers import Conv
from ldm_jax.types import Array, DType, RandomKey, Size


class Reconstruction(NamedTuple):
    """Result of one pass through the first stage.

    Attributes:
      image: the reconstruction.
      features: the input of the decoder's last convolution; None without a decoder.
      penalty: of the bottleneck.
      metrics: of the bottleneck.
    """

    image: Float32[Array, "B H W out_channels"]
    features: Float[Array, "B H W features"] | None
    penalty: Float32[Array, ""]
    metrics: dict[str, Float32[Array, ""]]


class Autoencoder(nn.Module):
    """Maps images to latents that are f times smaller, and back.

    Attributes:
      channels: width of level 0.
      channel_mult: width of each level, times `channels`; f = 2^(levels - 1).
      num_res_blocks: residual blocks of a level; levels of the decoder have one more.
      attention_levels: levels with attention after each block; 0 is the finest.
      mid_attention: whether the middle, at the coarsest level, has attention.
      attn_type: "vanilla" or "linear".
      num_groups: groups of every norm, 32 in the paper; must divide the width of every
        level. A group of one channel loses its mean, and with it colours: below 128
        channels use one group for four channels.
      latent_channels: channels of the encoder's output (its mean, for KL).
      embed_dim: c, channels of the latent; None takes `latent_channels`.
      in_channels, out_channels: of the images.
      bottleneck: "kl", "vq", or "pixels" (no network: the latent is the image).
      num_codes: size of the codebook (VQ).
      code_range: codes are drawn from U(-code_range, code_range); None is the
        original's 1 / num_codes, with which short runs leave most codes unused.
      beta, legacy_beta: see `bottleneck.VQ`.
      dropout: rate in every residual block; needs the rng "dropout" when training.
      tanh_out: whether the decoder ends with tanh.
      dtype: dtype of the arithmetic; parameters, norms, softmax, latents and images are
        always float32.
      remat: what is recomputed in the backward pass; a key of `REMAT_POLICIES`.

    Raises:
      ValueError: options that contradict each other.

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
    dtype: DType | None = None
    remat: str = "none"

    def __post_init__(self):
        check_autoencoder(self)
        super().__post_init__()

    @property
    def f(self) -> int:
        """The factor by which height and width are reduced."""
        return 1 if self.bottleneck == "pixels" else 2 ** (len(self.channel_mult) - 1)

    @property
    def embed_channels(self) -> int:
        """The channels of the latent, c."""
        if self.bottleneck == "pixels":
            return self.in_channels
        return self.embed_dim or self.latent_channels

    @property
    def moments_channels(self) -> int:
        """The channels of the result of `encode`: 2c for KL, otherwise c."""
        return self.bottleneck_layer.moments_channels(self.embed_channels)

    @property
    def bottleneck_layer(self) -> KL | VQ | Pixels:
        """The bottleneck, with sample, to_decoder and penalty."""
        if self.bottleneck == "vq":
            return VQ(self.beta, self.legacy_beta)
        return BOTTLENECKS[self.bottleneck]()

    @overload
    def latent_shape(
        self, image_shape: tuple[Size, Size, Size]
    ) -> tuple[Size, Size, Size]: ...

    @overload
    def latent_shape(self, image_shape: tuple[Size, ...]) -> tuple[Size, ...]: ...

    def latent_shape(self, image_shape: tuple[Size, ...]) -> tuple[Size, ...]:
        """Computes (..., H/f, W/f, c) from (..., H, W, in_channels).

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

    def setup(self) -> None:
        """Makes encoder, decoder and codebook; a model of pixels has none."""
        if self.bottleneck == "pixels":
            return
        shared: dict[str, Any] = dict(
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
        moments = self.bottleneck_layer.moments_channels
        self.encoder = Encoder(moments(self.latent_channels), **shared)
        self.decoder = Decoder(self.out_channels, tanh_out=self.tanh_out, **shared)
        self.quant_conv = Conv(self.moments_channels, 1)
        self.post_quant_conv = Conv(self.latent_channels, 1)
        if self.bottleneck == "vq":
            assert self.num_codes is not None  # `check_autoencoder`
            bound = self.code_range or 1.0 / self.num_codes
            self.codebook = Codebook(self.num_codes, self.embed_channels, bound)

    def encode(
        self, image: Float[Array, "B H W C"], is_training: bool = False
    ) -> Float[Array, "B h w {self.moments_channels}"]:
        """Maps images to the moments of their latents, which data sets store.

        Args:
          image: in [-1, 1].
          is_training: whether dropout is on.

        Returns:
          Mean and log-variance (KL), vectors before quantization (VQ), or the image
          (pixels); float32.

        Raises:
          ValueError: f does not divide H or W.
        """
        self.latent_shape(image.shape)
        if self.bottleneck == "pixels":
            return image
        return self.quant_conv(self.encoder(image, is_training))

    def decode(
        self,
        z: Float[Array, "B h w c"],
        is_training: bool = False,
        quantize: bool = True,
    ) -> Float[Array, "B H W {self.out_channels}"]:
        """Maps latents to images; VQ quantizes them first, unless disabled."""
        if self.bottleneck == "pixels":
            return z
        if quantize:
            z, _ = self.bottleneck_layer.to_decoder(z, self.codes())
        return self.to_image(self.decoder_features(z, is_training))

    def encode_indices(self, image: Float[Array, "B H W C"]) -> Int32[Array, "B h w"]:
        """Maps images to indices of codes (VQ)."""
        codebook = self.require_codebook()
        return nearest_code(self.encode(image), codebook)

    def decode_indices(
        self, indices: Int[Array, "B h w"]
    ) -> Float[Array, "B H W {self.out_channels}"]:
        """Maps indices of codes to images (VQ)."""
        codebook = self.require_codebook()
        return self.to_image(self.decoder_features(codebook[indices], False))

    def __call__(
        self,
        image: Float[Array, "B H W C"],
        key: RandomKey | None = None,
        is_training: bool = False,
    ) -> Reconstruction:
        """Encodes and decodes, and returns all terms of the training loss.

        Args:
          image: in [-1, 1].
          key: a random key for the posterior (KL); None takes its mode.
          is_training: whether dropout is on.
        """
        moments = self.encode(image, is_training)
        z = self.bottleneck_layer.sample(moments, key)
        z, indices = self.bottleneck_layer.to_decoder(z, self.codes())
        penalty, metrics = self.bottleneck_layer.penalty(moments, indices, self.codes())
        if self.bottleneck == "pixels":
            return Reconstruction(z, None, penalty, metrics)
        features = self.decoder_features(z, is_training)
        return Reconstruction(self.to_image(features), features, penalty, metrics)

    def decoder_features(
        self, z: Float[Array, "B h w c"], is_training: bool = False
    ) -> Float[Array, "B H W features"]:
        """Computes the input of the decoder's last layer from the decoder's input."""
        return self.decoder.features(self.post_quant_conv(z), is_training)

    def to_image(
        self, features: Float[Array, "B H W features"]
    ) -> Float[Array, "B H W {self.out_channels}"]:
        """Applies the decoder's last layer."""
        return self.decoder.to_image(features)

    def codes(self) -> Float[Array, "num_codes c"] | None:
        """Returns the codebook, or None if there is none."""
        return self.codebook() if self.bottleneck == "vq" else None

    def require_codebook(self) -> Float[Array, "num_codes c"]:
        """Returns the codebook; raises ValueError unless the bottleneck is VQ."""
        if self.bottleneck != "vq":
            raise ValueError(
                f'code indices need bottleneck="vq": got "{self.bottleneck}"; use '
                "encode and decode."
            )
        return self.codebook()
