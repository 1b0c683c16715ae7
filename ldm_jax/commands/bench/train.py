# SPDX-License-Identifier: Apache-2.0
"""Measures the training step of a config and of the same UNet in PyTorch."""

import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ldm_jax.commands.bench.history import RATIO, Figures
from ldm_jax.commands.bench.peers import torch_training
from ldm_jax.commands.bench.timing import best_of, compile_twice
from ldm_jax.experiment.prepare import prepare
from ldm_jax.interop.cannot_express import CannotExpress
from ldm_jax.parallel import sharding
from ldm_jax.parallel.compile import compiler_options, global_key, on_mesh
from ldm_jax.training.loop import lower
from ldm_jax.training.run import Run
from ldm_jax.training.state import make_state
from ldm_jax.training.utilization import peak_share, training_flops


def run(config: ConfigDict, repeats: int, has_torch: bool) -> Figures:
    """Does the steps of all implementations in turns, prints and returns the times.

    Args:
      config: of one experiment.
      repeats: steps of each, of which the fastest counts.
      has_torch: whether PyTorch is measured where it is installed.
    """
    prepared = prepare(config, abstract=True)
    runs = {"ldm_jax": make_step(prepared)}
    if has_torch:
        runs |= _torch_steps(prepared)
    seconds = best_of(runs, repeats)
    flops = training_flops(prepared.task, prepared.batch_shapes)
    share = peak_share(flops, prepared.mesh)
    print(f"work        {flops:.4g} FLOPs per step in matrix products and convolutions")
    figures: Figures = {"FLOPs": flops, **seconds}
    for name, best in seconds.items():
        used = "" if share is None else f", {share(1 / best):.1%} of peak"
        print(
            f"{name:11s} {best:8.4g} s a step, "
            f"{prepared.batch_size / best:.4g} images/s, "
            f"{flops / best:.4g} FLOP/s{used}"
        )
        if name != "ldm_jax":
            ratio = figures[RATIO + name] = seconds["ldm_jax"] / best
            print(f"ratio       {ratio:8.2f} of {name} (below 1: ldm_jax is faster)")
    return figures


def make_step(run: Run) -> Callable[[], None]:
    """Compiles the step of a run; returns a function that does the next one."""
    mesh, options = run.mesh, run.options
    batch_shapes = on_mesh(run.batch_shapes, mesh)
    shapes, _ = make_state(run.task, run.optimizer, batch_shapes, mesh, options)
    places = jax.tree.map(lambda x: x.sharding, shapes)
    frozen = sharding.place(run.task.frozen, mesh, options.min_shard_mib)
    key = global_key(run.seed, mesh)
    step = compile_twice(
        lambda: lower(run, shapes, frozen, batch_shapes, key), compiler_options(mesh)
    )
    count = sum(x.size for x in jax.tree.leaves(shapes.params))
    device = jax.devices()[0]
    print(f"device      {jax.device_count()} x {device.device_kind}")
    print(f"parameters  {count / 1e6:.2f}M")
    print(f"memory      {_memory(step) / 2**20:8.1f} MiB per device, as compiled")
    state = jax.jit(lambda: _like(shapes, 0.01), out_shardings=places)()
    batch = jax.jit(
        lambda: _like(batch_shapes, 0.5),
        out_shardings=jax.tree.map(lambda x: x.sharding, batch_shapes),
    )()

    def do_step():
        nonlocal state
        state, metrics = step(state, frozen, batch, key)
        jax.block_until_ready((state, metrics))

    return do_step


def _like(shapes, value: float):
    """Makes arrays of these shapes: `value` where they are floats, else zero."""

    def fill(x):
        is_float = jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.full(x.shape, value if is_float else 0, x.dtype)

    return jax.tree.map(fill, shapes)


def _memory(compiled) -> int:
    stats = compiled.memory_analysis()
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes
    return held - stats.alias_size_in_bytes + stats.temp_size_in_bytes


def _torch_steps(run: Run) -> dict[str, Callable[[], None]]:
    """Builds the peers that are installed and can express the network."""
    if run.sampling is None:
        print("diffusers   compared for diffusion models only")
        return {}
    if not all(importlib.util.find_spec(name) for name in ("torch", "diffusers")):
        print("diffusers   not installed (extra: torch); nothing to compare with")
        return {}
    try:
        return torch_training(run)
    except CannotExpress as error:
        print(f"diffusers   cannot build this network: {error}")
        return {}
