# SPDX-License-Identifier: Apache-2.0
"""Converts layouts of tensors: other frameworks' order of axes to channels last.

In PyTorch: convolution [O, I, h, w], linear [O, I], 1x1 convolution [O, I, 1, 1]. In
this package: [h, w, I, O] and [I, O]. Transposing changes no number, so a round trip is
exact.
"""

from collections.abc import Callable, Iterable, Mapping

import jax.numpy as jnp
import numpy as np

from ldm_jax.files.errors import UnreadableFile, lined
from ldm_jax.interop.name_rows import NameRow

FORMATS = {"compvis": 0, "diffusers": 1}

# layout -> (PyTorch to JAX, JAX to PyTorch), on views.
LAYOUTS = {
    "vector": (lambda a: a, lambda a: a),
    "conv": (lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1)),
    "dense": (lambda a: _matrix(a).T, lambda a: a.T),
    "conv1": (lambda a: _matrix(a).T, lambda a: a.T[:, :, None]),
    "conv1x1": (lambda a: _matrix(a).T, lambda a: a.T[:, :, None, None]),
}


def _matrix(a: np.ndarray) -> np.ndarray:
    """Drops the trailing axes of size 1 of a 1x1 convolution: it is a linear map."""
    return a.reshape(a.shape[:2])


class NamesDiffer(UnreadableFile):
    """Raised when tensors are missing, left over or misshapen; lists their names."""


def import_flat(
    weights: Mapping[str, np.ndarray],
    rows: Iterable[NameRow],
    form: str,
    rename: Callable[[str], str] = str,
    new_attention_order: bool = False,
) -> dict[str, np.ndarray]:
    """Converts others' tensors to ours.

    Args:
      weights: {their name: array}; names the rows do not mention are left alone.
      rows: of `rows.rows_for`.
      form: a key of FORMATS.
      rename: a row's name -> the name in `weights`.
      new_attention_order: fused q, k, v are laid out [3, heads, dim] (CompVis
        `use_new_attention_order`) instead of [heads, 3, dim].

    Returns:
      {our path: array}, copies in float32, our layout.

    Raises:
      NamesDiffer: a tensor is missing, of another shape or quantized; all are listed.
      ValueError: a tensor holds NaN or infinity.
    """
    rows = list(rows)
    expected = expected_shapes(rows, form)
    wrong = []
    for name, shape in expected.items():
        name = rename(name)
        if name not in weights:
            wrong.append(f"missing: {name} {shape}")
            continue
        shape_read = np.shape(weights[name])
        if shape_read != shape and not _same_matrix(shape_read, shape):
            wrong.append(f"shape of {name}: got {shape_read}, expected {shape}")
        elif not jnp.issubdtype(weights[name].dtype, jnp.floating):
            wrong.append(
                f"dtype of {name}: got {weights[name].dtype}, expected floating point "
                "(quantized weights cannot be read)"
            )
    if wrong:
        raise NamesDiffer(listed("the weights do not fit the model", wrong))
    result = {}
    for row in rows:
        array = weights[rename(row.names[FORMATS[form]])]
        layout = row.layouts[FORMATS[form]]
        if layout == "qkv":
            array = _split_qkv(array, row, new_attention_order)
            layout = "dense" if array.ndim > 1 else "vector"
        ours = LAYOUTS[layout][0](array)
        result[row.ours] = _aligned_copy(ours)
    wrong = [name for name, array in result.items() if not np.isfinite(array).all()]
    if wrong:
        raise ValueError(
            f"weights must be finite numbers: {len(wrong)} of {len(result)} tensors "
            f"hold NaN or infinity, first {wrong[0]}; the training that made them "
            "diverged, or the file is damaged. Take another checkpoint."
        )
    return result


def _aligned_copy(array: np.ndarray) -> np.ndarray:
    """Copies to float32 in C order, where JAX on a CPU can use it without another copy.

    XLA reads buffers that begin at a multiple of 64 bytes; NumPy promises 16. A copy in
    any case: `array` may be mapped from a file.
    """
    size = 4 * array.size
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    result = room[start : start + size].view(np.float32).reshape(array.shape)
    result[...] = array
    return result


def export_flat(
    params: Mapping[str, np.ndarray],
    rows: Iterable[NameRow],
    form: str,
    rename: Callable[[str], str] = str,
) -> dict[str, np.ndarray]:
    """Converts our tensors to others'; arguments as for `import_flat`.

    Returns:
      {their name: array}; views of ours where no tensors are fused.
    """
    result, fused = {}, {}
    for row in rows:
        name, layout = row.names[FORMATS[form]], row.layouts[FORMATS[form]]
        ours = np.asarray(params[row.ours])
        if layout == "qkv":
            fused.setdefault(name, {})[row.part] = (row, ours)
            result[rename(name)] = None  # keeps the order of names
            continue
        result[rename(name)] = LAYOUTS[layout][1](ours)
    for name, parts in fused.items():
        result[rename(name)] = _join_qkv(parts)
    return result


def expected_shapes(rows: Iterable[NameRow], form: str) -> dict[str, tuple[int, ...]]:
    """Lists the tensors that a format has for the rows: {name: shape}."""
    rows = list(rows)
    nothing = np.zeros((), np.float32)
    zeros = {row.ours: np.broadcast_to(nothing, row.shape) for row in rows}
    result = {}
    for row in rows:
        name, layout = row.names[FORMATS[form]], row.layouts[FORMATS[form]]
        if layout == "qkv":
            *inputs, outputs = row.shape
            result[name] = (3 * outputs, *inputs, *[1] * len(inputs))
        else:
            result[name] = LAYOUTS[layout][1](zeros[row.ours]).shape
    return result


def _same_matrix(actual, expected) -> bool:
    """Returns whether two shapes are one linear map, as a convolution or not."""
    ones = {1}
    return (
        len(expected) >= 2
        and actual[:2] == expected[:2]
        and set(actual[2:]) <= ones
        and set(expected[2:]) <= ones
    )


def _split_qkv(fused: np.ndarray, row: NameRow, new_order: bool) -> np.ndarray:
    """Takes q, k or v out of rows [heads, 3, dim] or [3, heads, dim]."""
    fused = fused.reshape(fused.shape[:2]) if fused.ndim > 1 else fused
    tail = fused.shape[1:]
    if new_order:
        return fused.reshape(3, -1, *tail)[row.part]
    part = fused.reshape(row.heads or 1, 3, -1, *tail)[:, row.part]
    return part.reshape(-1, *tail)


def _join_qkv(parts) -> np.ndarray:
    """Inverts `_split_qkv` in the older order, which all published models have."""
    split = []
    for part in range(3):
        row, ours = parts[part]
        weight = ours.T  # a bias stays as it is
        split.append(weight.reshape(row.heads, -1, *weight.shape[1:]))
    fused = np.stack(split, axis=1)
    fused = fused.reshape(-1, *fused.shape[3:])
    return fused[:, :, None] if fused.ndim > 1 else fused


def listed(what: str, lines: list[str], limit: int = 40) -> str:
    """Formats names of tensors for an error, the first `limit` of them."""
    return f"{what}:{lined(lines, limit)}"
