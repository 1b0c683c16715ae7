# SPDX-License-Identifier: Apache-2.0
"""Searches for the largest batch and the best mesh of a TPU slice."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ldm_jax.experiment.config.schema import changed
from ldm_jax.experiment.prepare import prepare
from ldm_jax.planning import plan, topologies
from ldm_jax.planning.plan_rows import plan_rows


class Trial(NamedTuple):
    """One mesh and batch size of a sweep.

    Attributes:
      fsdp: devices over which parameters are split.
      batch_size: of the step.
      costs: of the compiled step.
    """

    fsdp: int
    batch_size: int
    costs: plan.Plan

    @property
    def fits(self) -> bool:
        """Whether the step fits into the devices' memory."""
        return self.costs.needed is None

    @property
    def rate(self) -> float:
        """The upper bound of images per second of all devices; 0 if it does not fit."""
        return self.batch_size / minimum_seconds(self.costs) if self.fits else 0.0

    def describe(self) -> str:
        """Formats the trial as a line."""
        head = f"fsdp {self.fsdp:<4d} batch {self.batch_size:<6d} "
        hbm = dict(plan_rows(self.costs))["HBM"]
        return head + hbm + (f", at most {self.rate:.4g} images/s" * self.fits)


def minimum_seconds(result: plan.Plan) -> float:
    """Returns the lower bound of a step's seconds: compute, memory or traffic."""
    chip, flops = result.chip, result.work.flops / result.num_devices
    near = sum(one.sent for one in result.collectives if not one.crosses_slices)
    moved = (result.moved or 0.0) / chip.hbm_rate
    return max(flops / chip.flops, moved, near / (chip.link_rate or float("inf")))


def sweep(
    config, topology: str, slices: int = 1, quick: bool = False
) -> Iterator[Trial]:
    """Plans a training step on several meshes, with the largest batches that fit.

    Parameters are split over 1, 4, 16, ... and all devices of a slice; `mesh.tensor`
    stays as in the config. The batch starts near the config's and doubles until it does
    not fit, or halves until it does.

    Args:
      config, topology, slices, quick: see `plan.plan`, whose errors are raised too.

    Yields:
      A Trial after each compilation, which takes minutes.

    Raises:
      ValueError: the config sets mesh.fsdp.
    """
    devices = topologies.describe_topology(topology, slices)
    run = prepare(config, abstract=True, devices=devices)
    if run.mesh.shape["fsdp"] != 1:
        raise ValueError(
            "a sweep tries mesh.data and mesh.fsdp itself: got mesh.fsdp="
            f"{run.mesh.shape['fsdp']}; leave them at -1 and 1, or plan this mesh "
            "alone, without --sweep."
        )
    rows = run.mesh.shape["data"]
    for fsdp in splits(rows // slices):

        def planned(batch_size, fsdp=fsdp):
            values = {"mesh.data": -1, "mesh.fsdp": fsdp, "batch_size": batch_size}
            return plan.plan(changed(config, values), topology, slices, quick=quick)

        yield from _batches(planned, fsdp, run.batch_size, rows)


def splits(devices: int) -> list[int]:
    """Returns the powers of 4 below a number of devices, and that number."""
    powers = (4**n for n in range(devices.bit_length()))
    return [*(fsdp for fsdp in powers if fsdp < devices), devices]


def _batches(
    planned: Callable[[int], plan.Plan], fsdp: int, batch_size: int, rows: int
) -> Iterator[Trial]:
    """Doubles or halves the batch, a multiple of `rows`, to the largest that fits."""
    batch_size = max(1, batch_size // rows) * rows
    grows = None
    while batch_size:
        trial = Trial(fsdp, batch_size, planned(batch_size))
        yield trial
        if grows is None:
            grows = trial.fits
        elif grows != trial.fits:
            return
        batch_size = 2 * batch_size if grows else batch_size // 2 // rows * rows


def best(trials: Iterable[Trial]) -> Trial | None:
    """Returns the trial with the most images per second; None if nothing fits."""
    fitting = [trial for trial in trials if trial.fits]
    return max(fitting, key=lambda trial: trial.rate, default=None)
