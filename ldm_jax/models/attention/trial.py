# SPDX-License-Identifier: Apache-2.0
"""Tests an attention kernel on the current device before it is used.

Kernels are written for devices, drivers and compilers that the tests of this project do
not have. When a kernel would be chosen for the first time, it computes a small example,
forward and backward, and the results are compared with plain attention. A kernel that
differs or does not compile is not used, and a warning is logged. The result is stored
in a file for each kind of device and version of JAX:
`cache_directory() / "attention_kernels"`.

Hosts of one run have the same devices and versions, so they come to the same result.
"""

import contextlib
import functools
import importlib.metadata
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from ldm_jax.files.errors import described
from ldm_jax.files.paths import cache_directory
from ldm_jax.files.reading import read_text
from ldm_jax.files.writing import write_text
from ldm_jax.models.attention.plain import softmax_attention
from ldm_jax.types import Array, DType

# q, k, v -> attention, [B, N, heads, d] each.
Kernel = Callable[[Array, Array, Array], Array]
ROWS, TOKENS, HEADS = 2, 256, 8
# Relative to the norm of the result. Sums of bfloat16 products differ by about 0.004;
# a kernel that loses a head, a block of keys or a scale differs by 0.1 and more.
TOLERANCE = 0.02


# (backend, width of a head, dtype) -> verdict of this process.
_verdicts: dict[tuple[str, int, DType], bool] = {}


def works(name: str, kernel: Kernel, width: int, dtype: DType) -> bool:
    """Returns whether a kernel computes on this device what plain attention does.

    The first call for a kind of device compiles two small programs, which takes
    seconds; later ones read a file. Logs a warning where the kernel fails.

    Args:
      name: of the backend, for the warning and the file.
      kernel: for one device, without a mesh.
      width: of a head.
      dtype: of queries, keys and values.
    """
    key = (name, width, dtype)
    if key not in _verdicts:
        _verdicts[key] = not _problem(name, kernel, width, dtype)
    return _verdicts[key]


def _problem(name: str, kernel: Kernel, width: int, dtype: DType) -> str:
    """Returns the stored or new verdict, "" for a good one; logs a bad one."""
    versions = f"JAX {jax.__version__}, jaxlib {importlib.metadata.version('jaxlib')}"
    device = f"{jax.devices()[0].device_kind}, {versions}"
    label = f"{device}, {name}, {width} wide, {jnp.dtype(dtype).name}"
    file = cache_directory() / "attention_kernels" / re.sub(r"[^\w.]+", "-", label)
    try:
        problem = read_text(file)
    except (OSError, ValueError):  # not tried yet
        problem = _try(kernel, width, dtype)
        # A home that cannot be written: tried again at the next start.
        with contextlib.suppress(OSError, ValueError):
            write_text(file, problem)
    if problem:
        logging.warning(
            'attention kernel "%s" is not used on this device (%s): %s; a slower one '
            "takes its place. Please report this line to the project; delete %s to "
            "try again.",
            name,
            label,
            problem,
            file,
        )
    return problem


def _try(kernel: Kernel, width: int, dtype: DType) -> str:
    """Returns the problem of a kernel, in one line; "" if there is none."""
    # A separate thread has neither the mesh nor the trace of the program that is
    # being built while the kernel is chosen.
    with ThreadPoolExecutor(1) as thread:
        try:
            errors = thread.submit(kernel_errors, kernel, width, dtype).result()
        except Exception as error:  # whatever a compiler raises
            return described(error)
    wrong = [f"{name} by {value:.2g}" for name, value in errors.items()]
    if all(value <= TOLERANCE for value in errors.values()):
        return ""
    return f"differs from plain attention ({', '.join(wrong)} of the norm)"


def kernel_errors(kernel: Kernel, width: int, dtype: DType) -> dict[str, float]:
    """Compares a kernel with plain float32 attention on one random example.

    Returns:
      {"result", "gradient of q", ... of k, ... of v: norm of the difference over the
      norm of the float32 value}; NaN where the kernel gives NaN.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (ROWS, TOKENS, HEADS, width)
    *qkv, weights = (jax.random.normal(key, shape, dtype) for key in keys)

    def with_gradients(attend: Kernel, *qkv: Array) -> tuple[Array, ...]:
        out, pull_back = jax.vjp(attend, *qkv)
        return out, *pull_back(weights.astype(out.dtype))

    actual = jax.jit(functools.partial(with_gradients, kernel))(*qkv)
    exact = jax.jit(functools.partial(with_gradients, _plain))(
        *(x.astype(jnp.float32) for x in qkv)
    )
    names = ("result", "gradient of q", "gradient of k", "gradient of v")
    return {
        name: float(np.linalg.norm(_flat(x) - _flat(y)) / np.linalg.norm(_flat(y)))
        for name, x, y in zip(names, actual, exact, strict=True)
    }


def _flat(x: Array) -> np.ndarray:
    return np.asarray(x, np.float32).ravel()


def _plain(q: Array, k: Array, v: Array) -> Array:
    """Computes attention in float32 by the formula, whatever the device."""
    with jax.default_matmul_precision("float32"):
        query, key, value = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
        scaled = query * q.shape[-1] ** -0.5
        return softmax_attention(scaled, key, value, False).transpose(0, 2, 1, 3)
