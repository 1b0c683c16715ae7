# SPDX-License-Identifier: Apache-2.0
"""The paper's figures: the operations of a denoiser, counted from its parameters."""

import math
from typing import Any

import jax
import pytest
from flax.traverse_util import flatten_dict

from ldm_jax.experiment.config.config_files import load_config
from ldm_jax.experiment.prepare import prepare
from ldm_jax.metrics.paper import SPEEDS
from ldm_jax.training.flops import count_flops
from ldm_jax.types import Conditioning
from tests.test_config_notes import CONFIGS

# Rows with a count -> config, and the side of its latents if it is not that of the
# config. No two have the same denoiser on the same grid.
COUNTED = {
    "ffhq": ("ffhq", None),
    "churches": ("churches", None),
    "imagenet-f8": ("imagenet:f=8", None),
    "imagenet": ("imagenet", None),
    "superres": ("superres", None),
    "inpaint-2k-vq": ("inpaint:model=small", None),
    "inpaint-2k-vq-512": ("inpaint:model=small", 128),
    "inpaint-2k-pixels": ("inpaint:model=pixels", None),
}

# With self-attention, with the token of a class, and with neither but in the middle.
FAST = ("ffhq", "imagenet-f8", "inpaint-2k-vq")


def shaped(*shape) -> Any:
    return jax.ShapeDtypeStruct(shape, "float32")


def traced(config, side):
    """A config's denoiser, its parameters' shapes, and those of its inputs."""
    name, _, argument = config.partition(":")
    run = prepare(load_config(f"{CONFIGS / name}.py:{argument}"), abstract=True)
    unet, shape = run.model.unet, run.latent_shape
    assert shape is not None  # that of a diffusion model
    h, w, c = (side or shape[0], side or shape[1], shape[2])
    extra = (unet.in_channels or unet.out_channels) - c
    context, concat = (1, 1, unet.context_dim), (1, h, w, extra)
    cond = Conditioning(
        context=shaped(*context) if unet.context_dim else None,
        concat=shaped(*concat) if extra else None,
    )
    inputs = (shaped(1, h, w, c), jax.ShapeDtypeStruct((1,), "int32"), cond)
    params = jax.eval_shape(unet.init, jax.random.key(0), *inputs)
    return unet, params, inputs


def positions(path, side, levels):
    """How often the kernel at a path is applied: the positions of its level's grid."""
    if path[-1] == "time" or path[0].startswith("time_dense"):
        return 1
    level = {"mid": levels - 1}.get(path[0], 0)
    if path[0].startswith(("down_", "up_")):
        level = int(path[0].split("_")[1])
        level += {"downsample": 1, "upsample": -1}.get(path[1], 0)
    return (side >> level) ** 2


def count_by_layer(params, side, levels):
    """Multiply-adds of the original's layers, and of those that are needed.

    A kernel is applied at every position of its grid, and an attention of N tokens to M
    has two products of N x M x width. The original enlarges a grid before it applies
    3x3 taps, of which sums of 2x2 are enough, and it computes attention to the only
    token of a class in full, although the result is the value of that token.
    """
    original = needed = 0
    for (*path, name), kernel in flatten_dict(params).items():
        if name != "kernel":
            continue
        count = positions(path, side, levels)
        taps = fewer = math.prod(kernel.shape)
        times = enough = count
        to_class = path[-2:-1] == ["attn_2"] and path[-3].startswith("block_")
        if to_class:
            cases = {"q": (count, 0), "k": (1, 0), "v": (1, 1), "out": (count, 1)}
            times, enough = cases[path[-1]]
        elif "upsample" in path and path[-1] in ("conv", "conv_1"):
            fewer = taps * 4 // 9
        original += taps * times
        needed += fewer * enough
        if path[-1] == "out" and "mlp" not in path:
            tokens = 1 if to_class else count
            products = 2 * count * tokens * kernel.shape[0]
            original += products
            needed += 0 if to_class else products
    return original, needed


@pytest.mark.parametrize(
    "row",
    [
        row if row in FAST else pytest.param(row, marks=pytest.mark.slow)
        for row in COUNTED
    ],
)
def test_operations_are_those_of_the_originals_layers(row):
    """Oracle: kernels times positions; the traced program has what is needed of them.

    The counts of ffhq, superres, inpaint-2k-vq, imagenet and imagenet-f8 are also those
    of PyTorch's counter for the same networks of diffusers, to the last digit.
    """
    unet, params, inputs = traced(*COUNTED[row])
    side = inputs[0].shape[1]
    original, needed = count_by_layer(params["params"], side, len(unet.channel_mult))
    assert SPEEDS[row].gmac == pytest.approx(original / 1e9, abs=0.05)
    assert count_flops(unet.apply, params, *inputs) == 2 * needed


def test_every_count_is_tested():
    """Identity: rows without a test have the count of one that has."""
    counts = {SPEEDS[row].gmac for row in COUNTED}
    assert {speed.gmac for speed in SPEEDS.values()} - {None} == counts
