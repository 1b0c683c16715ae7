# SPDX-License-Identifier: Apache-2.0
"""Tensors that cannot be the weights of a model are refused by name."""

import ml_dtypes
import numpy as np
import pytest

from ldm_jax.interop.layouts import NamesDiffer, expected_shapes, import_flat
from ldm_jax.interop.name_rows import NameRow

ROW = NameRow("out/kernel", (2, 3), ("out.weight", "out.weight"), ("dense", "dense"))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_floating_point_of_any_precision_is_read(dtype):
    """Identity: transposed, in float32."""
    weight = np.arange(6).reshape(3, 2).astype(dtype)
    assert expected_shapes([ROW], "compvis") == {"out.weight": (3, 2)}
    ((name, ours),) = import_flat({"out.weight": weight}, [ROW], "compvis").items()
    assert name == "out/kernel" and ours.dtype == np.float32
    np.testing.assert_array_equal(ours, weight.T.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_, np.complex64])
def test_quantized_weights_are_refused_by_name(dtype):
    """Their numbers are no weights without the scales that belong to them."""
    weights = {"out.weight": np.ones((3, 2), dtype)}
    with pytest.raises(NamesDiffer, match=r"dtype of out\.weight: got .*, expected"):
        import_flat(weights, [ROW], "compvis")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value):
    weight = np.ones((3, 2), np.float32)
    weight[0, 1] = value
    with pytest.raises(ValueError, match=r"1 of 1 tensors hold NaN.*out/kernel"):
        import_flat({"out.weight": weight}, [ROW], "compvis")
