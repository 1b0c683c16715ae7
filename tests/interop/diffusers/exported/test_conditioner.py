# SPDX-License-Identifier: Apache-2.0
"""The conditioner of exported folders, by itself."""

import numpy as np
import pytest

from ldm_jax.models.conditioners import SpatialRescaler

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.torch

MAP = np.arange(16, dtype=np.int32).reshape(1, 4, 4) % 4 - 1  # -1 and 2 are unknown


def make(**condition):
    from ldm_jax.interop.diffusers.exported.conditioner import LDMConditioner

    return LDMConditioner(condition=condition)


def test_a_label_map_is_halved_by_means_and_unknown_labels_are_zero():
    """Golden: our own rescaler without a mapper."""
    conditioner = make(kind="semantic", num_classes=2, f=2, out_channels=None)
    with torch.no_grad():
        actual = conditioner(torch.tensor(MAP)).numpy()
    own = SpatialRescaler(1, 2, None, False).apply({}, MAP)
    np.testing.assert_array_equal(np.moveaxis(actual, 1, -1), own)
    assert actual.sum() > 0
    null = conditioner.null(torch.tensor(MAP))
    assert conditioner(null).abs().max() == 0


def test_the_null_class_is_the_last_row():
    conditioner = make(kind="class", num_classes=3, width=4)
    assert conditioner.embedding.weight.shape == (4, 4)
    assert conditioner.null(torch.tensor([0, 2])).tolist() == [3, 3]


def test_a_model_without_a_null_class_cannot_be_guided():
    conditioner = make(kind="class", num_classes=3, width=4, has_null=False)
    with pytest.raises(ValueError, match="trained without one; use guidance_scale=1"):
        conditioner.null(torch.tensor([0]))
