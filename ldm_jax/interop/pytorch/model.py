# SPDX-License-Identifier: Apache-2.0
"""Runs an exported latent diffusion model in plain PyTorch.

    python model.py --label 3 --num 4 --guidance-scale 3 --out threes.png

Or in Python, next to `config.json` and `model.safetensors`:

    from model import load
    model = load(".")
    images = model.sample(4, {"label": torch.tensor([0, 1, 2, 3])}, guidance_scale=3.0)

Images are [B, 3, H, W] in [-1, 1]. Needs torch, numpy and safetensors (and Pillow to
write PNG files). The inputs of a condition, all with first axis B:

    class     label      int [B]
    text      tokens     int [B, M]; `model.tokenize(["a text"])` makes them
    layout    tokens     int [B, M]; `model.boxes_to_tokens(boxes)` makes them
    semantic  label_map  int [B, H, W]
    superres  low_res    float [B, 3, h, w] in [-1, 1]
    inpaint   image      float [B, 3, H, W] in [-1, 1]
              mask       float [B, 1, H, W], 1 where the image is to be painted
    retrieval embeddings float [B, M, d], of CLIP

Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion
Models"; names of modules and parameters are those of the model that was exported.
"""

import argparse
import itertools
import json
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int, eps: float, groups: int = 32) -> nn.GroupNorm:
    """Makes a group normalisation."""
    return nn.GroupNorm(groups, channels, eps)


def add(module: nn.Module, name: str, child: nn.Module) -> nn.Module:
    """Adds a named child and returns it, so that state dicts have the model's names."""
    module.add_module(name, child)
    return child


def attend(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, is_causal: bool = False
) -> Tensor:
    """Computes softmax(q k^T / sqrt(d)) v per head, [B, N, C] and [B, M, C]."""
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    return y.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head attention of tokens [B, N, C] to a context [B, M, D]."""

    def __init__(self, width, context_width, num_heads, head_channels, bias=False):
        super().__init__()
        inner, self.num_heads = num_heads * head_channels, num_heads
        self.q = nn.Linear(width, inner, bias)
        self.k = nn.Linear(context_width, inner, bias)
        self.v = nn.Linear(context_width, inner, bias)
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor, context: Tensor, is_causal: bool = False) -> Tensor:
        """Attends from x [B, N, C] to the context [B, M, D]."""
        q, k, v = self.q(x), self.k(context), self.v(context)
        return self.out(attend(q, k, v, self.num_heads, is_causal))


class GridAttention(Attention):
    """Normalised self-attention over the positions of a grid, added to it."""

    def __init__(self, channels, num_heads, eps, groups=32):
        super().__init__(channels, channels, num_heads, channels // num_heads, True)
        self.norm = group_norm(channels, eps, groups)

    def forward(self, x: Tensor) -> Tensor:
        """Adds the attention over all positions to the grid [B, C, H, W]."""
        y = self.norm(x).flatten(2).transpose(1, 2)
        return x + super().forward(y, y).transpose(1, 2).reshape(x.shape)


class LinearAttention(nn.Module):
    """Attention of linear cost, without norm and residual (Shen et al. 2018)."""

    def __init__(self, channels):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(channels, channels, False) for _ in "qkv")
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the attention over all positions of a grid [B, C, H, W]."""
        y = x.flatten(2).transpose(1, 2)
        context = self.k(y).softmax(1).transpose(1, 2) @ self.v(y)
        return self.out(self.q(y) @ context).transpose(1, 2).reshape(x.shape)


