# SPDX-License-Identifier: Apache-2.0
"""What every kind of condition does: encode, say nothing, be dropped.

A condition is dropped, for classifier-free guidance, by replacing its fields of the
batch with values that say nothing (`null`) before anything is encoded: the same few
lines serve training, where a share of the samples is replaced, and sampling, where all
are.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.types import Array, Batch, Conditioning, PyTree


@dataclasses.dataclass(frozen=True)
class Conditioner:
    """A kind of condition with everything that is decided about it.

    Attributes:
      kind: its name, a key of CONDITIONS.
      fields: what it reads of a batch.
      module: the network that encodes it, trained with the denoiser unless
        `is_frozen`; None if there is none.
      module_input: the field that the module encodes.
      reads_frozen: networks whose parameters it reads and never trains; with
        "conditioner" the module itself is one.
      encode_fields: (apply, batch, frozen) -> Conditioning, where `apply` runs the
        module on its input.
      null_fields: (batch) -> the fields, saying nothing; None where the model has no
        way to say nothing, so that it cannot be guided.
      prepare: (record) -> the record with what this kind reads made of its raw fields
        (NumPy, one record, before batching): caption to tokens, boxes to tokens.
      from_user: (what a user passes) -> the fields [B, ...], NumPy; see user_inputs.py.
        Its arguments are named as keywords.py names them.
      finish: (batch, images [B, H, W, 3]) -> images, after decoding.
      image_size: (batch) -> (height, width) of the images that a condition is about;
        None where it says nothing of them.
      num_ids: the whole numbers it reads are in [0, num_ids); None where any may be.
    """

    kind: str
    fields: tuple[str, ...] = ()
    module: nn.Module | None = None
    module_input: str | None = None
    reads_frozen: tuple[str, ...] = ()
    encode_fields: Callable[..., Conditioning] = lambda apply, batch, frozen: (
        Conditioning()
    )
    null_fields: Callable[[Batch], Batch] | None = lambda batch: {}
    prepare: Callable[[dict], dict] = lambda record: record
    from_user: Callable[..., dict[str, np.ndarray]] = lambda: {}
    finish: Callable[[Batch, Array], Array] = lambda batch, image: image
    image_size: Callable[[Mapping[str, Any]], tuple[int, int] | None] = lambda batch: (
        None
    )
    num_ids: int | None = None

    @property
    def is_frozen(self) -> bool:
        """Whether the module's parameters come from elsewhere, and stay as they are."""
        return "conditioner" in self.reads_frozen

    def init(self, key: Array, batch: Mapping[str, Any]) -> PyTree:
        """Draws the parameters that are trained with the denoiser; {} if none.

        `batch` may hold `jax.ShapeDtypeStruct`s.
        """
        self.check(batch)
        if self.module is None or self.is_frozen:
            return {}
        y = batch[self.module_input]
        return self.module.init(key, jnp.zeros(y.shape, y.dtype)).get("params", {})

    def encode(
        self, params: PyTree, batch: Batch, frozen: Mapping[str, PyTree] | None = None
    ) -> Conditioning:
        """Turns the fields of a batch into what the denoiser reads.

        Args:
          params: from `init`.
          batch: arrays with first axis B; other fields than `fields` are ignored.
          frozen: parameters that are never trained, by network.

        Returns:
          Conditioning with first axes B.

        Raises:
          ValueError: a field of the batch, or a frozen network, is missing.
        """
        self.check(batch)
        frozen = frozen or {}
        if self.is_frozen:
            if not frozen.get("conditioner"):
                raise ValueError(
                    f'this "{self.kind}" condition needs frozen["conditioner"], the '
                    f"parameters of its encoder: got {sorted(frozen)}."
                )
            params = frozen["conditioner"]

        def apply(y):
            return self.module.apply({"params": params}, y)

        return self.encode_fields(apply, batch, frozen)

    def null(self, batch: Batch) -> Batch:
        """Replaces the fields of this condition by values that say nothing.

        Raises:
          ValueError: the model was made without a null condition.
        """
        if self.null_fields is None:
            raise ValueError(
                f'the "{self.kind}" condition was made without a null, so it can '
                "neither be dropped in training nor guided: make it with "
                "has_null=True, or set the drop probability to 0 and the guidance "
                "scale to 1."
            )
        return {**batch, **self.null_fields(batch)}

    def drop(self, batch: Batch, key: Array, probability: float) -> Batch:
        """Replaces the condition by null, sample by sample, with a probability.

        Args:
          batch: arrays with first axis B.
          key: random key.
          probability: of a sample's losing its condition; 0 leaves the batch alone.

        Returns:
          The batch with the same shapes.
        """
        if probability == 0 or not self.fields:
            return batch
        null = self.null(batch)
        size = batch[self.fields[0]].shape[0]
        lost = jax.random.bernoulli(key, probability, (size,))

        def choose(name):
            y = batch[name]
            return jnp.where(lost.reshape(-1, *[1] * (y.ndim - 1)), null[name], y)

        return {**batch, **{name: choose(name) for name in self.fields}}

    def check(self, batch: Mapping[str, Any]) -> None:
        """Raises ValueError unless the batch holds the fields of this condition."""
        missing = [name for name in self.fields if name not in batch]
        if missing:
            raise ValueError(
                f'the "{self.kind}" condition reads {", ".join(self.fields)} of a '
                f"batch: got a batch of {', '.join(sorted(batch)) or 'nothing'}; take "
                "a dataset (or write latents) with these fields."
            )


