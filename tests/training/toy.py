# SPDX-License-Identifier: Apache-2.0
"""A two-network task, batches that need no data, and runs of them."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.parallel import sharding
from ldm_jax.training.optimizer import make_optimizer
from ldm_jax.training.options import LoopOptions
from ldm_jax.training.run import Run
from ldm_jax.types import Task

WIDTH = 16
FIELDS = {"x": jax.ShapeDtypeStruct((16, 8), jnp.float32)}


def make_task(nan_steps=()) -> Task:
    """Learns to denoise x; a second network and a running mean come along."""

    def init(key, batch):
        assert batch["x"].shape[1] == 8
        key_in, key_out = jax.random.split(key)
        params = {
            "unet": {
                "mlp": {
                    "in": {"kernel": 0.3 * jax.random.normal(key_in, (8, WIDTH))},
                    "out": {"kernel": 0.3 * jax.random.normal(key_out, (WIDTH, 8))},
                }
            },
            "conditioner": {"bias": jnp.zeros(8)},
        }
        return params, {"statistics": {"mean": jnp.zeros(8)}}

    def loss(params, collections, batch, key, step):
        x = batch["x"]
        mlp = params["unet"]["mlp"]
        noisy = x + 0.5 * jax.random.normal(key, x.shape)
        hidden = jnp.tanh(noisy @ mlp["in"]["kernel"])
        y = hidden @ mlp["out"]["kernel"] + params["conditioner"]["bias"][None]
        error = jnp.mean((y - x * collections["frozen"]["scale"]) ** 2)
        for bad in nan_steps:
            error = jnp.where(step == bad, jnp.nan, error)
        old = collections["statistics"]["mean"]
        new = {"statistics": {"mean": 0.9 * old + 0.1 * x.mean(0)}}
        return error, ({"error": error}, new)

    return Task(init, loss, frozen={"scale": np.float32(2.0)})


class ToyBatches:
    """The interface of data.loader.Batches; rows are a function of (seed, step)."""

    def __init__(self, sharding, seed=0, before=lambda step: None):
        self._sharding, self._seed, self._before = sharding, seed, before

    def shapes(self):
        return FIELDS

    def __call__(self, step):
        rng = np.random.default_rng((self._seed, step))
        x = rng.standard_normal(FIELDS["x"].shape).astype(np.float32)
        place = jax.make_array_from_callback
        return {"x": place(x.shape, self._sharding, lambda i: x[i])}

    def stream(self, first_step):
        while True:
            self._before(first_step)
            yield self(first_step)
            first_step += 1

    def records(self, step):
        return [f"row {i} of step {step}" for i in range(FIELDS["x"].shape[0])]

    def state(self, step):
        return {"seed": self._seed, "step": step}

    def check(self, state):
        if state["seed"] != self._seed:
            raise ValueError(f"seed was {state['seed']} and is {self._seed}.")


def options(num_steps=1, **changes) -> LoopOptions:
    """Returns the options of a loop."""
    return LoopOptions(num_steps=num_steps, **changes)


def toy_run(
    num_steps=24,
    *,
    before=lambda step: None,
    mesh=None,
    seed=0,
    task=None,
    optimizer=None,
    config=None,
    may_change=lambda name: False,
    defines_model=lambda name: False,
    evaluate=None,
    **changes,
) -> Run:
    """Makes a run of the toy; the changes are fields of `LoopOptions`."""
    mesh = mesh or sharding.make_mesh()
    fields = dict(
        ema_of=("unet",), report_every=5, checkpoint_every=8, min_shard_mib=0.0
    )
    return Run(
        task=task or make_task(),
        batch_shapes=FIELDS,
        batches=ToyBatches(sharding.batch_sharding(mesh), seed, before),
        mesh=mesh,
        optimizer=optimizer or make_optimizer(learning_rate=1e-2, clip_norm=1.0),
        options=options(num_steps, **{**fields, **changes}),
        evaluate=evaluate,
        seed=seed,
        config=config,
        may_change=may_change,
        defines_model=defines_model,
    )
