# SPDX-License-Identifier: Apache-2.0
"""Levels of a UNet: the upward path mirrors the downward path."""

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.models.levels import Down, Middle, Up
from ldm_jax.models.unet import UNet, make_blocks

B, SIDE, CHANNELS = 2, 8, 32
UNET = UNet(CHANNELS, (1, 2), 4, num_heads=1)
TIME = jnp.zeros((B, 4 * CHANNELS))


def shapes_of(level, *inputs):
    """Runs a level on shapes; returns the shapes of its outputs."""
    outputs, _ = jax.eval_shape(level.init_with_output, jax.random.key(0), *inputs)
    return jax.tree.map(lambda x: x.shape, outputs)


def level(cls, num_blocks, is_last, features=64):
    blocks = make_blocks(UNET, is_training=False)
    return cls(blocks, features, num_blocks, has_attention=False, is_last=is_last)


@pytest.mark.parametrize("is_last", [False, True])
def test_down_returns_a_skip_for_every_block_and_every_change_of_size(is_last):
    """Closed form: blocks at h x w, then one more at half the size unless last."""
    x = jnp.zeros((B, SIDE, SIDE, CHANNELS))
    out, skips = shapes_of(level(Down, 2, is_last), x, TIME, None)
    whole, half = (B, SIDE, SIDE, 64), (B, SIDE // 2, SIDE // 2, 64)
    assert (out, skips) == (
        (whole, [whole] * 2) if is_last else (half, [whole] * 2 + [half])
    )


def test_up_undoes_the_change_of_size_and_takes_as_many_skips_as_it_has_blocks():
    """Identity: a level up from what a level down has made ends at the first size."""
    small = jnp.zeros((B, SIDE, SIDE, 64))
    skips = [jnp.zeros((B, SIDE, SIDE, c)) for c in (16, 32, 64)]

    def up(x):
        left = list(skips)
        y, _ = level(Up, 2, False).init_with_output(
            jax.random.key(0), x, TIME, None, left
        )
        assert [skip.shape[-1] for skip in left] == [16]
        return y

    assert jax.eval_shape(up, small).shape == (B, 2 * SIDE, 2 * SIDE, 64)


def test_the_middle_attends_whatever_the_levels_do():
    """Closed form: two residual blocks and one attention among its parameters."""
    middle = Middle(make_blocks(UNET, is_training=False))
    x = jnp.zeros((B, SIDE, SIDE, 64))
    params = jax.eval_shape(middle.init, jax.random.key(0), x, TIME, None)["params"]
    assert set(params) == {"res_0", "attn", "res_1"}
