# SPDX-License-Identifier: Apache-2.0
"""Fills a UNet and its conditioner with the golden weights, by the original's names.

Independent of ldm_jax/interop: the networks are proven before any table of names is.
"""

import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

FOLDER = pathlib.Path(__file__).parent
RESNET = {
    "norm_1": "in_layers.0",
    "conv_1": "in_layers.2",
    "time": "emb_layers.1",
    "norm_2": "out_layers.0",
    "conv_2": "out_layers.3",
    "skip": "skip_connection",
}
ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}


def load(name):
    """Arrays (NHWC) and the config of a golden model."""
    arrays = dict(np.load(FOLDER / f"{name}.npz"))
    arrays = {
        k: v.transpose(0, 2, 3, 1) if v.ndim == 4 else v for k, v in arrays.items()
    }
    return arrays, json.loads((FOLDER / f"{name}.json").read_text())


def tensor(name, keys):
    """The golden weight of a name, with the shape its model gives it."""
    spec = importlib.util.spec_from_file_location("weights", FOLDER / "weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.tensor(name, keys[name])


def fill(shapes, rename, keys):
    """Replaces every leaf of a tree of shapes by the golden weight of its name."""

    def leaf(path, shape):
        names = [entry.key for entry in path]
        value = rename(names, keys)
        assert value.shape == shape.shape, (names, value.shape, shape.shape)
        return jnp.asarray(value)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def to_ours(value, kind):
    """Lays a PyTorch weight out as Flax does."""
    if kind != "kernel":
        return value
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
        return value[0, 0] if value.shape[:2] == (1, 1) else value
    return value[..., 0].T if value.ndim == 3 else value.T


def unet_weight(names, keys, unet, prefix="model.diffusion_model."):
    """The golden weight of a UNet parameter, found by its path."""
    kind = names[-1]
    suffix = "bias" if kind == "bias" else "weight"
    blocks = unet.num_res_blocks
    top = {
        "time_dense_0": "time_embed.0",
        "time_dense_1": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "norm_out": "out.0",
        "conv_out": "out.2",
    }
    head, *rest = names[:-1]
    if head in top:
        return to_ours(tensor(f"{prefix}{top[head]}.{suffix}", keys), kind)
    block, *rest = rest
    if head == "mid":
        place = f"middle_block.{ {'res_0': 0, 'attn': 1, 'res_1': 2}[block] }"
    else:
        way, level = head.split("_")
        level, first = int(level), blocks + 1
        number = int(block.split("_")[1]) if "_" in block else blocks
        last = len(unet.channel_mult) - 1
        if way == "down":
            place = f"input_blocks.{1 + level * first + number}"
        else:
            place = f"output_blocks.{(last - level) * first + number}"
        after = 1 + (level in unet.attention_levels) if block == "upsample" else 0
        place += f".{1 if block.startswith('attn') else after}"
    inner = inner_name(block, rest)
    stem = f"{prefix}{place}.{inner}"
    if inner in ("q", "k", "v"):
        return qkv(tensor(f"{prefix}{place}.qkv.{suffix}", keys), inner, kind, unet)
    value = to_ours(tensor(f"{stem}.{suffix}", keys), kind)
    return (
        value[None, None] if inner == "skip_connection" and value.ndim == 2 else value
    )


def inner_name(block, rest):
    """Names a parameter inside of a block."""
    if rest[0] in RESNET:
        return RESNET[rest[0]]
    if block in ("downsample", "upsample"):
        return "op" if block == "downsample" else "conv"
    if rest[0].startswith("block_"):
        _, part, *last = rest
        stem = f"transformer_blocks.{rest[0].split('_')[1]}."
        if part == "mlp":
            return stem + {"in": "ff.net.0.proj", "out": "ff.net.2"}[last[0]]
        part = part.replace("_", "")
        return stem + (f"{part}.{ATTENTION[last[0]]}" if last else part)
    return "proj_out" if rest[0] == "out" else rest[0]


def qkv(value, which, kind, unet):
    """Takes q, k or v out of rows laid out as [heads, 3, width]."""
    value = value[..., 0] if value.ndim == 3 else value
    channels = value.shape[0] // 3
    heads = unet.num_heads or channels // unet.head_channels
    rows = value.reshape(heads, 3, channels // heads, *value.shape[1:])
    rows = rows[:, "qkv".index(which)].reshape(channels, *value.shape[1:])
    return rows.T if kind == "kernel" else rows


def transformer_weight(names, keys):
    """The golden weight of a TokenTransformer parameter, found by its path."""
    prefix = "cond_stage_model.transformer."
    kind = names[-1]
    tables = {
        "token_embedding": "token_emb.weight",
        "position_embedding": "pos_emb.emb.weight",
    }
    if kind in tables:
        return tensor(prefix + tables[kind], keys)
    suffix = "bias" if kind == "bias" else "weight"
    if names[0] == "norm_out":
        return tensor(f"{prefix}norm.{suffix}", keys)
    layer = int(names[0].split("_")[1])
    place = {
        "norm_1": f"{2 * layer}.0",
        "norm_2": f"{2 * layer + 1}.0",
        "mlp_in": f"{2 * layer + 1}.1.net.0.0",
        "mlp_out": f"{2 * layer + 1}.1.net.2",
    }
    if names[1] == "attn":
        out = {**ATTENTION, "out": "to_out"}[names[2]]
        stem = f"{2 * layer}.1.{out}"
    else:
        stem = place[names[1]]
    return to_ours(tensor(f"{prefix}attn_layers.layers.{stem}.{suffix}", keys), kind)


def classifier_weight(names, keys, model):
    """The golden weight of a classifier's parameter, found by its path."""
    kind, head = names[-1], names[0]
    suffix = "bias" if kind == "bias" else "weight"
    if head == "pool":
        if kind == "position_embedding":
            return tensor("out.2.positional_embedding", keys).T
        if names[1] == "out":
            return to_ours(tensor(f"out.2.c_proj.{suffix}", keys), kind)
        rows = tensor(f"out.2.qkv_proj.{suffix}", keys)
        rows = np.split(rows, 3)["qkv".index(names[1])]  # laid out as [3, heads, width]
        return to_ours(rows, kind)
    if head in ("dense_0", "dense_1"):
        place = {"dense_0": 0, "dense_1": 2}[head]
        return to_ours(tensor(f"out.{place}.{suffix}", keys), kind)
    return unet_weight(names, keys, model, prefix="")
