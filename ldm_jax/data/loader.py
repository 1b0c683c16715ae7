# SPDX-License-Identifier: Apache-2.0
"""Makes global batches, which are a pure function of (seed, step).

Step s uses positions s * B to (s + 1) * B of the stream of `order.py`. Each process
reads the rows that the sharding assigns to its devices, so the global batch is the same
on any number of hosts and any mesh.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ldm_jax.data.order import Row, shuffled_rows
from ldm_jax.data.reading import Example, Reader, Transform, read_ahead
from ldm_jax.data.records import Source, fingerprint

# (seed, batch_size, step, low, high) -> the rows at places low to high - 1 of the batch
# of a step.
Order = Callable[[int, int, int, int, int], list[Row]]


def make_batches(
    source: Source,
    transform: Transform,
    batch_size: int,
    sharding: jax.sharding.Sharding | None = None,
    seed: int = 0,
    num_threads: int = 1,
    max_damaged: int = 100,
) -> "Batches":
    """Makes the endless, shuffled batches of a set.

    Args:
      source: the set; one that says its own order (`mixture`) has it.
      transform: (record, rng) -> dict of arrays, of the same shapes for every record;
        fields of text are left out of the batch.
      batch_size: B, over all devices and hosts.
      sharding: of the batch axis, e.g. NamedSharding(mesh, P(("data", "fsdp"))); None
        is the first local device.
      seed: non-negative; decides the order and every record's randomness.
      num_threads: threads that read and transform. One is enough for latents; decoding
        of photographs wants as many as there are cores.
      max_damaged: how many damaged records are replaced by their neighbour, with a
        warning, before reading raises.

    Returns:
      `Batches`: `batches(step)` is a dict of global arrays.

    Raises:
      ValueError: an empty set, a batch size the sharding cannot divide, a bad seed.
    """
    return Batches(
        source, transform, batch_size, sharding, seed, num_threads, max_damaged
    )


class Batches:
    """The batches of a set; see `make_batches`."""

    def __init__(
        self, source, transform, batch_size, sharding, seed, num_threads, max_damaged
    ):
        if seed < 0:
            raise ValueError(f"the data seed must be non-negative: got {seed}.")
        self._reader = Reader(source, transform, seed, num_threads, max_damaged)
        self._placement = Placement(batch_size, sharding)
        self._order, self._seed = _order_of(source), seed
        self._metadata = {
            "seed": seed,
            "batch_size": batch_size,
            "num_records": len(source),
            "source": source.fingerprint,
            "transform": fingerprint(getattr(transform, "description", None)),
            # Ties the state to what index_shuffle computes, not only to its inputs.
            "order": fingerprint(self._order(seed, batch_size, 0, 0, 64)),
        }

    def __call__(self, step: int) -> dict[str, jax.Array]:
        """Returns the batch of a step: global arrays [B, ...]."""
        size = self._placement.batch_size
        rows = [
            row
            for low, high in self._placement.blocks
            for row in self._order(self._seed, size, step, low, high)
        ]
        return self._placement.place(self._reader.read(rows))

    def stream(
        self, first_step: int = 0
    ) -> Generator[dict[str, jax.Array], None, None]:
        """Yields the batches from `first_step` on, made ahead in a thread."""
        return read_ahead(lambda: self._forever(first_step))

    def _forever(self, step: int) -> Iterator[dict[str, jax.Array]]:
        while True:
            yield self(step)
            step += 1

    def records(self, step: int) -> list[int]:
        """Returns the indices, in the set, of the records of a step's global batch."""
        size = self._placement.batch_size
        return [row.index for row in self._order(self._seed, size, step, 0, size)]

    def state(self, step: int) -> dict[str, Any]:
        """Returns the state to store with a checkpoint: small, JSON."""
        return {"step": int(step), **self._metadata}

    def check(self, state: Mapping[str, Any]) -> None:
        """Compares a stored state with these batches.

        Raises:
          ValueError: the batches after this checkpoint would not be those that the run
            was going to see; names what changed.
        """
        changed = [
            f"{name} was {state.get(name)}, is {now}"
            for name, now in self._metadata.items()
            if state.get(name) != now
        ]
        if changed:
            raise ValueError(
                f"the data changed since the checkpoint at step {state.get('step')}: "
                f"{'; '.join(changed)}. Set it back, or use a new working directory."
            )

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes, dtypes and shardings of a batch; reads one record.

        Of `Buckets` these are the shapes of the first set's batches.
        """
        (example,) = self._reader.read([Row(0, 0)])
        size, sharding = self._placement.batch_size, self._placement.sharding
        return {
            name: jax.ShapeDtypeStruct(
                (size, *value.shape),
                jax.dtypes.canonicalize_dtype(value.dtype),
                sharding=sharding,
            )
            for name, value in example.items()
            if not isinstance(value, str)
        }


def iterate_once(
    source: Source,
    transform: Transform,
    batch_size: int,
    sharding: jax.sharding.Sharding | None = None,
    seed: int = 0,
    num_threads: int = 1,
    max_damaged: int = 100,
) -> Iterator[tuple[dict[str, jax.Array], int]]:
    """Yields the set once, in its own order: for evaluation.

    The arguments are those of `make_batches`.

    Yields:
      (batch, valid): `batch` has [B, ...] arrays always; only its first `valid` rows
      count. The last batch is filled up with the set's last record; so is the last of
      each set of a mixture.
    """
    reader = Reader(source, transform, seed, num_threads, max_damaged)
    placement = Placement(batch_size, sharding)

    def batches():
        for span in getattr(source, "spans", [range(len(source))]):
            for start in range(span.start, span.stop, batch_size):
                rows = [
                    Row(0, min(start + offset, span.stop - 1))
                    for low, high in placement.blocks
                    for offset in range(low, high)
                ]
                valid = min(batch_size, span.stop - start)
                yield placement.place(reader.read(rows)), valid

    return read_ahead(batches)


def check_batch_size(batch_size: int, sharding: jax.sharding.Sharding) -> None:
    """Checks that a batch can be divided over the devices.

    Args:
      batch_size: rows of the batch.
      sharding: of its arrays, [B, ...].

    Raises:
      ValueError: it cannot; names the nearest sizes that can.
    """
    try:
        sharding.addressable_devices_indices_map((batch_size,))
    except ValueError as error:
        devices = len(sharding.device_set)
        parts = devices // sharding.shard_shape((devices,))[0]
        low = batch_size // parts * parts
        raise ValueError(
            f"batch_size must be a multiple of {parts}, the parts that a batch is "
            f"divided into (mesh.data x mesh.fsdp): got {batch_size}; choose "
            f"{f'{low} or ' if low else ''}{low + parts}."
        ) from error


def _order_of(source: Source) -> Order:
    """Returns the order of a source's records: its own, or all of them shuffled."""
    own = getattr(source, "rows", None)
    if own is not None:
        return own

    def rows(seed, batch_size, step, low, high):
        start = step * batch_size
        return shuffled_rows(seed, len(source), start + low, start + high)

    return rows


