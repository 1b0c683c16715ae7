# SPDX-License-Identifier: Apache-2.0
"""Reads a compiled program: the memory it takes, what its devices tell each other."""

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
# The first line of a computation, and what an operation says of those that it calls.
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:body|calls|to_apply|branch_computations|true_computation|false_computation)"
    r"=\{?((?:%?[\w.-]+(?:, (?=%))?)+)"
)
_ARRAY = re.compile(r"\b([a-z]+\d+(?:e\w+)?|pred)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One message among devices.

    Attributes:
      kind: one of KINDS.
      num_bytes: of its result on one device.
      num_devices: that take part together; 1 where the program does not tell.
      crosses_slices: whether they lie in several slices.
    """

    kind: str
    num_bytes: int
    num_devices: int
    crosses_slices: bool

    @property
    def sent(self) -> float:
        """Bytes that each device sends at least: a ring's."""
        n = self.num_devices
        factor = {
            "all-reduce": 2 * (n - 1) / n,
            "reduce-scatter": n - 1,
            "collective-permute": 1,
        }.get(self.kind, (n - 1) / n)
        return factor * self.num_bytes


def read_collectives(text: str, num_devices: int, slices: int = 1) -> list[Collective]:
    """Lists the messages of a program.

    One in a loop is listed as often as the loop runs, where the text tells (a counter
    that is compared with a constant, as of a scan); once where it does not.

    Args:
      text: of the compiled program (`compiled.as_text()`).
      num_devices: it runs on, slice after slice.
      slices: equal parts of them with a network of their own.
    """
    bodies = dict(_computations(text))
    times = _times(bodies)
    return [
        one
        for name, lines in bodies.items()
        for one in _collectives(lines, num_devices, num_devices // slices)
        for _ in range(times(name))
    ]


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


def _collectives(
    lines: list[str], num_devices: int, per_slice: int
) -> Iterator[Collective]:
    for line in lines:
        found = _OPERATION.match(line)
        if found is None:
            continue
        arrays = [_bytes(*array) for array in _ARRAY.findall(found["shape"])]
        if found["start"] and found["kind"] == "all-gather":
            arrays = arrays[len(arrays) // 2 :]  # operands come first
        elif found["start"] and found["kind"] == "collective-permute":
            arrays = arrays[1:2]
        groups = _groups(line, num_devices)
        is_pairs = found["kind"] == "collective-permute"
        spread = groups.min(1) // per_slice != groups.max(1) // per_slice
        yield Collective(
            found["kind"],
            sum(arrays),
            2 if is_pairs else groups.shape[1],
            bool(spread.any()),
        )


def _bytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype.split("e")[0]))
    return bits * math.prod(int(n) for n in shape.split(",") if n) // 8


def _groups(line: str, num_devices: int) -> np.ndarray:
    """Reads [groups, members] of one operation, in any of the ways XLA writes them."""
    every = np.arange(num_devices)
    # replica_groups={{0,1},{2,3}}, source_target_pairs={{0,1},{1,0}}
    found = re.search(
        r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]+\})\}", line
    )
    if found:
        rows = re.findall(r"\{([\d,]+)\}", found[1])
        return np.array([[int(n) for n in row.split(",")] for row in rows])
    # replica_groups=[2,8]<=[4,4]T(1,0)
    found = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line
    )
    if found:
        shape, dims, order = (
            [int(n) for n in part.split(",")] if part else None
            for part in found.groups()
        )
        return every.reshape(dims).transpose(order).reshape(shape)
    # replica_groups=mesh['a'=2,'b'=8] {'b'}
    found = re.search(r"replica_groups=mesh\[(.+?)\] \{(.+?)\}", line)
    if found:
        sizes = re.findall(r"'(\w+)'=(\d+)", found[1])
        names, dims = [n for n, _ in sizes], [int(size) for _, size in sizes]
        chosen = [names.index(n) for n in re.findall(r"'(\w+)'", found[2])]
        rest = [axis for axis in range(len(dims)) if axis not in chosen]
        members = math.prod(dims[axis] for axis in chosen)
        return every.reshape(dims).transpose(rest + chosen).reshape(-1, members)
    return every[None]


def least_traffic(params: PyTree, mesh: Mesh) -> float:
    """Returns the bytes that a device must send in a training step, for params alone.

    Of an array on every device its gradient is summed (2 (n-1)/n); one split over
    "fsdp" is gathered for the forward and for the backward pass, its gradient summed
    and scattered (3 (n-1)/n), and summed over "data". In the arrays' own dtype.

    Args:
      params: arrays with shardings, of `training.state.make_state`.
      mesh: theirs.
    """
    data, fsdp = (mesh.shape[axis] for axis in BATCH_AXES)

    def ring(n: int) -> float:
        return (n - 1) / n

    def of_one(x) -> float:
        held = x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
        axes = jax.tree.leaves(tuple(x.sharding.spec))
        if BATCH_AXES[1] in axes:
            return 3 * ring(fsdp) * held * fsdp + 2 * ring(data) * held
        return 2 * ring(data * fsdp) * held

    return sum(of_one(x) for x in jax.tree.leaves(params))
