# SPDX-License-Identifier: Apache-2.0
"""Compiles programs that a test runs once."""

import functools

import jax

# Compiling is most of such a test's time: unoptimized, it takes 0.6 of it.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