class ResnetBlock(nn.Module):
    """Two normalised convolutions and a skip connection, of the first stage."""

    def __init__(self, channels, features, groups):
        super().__init__()
        self.norm_1 = group_norm(channels, 1e-6, groups)
        self.conv_1 = nn.Conv2d(channels, features, 3, padding=1)
        self.norm_2 = group_norm(features, 1e-6, groups)
        self.conv_2 = nn.Conv2d(features, features, 3, padding=1)
        self.skip = (
            nn.Conv2d(channels, features, 1) if channels != features else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block to a grid [B, C, H, W]."""
        y = self.conv_1(F.silu(self.norm_1(x)))
        return self.skip(x) + self.conv_2(F.silu(self.norm_2(y)))


class Resample(nn.Module):
    """Halves or doubles height and width around a 3x3 convolution, `conv`."""

    def __init__(self, channels, way, pad_all_round=True):
        super().__init__()
        self.way = way
        # The first stage pads below and to the right only, the UNet all round.
        self.pad = (1, 1, 1, 1) if pad_all_round else (0, 1, 0, 1)
        self.conv = nn.Conv2d(channels, channels, 3, stride=2 if way == "down" else 1)

    def forward(self, x: Tensor) -> Tensor:
        """Halves or doubles a grid [B, C, H, W]."""
        if self.way == "up":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            return self.conv(F.pad(x, (1, 1, 1, 1)))
        return self.conv(F.pad(x, self.pad))


class Coder(nn.Module):
    """Encoder (way "down") or decoder (way "up") of the first stage."""

    def __init__(self, config, way, in_channels, out_channels):
        super().__init__()
        mult, groups = config["channel_mult"], config["num_groups"]
        levels = range(len(mult)) if way == "down" else reversed(range(len(mult)))
        last = len(mult) - 1 if way == "down" else 0
        widths = [config["channels"] * m for m in mult]
        x = config["channels"] if way == "down" else widths[-1]

        def attention(channels):
            if config["attn_type"] == "linear":
                return LinearAttention(channels)
            return GridAttention(channels, 1, 1e-6, groups)

        def make_mid(channels):
            mid = nn.Module()
            steps = [add(mid, "res_0", ResnetBlock(channels, channels, groups))]
            if config["mid_attention"]:
                steps.append(add(mid, "attn", attention(channels)))
            steps.append(add(mid, "res_1", ResnetBlock(channels, channels, groups)))
            self.add_module("mid", mid)
            return steps

        self.conv_in = nn.Conv2d(in_channels, x, 3, padding=1)
        self.steps = [self.conv_in, *(make_mid(x) if way == "up" else [])]
        for level in levels:
            block = nn.Module()
            for b in range(config["num_res_blocks"] + (way == "up")):
                self.steps.append(
                    add(block, f"res_{b}", ResnetBlock(x, widths[level], groups))
                )
                x = widths[level]
                if level in config["attention_levels"]:
                    self.steps.append(add(block, f"attn_{b}", attention(x)))
            if level != last:
                self.steps.append(
                    add(block, f"{way}sample", Resample(x, way, pad_all_round=False))
                )
            self.add_module(f"{way}_{level}", block)
        if way == "down":
            self.steps += make_mid(x)
        self.norm_out = group_norm(x, 1e-6, groups)
        self.conv_out = nn.Conv2d(x, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images to moments ("down"), or latents to images ("up")."""
        for step in self.steps:
            x = step(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Autoencoder(nn.Module):
    """The first stage; a model of pixels has none and returns its input."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.bottleneck = config["bottleneck"]
        self.f = (
            1 if self.bottleneck == "pixels" else 2 ** (len(config["channel_mult"]) - 1)
        )
        self.latent_channels = config["embed_dim"] or config["latent_channels"]
        if self.bottleneck == "pixels":
            self.latent_channels = config["in_channels"]
            return
        parts = 2 if self.bottleneck == "kl" else 1
        inner = config["latent_channels"]
        self.encoder = Coder(config, "down", config["in_channels"], parts * inner)
        self.decoder = Coder(config, "up", inner, config["out_channels"])
        self.quant_conv = nn.Conv2d(parts * inner, parts * self.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(self.latent_channels, inner, 1)
        if self.bottleneck == "vq":
            codebook = torch.zeros(config["num_codes"], self.latent_channels)
            self.codebook = nn.Module()
            self.codebook.embedding = nn.Parameter(codebook)

    def encode(self, image: Tensor) -> Tensor:
        """Returns the latent: KL the mean, VQ the vectors before quantization."""
        if self.bottleneck == "pixels":
            return image
        moments = self.quant_conv(self.encoder(image))
        return moments.chunk(2, 1)[0] if self.bottleneck == "kl" else moments

    def decode(self, z: Tensor) -> Tensor:
        """Returns images; VQ replaces every vector by its nearest code first."""
        if self.bottleneck == "pixels":
            return z
        if self.bottleneck == "vq":
            codes = self.codebook.embedding
            rows = z.movedim(1, -1)
            distance = codes.square().sum(1) - 2 * rows @ codes.T
            z = codes[distance.argmin(-1)].movedim(-1, 1)
        image = self.decoder(self.post_quant_conv(z))
        return image.tanh() if self.config["tanh_out"] else image


class ResBlock(nn.Module):
    """Two convolutions around the injection of time, added to the input."""

    def __init__(self, channels, features, time_width, scale_shift, resample=None):
        super().__init__()
        self.resample, self.scale_shift = resample, scale_shift
        self.norm_1 = group_norm(channels, 1e-5)
        self.conv_1 = nn.Conv2d(channels, features, 3, padding=1)
        self.time = nn.Linear(time_width, 2 * features if scale_shift else features)
        self.norm_2 = group_norm(features, 1e-5)
        self.conv_2 = nn.Conv2d(features, features, 3, padding=1)
        self.skip = (
            nn.Conv2d(channels, features, 1) if channels != features else nn.Identity()
        )

    def forward(self, x: Tensor, time: Tensor, context: Tensor | None = None) -> Tensor:
        """Applies the block to a grid [B, C, H, W]; time is [B, E]."""
        y = F.silu(self.norm_1(x))
        if self.resample == "up":
            x, y = (F.interpolate(v, scale_factor=2.0, mode="nearest") for v in (x, y))
        elif self.resample == "down":
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        y, time = self.conv_1(y), self.time(time)[:, :, None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, 1)
            y = self.norm_2(y) * (1 + scale) + shift
        else:
            y = self.norm_2(y + time)
        return self.skip(x) + self.conv_2(F.silu(y))


class GatedMLP(nn.Module):
    """out(value * gelu(gate))."""

    def __init__(self, width):
        super().__init__()
        add(self, "in", nn.Linear(width, 8 * width))
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layers to tokens [B, N, C]."""
        value, gate = self.get_submodule("in")(x).chunk(2, -1)
        return self.out(value * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context, gated MLP; each normalised first."""

    def __init__(self, width, context_width, num_heads, head_channels):
        super().__init__()
        self.norm_1, self.norm_2, self.norm_3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn_1 = Attention(width, width, num_heads, head_channels)
        self.attn_2 = Attention(width, context_width, num_heads, head_channels)
        self.mlp = GatedMLP(width)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Applies the block to tokens [B, N, C]; without a context to themselves."""
        y = self.norm_1(x)
        x = x + self.attn_1(y, y)
        y = self.norm_2(x)
        x = x + self.attn_2(y, y if context is None else context)
        return x + self.mlp(self.norm_3(x))


class SpatialTransformer(nn.Module):
    """Transformer over the positions of a grid, reading a context."""

    def __init__(self, channels, context_width, num_heads, head_channels, depth):
        super().__init__()
        inner = num_heads * head_channels
        self.norm = group_norm(channels, 1e-6)
        self.proj_in = nn.Linear(channels, inner)
        width = context_width or inner
        self.blocks = [
            add(
                self,
                f"block_{d}",
                TransformerBlock(inner, width, num_heads, head_channels),
            )
            for d in range(depth)
        ]
        self.proj_out = nn.Linear(inner, channels)

    def forward(self, x: Tensor, time: Tensor, context: Tensor | None) -> Tensor:
        """Applies the transformer to a grid [B, C, H, W]; ignores time."""
        y = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.blocks:
            y = block(y, context)
        return x + self.proj_out(y).transpose(1, 2).reshape(x.shape)


class SelfAttention(GridAttention):
    """`GridAttention` called as the UNet calls its blocks."""

    def forward(self, x: Tensor, time: Tensor, context: Tensor | None) -> Tensor:
        """Applies the attention; ignores time and context."""
        return super().forward(x)


class PlainResample(nn.Module):
    """A level's change of resolution without time, called as a block."""

    def __init__(self, channels, way, has_conv):
        super().__init__()
        self.way = way
        self.conv = None
        if has_conv:
            stride = 2 if way == "down" else 1
            self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)

    def forward(self, x: Tensor, time: Tensor, context: Tensor | None) -> Tensor:
        """Halves or doubles a grid [B, C, H, W]; ignores time and context."""
        if self.way == "up":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        elif self.conv is None:
            return F.avg_pool2d(x, 2)
        return x if self.conv is None else self.conv(x)


class UNet(nn.Module):
    """Predicts noise, x0 or v from a noisy latent, its step and a condition."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        width, mult = config["channels"], config["channel_mult"]
        time_width, blocks = 4 * width, config["num_res_blocks"]
        scale_shift = config["scale_shift_norm"]

        def residual(channels, features, resample=None):
            return ResBlock(channels, features, time_width, scale_shift, resample)

        def attention(channels):
            heads = config["num_heads"] or channels // config["head_channels"]
            depth = config["transformer_depth"]
            if not depth:
                return SelfAttention(channels, heads, 1e-5)
            size = channels // heads
            return SpatialTransformer(
                channels, config["context_dim"], heads, size, depth
            )

        def resample(channels, way):
            if config["resblock_updown"]:
                return residual(channels, channels, way)
            return PlainResample(channels, way, config["conv_resample"])

        def make_level(way, level, count, channels, joined, is_last):
            """Returns a level's steps, lists of blocks, and its output channels."""
            module, steps = nn.Module(), []
            for b in range(count):
                features = width * mult[level]
                step = [
                    add(module, f"res_{b}", residual(channels + joined(), features))
                ]
                channels = features
                if level in config["attention_levels"]:
                    step.append(add(module, f"attn_{b}", attention(channels)))
                steps.append(step)
            if not is_last:
                steps.append([add(module, f"{way}sample", resample(channels, way))])
            self.add_module(f"{way}_{level}", module)
            return steps, channels

        self.time_dense_0 = nn.Linear(width, time_width)
        self.time_dense_1 = nn.Linear(time_width, time_width)
        self.label_embedding = None
        if config["num_classes"] is not None:
            self.label_embedding = nn.Module()
            table = torch.zeros(config["num_classes"], time_width)
            self.label_embedding.embedding = nn.Parameter(table)
        in_channels = config["in_channels"] or config["out_channels"]
        self.conv_in = nn.Conv2d(in_channels, width, 3, padding=1)
        self.down, skips, x = [], [width], width
        for level in range(len(mult)):
            is_last = level == len(mult) - 1
            steps, x = make_level("down", level, blocks, x, lambda: 0, is_last)
            self.down += steps
            skips += [x] * len(steps)
        self.mid = nn.Module()
        self.middle = [
            add(self.mid, "res_0", residual(x, x)),
            add(self.mid, "attn", attention(x)),
            add(self.mid, "res_1", residual(x, x)),
        ]
        self.up = []
        for level in reversed(range(len(mult))):
            steps, x = make_level("up", level, blocks + 1, x, skips.pop, level == 0)
            self.up.append((steps[: blocks + 1], steps[blocks + 1 :]))
        self.norm_out = group_norm(x, 1e-5)
        self.conv_out = nn.Conv2d(x, config["out_channels"], 3, padding=1)

    def forward(
        self,
        z_t: Tensor,
        t: Tensor,
        context: Tensor | None = None,
        concat: Tensor | None = None,
        class_label: Tensor | None = None,
    ) -> Tensor:
        """Predicts noise, x0 or v [B, c, h, w] of z_t at the steps t [B]."""
        width = self.config["channels"]
        half = width // 2
        rate = torch.exp(
            -math.log(10000.0) * torch.arange(half, device=t.device) / half
        )
        angles = t.float()[:, None] * rate[None]
        time = F.pad(torch.cat([angles.cos(), angles.sin()], -1), (0, width % 2))
        time = self.time_dense_1(F.silu(self.time_dense_0(time)))
        if class_label is not None:
            time = time + self.label_embedding.embedding[class_label]
        time = F.silu(time)
        x = self.conv_in(z_t if concat is None else torch.cat([z_t, concat], 1))
        skips = [x]

        def run(step, x):
            for block in step:
                x = block(x, time, context)
            return x

        for step in self.down:
            x = run(step, x)
            skips.append(x)
        x = run(self.middle, x)
        for steps, change in self.up:
            for step in steps:
                x = run(step, torch.cat([x, skips.pop()], 1))
            for step in change:
                x = run(step, x)
        return self.conv_out(F.silu(self.norm_out(x)))


class ClassToken(nn.Module):
    """One learned token per class; the null class, if any, is the last row."""

    def __init__(self, num_classes, width):
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(num_classes, width))

    def forward(self, label: Tensor) -> Tensor:
        """Looks up the tokens [B, 1, d] of classes [B]."""
        return self.embedding[label][:, None]


class EncoderLayer(nn.Module):
    """Self-attention and an MLP, each normalised first."""

    def __init__(self, width, num_heads, head_channels, mlp_width, activation, causal):
        super().__init__()
        self.activation, self.causal = activation, causal
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, width, num_heads, head_channels, bias=causal)
        self.mlp_in = nn.Linear(width, mlp_width)
        self.mlp_out = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer to tokens [B, N, C]."""
        y = self.norm_1(x)
        x = x + self.attn(y, y, self.causal)
        y = self.mlp_in(self.norm_2(x))
        y = (
            y * torch.sigmoid(1.702 * y)
            if self.activation == "quick_gelu"
            else F.gelu(y)
        )
        return x + self.mlp_out(y)


class TokenEncoder(nn.Module):
    """The paper's transformer over tokens, or CLIP's (causal) text encoder."""

    def __init__(self, config):
        super().__init__()
        width, length = config["width"], config["length"]
        is_clip = config["encoder"] == "clip"
        heads = config["num_heads"]
        size = width // heads if is_clip else config["head_channels"]
        mlp = config["mlp_width"] or 4 * width
        self.pooled = config["pooled"]
        self.token_embedding = nn.Parameter(torch.zeros(config["vocab_size"], width))
        self.position_embedding = nn.Parameter(torch.zeros(length, width))
        self.layers = [
            add(
                self,
                f"layer_{i}",
                EncoderLayer(width, heads, size, mlp, config["activation"], is_clip),
            )
            for i in range(config["depth"])
        ]
        self.norm_out = nn.LayerNorm(width)
        if self.pooled is not None:
            self.projection = nn.Linear(width, self.pooled, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encodes ids [B, M] into [B, M, d], or [B, 1, d] where pooled."""
        x = self.token_embedding[tokens] + self.position_embedding[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        x = self.norm_out(x)
        if self.pooled is None:
            return x
        end = tokens.argmax(1)  # the largest id ends a text
        x = self.projection(x[torch.arange(len(x)), end])
        return F.normalize(x, dim=-1)[:, None]


class SpatialRescaler(nn.Module):
    """Turns a label map into channels on the latent grid."""

    def __init__(self, num_stages, num_classes, out_channels, use_bias):
        super().__init__()
        self.num_stages, self.num_classes = num_stages, num_classes
        self.mapper = None
        if out_channels is not None:
            self.mapper = nn.Linear(num_classes, out_channels, bias=use_bias)

    def forward(self, label_map: Tensor) -> Tensor:
        """Maps classes [B, H, W] to channels [B, k, h, w]."""
        known = (label_map >= 0) & (label_map < self.num_classes)
        x = label_map.clamp(0, self.num_classes - 1).long()
        x = F.one_hot(x, self.num_classes)
        x = (x * known[..., None]).float()
        if self.mapper is not None:
            x = self.mapper(x)
        x = x.movedim(-1, 1)
        for _ in range(self.num_stages):
            x = F.avg_pool2d(x, 2)
        return x


FIELDS = {
    "none": (),
    "class": ("label",),
    "text": ("tokens",),
    "layout": ("tokens",),
    "semantic": ("label_map",),
    "superres": ("low_res",),
    "inpaint": ("image", "mask"),
    "retrieval": ("embeddings",),
}


class Condition(nn.Module):
    """Encodes the inputs of one kind of condition, and makes its null inputs."""

    def __init__(self, config, name=""):
        super().__init__()
        self.config, self.kind, self.name = config, config["kind"], name
        if self.kind == "class" and config["width"] is not None:
            rows = config["num_classes"] + config["has_null"]
            self.network = ClassToken(rows, config["width"])
        elif self.kind in ("text", "layout"):
            self.network = TokenEncoder(config)
        elif self.kind == "semantic":
            self.network = SpatialRescaler(
                config["f"].bit_length() - 1,
                config["num_classes"],
                config["out_channels"],
                config["use_bias"],
            )

    def encode(
        self, inputs: dict[str, Tensor], model: "LatentDiffusion"
    ) -> dict[str, Tensor]:
        """Returns the UNet's keyword arguments for these inputs."""
        y = {name: inputs[name] for name in FIELDS[self.kind]}
        if self.kind == "class":
            if self.config["width"] is None:
                return {"class_label": y["label"]}
            return {"context": self.network(y["label"])}
        if self.kind in ("text", "layout"):
            return {"context": self.network(y["tokens"])}
        if self.kind == "semantic":
            return {"concat": self.network(y["label_map"])}
        if self.kind == "superres":
            return {"concat": y["low_res"]}
        if self.kind == "retrieval":
            return {"context": y["embeddings"]}
        if self.kind == "inpaint":
            hole = y["mask"] >= 0.5
            seen = torch.where(hole, torch.tensor(-1.0), y["image"])
            latent = self.config["latent_scale"] * model.autoencoder.encode(seen)
            f = model.autoencoder.f
            mask = torch.where(hole, 1.0, -1.0)[:, :, ::f, ::f]
            return {"concat": torch.cat([latent, mask], 1)}
        return {}

    def null(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replaces the inputs by those of no condition."""
        if self.kind == "class":
            if not self.config["has_null"]:
                raise ValueError("this model was trained without a null class.")
            any_class = self.config["num_classes"]
            return {"label": torch.full_like(inputs["label"], any_class)}
        if self.kind in ("text", "layout"):
            row = torch.tensor(self.config["null_tokens"])
            return {"tokens": row.expand_as(inputs["tokens"])}
        if self.kind == "semantic":
            unknown = self.config["num_classes"]
            return {"label_map": torch.full_like(inputs["label_map"], unknown)}
        if self.kind in ("superres", "retrieval"):
            return {n: torch.zeros_like(inputs[n]) for n in FIELDS[self.kind]}
        if self.kind == "inpaint":
            return {"mask": torch.ones_like(inputs["mask"])}
        return {}


class LatentDiffusion(nn.Module):
    """First stage, denoiser, condition and noise schedule of an exported model."""

    def __init__(self, config, directory="."):
        super().__init__()
        self.config, self.directory = config, pathlib.Path(directory)
        self.autoencoder = Autoencoder(config["autoencoder"])
        self.unet = UNet(config["unet"]) if "unet" in config else None
        parts = config.get("conditions", [])
        self.conditions = [
            add(self, f"condition_{i}", Condition(part)) for i, part in enumerate(parts)
        ]
        # z_t = alpha[t] * z_0 + sigma[t] * noise
        self.alpha, self.sigma = map(torch.tensor, config.get("noise_levels", ([], [])))

    def encode(self, image: Tensor) -> Tensor:
        """Encodes images as scaled latents."""
        return self.config["latent_scale"] * self.autoencoder.encode(image)

    def decode(self, z_0: Tensor) -> Tensor:
        """Decodes scaled latents to images in [-1, 1]."""
        return self.autoencoder.decode(z_0 / self.config["latent_scale"])

    def condition(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Encodes every part; joins contexts along tokens, concats along channels."""
        encoded = [part.encode(inputs, self) for part in self.conditions]
        axes = {"context": 1, "concat": 1}
        joined = {}
        for name in ("context", "concat", "class_label"):
            values = [e[name] for e in encoded if name in e]
            if values:
                axis = axes.get(name)
                joined[name] = values[0] if axis is None else torch.cat(values, axis)
        return joined

    def null(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the inputs of no condition, for classifier-free guidance."""
        return {
            **inputs,
            **{k: v for p in self.conditions for k, v in p.null(inputs).items()},
        }

    def x0(self, z_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """Predicts the clean latent."""
        y = self.unet(z_t, t, **cond)
        alpha, sigma = (
            table[t][:, None, None, None] for table in (self.alpha, self.sigma)
        )
        if self.config["prediction"] == "eps":
            return (z_t - sigma * y) / alpha
        return y if self.config["prediction"] == "x0" else alpha * z_t - sigma * y

    def timesteps(self, num_steps: int, grid: str = "original") -> np.ndarray:
        """Returns the steps visited: "original" ends at 0, "even" at -1 (clean)."""
        total = len(self.alpha)
        if grid == "even":
            i = np.arange(num_steps, -1, -1)
            return (2 * total * i + num_steps) // (2 * num_steps) - 1
        stride = total // num_steps
        rising = np.arange(0, total, stride) + 1
        if len(rising) != num_steps or rising[-1] >= total:
            raise ValueError(
                f'no "original" grid of {num_steps} steps; use grid="even".'
            )
        return np.append(rising[::-1], 0)

    @torch.no_grad()
    def sample(
        self,
        num: int,
        inputs: dict[str, Tensor] | None = None,
        *,
        z_T: Tensor | None = None,
        size: tuple[int, int] | None = None,
        num_steps: int = 50,
        grid: str = "original",
        eta: float = 0.0,
        guidance_scale: float = 1.0,
        seed: int = 0,
    ) -> Tensor:
        """Samples images by DDIM (Song et al. 2021, Eq. 12 and 16).

        Args:
          num: images.
          inputs: of the condition, see the top of this file; None for none.
          z_T: [num, c, h, w] noise to start from; drawn from `seed` where None.
          size: (height, width) of the images; None takes the size trained on.
          num_steps: calls of the denoiser.
          grid: "original" (as released; some numbers of steps only) or "even".
          eta: 0 adds no noise, 1 as much as DDPM.
          guidance_scale: of classifier-free guidance; 1 is off.
        """
        inputs = inputs or {}
        height, width = size or self.config["image_size"]
        shape = (num, self.autoencoder.latent_channels)
        shape += (height // self.autoencoder.f, width // self.autoencoder.f)
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(shape, generator=generator) if z_T is None else z_T
        cond = self.condition(inputs)
        null = self.condition(self.null(inputs)) if guidance_scale != 1 else None
        steps = self.timesteps(num_steps, grid)
        for t, s in itertools.pairwise(steps):
            x0 = self.guided(z, int(t), cond, null, guidance_scale)
            alpha, sigma = self.alpha[t], self.sigma[t]
            alpha_s = self.alpha[s] if s >= 0 else torch.tensor(1.0)
            sigma_s = self.sigma[s] if s >= 0 else torch.tensor(0.0)
            eps = (z - alpha * x0) / sigma
            std = eta * sigma_s / sigma * (1 - (alpha / alpha_s) ** 2).sqrt()
            z = alpha_s * x0 + (sigma_s**2 - std**2).clamp(min=0).sqrt() * eps
            if eta > 0:
                z = z + std * torch.randn(shape, generator=generator)
        return self.finish(self.decode(z), inputs)

    def guided(
        self, z: Tensor, t: int, cond: dict, null: dict | None, scale: float
    ) -> Tensor:
        """Predicts x0 with classifier-free guidance (Ho & Salimans 2022)."""
        steps = torch.full((len(z),), t)
        x0 = self.x0(z, steps, cond)
        if scale == 1:
            return x0
        without = self.x0(z, steps, null)
        return without + scale * (x0 - without)

    def finish(self, image: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Puts an inpainted image's known region back."""
        if any(part.kind == "inpaint" for part in self.conditions):
            return torch.where(inputs["mask"] >= 0.5, image, inputs["image"])
        return image

    def part(self, kind: str) -> Condition:
        """Finds the part of the condition of a kind."""
        for part in self.conditions:
            if part.kind == kind:
                return part
        raise ValueError(f"this model has no {kind} condition.")

    def tokenize(self, texts: list[str]) -> Tensor:
        """Makes ids [B, M] of texts; all vocabularies but bytes need transformers."""
        config = self.part("text").config
        length, name = config["length"], config["tokenizer"]
        if name == "bytes":  # ids of ByT5: byte + 3, then 1 (end), then 0 (padding)
            rows = [
                [*[b + 3 for b in text.encode()][: length - 1], 1] for text in texts
            ]
            return torch.tensor([row + [0] * (length - len(row)) for row in rows])
        import transformers

        files = {
            n: str(self.directory / config[n])
            for n in ("vocab", "merges")
            if config.get(n)
        }
        kind = "BertTokenizer" if name == "bert" else "CLIPTokenizer"
        tokenizer = getattr(transformers, kind)(**files)
        ids = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length
        )
        return torch.tensor(ids["input_ids"])

    def boxes_to_tokens(self, layouts: list[list[tuple]]) -> Tensor:
        """Makes ids [B, M] of boxes (class, x, y, width, height); the sides are 1."""
        config = self.part("layout").config
        side = math.isqrt(config["vocab_size"]) - 1

        def corners(x, y, width, height):
            points = ((x, y), (x + width, y + height))
            return [round(b * side) * (side + 1) + round(a * side) for a, b in points]

        rows = []
        for boxes in layouts:
            row = [v for label, *box in boxes for v in (label, *corners(*box))]
            missing = 3 * config["max_objects"] - len(row)
            row += [config["vocab_size"] - 1] * missing + corners(0, 0, 1, 1)
            rows.append(row)
        return torch.tensor(rows)


def load(directory: str | pathlib.Path = ".") -> LatentDiffusion:
    """Loads the model of a folder, ready to sample."""
    from safetensors.torch import load_file

    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    model = LatentDiffusion(config, directory)
    weights = {}
    for file in sorted(directory.glob("*.safetensors")):
        weights.update(load_file(file))
    model.load_state_dict(weights)
    return model.eval()


def save_png(images: Tensor, path: str | pathlib.Path) -> None:
    """Writes a batch of images in [-1, 1] side by side."""
    from PIL import Image

    rows = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1)
    Image.fromarray(np.concatenate(list(rows.numpy()), axis=1)).save(path)


def main() -> None:
    """Samples from the folder that holds this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--label", type=int, help="class (a model of classes)")
    parser.add_argument("--prompt", help="text (a text model)")
    parser.add_argument("--num", type=int, default=1, help="images")
    parser.add_argument("--num-steps", type=int, default=50)
    parser.add_argument("--grid", default="original", choices=("original", "even"))
    parser.add_argument("--eta", type=float, default=0.0)
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="samples.png")
    args = parser.parse_args()
    model = load(pathlib.Path(__file__).parent)
    inputs = {}
    if args.label is not None:
        inputs["label"] = torch.full((args.num,), args.label)
    if args.prompt is not None:
        inputs["tokens"] = model.tokenize([args.prompt] * args.num)
    images = model.sample(
        args.num,
        inputs,
        num_steps=args.num_steps,
        grid=args.grid,
        eta=args.eta,
        guidance_scale=args.guidance_scale,
        seed=args.seed,
    )
    save_png(images, args.out)
    print(f"{args.num} images in {args.out}")


if __name__ == "__main__":
    main()
