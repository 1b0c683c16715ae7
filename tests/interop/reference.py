# SPDX-License-Identifier: Apache-2.0
"""The released denoiser and token transformer, as functions of a state dict.

Written from the description of the networks, over the names of their checkpoints, and
sharing nothing with `ldm_jax`: no table of names, no module. Needs PyTorch.
"""

import torch
import torch.nn.functional as F


class Weights:
    """Tensors of a state dict under a prefix."""

    def __init__(self, state, prefix=""):
        self.state, self.prefix = state, prefix

    def __getitem__(self, name):
        return Weights(self.state, f"{self.prefix}{name}.")

    def __contains__(self, name):
        return any(key.startswith(f"{self.prefix}{name}.") for key in self.state)

    def get(self, name):
        value = self.state.get(self.prefix + name)
        return None if value is None else torch.tensor(value)

    def affine(self):
        return self.get("weight"), self.get("bias")


def linear(w, x):
    return F.linear(x, *w.affine())


def conv(w, x, stride=1):
    weight, bias = w.affine()
    return F.conv2d(x, weight, bias, stride=stride, padding=weight.shape[-1] // 2)


def group_norm(w, x, eps=1e-5):
    return F.group_norm(x, 32, *w.affine(), eps=eps)


def layer_norm(w, x):
    return F.layer_norm(x, x.shape[-1:], *w.affine())


def timestep_embedding(t, width):
    half = width // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = (t.double()[:, None] * frequencies).float()
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def softmax_attention(q, k, v):
    """[B, heads, N, d], twice [B, heads, M, d] -> [B, heads, N, d]."""
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return logits.softmax(-1) @ v


def resblock(w, x, emb, resample=None):
    skip, h = x, F.silu(group_norm(w["in_layers.0"], x))
    if resample is not None:
        skip, h = resample(x), resample(h)
    h = conv(w["in_layers.2"], h)
    emb = linear(w["emb_layers.1"], emb)[:, :, None, None]
    norm = w["out_layers.0"]
    if emb.shape[1] == 2 * h.shape[1]:  # use_scale_shift_norm
        scale, shift = emb.chunk(2, dim=1)
        h = group_norm(norm, h) * (1 + scale) + shift
    else:
        h = group_norm(norm, h + emb)
    h = conv(w["out_layers.3"], F.silu(h))
    if "skip_connection" in w:
        skip = conv(w["skip_connection"], skip)
    return skip + h


def attention_block(w, x, heads, new_order):
    b, c, height, width = x.shape
    h = group_norm(w["norm"], x).flatten(2)
    weight, bias = w["qkv"].affine()
    qkv = F.conv1d(h, weight, bias)
    if new_order:
        q, k, v = qkv.reshape(b, 3, heads, c // heads, -1).unbind(1)
    else:
        q, k, v = qkv.reshape(b, heads, 3, c // heads, -1).unbind(2)
    q, k, v = (y.transpose(-1, -2) for y in (q, k, v))
    h = softmax_attention(q, k, v).transpose(-1, -2).reshape(b, c, -1)
    h = F.conv1d(h, *w["proj_out"].affine())
    return x + h.reshape(b, c, height, width)


def cross_attention(w, x, context, heads):
    def split(y):
        return y.reshape(*y.shape[:2], heads, -1).transpose(1, 2)

    q, k, v = (split(linear(w[n], y)) for n, y in _qkv(x, context))
    h = softmax_attention(q, k, v).transpose(1, 2).flatten(2)
    return linear(w["to_out.0" if "to_out.0" in w else "to_out"], h)


def _qkv(x, context):
    return ("to_q", x), ("to_k", context), ("to_v", context)


def spatial_transformer(w, x, context, heads):
    h = conv(w["proj_in"], group_norm(w["norm"], x, eps=1e-6))
    b, inner, height, width = h.shape
    h, block = h.flatten(2).transpose(1, 2), 0
    while f"transformer_blocks.{block}" in w:
        one = w[f"transformer_blocks.{block}"]
        y = layer_norm(one["norm1"], h)
        h = h + cross_attention(one["attn1"], y, y, heads)
        y = layer_norm(one["norm2"], h)
        y = cross_attention(one["attn2"], y, y if context is None else context, heads)
        h = h + y
        y = linear(one["ff.net.0.proj"], layer_norm(one["norm3"], h))
        value, gate = y.chunk(2, dim=-1)
        h = h + linear(one["ff.net.2"], value * F.gelu(gate))
        block += 1
    h = h.transpose(1, 2).reshape(b, inner, height, width)
    return x + conv(w["proj_out"], h)


def denoise(state, fields, x, t, context=None, label=None):
    """eps of UNetModel.

    Args:
      state: {name: array}; the network's names start with "model.diffusion_model.".
      fields: params of its unet_config.
      x: [B, C, h, w], the condition's channels included.
      t: [B]. context: [B, M, d]. label: [B], for num_classes.
    """
    w = Weights(state, "model.diffusion_model.")
    has_transformer = fields.get("use_spatial_transformer", False)
    emb = timestep_embedding(t, fields["model_channels"])
    emb = linear(w["time_embed.2"], F.silu(linear(w["time_embed.0"], emb)))
    if label is not None:
        emb = emb + w.get("label_emb.weight")[label]
    emb = F.silu(emb)

    def layer(block, h):
        width = fields.get("num_head_channels", -1)
        heads = fields["num_heads"] if width == -1 else h.shape[1] // width
        if "in_layers" in block:
            return resblock(block, h, emb)
        if "qkv" in block:
            new_order = fields.get("use_new_attention_order", False)
            return attention_block(block, h, heads, new_order)
        assert has_transformer
        return spatial_transformer(block, h, context, heads)

    def down(name, h):
        if f"{name}.0.in_layers" in w:
            return resblock(w[f"{name}.0"], h, emb, lambda y: F.avg_pool2d(y, 2))
        if f"{name}.0" not in w:  # conv_resample: false
            return F.avg_pool2d(h, 2)
        return conv(w[f"{name}.0.op"], h, stride=2)

    def up(block, h):
        double = lambda y: F.interpolate(y, scale_factor=2.0)  # noqa: E731
        if "in_layers" in block:
            return resblock(block, h, emb, double)
        return conv(block["conv"], double(h)) if "conv" in block else double(h)

    blocks, mult = fields["num_res_blocks"], fields["channel_mult"]
    factors = fields["attention_resolutions"]
    h = conv(w["input_blocks.0.0"], x)
    skips, n = [h], 1
    for level in range(len(mult)):
        for _ in range(blocks):
            for part in range(1 + (2**level in factors)):
                h = layer(w[f"input_blocks.{n}.{part}"], h)
            skips.append(h)
            n += 1
        if level < len(mult) - 1:
            h = down(f"input_blocks.{n}", h)
            skips.append(h)
            n += 1
    for part in range(3):
        h = layer(w[f"middle_block.{part}"], h)
    for n, level in enumerate(
        level for level in reversed(range(len(mult))) for _ in range(blocks + 1)
    ):
        h = torch.cat([h, skips.pop()], dim=1)
        parts = 1 + (2**level in factors)
        for part in range(parts):
            h = layer(w[f"output_blocks.{n}.{part}"], h)
        if level and (n + 1) % (blocks + 1) == 0:
            h = up(w[f"output_blocks.{n}.{parts}"], h)
    return conv(w["out.2"], F.silu(group_norm(w["out.0"], h)))


def encode_tokens(state, tokens):
    """context [B, M, d] of BERTEmbedder (tokens [B, M])."""
    w = Weights(state, "cond_stage_model.transformer.")
    x = w.get("token_emb.weight")[tokens] + w.get("pos_emb.emb.weight")
    layer = 0
    while f"attn_layers.layers.{layer}" in w:
        attention = w[f"attn_layers.layers.{layer}"]
        mlp = w[f"attn_layers.layers.{layer + 1}"]
        y = layer_norm(attention["0"], x)
        x = x + cross_attention(attention["1"], y, y, heads=8)
        y = F.gelu(linear(mlp["1.net.0.0"], layer_norm(mlp["0"], x)))
        x = x + linear(mlp["1.net.2"], y)
        layer += 2
    return layer_norm(w["norm"], x)
