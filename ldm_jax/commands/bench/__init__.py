# SPDX-License-Identifier: Apache-2.0
"""Benchmarks; each module is run by `ldm-jax bench NAME`."""