class Placement:
    """The rows of a global batch that this process reads, and their devices.

    The rows come from the sharding, not from the process index: where a tensor axis of
    the mesh spans processes, several of them hold the same rows.
    """

    def __init__(self, batch_size: int, sharding: jax.sharding.Sharding | None):
        if sharding is None:
            sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        self.batch_size, self.sharding = batch_size, sharding
        check_batch_size(batch_size, sharding)
        held = sharding.addressable_devices_indices_map((batch_size,)).values()
        # The rows of an addressable device are never None.
        spans = {index[0].indices(batch_size)[:2] for index in held if index}
        self.blocks = sorted(spans)  # [(low, high)], disjoint

    def place(self, examples: Sequence[Example]) -> dict[str, jax.Array]:
        """Joins this process' rows, in the order of `blocks`, to global arrays."""
        starts, first = {}, 0
        for low, high in self.blocks:
            starts[low] = first
            first += high - low
        batch, fields = {}, set(examples[0])
        for example in examples:
            if example.keys() != fields:
                raise ValueError(
                    f"all records of a batch must have the same fields: got "
                    f"{sorted(fields)} and {sorted(example)}. Mix sets that have the "
                    f"same fields."
                )
        for name, value in examples[0].items():
            if isinstance(value, str):
                continue  # words stay on the host; `Then` makes them tokens
            local = _stack(name, examples)

            def block(index, local=local):
                low, high, _ = index[0].indices(self.batch_size)
                return local[starts[low] : starts[low] + high - low]

            shape = (self.batch_size, *local.shape[1:])
            batch[name] = jax.make_array_from_callback(shape, self.sharding, block)
        return batch


def _stack(name: str, examples: Sequence[Example]) -> np.ndarray:
    shapes = {example[name].shape for example in examples}
    if len(shapes) > 1:
        raise ValueError(
            f"all records of a batch must have one shape: {name} has "
            f"{sorted(shapes)}. Choose a transform that makes them equal."
        )
    return np.stack([example[name] for example in examples])
