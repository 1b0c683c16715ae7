# SPDX-License-Identifier: Apache-2.0
"""Conditions by keyword: arrays as they are, text and boxes as tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditions.keywords import read_keywords
from ldm_jax.conditions.registry import make_condition

TEXT = make_condition("text", width=8, depth=1, length=5)
LAYOUT = make_condition("layout", num_classes=3, width=8, depth=1, max_objects=2)
CLASS = make_condition("class", num_classes=3, width=8)
INPAINT = make_condition("inpaint", autoencoder={"bottleneck": "pixels"})
PARTS = {
    "words": dict(kind="text", width=8, depth=1, length=5),
    "map": dict(kind="semantic", num_classes=3, f=2),
}
IMAGE, MASK = np.zeros((2, 4, 4, 3)), np.ones((2, 4, 4, 1), bool)


@pytest.mark.parametrize(
    ("condition", "inputs", "shapes"),
    [
        (make_condition("none"), {}, {}),
        (CLASS, {"class_label": [0, 3]}, {"label": (2,)}),
        (TEXT, {"tokens": np.zeros((2, 5), np.int64)}, {"tokens": (2, 5)}),
        (make_condition("superres"), {"low_res": IMAGE}, {"low_res": (2, 4, 4, 3)}),
        (
            INPAINT,
            {"image": IMAGE, "mask": MASK},
            {"image": (2, 4, 4, 3), "mask": (2, 4, 4, 1)},
        ),
        (
            make_condition("hybrid", parts=PARTS),
            {"text": ["a", "b"], "segmentation": jnp.zeros((2, 4, 4), jnp.int32)},
            {"tokens": (2, 5), "label_map": (2, 4, 4)},
        ),
    ],
)
def test_every_kind_takes_its_keywords(condition, inputs, shapes):
    """NumPy or JAX arrays of any width come out as int32 or float32 of a batch."""
    fields = read_keywords(condition, inputs)
    assert {name: x.shape for name, x in fields.items()} == shapes
    for name, x in fields.items():
        assert x.dtype == condition.fields[name].dtype


def test_texts_and_boxes_become_tokens():
    """A text that looks like a file's name is a text all the same."""
    one = read_keywords(TEXT, {"text": "a.txt"})["tokens"]
    assert one.shape == (1, 5) and one[0, 0] == ord("a") + 3
    boxes = [{"label": 2, "box": [0, 0, 1, 1]}]
    tokens = read_keywords(LAYOUT, {"boxes": [boxes, []]})["tokens"]
    assert tokens.shape == (2, 8) and tokens[0, 0] == 2


def test_arrays_may_be_traced():
    read = jax.jit(lambda label: read_keywords(CLASS, {"class_label": label}))
    assert read(np.array([1, 2])) == {"label": pytest.approx([1, 2])}


@pytest.mark.parametrize(
    ("condition", "inputs", "message"),
    [
        (CLASS, {"caption": ["x"]}, "takes class_label: got caption"),
        (CLASS, {}, "takes class_label: got none"),
        (CLASS, {"class_label": 3}, r"class_label must be \[B\]: got shape \(\)"),
        (CLASS, {"class_label": [4]}, r"class_label must be in \[0, 4\): got 4 to 4"),
        (CLASS, {"class_label": [0.5]}, "must be whole numbers: got float64"),
        (TEXT, {"text": "a", "tokens": [[1]]}, "takes tokens or text: got text, tok"),
        (INPAINT, {"image": IMAGE}, "takes image and mask: got image"),
        (INPAINT, {"image": IMAGE.astype(np.uint8), "mask": MASK}, "divide bytes"),
        (INPAINT, {"image": IMAGE, "mask": MASK[..., 0]}, r"mask must be \[B, H, W"),
        (make_condition("none"), {"text": "a"}, "takes no keyword: got text"),
        (TEXT, {"tokens": [[1, 2]]}, r"tokens must be \[B, 5\]: got shape \(1, 2\)"),
        (INPAINT, {"image": IMAGE, "mask": MASK[:1]}, "one size along B: got 2 and 1"),
        (INPAINT, {"image": IMAGE, "mask": MASK[:, :2]}, "along H: got 4 and 2"),
    ],
)
def test_what_does_not_fit_is_refused_by_keyword(condition, inputs, message):
    with pytest.raises(ValueError, match=message):
        read_keywords(condition, inputs)
