# SPDX-License-Identifier: Apache-2.0
"""Makes the examples of a diffusion model: what is learned, and its condition."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ldm_jax.conditions.base import Condition
from ldm_jax.data.records import Record


@dataclasses.dataclass(frozen=True)
class ConditionTransform:
    """Makes an example, and of its fields what the condition reads.

    Attributes:
      transform: (record, rng) -> example.
      conditioner: of the model.
      subject: the field that is learned, "moments" or "image"; only this and the
        condition's fields are kept.
    """

    transform: Callable[..., dict[str, Any]]
    conditioner: Condition
    subject: str = "moments"

    @property
    def description(self) -> dict[str, Any]:
        """What is done, as JSON."""
        return {**self.transform.description, "condition": self.conditioner.kind}

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """Returns the example of a record: arrays by name."""
        # After the transform: a mirrored image's boxes are mirrored before they are
        # encoded as tokens.
        example = self.conditioner.prepare(self.transform(record, rng))
        kept = {self.subject, *self.conditioner.fields}
        return {name: value for name, value in example.items() if name in kept}


@dataclasses.dataclass(frozen=True)
class StoredTransform:
    """Makes the examples that are stored as latents for a model's condition.

    Attributes:
      transform: (record, rng) -> example.
      conditioner: of the model; its `stored` fields are added where they are not there.
    """

    transform: Callable[..., dict[str, Any]]
    conditioner: Condition

    @property
    def description(self) -> dict[str, Any]:
        """What is done to the images, as JSON."""
        return self.transform.description

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """Returns the example of a record: arrays and text by name."""
        example = self.transform(record, rng)
        return {**example, **self.conditioner.to_store(example)}
