# SPDX-License-Identifier: Apache-2.0
"""Counts the FLOPs of a traced function: its matrix products and convolutions.

The counts are of the traced program, because XLA counts the body of a scan only once,
and custom kernels not at all. Elementwise operations are left out, as is usual.
"""

import math
from collections.abc import Callable

import jax
from jax.extend.core import jaxprs_in_params

from ldm_jax.types import PyTree


def count_flops(function: Callable, *args: PyTree) -> int:
    """Counts the FLOPs of a call: 2 for a multiplication and an addition.

    What a backward pass computes again to save memory (`jax.checkpoint`) is left out:
    it is the program's doing, not the model's.

    Args:
      function: to be traced.
      *args: arrays or jax.ShapeDtypeStruct.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr) -> int:
    return sum(_count_equation(eqn) for eqn in jaxpr.eqns)


def _count_equation(eqn) -> int:
    name, params = eqn.primitive.name, eqn.params
    if "rematted_computation" in str(eqn.source_info.name_stack):
        return 0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        depth = math.prod(shape[axis] for axis in contracted)
        return 2 * depth * math.prod(eqn.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        features = kernel[params["dimension_numbers"].rhs_spec[0]]
        taps = math.prod(kernel) // features
        # Of a transposed convolution's taps all but one in stride^2 meet a zero.
        zeros = math.prod(params["lhs_dilation"])
        return 2 * taps * math.prod(eqn.outvars[0].aval.shape) // zeros
    inner = [_count(jaxpr) for jaxpr in jaxprs_in_params(params)]
    if name == "cond":
        return max(inner)
    if name == "pallas_call":
        return sum(inner) * math.prod(params["grid_mapping"].grid)
    return sum(inner) * (params["length"] if name == "scan" else 1)
