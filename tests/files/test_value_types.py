# SPDX-License-Identifier: Apache-2.0
"""Settings of other types than their annotations are refused by name."""

import typing
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from ldm_jax.files.value_types import check_type
from ldm_jax.types import DType


@pytest.mark.parametrize(
    ("annotation", "good", "bad", "noun"),
    [
        (int, [3, np.int64(3)], [3.0, True, "3", None, {}], "a whole number"),
        (float, [3, 0.5, np.float32(1)], ["a", False, None, [1.0]], "a number"),
        (bool, [True], [1, "true", None], "True or False"),
        (str, [""], [1, None, ["a"], {}], "a text"),
        (int | None, [None, 1], ["a", 1.5], "a whole number or None"),
        (float | str, [1, "a"], [None, (1,)], "a number or a text"),
        (
            tuple[int, ...],
            [(), [1, 2]],
            [(1, "a"), "12", b"12", 1],
            "a tuple, each a whole",
        ),
        (tuple[int, int], [(1, 2)], [(1,), (1, 2, 3), (1, None)], "a tuple, each a"),
        (Sequence[str], [("a",)], ["a", (1,)], "a tuple, each a text"),
        (Mapping[str, int] | None, [{}, None], [[1], "a", 1], "a dict of settings"),
        (typing.Annotated[int, "steps"], [1], ["1"], "a whole number"),
    ],
)
def test_a_setting_of_another_type_is_refused(annotation, good, bad, noun):
    for value in good:
        check_type("config.x", value, annotation, "leave it out")
    for value in bad:
        with pytest.raises(ValueError, match=rf"^config\.x must be {noun}.*leave it"):
            check_type("config.x", value, annotation, "leave it out")


def test_annotations_of_objects_accept_every_value():
    for annotation in (typing.Any, DType, np.ndarray | None):
        check_type("config.x", {}, annotation, "leave it out")


def test_the_value_is_shortened_in_the_error():
    with pytest.raises(ValueError) as raised:
        check_type("config.x", [10**5000] * 10**6, int, "leave it out")
    assert len(str(raised.value)) < 300
