# SPDX-License-Identifier: Apache-2.0
"""Optimizers, and the decay of the parameter average.

Defaults are PyTorch's, in which the published models were trained: AdamW decays every
parameter by 1e-2, norms and biases included (optax's own default is 1e-4).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ldm_jax.training.learning_rate import check_rate_schedule, make_rate_schedule
from ldm_jax.types import Array, PyTree


def _adamw(rate, weight_decay=1e-2, **fields):
    return optax.adamw(rate, weight_decay=weight_decay, **fields)


OPTIMIZERS = {"adamw": _adamw, "adam": optax.adam}


class Optimizer(NamedTuple):
    """An optax transformation that can report its learning rates.

    Attributes:
      init, update: those of `optax.GradientTransformation`.
      rates: name of a metric -> learning rate as a function of the updates done:
        "learning_rate", and "learning_rate/<network>" where a network has its own.
    """

    init: Callable[[PyTree], PyTree]
    update: Callable[..., tuple[PyTree, PyTree]]
    rates: Mapping[str, optax.Schedule]

    def learning_rates(self, opt_state: PyTree) -> dict[str, Array]:
        """Returns the learning rates of the next update, [] float32 by name."""
        # All networks are updated together, so any of their counts will do.
        (_, count), *_ = optax.tree.get_all_with_path(opt_state, "count")
        return {
            name: jnp.asarray(rate(count), jnp.float32)
            for name, rate in self.rates.items()
        }


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
    run_steps: int | None = None,
) -> Optimizer:
    """Makes the optimizer of a run.

    The state has the same structure whatever the rates, the schedule and the clipping,
    so that these can be changed when a run is resumed.

    Args:
      name: "adamw" or "adam".
      learning_rate: the rate that `schedule` multiplies.
      b1, b2, eps: Adam's.
      weight_decay: AdamW's, decoupled and on every parameter; None takes 1e-2.
      schedule: {"name": ..., its arguments}, see
        `make_rate_schedule`; None is constant.
      clip_norm: largest norm of the gradient of each network by itself (the two
        players of an adversarial first stage must not scale each other); None for none.
      networks: entry of params -> the arguments above that differ for it, e.g.
        {"discriminator": {"learning_rate": 1e-5}}.
      run_steps: updates in the whole run: the length of schedules that set none.

    Raises:
      ValueError: an unknown name, a weight decay for an optimizer that has none, a
        learning rate that is 0 during more than 1 % of `run_steps`, or (when the
        optimizer meets the parameters) an unknown network.
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
    for network, changes in (networks or {}).items():
        unknown = sorted(set(changes) - set(spec))
        if unknown:
            raise ValueError(
                f"optimizer.networks.{network} has unknown fields {unknown}; "
                f"known are {sorted(spec)}."
            )
    specs = {n: {**spec, **changes} for n, changes in (networks or {}).items()}
    rest, rate = _one_network("optimizer", run_steps, **spec)
    transforms, rates = {}, {"learning_rate": rate}
    for network, fields in specs.items():
        made = _one_network(f"optimizer.networks.{network}", run_steps, **fields)
        transforms[network], rates[f"learning_rate/{network}"] = made

    def chosen(params):
        missing = sorted(set(transforms) - set(params))
        if missing:
            raise ValueError(
                f"optimizer.networks names {missing}, which this task does not train; "
                f"it trains {sorted(params)}."
            )
        return {n: transforms.get(n, rest) for n in params}

    return Optimizer(*_per_network(chosen), rates)


def _one_network(
    where: str,
    run_steps: int | None,
    *,
    name,
    learning_rate,
    b1,
    b2,
    eps,
    weight_decay,
    schedule,
    clip_norm,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Makes the transformation of a single network's gradient, and its rate."""
    if name not in OPTIMIZERS:
        raise ValueError(
            f'unknown optimizer "{name}"; one of: {", ".join(sorted(OPTIMIZERS))}.'
        )
    if not 0 < learning_rate < math.inf:
        raise ValueError(
            f"{where}.learning_rate must be above 0: got {learning_rate}; the default "
            "is 1e-4."
        )
    _check_numbers(where, b1, b2, eps, weight_decay, clip_norm)
    fields = dict(b1=b1, b2=b2, eps=eps)
    if weight_decay is not None:
        if name != "adamw":
            raise ValueError(
                f'weight_decay={weight_decay} has no meaning for "{name}"; '
                'use "adamw", or leave weight_decay out.'
            )
        fields["weight_decay"] = weight_decay
    schedule = dict(schedule or {"name": "constant"})
    factor = make_rate_schedule(**schedule, run_steps=run_steps)
    if run_steps is not None:
        check_rate_schedule(f"{where}.schedule", schedule, factor, run_steps)

    def rate(count):
        return learning_rate * factor(count)

    clip = (
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    )
    return optax.chain(clip, OPTIMIZERS[name](rate, **fields)), rate


def _check_numbers(where: str, b1, b2, eps, weight_decay, clip_norm) -> None:
    """Raises ValueError for a number out of its range; None is the default."""
    rules = {
        "b1": (b1, "in [0, 1)", lambda x: 0 <= x < 1),
        "b2": (b2, "in [0, 1)", lambda x: 0 <= x < 1),
        "eps": (eps, "above 0", lambda x: 0 < x < math.inf),
        "weight_decay": (weight_decay, "0 or more", lambda x: 0 <= x < math.inf),
        "clip_norm": (clip_norm, "above 0", lambda x: 0 < x < math.inf),
    }
    for field, (value, rule, is_within) in rules.items():
        if value is not None and not is_within(value):
            raise ValueError(
                f"{where}.{field} must be {rule}: got {value}; leave it out for the "
                "default."
            )


def _per_network(chosen) -> tuple[Callable, Callable]:
    """Runs one transformation per entry of params; its state has the same entries."""

    def init(params):
        return {n: tx.init(params[n]) for n, tx in chosen(params).items()}

    def update(updates, state, params):
        done = {
            n: tx.update(updates[n], state[n], params[n])
            for n, tx in chosen(params).items()
        }
        return {n: d[0] for n, d in done.items()}, {n: d[1] for n, d in done.items()}

    return init, update


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
