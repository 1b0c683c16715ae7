# SPDX-License-Identifier: Apache-2.0
"""Optimizers, learning-rate schedules and the decay of the parameter average.

Defaults are PyTorch's, in which the published models were trained: AdamW decays every
parameter by 1e-2, norms and biases included (optax's own default is 1e-4).
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ldm_jax.types import Array, PyTree


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

        f(n) = end + (peak - end) (1 + cos(pi u)) / 2,
        u = (n - warmup_steps) / (num_steps - warmup_steps) in [0, 1]

    Args:
      warmup_steps: steps of warm-up; 0 for none.
      num_steps: where `end` is reached, warm-up included.
      start, peak, end: factors of the learning rate.

    Source: CompVis `LambdaWarmUpCosineScheduler`.
    """
    if num_steps <= warmup_steps:
        raise ValueError(
            f"warmup_cosine needs num_steps > warmup_steps: got {num_steps} and "
            f"{warmup_steps}; lengthen the run or shorten the warm-up."
        )

    def factor(count):
        n = jnp.asarray(count, jnp.float32)
        rise = start + (peak - start) * n / max(warmup_steps, 1)
        u = jnp.clip((n - warmup_steps) / (num_steps - warmup_steps), 0.0, 1.0)
        fall = end + 0.5 * (peak - end) * (1 + jnp.cos(jnp.pi * u))
        return jnp.where(n < warmup_steps, rise, fall)

    return factor


# Each returns a factor of the learning rate as a function of the updates done.
SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": lambda: optax.constant_schedule(1.0),
    "warmup_linear": warmup_linear,
    "warmup_cosine": warmup_cosine,
}


def make_schedule(name: str, **fields: Any) -> optax.Schedule:
    """Makes a factor of the learning rate, as a function of the updates done.

    Args:
      name: a key of SCHEDULES, or the name of one of optax's own schedules
        ("cosine_decay_schedule"), whose values then are factors too.
      **fields: the arguments of that schedule.

    Raises:
      ValueError: there is no schedule of that name.
    """
    known = sorted([*SCHEDULES, *(n for n in dir(optax) if n.endswith("_schedule"))])
    if name not in known:
        raise ValueError(f'unknown schedule "{name}"; one of: {", ".join(known)}.')
    maker = SCHEDULES[name] if name in SCHEDULES else getattr(optax, name)
    return maker(**fields)


def _adamw(rate, weight_decay=1e-2, **fields):
    return optax.adamw(rate, weight_decay=weight_decay, **fields)


OPTIMIZERS = {"adamw": _adamw, "adam": optax.adam}


def make_optimizer(
    name: str = "adamw",
    learning_rate: float = 1e-4,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float | None = None,
    schedule: Mapping[str, Any] | None = None,
    clip_norm: float | None = None,
    networks: Mapping[str, Mapping[str, Any]] | None = None,
) -> optax.GradientTransformation:
    """Makes the optimizer of a run.

    Args:
      name: "adamw" or "adam".
      learning_rate: the rate that `schedule` multiplies.
      b1, b2, eps: Adam's.
      weight_decay: AdamW's, decoupled and on every parameter; None takes 1e-2.
      schedule: {"name": ..., its arguments}, see `make_schedule`; None is constant.
      clip_norm: largest norm of the gradient of each network by itself (the two
        players of an adversarial first stage must not scale each other); None for none.
      networks: entry of params -> the arguments above that differ for it, e.g.
        {"discriminator": {"learning_rate": 1e-5}}.

    Raises:
      ValueError: an unknown name, a weight decay for an optimizer that has none, or
        (when the optimizer meets the parameters) an unknown network.
    """
    spec = dict(
        name=name,
        learning_rate=learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
        schedule=schedule,
        clip_norm=clip_norm,
    )
    known = set(inspect.signature(make_optimizer).parameters) - {"networks"}
    for network, changes in (networks or {}).items():
        unknown = sorted(set(changes) - known)
        if unknown:
            raise ValueError(
                f"optimizer.networks.{network} has unknown fields {unknown}; "
                f"known are {sorted(known)}."
            )
    specs = {n: {**spec, **changes} for n, changes in (networks or {}).items()}
    rest = _one_network(**spec)
    transforms = {n: _one_network(**s) for n, s in specs.items()}

    def chosen(params):
        missing = sorted(set(transforms) - set(params))
        if missing:
            raise ValueError(
                f"optimizer.networks names {missing}, which this task does not train; "
                f"it trains {sorted(params)}."
            )
        return {n: transforms.get(n, rest) for n in params}

    return _per_network(chosen)


def _one_network(
    name, learning_rate, b1, b2, eps, weight_decay, schedule, clip_norm
) -> optax.GradientTransformation:
    """Makes the transformation of a single network's gradient."""
    if name not in OPTIMIZERS:
        raise ValueError(
            f'unknown optimizer "{name}"; one of: {", ".join(sorted(OPTIMIZERS))}.'
        )
    fields = dict(b1=b1, b2=b2, eps=eps)
    if weight_decay is not None:
        if name != "adamw":
            raise ValueError(
                f'weight_decay={weight_decay} has no meaning for "{name}"; '
                'use "adamw", or leave weight_decay out.'
            )
        fields["weight_decay"] = weight_decay
    factor = make_schedule(**(schedule or {"name": "constant"}))
    optimizer = OPTIMIZERS[name](lambda n: learning_rate * factor(n), **fields)
    if clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def _per_network(chosen) -> optax.GradientTransformation:
    """Runs one transformation per entry of params; its state has the same entries."""

    def init(params):
        return {n: tx.init(params[n]) for n, tx in chosen(params).items()}

    def update(updates, state, params):
        done = {
            n: tx.update(updates[n], state[n], params[n])
            for n, tx in chosen(params).items()
        }
        return {n: d[0] for n, d in done.items()}, {n: d[1] for n, d in done.items()}

    return optax.GradientTransformation(init, update)


def ema_decay(num_updates: Array, max_decay: float) -> Array:
    """Returns min(max_decay, (1 + n) / (10 + n)) for the n-th update, n from 1.

    Source: CompVis `LitEma`.
    """
    n = jnp.asarray(num_updates, jnp.float32)
    return jnp.minimum(max_decay, (1 + n) / (10 + n))


def update_ema(ema: PyTree, params: PyTree, decay: Array) -> PyTree:
    """Moves each entry of `ema` by 1 - decay towards the same entry of `params`."""
    return {
        name: jax.tree.map(lambda s, p: s - (1 - decay) * (s - p), old, params[name])
        for name, old in ema.items()
    }
