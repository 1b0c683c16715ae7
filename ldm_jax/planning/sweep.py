# SPDX-License-Identifier: Apache-2.0
"""Looks for the largest batch and the best mesh of a TPU slice, plan by plan."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ldm_jax.planning import plan, topologies


class Trial(NamedTuple):
    """One mesh and one batch.

    Attributes:
      fsdp: devices over which parameters are split.
      batch_size: of the step.
      found: what the compiled step costs.
    """

    fsdp: int
    batch_size: int
    found: plan.Plan

    @property
    def fits(self) -> bool:
        """Whether the step fits into the devices' memory."""
        return self.found.needed is None

    @property
    def rate(self) -> float:
        """Images per second of all devices at the roof: at most; 0 if it fits not."""
        return self.batch_size / least_seconds(self.found) if self.fits else 0.0

    def describe(self) -> str:
        """Writes the trial as a line."""
        head = f"fsdp {self.fsdp:<4d} batch {self.batch_size:<6d} "
        hbm = dict(plan.describe(self.found))["HBM"]
        return head + hbm + (f", at most {self.rate:.4g} images/s" * self.fits)


def least_seconds(found: plan.Plan) -> float:
    """Returns the seconds that a step takes at least: compute, memory or traffic."""
    chip, flops = found.chip, found.work.flops / found.num_devices
    near = sum(one.sent for one in found.collectives if not one.crosses_slices)
    moved = (found.moved or 0.0) / chip.hbm_rate
    return max(flops / chip.flops, moved, near / (chip.link_rate or float("inf")))


def sweep(config, topology: str, slices: int = 1, quick: bool = False):
    """Plans a training step on several meshes, with batches up to what fits.

    Parameters are split over 1, 4, 16, ... and all devices of a slice; `mesh.tensor`
    stays as the config has it. The batch begins near the config's and doubles until it
    does not fit, or halves until it does.

    Args:
      config, topology, slices, quick: see `plan.plan`; all of its errors may come.

    Yields:
      Trial after Trial, as they are compiled: minutes each.

    Raises:
      ValueError: the config has a mesh of its own.
    """
    if (config.mesh.data, config.mesh.fsdp) != (-1, 1):
        raise ValueError(
            "a sweep tries mesh.data and mesh.fsdp itself: got "
            f"{config.mesh.data} and {config.mesh.fsdp}; leave them at -1 and 1, or "
            "plan this mesh alone, without --sweep."
        )
    devices = len(topologies.describe_topology(topology, slices)) // config.mesh.tensor
    for fsdp in splits(devices // slices):
        yield from _batches(config, topology, slices, quick, fsdp, devices)


def splits(devices: int) -> list[int]:
    """Returns the powers of 4 below a number of devices, and that number."""
    powers = (4**n for n in range(devices.bit_length()))
    return [*(fsdp for fsdp in powers if fsdp < devices), devices]


def _batches(config, topology, slices, quick, fsdp, rows) -> Iterator[Trial]:
    config = config.copy_and_resolve_references()
    config.mesh.update(data=-1, fsdp=fsdp)
    config.batch_size = max(1, config.batch_size // rows) * rows
    grows = None
    while config.batch_size:
        found = plan.plan(config, topology, slices, quick=quick)
        trial = Trial(fsdp, config.batch_size, found)
        yield trial
        if grows is None:
            grows = trial.fits
        elif grows != trial.fits:
            return
        more = 2 * config.batch_size
        config.batch_size = more if grows else config.batch_size // 2 // rows * rows


def best(trials: Iterable[Trial]) -> Trial | None:
    """Returns the trial of the most images per second; None where nothing fits."""
    fitting = [trial for trial in trials if trial.fits]
    return max(fitting, key=lambda trial: trial.rate, default=None)
