# SPDX-License-Identifier: Apache-2.0
"""Formats a plan as a table: memory, time on the devices, messages among them."""

import jax

from ldm_jax.parallel import chips, sharding
from ldm_jax.planning.plan import Plan


def plan_rows(result: Plan) -> list[tuple[str, str]]:
    """Formats a plan as (name, value) rows."""
    work, chip = result.work, result.chip
    count = sum(x.size for x in jax.tree.leaves(work.params))
    rows = [
        ("program", work.label),
        ("mesh", " x ".join(f"{name} {n}" for name, n in result.mesh.items())),
        ("parameters", f"{count / 1e6:.1f}M"),
        ("state", f"{_gib(sharding.bytes_per_device(work.resident))} a device"),
        *_memory(result),
        ("FLOPs", f"{work.flops:.4g}, {work.flops / result.num_devices:.4g} a device"),
        ("", f"{work.flops / result.batch_size:.4g} an image"),
        ("compute", _roof(work.flops / result.num_devices, chip.flops, "FLOP/s, bf16")),
    ]
    if result.memory is None:
        return [*rows, *_minimum(result)]
    if result.executed is None or result.moved is None:
        rows.append(("compiled", "has a loop, whose body XLA counts only once"))
    else:
        rows += [
            ("compiled", f"{result.executed:.4g} FLOPs per device, by XLA's count"),
            ("memory", _roof(result.moved, chip.hbm_rate, "B/s")),
        ]
    rows += [*_schedule(result), *_traffic(result)]
    return [*rows, ("compile", f"{result.seconds:.0f} s")]


def _memory(result: Plan) -> list[tuple[str, str]]:
    limit = result.chip.hbm_bytes
    if result.memory is None:
        if result.needed is None:
            return [("HBM", f"{_gib(limit)}; what the step needs is not compiled")]
        over = result.needed - limit
        return [
            ("HBM", f"DOES NOT FIT: {_gib(result.needed)} of {_gib(limit)}"),
            ("", f"{_gib(over)} too much: split parameters (mesh.fsdp), remat, "),
            ("", "train.accumulate, a smaller batch, or more devices"),
        ]
    stats = result.memory
    peak = stats.peak_memory_in_bytes + stats.generated_code_size_in_bytes
    return [
        ("HBM", f"fits: {_gib(peak)} of {_gib(limit)} ({peak / limit:.0%})"),
        ("", f"arguments {_gib(stats.argument_size_in_bytes)}"),
        ("", f"temporaries {_gib(stats.temp_size_in_bytes)}"),
        ("", f"code {_gib(stats.generated_code_size_in_bytes)}"),
    ]


def _schedule(result: Plan) -> list[tuple[str, str]]:
    chip, schedule = result.chip, result.schedule
    if schedule is None or chip.clock is None or not schedule.cycles:
        return []
    seconds = schedule.cycles / chip.clock
    text = f"{1e3 * seconds:.4g} ms at {chip.clock:.4g} Hz, by the compiler's estimate"
    if result.executed is not None:
        text += f": {result.executed / seconds / chip.flops:.0%} of the peak"
    more = f" and {schedule.num_kernels} kernels" if schedule.num_kernels else ""
    return [("schedule", text), ("", f"without messages{more}")]


def _traffic(result: Plan) -> list[tuple[str, str]]:
    """Sums the messages by kind, within a slice and across."""
    sums: dict[tuple[str, bool], list[float]] = {}
    for one in result.collectives:
        entry = sums.setdefault((one.kind, one.crosses_slices), [0, 0, 0.0])
        entry[0] += 1
        entry[1] += one.num_bytes
        entry[2] += one.sent
    rows = [
        (
            kind + (" (DCN)" if crosses else ""),
            f"{number}, {size / 2**20:.4g} MiB in all, {sent / 2**20:.4g} MiB sent",
        )
        for (kind, crosses), (number, size, sent) in sorted(sums.items())
    ]
    near = sum(one.sent for one in result.collectives if not one.crosses_slices)
    if (rate := result.chip.link_rate) is not None:
        rows.append(("traffic", _roof(near, rate, "B/s to neighbours")))
    every = sum(one.sent for one in result.collectives)
    return [*rows, *_minimum(result, every)]


def _minimum(result: Plan, sent: float | None = None) -> list[tuple[str, str]]:
    """Formats the minimum traffic, and how much more the program sends."""
    minimum = result.work.minimum_traffic
    if not minimum:
        return []
    text = f"{minimum / 2**20:.4g} MiB, for parameters in their own dtype"
    more = (
        "" if sent is None else f"; the program sends {sent / minimum:.2f} times that"
    )
    return [("minimum traffic", text + more)]


def _roof(amount: float, rate: float, unit: str) -> str:
    return f"{1e3 * amount / rate:.4g} ms at {rate:.4g} {unit}"


def _gib(size: float) -> str:
    return f"{size / chips.GIB:.2f} GiB"
