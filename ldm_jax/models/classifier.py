# SPDX-License-Identifier: Apache-2.0
"""A classifier of noisy latents: the downward path of a UNet and a pooling head.

It estimates p(y | z_t), whose gradient guides a sampler towards the class y.
Source: Dhariwal & Nichol 2021, Sec. 4.1 and App. A; Rombach et al. 2022, Tab. 10.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ldm_jax.models.layers import REMAT_POLICIES, Conv, Dense, GroupNorm
from ldm_jax.models.levels import Middle, Skips
from ldm_jax.models.unet import downward_path, embed_steps, make_blocks
from ldm_jax.types import Array, DType

SPATIAL_WIDTH = 2048


class LatentClassifier(nn.Module):
    """Computes the logits of p(y | z_t) for a noisy latent and its step.

    The body is that of a `UNet` without skip connections; every attention is plain
    self-attention.

    Attributes:
      num_classes: K, the number of logits.
      channels: width of the finest level; a multiple of 32.
      channel_mult: width of each level in units of `channels`.
      latent_channels: channels c of z_t.
      latent_size: side of the (square) latents; read by the "attention" head, whose
        position embedding fits one size only.
      pool: "attention" (the paper's), "adaptive" (mean over positions), "spatial" or
        "spatial_v2" (means of every block).
      num_res_blocks, attention_levels, num_heads, head_channels, scale_shift_norm,
        resblock_updown, conv_resample, dropout, dtype, remat, attention_backend: as for
        `UNet`. The "attention" head needs `head_channels`.
    """

    num_classes: int
    channels: int
    channel_mult: tuple[int, ...]
    latent_channels: int
    latent_size: int
    pool: str = "attention"
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    num_heads: int | None = None
    head_channels: int | None = None
    scale_shift_norm: bool = False
    resblock_updown: bool = False
    conv_resample: bool = True
    dropout: float = 0.0
    dtype: DType = jnp.float32
    remat: str = "none"
    attention_backend: str = "auto"

    # Fields of `UNetBlocks` that a classifier does not have.
    transformer_depth = 0

    def __post_init__(self):
        _check_fields(self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        z_t: Float[Array, "B h w c"],
        t: Int[Array, " B"],
        is_training: bool = False,
    ) -> Float[Array, "B K"]:
        """Computes logits, float32.

        Args:
          z_t: noisy latents, of `latent_size` where the head is "attention".
          t: steps in [0, T).
          is_training: whether dropout is on; then apply with rngs={"dropout": key}.

        Raises:
          ValueError: latents of another size or other channels than the fields say.
        """
        _check_inputs(self, z_t)
        blocks = make_blocks(self, is_training)
        time = nn.silu(embed_steps(t, self.channels)).astype(self.dtype)
        x, outputs = downward_path(self, blocks, z_t, time, context=None)
        x = Middle(blocks, name="mid")(x, time, None)
        if self.pool.startswith("spatial"):
            return self.spatial_head([*outputs, x])
        x = nn.silu(GroupNorm(eps=1e-5, name="norm_out")(x)).astype(jnp.float32)
        if self.pool == "attention":
            assert self.head_channels is not None  # `_check_fields`
            return AttentionPool(self.num_classes, self.head_channels, name="pool")(x)
        x = x.mean((1, 2), keepdims=True)
        return Conv(self.num_classes, 1, zero_init=True, name="conv_out")(x)[:, 0, 0]

    def spatial_head(self, outputs: Skips) -> Float[Array, "B K"]:
        """Classifies by the spatial means of every block's output, concatenated."""
        means = [x.astype(jnp.float32).mean((1, 2)) for x in outputs]
        y = Dense(SPATIAL_WIDTH, name="dense_0")(jnp.concatenate(means, axis=-1))
        if self.pool == "spatial_v2":
            y = nn.silu(GroupNorm(eps=1e-5, name="norm")(y[:, None, None])[:, 0, 0])
        else:
            y = nn.relu(y)
        return Dense(self.num_classes, name="dense_1")(y)


class AttentionPool(nn.Module):
    """Pools a grid with one layer of self-attention.

    The tokens are the mean over positions and then the positions row by row, plus a
    learned position embedding; the output is that of the first token.

    Source: Radford et al. 2021 (CLIP), Sec. 2.3; Dhariwal & Nichol 2021, App. A.
    """

    features: int
    head_channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B {self.features}"]:
        """Returns the output of the first token."""
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height * width, channels)
        tokens = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)
        position = self.param(
            "position_embedding",
            nn.initializers.normal(channels**-0.5),
            (1 + height * width, channels),
        )
        tokens = tokens + position[None]
        heads = (channels // self.head_channels, self.head_channels)
        # Only the first token's output is used, so only its query is computed.
        q = Dense(channels, name="q")(tokens[:, :1]).reshape(batch, *heads)
        k = Dense(channels, name="k")(tokens).reshape(batch, -1, *heads)
        v = Dense(channels, name="v")(tokens).reshape(batch, -1, *heads)
        logits = jnp.einsum("bhd,bnhd->bhn", q, k) * self.head_channels**-0.5
        y = jnp.einsum("bhn,bnhd->bhd", nn.softmax(logits), v)
        return Dense(self.features, name="out")(y.reshape(batch, channels))


def log_probability(
    logits: Float[Array, "B K"], class_label: Int[Array, " B"]
) -> Float[Array, " B"]:
    """Returns ln p(class_label | z_t) of each sample, nats."""
    return jnp.take_along_axis(
        jax.nn.log_softmax(logits), class_label[:, None], axis=-1
    )[:, 0]


POOLS = ("adaptive", "attention", "spatial", "spatial_v2")


def _check_fields(model: LatentClassifier) -> None:
    """Raises ValueError when the fields of a classifier contradict each other."""
    if model.pool not in POOLS:
        raise ValueError(
            f"LatentClassifier.pool must be one of {', '.join(POOLS)}: got "
            f"{model.pool!r}."
        )
    if (model.num_heads is None) == (model.head_channels is None):
        raise ValueError(
            "LatentClassifier takes exactly one of num_heads and head_channels: got "
            f"num_heads={model.num_heads}, head_channels={model.head_channels}."
        )
    if model.pool == "attention" and model.head_channels is None:
        raise ValueError(
            'LatentClassifier.pool="attention" needs head_channels, the width of its '
            "heads: got None; set it, or use another pool."
        )
    levels = len(model.channel_mult)
    if not set(model.attention_levels) <= set(range(levels)):
        raise ValueError(
            f"LatentClassifier.attention_levels must be in 0..{levels - 1}: got "
            f"{tuple(model.attention_levels)}."
        )
    if model.remat not in REMAT_POLICIES:
        raise ValueError(
            f"LatentClassifier.remat must be one of {', '.join(REMAT_POLICIES)}: got "
            f"{model.remat!r}."
        )
    divisor = 2 ** (levels - 1)
    if model.num_classes < 2 or model.latent_size % divisor:
        raise ValueError(
            "a classifier needs at least two classes and latents whose side is a "
            f"multiple of {divisor} ({levels} levels in channel_mult): got num_classes="
            f"{model.num_classes}, latent_size={model.latent_size}."
        )


def _check_inputs(model: LatentClassifier, z_t: Array) -> None:
    """Raises ValueError unless the latents are those that the fields describe."""
    if z_t.shape[-1] != model.latent_channels:
        raise ValueError(
            f"this classifier reads latents of {model.latent_channels} channels: got "
            f"z_t {z_t.shape}."
        )
    side = model.latent_size
    if model.pool == "attention" and z_t.shape[1:3] != (side, side):
        raise ValueError(
            f'a classifier with pool="attention" reads latents of {side}x{side} only: '
            f"got z_t {z_t.shape}; sample at the size it was trained on."
        )
