# SPDX-License-Identifier: Apache-2.0
"""Makes the examples of a diffusion model: what is learned, and its condition."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ldm_jax.conditions.base import Condition


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
    def description(self):
        """What is done, as JSON."""
        return {**self.transform.description, "condition": self.conditioner.kind}

    def __call__(self, record, rng):
        """(record, rng) -> dict of arrays."""
        # After the transform: a mirrored image's boxes are mirrored before they are
        # told in tokens.
        example = self.conditioner.prepare(self.transform(record, rng))
        kept = {self.subject, *self.conditioner.fields}
        return {name: value for name, value in example.items() if name in kept}
