# SPDX-License-Identifier: Apache-2.0
"""Compiles a config's program for TPUs that are not attached; estimates its costs."""

import dataclasses
import functools
import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ldm_jax.experiment.builders.abstract import zero_params
from ldm_jax.experiment.prepare import prepare
from ldm_jax.models.attention import attention
from ldm_jax.parallel import chips, sharding
from ldm_jax.parallel.compile import compiler_options, on_mesh
from ldm_jax.planning import hlo, topologies
from ldm_jax.tasks.generate import generator
from ldm_jax.tasks.model import with_frozen
from ldm_jax.training.flops import count_flops
from ldm_jax.training.loop import lower
from ldm_jax.training.run import Run
from ldm_jax.training.state import make_state
from ldm_jax.training.utilization import training_flops
from ldm_jax.types import PyTree

# The programs that can be planned.
WHAT = ("train", "sample")
# The lowest of XLA's efforts, from -1 to 1: minutes instead of most of an hour.
QUICK = {"exec_time_optimization_effort": -1.0}


@dataclasses.dataclass(frozen=True)
class Work:
    """A program before it is compiled.

    Attributes:
      label: what it does.
      lower: makes what `jax.jit` lowers.
      params: what is trained or read, with shardings.
      resident: everything that stays in the memory of the devices, with shardings.
      flops: of all devices together.
      has_loop: whether most of it is in a loop, whose body XLA counts once.
      minimum_traffic: bytes that a device must send, see `hlo.minimum_traffic`.
    """

    label: str
    lower: Callable[[], Any]
    params: PyTree
    resident: PyTree
    flops: int
    has_loop: bool
    minimum_traffic: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """Costs of a compiled program; bytes and seconds are of one device.

    Attributes:
      work: what was compiled.
      chip: the device's limits.
      mesh: name of an axis -> its size.
      batch_size: of the program, over all devices.
      memory: jax's CompiledMemoryStats; None where nothing was compiled.
      needed: bytes that the program needs by the compiler's count, where they do not
        fit.
      executed: operations by the compiler's count; None for a program with a loop.
      moved: bytes to and from memory by the compiler's count; None likewise.
      collectives: messages among devices.
      schedule: the compiler's estimate of the time; None at the lowest effort, which
        does not search for tiles and estimates several times as much.
      seconds: that compiling took.
    """

    work: Work
    chip: chips.Chip
    mesh: dict[str, int]
    batch_size: int = 0
    memory: Any = None
    needed: float | None = None
    executed: float | None = None
    moved: float | None = None
    collectives: tuple[hlo.Collective, ...] = ()
    schedule: hlo.Schedule | None = None
    seconds: float = 0.0

    @property
    def num_devices(self) -> int:
        """The number of devices that the program runs on."""
        return math.prod(self.mesh.values())


def plan(
    config,
    topology: str,
    slices: int = 1,
    what: str = "train",
    quick: bool = False,
    compiles: bool = True,
) -> Plan:
    """Compiles a config's program for a TPU slice; nothing of its size is allocated.

    Args:
      config: of one experiment; `mesh` and `batch_size` are those of the run.
      topology: of `topologies.describe_topology`; else of `absent_devices`.
      slices: how many such slices.
      what: "train", or "sample" of a diffusion model, with batches of `batch_size`.
      quick: whether the compiler optimizes as little as it can: much faster, but
        memory and time are overestimated.
      compiles: False stops before compiling, with the figures that follow from shapes
        and from the traced program.

    Raises:
      ValueError: the config, the topology or the mesh is invalid, or libtpu is not
        installed.
    """
    # This process must not search for local TPUs, whatever is installed.
    jax.config.update("jax_platforms", "cpu")
    make = topologies.describe_topology if compiles else topologies.absent_devices
    devices = make(topology, slices)
    run = prepare(config, abstract=True, devices=devices)
    rows = run.mesh.shape["data"] * run.mesh.shape["fsdp"]
    if run.batch_size % rows:
        raise ValueError(
            f"batch_size must be a multiple of data * fsdp = {rows} on "
            f"{len(devices)} devices: got {run.batch_size}; change "
            "config.batch_size, or give devices to mesh.tensor."
        )
    work = dict(train=_training, sample=_sampling)[what](run)
    started = time.monotonic()
    chip = chips.chip_of(devices[0])
    assert chip is not None  # every topology is of known chips
    result = Plan(work, chip, dict(run.mesh.shape), run.batch_size)
    if not compiles:
        return result
    options = {**compiler_options(run.mesh), **(QUICK if quick else {})}
    try:
        with attention.planned_for("tpu"):
            lowered = work.lower()
        compiled = lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
        needed = re.search(r"\(([\d.]+)G\) exceeds available", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or needed is None:
            raise
        return dataclasses.replace(result, needed=float(needed[1]) * chips.GIB)
    text = compiled.as_text()
    counted = {} if work.has_loop else compiled.cost_analysis()
    return dataclasses.replace(
        result,
        memory=compiled.memory_analysis(),
        executed=counted.get("flops"),
        moved=counted.get("bytes accessed"),
        collectives=tuple(hlo.read_collectives(text, len(devices), slices)),
        schedule=None if quick else hlo.read_schedule(text),
        seconds=time.monotonic() - started,
    )


def _training(run: Run) -> Work:
    """Lowers the step that `ldm-jax train` runs."""
    mesh, options = run.mesh, run.options
    batch = on_mesh(run.batch_shapes, mesh)
    shapes, _ = make_state(run.task, run.optimizer, batch, mesh, options)
    frozen = sharding.with_shardings(run.task.frozen, mesh, options.min_shard_mib)
    lazily = functools.partial(lower, run, shapes, frozen, batch, _key(mesh))
    flops = training_flops(run.task, run.batch_shapes)
    minimum = hlo.minimum_traffic(shapes.params, mesh)
    resident, has_loop = (shapes, frozen), options.accumulate > 1
    label = f"training step of a {run.label}"
    return Work(label, lazily, shapes.params, resident, flops, has_loop, minimum)


def _sampling(run: Run) -> Work:
    """Lowers the sampler that `ldm-jax sample` runs: condition, all steps, decoder."""
    if run.sampling is None:
        raise ValueError(f"only diffusion models are sampled: got a {run.label}.")
    mesh, model = run.mesh, run.model
    batch = on_mesh(run.batch_shapes, mesh)
    params, _ = run.task.shapes(batch)
    names = {"autoencoder", *model.conditioner.reads_frozen}
    params = with_frozen(params, zero_params(model, names))
    params = sharding.with_shardings(params, mesh, float("inf"))
    y = {name: batch[name] for name in model.conditioner.fields}
    keys = jax.eval_shape(
        lambda: jax.vmap(jax.random.key)(jnp.zeros(run.batch_size, jnp.uint32))
    )
    keys = on_mesh({"key": keys}, mesh)["key"]
    sampling, shape = run.sampling, run.latent_shape
    assert shape is not None  # that of a diffusion model
    generate = generator(model, shape, sampling)

    def lazily():
        with jax.set_mesh(mesh):
            return jax.jit(generate).lower(params, y, keys, {})

    with attention.portable():
        flops = count_flops(generate, params, y, keys, {})
    label = f"{sampling.num_steps} steps of {sampling.sampler}, and the decoder"
    return Work(label, lazily, params, params, flops, True, 0.0)


def _key(mesh) -> jax.ShapeDtypeStruct:
    key = jax.eval_shape(lambda: jax.random.key(0))
    place = sharding.replicated(mesh)
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=place)
