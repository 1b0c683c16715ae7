# SPDX-License-Identifier: Apache-2.0
"""Larger than trained: a network applied to overlapping tiles, blended.

The original weighs tiles by a clipped distance to the border and needs sizes that its
stride divides: others are left with pixels of weight 0, and 0 / 0. Here the last tile
of a row is moved back to the border and every weight is positive.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ldm_jax.types import Array, Conditioning


def tile_apply(
    function: Callable[..., Array],
    arrays,
    tile: int | tuple[int, int],
    overlap: int | tuple[int, int],
    scale: int = 1,
) -> Array:
    """Applies a function to overlapping tiles and blends what it returns.

    One scan over tiles: the function is compiled once and memory is that of one tile
    and the result. Tiles ramp linearly into each other over the overlap; weights are
    divided by their sum, so a function that acts element by element is reproduced.

    Args:
      function: (arrays cut to a tile) -> [B, scale * tile_h, scale * tile_w, c'].
      arrays: [B, h, w, c], or a pytree of arrays [B, h, w, *], all cut alike.
      tile: side of a tile, or (height, width), in elements of `arrays`; cut to h, w.
      overlap: least overlap of neighbours, less than the tile.
      scale: by how much the function enlarges: 1 for a denoiser, f for a decoder.

    Returns:
      [B, scale * h, scale * w, c'].

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
    predict: Callable[[Array, Array, Conditioning], Array],
    tile: int | tuple[int, int],
    overlap: int | tuple[int, int],
) -> Callable[[Array, Array, Conditioning], Array]:
    """Makes a network see tiles of z_t and `cond.concat`, each with all the context.

    Args:
      predict: (z_t [B, h, w, c], t [B], cond) -> prediction [B, h, w, c].
      tile, overlap: as for `tile_apply`; the tile is best the size trained on.

    Returns:
      The same for any h, w; goes inside `classifier_free`.
    """

    def predict_tiled(z_t, t, cond):
        def of_tile(arrays):
            return predict(arrays["z_t"], t, cond._replace(concat=arrays["concat"]))

        arrays = {"z_t": z_t, "concat": cond.concat}
        return tile_apply(of_tile, arrays, tile, overlap)

    return predict_tiled


def _pick(tile, overlap, axis):
    """Picks the height (axis 0) or width (axis 1) of tile and overlap."""
    return tuple(n[axis] if isinstance(n, tuple) else n for n in (tile, overlap))


def _layout(size, tile, overlap, scale):
    """Lays tiles out over one axis of `size` elements.

    Returns:
      starts, size of a tile, its weights [scale * tile] in (0, 1], and the sum of the
      weights of all tiles [scale * size], positive.
    """
    if not 0 <= overlap < tile:
        raise ValueError(
            f"overlap must lie in [0, tile={tile}): got {overlap}; a quarter of the "
            "tile is usual."
        )
    tile = min(tile, size)
    # An overlap of the cut tile that is still an overlap; one tile needs none.
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
    """Multiplies [h] and [w] into [1, h, w, 1] float32: tiles lie on a product grid."""
    return jnp.asarray((column[:, None] * row[None, :])[None, :, :, None], jnp.float32)
