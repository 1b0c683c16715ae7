# SPDX-License-Identifier: Apache-2.0
"""Schedules of the learning rate: factors, as functions of the number of updates."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def warmup_linear(
    warmup_steps: int,
    num_steps: int | None = None,
    start: float = 1e-6,
    peak: float = 1.0,
    end: float = 1.0,
) -> optax.Schedule:
    """Rises linearly from `start` to `peak`, then runs linearly towards `end`.

        f(n) = start + (peak - start) n / warmup_steps           for n < warmup_steps
        f(n) = end + (peak - end) (num_steps - n) / num_steps    after

    As in the source, the second line counts from step 0, so that at the end of the
    warm-up f drops from `peak` to a point already on the way to `end`.

    Args:
      warmup_steps: steps of warm-up; 0 for none.
      num_steps: where `end` is reached; needed only when `end` differs from `peak`.
      start, peak, end: factors of the learning rate.

    Source: CompVis `LambdaLinearScheduler` with one cycle.
    """
    if num_steps is None and end != peak:
        raise ValueError(
            f"warmup_linear needs num_steps to go from peak={peak} to end={end}; "
            "set schedule.num_steps, or end equal to peak."
        )

    def factor(count):
        n = jnp.asarray(count, jnp.float32)
        rise = start + (peak - start) * n / max(warmup_steps, 1)
        if num_steps is None:
            return jnp.where(n < warmup_steps, rise, peak)
        left = jnp.maximum(num_steps - n, 0.0) / num_steps
        return jnp.where(n < warmup_steps, rise, end + (peak - end) * left)

    return factor


def warmup_cosine(
    warmup_steps: int,
    num_steps: int,
    start: float = 0.0,
    peak: float = 1.0,
    end: float = 0.0,
) -> optax.Schedule:
    """Rises linearly from `start` to `peak`, then falls to `end` on half a cosine.

    Args:
      warmup_steps: steps of warm-up; 0 for none.
      num_steps: where `end` is reached, warm-up included.
      start, peak, end: factors of the learning rate.

    Source: CompVis `LambdaWarmUpCosineScheduler`, which optax's schedule equals.
    """
    if num_steps <= warmup_steps:
        raise ValueError(
            f"warmup_cosine needs num_steps > warmup_steps: got {num_steps} and "
            f"{warmup_steps}; lengthen the run or shorten the warm-up."
        )
    return optax.warmup_cosine_decay_schedule(start, peak, warmup_steps, num_steps, end)


# Each returns a factor of the learning rate as a function of the updates done.
SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": lambda: optax.constant_schedule(1.0),
    "warmup_linear": warmup_linear,
    "warmup_cosine": warmup_cosine,
}
OPTAX_SCHEDULES = tuple(
    n for n in dir(optax) if n.endswith("_schedule") and not n.startswith("scale_by")
)
# The argument that sets the length of a schedule: here, and in optax.
LENGTHS = {
    "warmup_linear": "num_steps",
    "warmup_cosine": "num_steps",
    "cosine_decay_schedule": "decay_steps",
    "cosine_onecycle_schedule": "transition_steps",
    "linear_onecycle_schedule": "transition_steps",
    "linear_schedule": "transition_steps",
    "polynomial_schedule": "transition_steps",
    "warmup_cosine_decay_schedule": "decay_steps",
}


def make_rate_schedule(
    name: str, *, run_steps: int | None = None, **fields: Any
) -> optax.Schedule:
    """Makes a factor of the learning rate, as a function of the updates done.

    Args:
      name: a key of SCHEDULES, or the name of one of optax's own schedules
        ("cosine_decay_schedule"), whose values then are factors too.
      run_steps: the length of a schedule whose `fields` do not set one.
      **fields: the arguments of that schedule.

    Raises:
      ValueError: there is no schedule of that name, or it has no such arguments, or a
        number of steps is negative or does not fit into int32.
    """
    known = sorted([*SCHEDULES, *OPTAX_SCHEDULES])
    if name not in known:
        raise ValueError(f'unknown schedule "{name}"; one of: {", ".join(known)}.')
    maker = SCHEDULES[name] if name in SCHEDULES else getattr(optax, name)
    takes = inspect.signature(maker)
    length = LENGTHS.get(name)
    if run_steps is not None and length and fields.get(length) is None:
        # A run may end during its warm-up; the schedule itself is longer.
        fields[length] = max(run_steps, fields.get("warmup_steps", 0) + 1)
    for field, value in fields.items():
        if not field.endswith("_steps") or not isinstance(value, int | float):
            continue
        if not 0 <= value < 2**31:
            raise ValueError(
                f"optimizer.schedule.{field} must be 0 or more, and below 2^31: got "
                f"{value}."
            )
    try:
        takes.bind(**fields)
    except TypeError as error:
        raise ValueError(
            f"the arguments of optimizer.schedule must be those of {name}: got "
            f"{', '.join(fields) or 'none'} ({error}); it takes "
            f"{', '.join(takes.parameters) or 'none'}."
        ) from error
    return maker(**fields)


def sample_schedule(
    schedule: optax.Schedule, run_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (up to 1,001 numbers of updates from 0 to the last, the values there)."""
    steps = np.unique(np.linspace(0, run_steps - 1, 1001).astype(np.int32))
    return steps, np.broadcast_to(jax.vmap(schedule)(steps), steps.shape)


def check_rate_schedule(
    where: str, schedule: Mapping[str, Any], factor: optax.Schedule, run_steps: int
) -> None:
    """Refuses a schedule that is 0 during more than 1 % of a run: nothing is learned.

    Args:
      where: name of the schedule's section, for the error.
      schedule: {"name": ..., its arguments}, as in the config.
      factor: what `make_rate_schedule` made of it.
      run_steps: updates in the whole run.

    Raises:
      ValueError: names the field that makes it 0.
    """
    steps, factors = sample_schedule(factor, run_steps)
    zero = steps[factors == 0]
    if len(zero) < max(2, len(steps) / 100):
        return
    length = LENGTHS.get(schedule["name"], "")
    field = f"{where}.{length}" if length in schedule else where
    raise ValueError(
        f"the learning rate must be above 0 while a run trains: "
        f"{field}={schedule.get(length, schedule['name'])} makes it 0 from step "
        f"{zero[0]} on, and train.num_steps is {run_steps}; leave the length of the "
        "schedule out, so that it follows train.num_steps, or let it end above 0."
    )
