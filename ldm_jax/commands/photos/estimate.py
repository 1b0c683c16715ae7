# SPDX-License-Identifier: Apache-2.0
"""Estimates how long the training of a first stage and a denoiser will take."""

import time

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ldm_jax.experiment.prepare import prepare
from ldm_jax.planning.topologies import chip_of
from ldm_jax.planning.utilization import training_flops

# Of the rate of one convolution, or of a chip's peak, what a training step reaches.
SHARE_OF_CONVOLUTION, SHARE_OF_PEAK = 0.5, 0.3


def estimate_time(config: ConfigDict) -> str:
    """Estimates the time of a quickstart, from the operations of its steps.

    Args:
      config: with the sections first_stage and diffusion, whose data may be absent.
    """
    rate = flops_per_second()
    minutes = {}
    for name in ("first_stage", "diffusion"):
        run = prepare(config[name], abstract=True)
        flops = training_flops(run.task, run.batch_shapes) * run.options.num_steps
        minutes[name] = flops / rate / 60
    parts = [f"{name} {minute:.0f}" for name, minute in minutes.items()]
    return (
        f"about {sum(minutes.values()):.0f} minutes ({', '.join(parts)}), if nothing "
        "else runs on this machine"
    )


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
