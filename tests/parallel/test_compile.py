# SPDX-License-Identifier: Apache-2.0
"""The step is compiled once for each shape of batches."""

import jax
import numpy as np

from ldm_jax.parallel.compile import StepByShape


def test_every_shape_is_compiled_once():
    compiled = []

    def compile_for(batch):
        compiled.append(batch["x"].shape)
        return lambda state, frozen, batch, key: (state + batch["x"].size, frozen)

    first = {"x": jax.ShapeDtypeStruct((2, 3), np.float32)}
    step = StepByShape(compile_for, first)
    for shape, expected in (((2, 3), 6), ((3, 4), 12), ((2, 3), 6), ((3, 4), 12)):
        assert step(0, "frozen", {"x": np.zeros(shape)}, None) == (expected, "frozen")
    assert compiled == [(2, 3), (3, 4)]
