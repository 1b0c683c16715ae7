# SPDX-License-Identifier: Apache-2.0
"""Several conditions in one model."""

import numpy as np
import pytest

from ldm_jax.conditions.registry import make_condition
from tests.conditions.examples import KINDS, make


def test_parts_of_a_hybrid_keep_their_names_and_may_not_share_a_field():
    _, params, _ = make("hybrid")
    assert set(params) == {"text"}
    clash = {"a": dict(kind="superres"), "b": dict(kind="superres")}
    with pytest.raises(ValueError, match="different fields"):
        make_condition("hybrid", parts=clash)


def test_hybrid_takes_what_each_part_takes():
    condition = make_condition("hybrid", **KINDS["hybrid"])
    small = np.zeros((4, 4, 3), np.uint8)
    fields = condition.from_user(text="a cat", low_res=small)
    assert set(fields) == {"tokens", "low_res"}
    with pytest.raises(ValueError, match="takes low_res and text: got text"):
        condition.from_user(text="a cat")
