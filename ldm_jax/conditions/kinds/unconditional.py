# SPDX-License-Identifier: Apache-2.0
"""No condition: what an unconditional model reads."""

import dataclasses
from typing import ClassVar

from ldm_jax.conditions.base import Condition


@dataclasses.dataclass(frozen=True)
class Unconditional(Condition):
    """The condition of a model without one; null is the same."""

    kind: ClassVar = "none"
