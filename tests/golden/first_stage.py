# SPDX-License-Identifier: Apache-2.0
"""Golden first stages: the original's names and tensors, put under our names."""

import json
import pathlib
import re

import numpy as np

from tests.golden.weights import tensor

HERE = pathlib.Path(__file__).parent

RENAMES = (
    (r"quantize\.embedding\.weight", "codebook.embedding"),
    (r"(down|up)\.(\d+)\.", r"\1_\2."),
    (r"mid\.block_1", "mid.res_0"),
    (r"mid\.block_2", "mid.res_1"),
    (r"mid\.attn_1", "mid.attn"),
    (r"block\.(\d+)", r"res_\1"),
    (r"attn\.(\d+)", r"attn_\1"),
    (r"(norm|conv)([12])\.", r"\1_\2."),
    (r"nin_shortcut", "skip"),
    (r"proj_out", "out"),
    (r"(norm_?\w*)\.weight$", r"\1.scale"),
    (r"weight$", "kernel"),
)


def load(name):
    """Returns the arrays (NHWC), the config and {our path: array} of a golden model."""
    meta = json.loads((HERE / f"{name}.json").read_text())
    with np.load(HERE / f"{name}.npz") as stored:
        arrays = {key: channels_last(key, stored[key]) for key in stored}
    flat = {}
    for key, shape in meta["keys"].items():
        path = key
        for pattern, new in RENAMES:
            path = re.sub(pattern, new, path)
        flat[path] = to_ours(path, tensor(key, shape))
    return arrays, meta, flat


def channels_last(key, array):
    """Gradients are kernels (OIHW -> HWIO), other rank-4 arrays NCHW -> NHWC."""
    if array.ndim != 4:
        return array
    return array.transpose((2, 3, 1, 0) if key.startswith("grad_") else (0, 2, 3, 1))


def to_ours(path, array):
    """OIHW -> HWIO; the attention's 1x1 convolutions are linear maps, (I, O)."""
    if array.ndim != 4:
        return array
    if re.search(r"attn\w*\.(q|k|v|out)\.", path):
        return array[:, :, 0, 0].T
    return array.transpose(2, 3, 1, 0)


def tree(flat, *prefixes):
    """Nests the entries of `flat` below the given first components."""
    nested = {}
    for path, array in flat.items():
        *scopes, leaf = path.split(".")
        if scopes and scopes[0] in prefixes:
            node = nested
            for scope in scopes:
                node = node.setdefault(scope, {})
            node[leaf] = array
    return nested


def adversary(meta):
    """Parameters of our Discriminator for the original's `main.{n}` layers."""
    keys = {k: v for k, v in meta["keys"].items() if ".discriminator.main." in k}
    last = max(int(key.split(".")[3]) for key in keys)
    params = {}
    for key, shape in keys.items():
        n, leaf = int(key.split(".")[3]), key.split(".")[4]
        if leaf not in ("weight", "bias"):
            continue
        kind = "norm" if n % 3 == 0 and n else "conv"
        name = "conv_out" if n == last else f"{kind}_{(n + 1) // 3}"
        leaf = {"weight": "scale" if kind == "norm" else "kernel"}.get(leaf, leaf)
        params.setdefault(name, {})[leaf] = to_ours("", tensor(key, shape))
    return params


def perceptual(meta):
    """Parameters of our LPIPS("vgg") for the original's."""
    trunk, linear = {}, {}
    for key, shape in meta["keys"].items():
        if ".perceptual_loss.net." in key:
            n, leaf = int(key.split(".")[4]), key.split(".")[5]
            leaf = {"weight": "kernel"}.get(leaf, leaf)
            trunk.setdefault(n, {})[leaf] = to_ours("", tensor(key, shape))
        elif ".perceptual_loss.lin" in key:
            n = int(re.search(r"lin(\d)", key).group(1))
            linear[f"lin_{n}"] = tensor(key, shape).reshape(-1)
    convs = {f"conv_{i}": trunk[n] for i, n in enumerate(sorted(trunk))}
    return {"trunk": convs, **linear}


AUTOENCODER = ("encoder", "decoder", "quant_conv", "post_quant_conv", "codebook")


def autoencoder_fields(meta):
    """Fields of our Autoencoder for a config of the original."""
    config = meta["meta"]
    options = config["ddconfig"]
    sizes = [options["resolution"] >> i for i in range(len(options["ch_mult"]))]
    fields = dict(
        channels=options["ch"],
        channel_mult=tuple(options["ch_mult"]),
        num_res_blocks=options["num_res_blocks"],
        attention_levels=tuple(sizes.index(s) for s in options["attn_resolutions"]),
        latent_channels=options["z_channels"],
        embed_dim=config["embed_dim"],
        bottleneck="kl" if options["double_z"] else "vq",
    )
    if "n_embed" in config:
        fields["num_codes"] = config["n_embed"]
    return fields


def relative_error(actual, expected):
    """||a - b|| / ||b|| in float64."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)
