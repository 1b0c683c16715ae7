# SPDX-License-Identifier: Apache-2.0
"""Reads a compiled program (HLO): its collectives, and its estimated time."""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ldm_jax.types import BATCH_AXES, PyTree

KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_OPERATION = re.compile(
    rf"\s*(?:ROOT )?%?[\w.-]+ = (?P<shape>.*?) (?P<kind>{KINDS})(?P<start>-start)?\("
)
# The first line of a computation, and the names of those that an operation calls.
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:body|calls|to_apply|branch_computations|true_computation|false_computation)"
    r"=\{?((?:%?[\w.-]+(?:, (?=%))?)+)"
)
# The TPU compiler writes a reduce-scatter as a computation of all-reduce and slice; the
# devices run, and send the bytes of, the reduce-scatter.
_REDUCE_SCATTER = "all-reduce-scatter"
# Computations that overlap with a message, each of which contains the message.
_FUSED = ("fused_computation", "async_collective_fusion")
# The TPU compiler's estimate for an operation; messages and kernels have none.
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_KERNEL = 'custom_call_target="tpu_custom_call"'
_IOTA = r"\[[\d,]+\](?:T\([\d,]+\))?"
_ARRAY = re.compile(r"\b([a-z]+\d+(?:e\w+)?|pred)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One collective operation.

    Attributes:
      kind: one of KINDS.
      num_bytes: of its result on one device.
      num_devices: that take part together.
      crosses_slices: whether these are in several slices.
    """

    kind: str
    num_bytes: int
    num_devices: int
    crosses_slices: bool

    @property
    def sent(self) -> float:
        """The minimum of bytes that each device sends, which is a ring's."""
        n = self.num_devices
        factor = {
            "all-reduce": 2 * (n - 1) / n,
            "reduce-scatter": n - 1,
            "collective-permute": 1,
        }.get(self.kind, (n - 1) / n)
        return factor * self.num_bytes


def read_collectives(text: str, num_devices: int, slices: int = 1) -> list[Collective]:
    """Lists the messages of a program.

    A message in a loop is listed once per iteration if the text has their number (a
    counter that is compared with a constant, as of a scan), otherwise once. A message
    that overlaps with computations is in the text of each of them, with one channel.

    Args:
      text: of the compiled program (`compiled.as_text()`).
      num_devices: that it runs on, slice by slice.
      slices: equal parts of the devices, each with its own network.

    Raises:
      ValueError: groups of devices are in an unknown notation.
    """
    bodies = dict(_computations(text))
    times = _times(bodies)
    messages, channels = [], set()
    for name, lines in bodies.items():
        for line in lines:
            one = _collective(name, line, num_devices, num_devices // slices)
            if one is None:
                continue
            channel = re.search(r"channel_id=(\d+)", line)
            if name.startswith(_FUSED) and channel:
                if channel[1] in channels:
                    continue
                channels.add(channel[1])
            messages += [one] * times(name)
    return messages


class Schedule(NamedTuple):
    """The TPU compiler's estimate of a program's time.

    Attributes:
      cycles: of the device, for all operations one by one, without messages.
      num_kernels: Pallas kernels, for which there is no estimate.
    """

    cycles: int
    num_kernels: int


def read_schedule(text: str) -> Schedule:
    """Sums the estimates in a TPU's program, those of loops for every iteration."""
    bodies = dict(_computations(text))
    times = _times(bodies)
    cycles = num_kernels = 0
    for name, lines in bodies.items():
        body = "\n".join(lines)
        cycles += times(name) * sum(int(n) for n in _CYCLES.findall(body))
        num_kernels += times(name) * body.count(_KERNEL)
    return Schedule(cycles, num_kernels)


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    """Cuts a program into its computations: (name, lines)."""
    name, lines = "", []
    for line in text.splitlines():
        begins = _COMPUTATION.match(line)
        if begins:
            yield name, lines
            name, lines = begins[1], []
        lines.append(line)
    yield name, lines


def _times(bodies: Mapping[str, list[str]]) -> Callable[[str], int]:
    """Makes the function from a computation's name to how often it runs."""
    callers: dict[str, list[tuple[str, int]]] = {}
    for name, lines in bodies.items():
        for line in lines:
            if called := _CALLED.findall(line):
                trips = _trips(line, bodies)
                for other in re.findall(r"[\w.-]+", " ".join(called)):
                    callers.setdefault(other, []).append((name, trips))

    @functools.cache
    def times(name: str) -> int:
        calls = callers.get(name)
        return sum(times(one) * trips for one, trips in calls) if calls else 1

    return times


def _trips(line: str, bodies: Mapping[str, list[str]]) -> int:
    """Reads how often a loop runs, of the operation that calls its body."""
    condition = re.search(r"condition=%?([\w.-]+)", line)
    if condition is None:
        return 1
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
    if known:
        return int(known[1])
    test = "\n".join(bodies.get(condition[1], ()))
    limits = re.findall(r"[su]\d+\[\]\S* constant\((\d+)\)", test)
    return int(limits[0]) if len(limits) == 1 and "direction=LT" in test else 1


def _collective(
    computation: str, line: str, num_devices: int, per_slice: int
) -> Collective | None:
    """Reads the message that a line of a computation is, if it is one."""
    matched = _OPERATION.match(line)
    if matched is None:
        return None
    kind = matched["kind"]
    arrays = [_bytes(*array) for array in _ARRAY.findall(matched["shape"])]
    if matched["start"] and kind == "all-gather":
        arrays = arrays[len(arrays) // 2 :]  # operands come first
    elif matched["start"] and kind == "collective-permute":
        arrays = arrays[1:2]
    num_bytes = sum(arrays)
    groups = _groups(line, num_devices)
    members = 2 if kind == "collective-permute" else groups.shape[1]
    if computation.startswith(_REDUCE_SCATTER):
        kind, num_bytes = "reduce-scatter", num_bytes // members
    spread = groups.min(1) // per_slice != groups.max(1) // per_slice
    return Collective(kind, num_bytes, members, bool(spread.any()))


def _bytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype.split("e")[0]))
    return bits * math.prod(int(n) for n in shape.split(",") if n) // 8


def _groups(line: str, num_devices: int) -> np.ndarray:
    """Reads [groups, members] of one operation, in any of XLA's notations."""
    every = np.arange(num_devices)
    # replica_groups={{0,1},{2,3}}, source_target_pairs={{0,1},{1,0}}
    matched = re.search(
        r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]+\})\}", line
    )
    if matched:
        rows = re.findall(r"\{([\d,]+)\}", matched[1])
        return np.array([[int(n) for n in row.split(",")] for row in rows])
    # replica_groups=[2,8]<=[4,4]T(1,0)
    matched = re.search(rf"replica_groups=\[([\d,]+)\]<=({_IOTA})", line)
    if matched:
        return _iota(matched[2]).reshape(_numbers(matched[1]))
    # replica_groups=mesh['a'=2,'b'=8], device_ids=([4,4]T(1,0)) {'b'}
    matched = re.search(
        rf"replica_groups=mesh\[(.+?)\](?:, device_ids=\(({_IOTA})\))? \{{(.+?)\}}",
        line,
    )
    if matched:
        sizes = re.findall(r"'(\w+)'=(\d+)", matched[1])
        names, dims = [n for n, _ in sizes], [int(size) for _, size in sizes]
        chosen = [names.index(n) for n in re.findall(r"'(\w+)'", matched[3])]
        rest = [axis for axis in range(len(dims)) if axis not in chosen]
        members = math.prod(dims[axis] for axis in chosen)
        ids = every if matched[2] is None else _iota(matched[2])
        return ids.reshape(dims).transpose(rest + chosen).reshape(-1, members)
    # None, or replica_groups={}: all devices together.
    matched = re.search(r"(?:replica_groups|source_target_pairs)=(?!\{\})[^=]*", line)
    if matched:
        raise ValueError(
            f"groups of devices in an unknown notation: {matched[0]!r}; "
            "extend _groups in planning/hlo.py."
        )
    return every[None]