def raw_field(record: Mapping[str, Any], name: str, setting: str):
    """Returns a field that a condition is made of.

    Raises:
      ValueError: the record lacks it; names the setting that brings it.
    """
    if name not in record:
        raise ValueError(
            f"the condition is made of {name}: got records with "
            f"{', '.join(sorted(record)) or 'nothing'}; open images that have it (of a "
            f"folder, {setting} says where), and write latents for this experiment "
            "(ldm-jax latents --config)."
        )
    return record[name]


def join(parts: Mapping[str, Conditioner]) -> Conditioner:
    """Makes one conditioner of several, which are encoded and dropped together.

    Contexts are joined along tokens, concats along channels; parameters are those of
    the parts by name.

    Raises:
      ValueError: two parts read one field.
    """
    fields = [name for part in parts.values() for name in part.fields]
    if len(fields) != len(set(fields)):
        raise ValueError(
            f"parts of a hybrid condition must read different fields: got {fields}."
        )
    return Hybrid(
        kind="hybrid",
        fields=tuple(fields),
        reads_frozen=tuple(
            sorted({name for part in parts.values() for name in part.reads_frozen})
        ),
        null_fields=_join_nulls(parts),
        prepare=lambda record: _fold(parts, record),
        from_user=lambda **said: _fold_user(parts, said),
        finish=lambda batch, image: _fold_finish(parts, batch, image),
        image_size=lambda batch: _first_size(parts, batch),
        parts=tuple(parts.items()),
    )


@dataclasses.dataclass(frozen=True)
class Hybrid(Conditioner):
    """Several conditions in one model."""

    parts: tuple[tuple[str, Conditioner], ...] = ()

    def init(self, key: Array, batch: Mapping[str, Any]) -> PyTree:
        """Draws the parameters of the parts that have any, by name of the part."""
        keys = jax.random.split(key, len(self.parts))
        drawn = {
            name: part.init(k, batch)
            for (name, part), k in zip(self.parts, keys, strict=True)
        }
        return {name: params for name, params in drawn.items() if params}

    def encode(self, params, batch, frozen=None) -> Conditioning:
        """Encodes every part and joins what they say.

        The frozen parameters of a part lie under its name, as trained ones do.
        """
        frozen = frozen or {}
        encoders = frozen.get("conditioner", {})
        said = [
            part.encode(
                params.get(name, {}),
                batch,
                {**frozen, "conditioner": encoders.get(name, {})},
            )
            for name, part in self.parts
        ]

        def together(values, axis):
            values = [value for value in values if value is not None]
            return jnp.concatenate(values, axis=axis) if values else None

        labels = [c.class_label for c in said if c.class_label is not None]
        return Conditioning(
            context=together([c.context for c in said], 1),
            concat=together([c.concat for c in said], -1),
            class_label=labels[0] if labels else None,
        )


def _join_nulls(parts):
    if any(part.null_fields is None for part in parts.values()):
        return None

    def null(batch):
        fields = {}
        for part in parts.values():
            fields |= part.null_fields(batch)
        return fields

    return null


def _fold(parts, record):
    for part in parts.values():
        record = part.prepare(record)
    return record


def _fold_finish(parts, batch, image):
    for part in parts.values():
        image = part.finish(batch, image)
    return image


def _first_size(parts, batch):
    sizes = [part.image_size(batch) for part in parts.values()]
    return next((size for size in sizes if size is not None), None)


def _fold_user(parts, said):
    if set(said) != set(parts):
        raise ValueError(
            f"a hybrid condition takes {', '.join(sorted(parts))}: got "
            f"{', '.join(sorted(said)) or 'nothing'}."
        )
    fields = {}
    for name, part in parts.items():
        value = said[name]
        fields |= part.from_user(*value if isinstance(value, tuple) else (value,))
    return fields
