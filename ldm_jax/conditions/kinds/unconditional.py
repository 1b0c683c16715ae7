# SPDX-License-Identifier: Apache-2.0
"""The condition of an unconditional model, which has no fields."""

import dataclasses
from typing import ClassVar

from ldm_jax.conditions.base import Condition


@dataclasses.dataclass(frozen=True)
class Unconditional(Condition):
    """The condition of a model without one; null is the same."""

    kind: ClassVar = "none"
