# SPDX-License-Identifier: Apache-2.0
"""Compiles the training step ahead of time, and chooses options of the compiler."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from ldm_jax.parallel import sharding
from ldm_jax.types import Array, PyTree

# Values of `jax_default_matmul_precision`; "" leaves it unchanged.
MATMUL_PRECISIONS = ("", "bfloat16", "tensorfloat32", "float32")


# TPU: a product with a kernel that is split over "fsdp" becomes a loop over its parts,
# each computed with while the next one travels. A device's part is narrow (56 of 896
# channels of 16 devices), so most of the matrix unit would idle: above this many MiB,
# that is never. Whole kernels are gathered instead, while others are computed with.
_TPU_OPTIONS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000}


def compiler_options(mesh: Mesh) -> dict[str, Any]:
    """Returns the options of XLA for the devices of a mesh."""
    is_tpu = mesh.devices.flat[0].platform == "tpu"
    return dict(_TPU_OPTIONS) if is_tpu else {}


# CPU: XLA joins operations into calls of the library YNNPACK, which one core runs well
# and several do not share well. Guided DDIM (`ldm-jax bench sampler --num-steps=10`),
# seconds a batch: with them 1.57 on one core, 1.11 on two; without 1.71 and 0.95. The
# training step gains nothing from leaving them out.
_SEVERAL_CORES = {"xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def sampling_options() -> dict[str, str]:
    """Returns the options of XLA for samplers on the default devices."""
    if jax.default_backend() != "cpu" or num_cores() == 1:
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=_SEVERAL_CORES).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # experimental: other versions may not have it
        return {}
    return dict(_SEVERAL_CORES)


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def on_mesh(
    shapes: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """Gives the fields of a batch their sharding, or checks the one they have."""
    expected = sharding.batch_sharding(mesh)
    for name, x in shapes.items():
        given = x.sharding
        if given is not None and not given.is_equivalent_to(expected, len(x.shape)):
            raise ValueError(
                f"batches must be split over the mesh of the run: {name} has {given}, "
                f"not {expected}; make them with sharding=batch_sharding(mesh)."
            )
    return {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=expected)
        for name, x in shapes.items()
    }


def global_key(seed: int, mesh: Mesh) -> Array:
    """Makes the run's random key on every device of the mesh."""
    make = jax.jit(jax.random.key, out_shardings=sharding.replicated(mesh))
    return make(seed)


def lower_step(
    train_step: Callable,
    shapes: PyTree,
    frozen: PyTree,
    batch_shapes: Mapping[str, jax.ShapeDtypeStruct],
    key: Any,
    precision: str = "",
) -> jax.stages.Lowered:
    """Makes the program of a step, to be compiled once; the state's memory is reused.

    Args:
      train_step: from `make_train_step`.
      shapes: of the state, with shardings.
      frozen, batch_shapes, key: the step's other arguments, or their shapes.
      precision: of matrix products and convolutions of float32, a name of
        MATMUL_PRECISIONS. TPUs and GPUs use fewer bits by default; "float32" is for
        tests that two programs compute the same. `LoopOptions` checks the name.

    Returns:
      jax.stages.Lowered: `.compile()` gives the step.
    """
    placed = jax.tree.map(lambda x: x.sharding, shapes)
    step = jax.jit(train_step, donate_argnums=0, out_shardings=(placed, key.sharding))
    mesh = key.sharding.mesh  # kernels that the compiler cannot divide ask for it
    with jax.set_mesh(mesh), jax.default_matmul_precision(precision or None):
        return step.lower(shapes, frozen, batch_shapes, key)


class StepByShape:
    """The training step, compiled once for each shape of batches.

    Latents in buckets (`data.mixture.Buckets`) have several, each batch one.
    """

    def __init__(self, compile_for: Callable[[Mapping], Callable], batch_shapes):
        """Compiles the first.

        Args:
          compile_for: shapes of a batch -> (state, frozen, batch, key) -> result.
          batch_shapes: of the first.
        """
        self._compile_for = compile_for
        self._programs = {_shapes_of(batch_shapes): compile_for(batch_shapes)}

    def __call__(self, state, frozen, batch, key):
        """Runs the program for a batch; compiles it for the first of its kind."""
        shapes = _shapes_of(batch)
        if shapes not in self._programs:
            self._programs[shapes] = self._compile_for(batch)
        return self._programs[shapes](state, frozen, batch, key)


def _shapes_of(batch: Mapping) -> tuple:
    return tuple((name, batch[name].shape) for name in sorted(batch))