def _iota(text: str) -> np.ndarray:
    """Reads "[4,4]T(1,0)": 0 to 15 as a matrix, transposed and flattened."""
    dims, _, order = text.rstrip(")").partition("T(")
    numbers = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
    if order:
        numbers = numbers.transpose(_numbers(order))
    return numbers.reshape(-1)


def _numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def minimum_traffic(params: PyTree, mesh: Mesh) -> float:
    """Returns the bytes that a device must send in a training step, for params alone.

    The gradient of an array on every device is all-reduced (2 (n-1)/n); an array split
    over "fsdp" is gathered for the forward and for the backward pass and its gradient
    reduce-scattered (3 (n-1)/n), then all-reduced over "data". In the arrays' dtypes.

    Args:
      params: arrays with shardings, of `training.state.make_state`.
      mesh: of the arrays.
    """
    data, fsdp = (mesh.shape[axis] for axis in BATCH_AXES)

    def ring(n: int) -> float:
        return (n - 1) / n

    def of_one(x) -> float:
        stored = x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
        axes = jax.tree.leaves(tuple(x.sharding.spec))
        if BATCH_AXES[1] in axes:
            return 3 * ring(fsdp) * stored * fsdp + 2 * ring(data) * stored
        return 2 * ring(data * fsdp) * stored

    return sum(of_one(x) for x in jax.tree.leaves(params))
