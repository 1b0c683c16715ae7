# SPDX-License-Identifier: Apache-2.0
"""Applies a network to overlapping tiles, for images larger than those of training.

The original weights tiles by a clipped distance to the border and requires sizes that
its stride divides: with others, some pixels have weight 0, which gives 0 / 0. Here the
last tile of a row is moved back to the border and every weight is positive.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, PyTree, Shaped

from ldm_jax.diffusion.guidance import Predict
from ldm_jax.types import Array


def tile_apply(
    function: Callable[..., Float[Array, "B tile_h tile_w out"]],
    arrays: PyTree[Shaped[Array, "B h w _"]],
    tile: int | tuple[int, int],
    overlap: int | tuple[int, int],
    scale: int = 1,
) -> Float[Array, "B {scale}*h {scale}*w out"]:
    """Applies a function to overlapping tiles and blends its results.

    One scan runs over the tiles, so the function is compiled once and memory holds one
    tile and the result. Weights of a tile rise linearly over the overlap and are
    divided by their sum, so functions of single elements are reproduced.

    Args:
      function: maps `arrays` cut to a tile to `scale` times its height and width.
      arrays: one array or a pytree of arrays, all cut in the same way.
      tile: side of a tile, or (height, width), in elements of `arrays`; at most h, w.
      overlap: minimum overlap of neighbours, less than the tile.
      scale: factor by which the function enlarges: 1 for a denoiser, f for a decoder.

    Raises:
      ValueError: an overlap outside [0, tile).

    Source: Rombach et al. 2022, section 4.3.2 (convolutional sampling); CompVis
    `split_input_params`.
    """
    height, width = jax.tree.leaves(arrays)[0].shape[1:3]
    rows, tile_h, ramp_h, sum_h = _layout(height, *_pick(tile, overlap, 0), scale)
    columns, tile_w, ramp_w, sum_w = _layout(width, *_pick(tile, overlap, 1), scale)
    corners = np.array([(row, column) for row in rows for column in columns], np.int32)
    weight = _outer(ramp_h, ramp_w)

    def cut(corner):
        start = (0, corner[0], corner[1], 0)
        return jax.tree.map(
            lambda array: lax.dynamic_slice(
                array, start, (array.shape[0], tile_h, tile_w, array.shape[3])
            ),
            arrays,
        )

    def paste(total, corner):
        start = (0, corner[0] * scale, corner[1] * scale, 0)
        part = function(cut(corner)).astype(jnp.float32) * weight
        old = lax.dynamic_slice(total, start, part.shape)
        return lax.dynamic_update_slice(total, old + part, start), None

    out = jax.eval_shape(lambda: function(cut(corners[0])))
    shape = (out.shape[0], scale * height, scale * width, out.shape[3])
    total, _ = lax.scan(paste, jnp.zeros(shape, jnp.float32), jnp.asarray(corners))
    return (total / _outer(sum_h, sum_w)).astype(out.dtype)


def tiled(
    predict: Predict,
    tile: int | tuple[int, int],
    overlap: int | tuple[int, int],
) -> Predict:
    """Applies a network to tiles of z_t and `cond.concat`, with the whole context.

    Args:
      predict: the network.
      tile, overlap: as for `tile_apply`; the best tile is the size of training.

    Returns:
      A function like `predict` for any h, w; pass it to `classifier_free`.
    """

    def predict_tiled(z_t, t, cond):
        def predict_tile(arrays):
            return predict(arrays["z_t"], t, cond._replace(concat=arrays["concat"]))

        arrays = {"z_t": z_t, "concat": cond.concat}
        return tile_apply(predict_tile, arrays, tile, overlap)

    return predict_tiled


def _pick(tile, overlap, axis) -> tuple[int, int]:
    """Picks the height (axis 0) or width (axis 1) of tile and overlap."""
    tile, overlap = (n[axis] if isinstance(n, tuple) else n for n in (tile, overlap))
    return tile, overlap


def _layout(size, tile, overlap, scale):
    """Computes the positions and weights of the tiles along one axis of `size`.

    Returns:
      starts, size of a tile, its weights [scale * tile] in (0, 1], and the sum of the
      weights of all tiles [scale * size], positive.
    """
    if not 0 <= overlap < tile:
        raise ValueError(
            f"overlap must be in [0, tile={tile}): got {overlap}; a quarter of the "
            "tile is usual."
        )
    tile = min(tile, size)
    # A tile that was cut to the size overlaps itself by less than its side.
    overlap = min(overlap, tile - 1)
    count = 1 + -(-(size - tile) // (tile - overlap))
    starts = [min(i * (tile - overlap), size - tile) for i in range(count)]
    position = np.arange(scale * tile) + 0.5
    to_border = np.minimum(position, scale * tile - position)
    ramp = np.minimum(to_border / max(scale * overlap, 1), 1.0)
    coverage = np.zeros(scale * size)
    for start in starts:
        coverage[scale * start :][: scale * tile] += ramp
    return starts, tile, ramp, coverage


def _outer(column, row):
    """Computes the outer product of weights [h] and [w]: [1, h, w, 1] float32."""
    return jnp.asarray((column[:, None] * row[None, :])[None, :, :, None], jnp.float32)
