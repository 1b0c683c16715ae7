# SPDX-License-Identifier: Apache-2.0
"""Measures the time of functions for benchmarks."""

import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache


def compile_twice(
    lower: Callable[[], jax.stages.Lowered], options: dict[str, Any] | None = None
) -> jax.stages.Compiled:
    """Compiles into an empty persistent cache, forgets, and compiles from it.

    Prints both times: the second is what a run that starts again waits.

    Args:
      lower: traces the program.
      options: for XLA.
    """
    with tempfile.TemporaryDirectory() as directory:
        settings = {
            "jax_compilation_cache_dir": directory,
            "jax_persistent_cache_min_compile_time_secs": 0.0,
        }
        before = {name: getattr(jax.config, name) for name in settings}
        for name, value in settings.items():
            jax.config.update(name, value)
        reset_cache()  # it keeps the directory that it began with
        try:
            for label in ("compile", "from cache"):
                jax.clear_caches()
                start = time.perf_counter()
                lowered = lower()
                traced = time.perf_counter() - start
                compiled = lowered.compile(options)
                total = time.perf_counter() - start
                print(f"{label:11s} {total:8.2f} s, of which tracing {traced:.2f} s")
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            reset_cache()
    return compiled


def best_of(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Runs each once to warm up, then in turns; returns the least seconds of each."""
    for run in runs.values():
        run()
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best
