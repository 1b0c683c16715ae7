# SPDX-License-Identifier: Apache-2.0
"""Estimates how long a quickstart will take, before it starts."""

from ml_collections import ConfigDict

from ldm_jax.experiment.prepare import prepare
from ldm_jax.training.estimate import CONDITIONS, duration, training_seconds
from ldm_jax.training.utilization import training_flops


def estimate_time(config: ConfigDict) -> str:
    """Estimates the time of a quickstart.

    Args:
      config: with the sections first_stage and diffusion, whose data may be absent.
    """
    seconds = {}
    for name in ("first_stage", "diffusion"):
        run = prepare(config[name], abstract=True)
        flops = training_flops(run.task, run.batch_shapes) / run.batch_size
        seconds[name] = training_seconds(run, flops)
    parts = [f"{name} {duration(value)}" for name, value in seconds.items()]
    total = duration(sum(seconds.values()))
    return (
        f"about {total} of training ({', '.join(parts)}), {CONDITIONS}; compiling, "
        "encoding and sampling add one to three minutes"
    )
