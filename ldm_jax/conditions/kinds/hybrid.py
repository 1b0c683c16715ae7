# SPDX-License-Identifier: Apache-2.0
"""Several conditions in one model, encoded and dropped together."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jaxtyping import Float

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.fields import Field, FirstStageFields
from ldm_jax.types import Array, Batch, Conditioning, PyTree, RandomKey


@dataclasses.dataclass(frozen=True)
class Hybrid(Condition):
    """Conditions by name: contexts are joined along tokens, concats along channels.

    Parameters, trained or frozen, are those of the parts by name.

    Attributes:
      parts: conditions by name, of which no two read the same field.
    """

    parts: Mapping[str, Condition] = FrozenDict()

    kind: ClassVar = "hybrid"

    def __post_init__(self):
        if not self.parts:
            raise ValueError(
                "condition.parts must name the parts of a hybrid condition: got none; "
                'dict(caption=dict(kind="text"), map=dict(kind="semantic", ...)), say.'
            )
        names = [name for part in self.parts.values() for name in part.fields]
        if len(names) != len(set(names)):
            raise ValueError(
                f"parts of a hybrid condition must read different fields: got {names}."
            )

    @classmethod
    def from_section(
        cls,
        section: Mapping[str, Any],
        first_stage: FirstStageFields | None,
        make: Callable[..., Condition],
    ) -> "Hybrid":
        parts = sorted(section.get("parts", {}).items())
        made = {name: make(first_stage=first_stage, **part) for name, part in parts}
        return cls(**{**section, "parts": made})

    @property
    def fields(self) -> Mapping[str, Field]:  # pyright: ignore
        return {n: f for part in self.parts.values() for n, f in part.fields.items()}

    @property
    def reads_frozen(self) -> tuple[str, ...]:
        return tuple(sorted({n for p in self.parts.values() for n in p.reads_frozen}))

    @property
    def has_null(self) -> bool:
        return all(part.has_null for part in self.parts.values())

    @property
    def stored(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts.values() for name in part.stored)

    @property
    def shuffled(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts.values() for name in part.shuffled)

    def null_fields(self, batch: Batch) -> Batch:
        fields = {}
        for part in self.parts.values():
            fields |= part.null_fields(batch)
        return fields

    def prepare(self, record: dict[str, Any]) -> dict[str, Any]:
        for part in self.parts.values():
            record = part.prepare(record)
        return record

    def to_store(self, record: dict[str, Any]) -> dict[str, Any]:
        stored = {}
        for part in self.parts.values():
            stored |= part.to_store(record)
        return stored

    def from_user(self, **inputs: Any) -> dict[str, np.ndarray]:
        """Reads the inputs of all parts, by the names that the parts use.

        Raises:
          ValueError: an input is missing or unknown, or its part refuses it.
        """
        names = [field.argument for field in self.fields.values()]
        if sorted(names) != sorted(inputs):
            raise ValueError(
                f"this hybrid condition takes {' and '.join(names)}: got "
                f"{', '.join(inputs) or 'nothing'}."
            )
        fields = {}
        for part in self.parts.values():
            names = [field.argument for field in part.fields.values()]
            fields |= part.from_user(**{name: inputs[name] for name in names})
        return fields

    def finish(
        self, batch: Batch, image: Float[Array, "B H W 3"]
    ) -> Float[Array, "B H W 3"]:
        """Finishes images by every part in turn."""
        for part in self.parts.values():
            image = part.finish(batch, image)
        return image

    def image_size(self, batch: Mapping[str, Any]) -> tuple[int, int] | None:
        each = [part.image_size(batch) for part in self.parts.values()]
        sizes = {size for size in each if size is not None}
        if len(sizes) > 1:
            raise ValueError(
                "the parts of a hybrid condition must be about images of one size: got "
                f"{' and '.join(f'{h}x{w}' for h, w in sorted(sizes))}."
            )
        return sizes.pop() if sizes else None

    def shapes(
        self, batch_size: Any, image_size: tuple[int, int], f: int
    ) -> dict[str, jax.ShapeDtypeStruct]:
        shapes = {}
        for part in self.parts.values():
            shapes |= part.shapes(batch_size, image_size, f)
        return shapes

    def init(self, key: RandomKey, batch: Mapping[str, Any]) -> PyTree:
        """Draws the parameters of the parts that have any, by name of the part."""
        return self._of_parts("init", key, batch)

    def init_frozen(self, key: RandomKey, batch: Mapping[str, Any]) -> PyTree:
        """Draws parameters like the frozen ones of the parts, by name of the part."""
        return self._of_parts("init_frozen", key, batch)

    def _of_parts(
        self, method: str, key: RandomKey, batch: Mapping[str, Any]
    ) -> PyTree:
        keys = jax.random.split(key, len(self.parts))
        drawn = {
            name: getattr(part, method)(k, batch)
            for (name, part), k in zip(self.parts.items(), keys, strict=True)
        }
        return {name: params for name, params in drawn.items() if params}

    def encode(
        self, params: PyTree, batch: Batch, frozen: Mapping[str, PyTree] | None = None
    ) -> Conditioning:
        """Encodes every part and joins the results; see `Condition.encode`.

        The first part with a class label gives the label.
        """
        frozen = frozen or {}
        encoders = frozen.get("conditioner", {})
        encoded = [
            part.encode(
                params.get(name, {}),
                batch,
                {**frozen, "conditioner": encoders.get(name, {})},
            )
            for name, part in self.parts.items()
        ]
        labels = [c.class_label for c in encoded if c.class_label is not None]
        return Conditioning(
            context=_joined([c.context for c in encoded], 1),
            concat=_joined([c.concat for c in encoded], -1),
            class_label=labels[0] if labels else None,
        )


def _joined(arrays: list[Array | None], axis: int) -> Array | None:
    present = [array for array in arrays if array is not None]
    return jnp.concatenate(present, axis=axis) if present else None
