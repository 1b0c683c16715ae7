# SPDX-License-Identifier: Apache-2.0
"""Estimates the duration of a training run before it starts.

The estimate uses the FLOPs of a step and the FLOP/s that these devices reach. During
the run, the progress line shows the time left at the measured rate.
"""

import functools
import time

import jax
import jax.numpy as jnp

from ldm_jax.parallel.chips import chip_of
from ldm_jax.training.run import Run

# Of the rate of one convolution, or of a chip's peak, what a training step reaches.
SHARE_OF_CONVOLUTION, SHARE_OF_PEAK = 0.5, 0.3
CONDITIONS = "if nothing else runs on this machine"


def training_seconds(run: Run, flops: float) -> float:
    """Estimates the seconds of a complete run, without compilation and evaluation.

    Args:
      run: what is trained.
      flops: of an image, forward and backward.
    """
    return flops * run.batch_size * run.options.num_steps / flops_per_second()


def duration(seconds: float) -> str:
    """Formats a duration: "40 seconds", "12 minutes", "3.5 hours", "2.1 days"."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            value = seconds / length
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"
    return f"{max(seconds, 2):.0f} seconds"


@functools.cache
def flops_per_second() -> float:
    """Measures the FLOP/s of a training step on these devices, in about a second."""
    chip = chip_of(jax.devices()[0])
    if chip is not None:
        return chip.flops * jax.device_count() * SHARE_OF_PEAK
    x = jnp.ones((16, 32, 32, 32))
    kernel = jnp.ones((3, 3, 32, 32))

    @jax.jit
    def convolve(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=dimensions
        ).sum()

    convolve(x, kernel).block_until_ready()
    seconds = min(_seconds(lambda: convolve(x, kernel)) for _ in range(5))
    return 2 * x.size * 9 * 32 / seconds * SHARE_OF_CONVOLUTION


def _seconds(call) -> float:
    started = time.perf_counter()
    call().block_until_ready()
    return time.perf_counter() - started
