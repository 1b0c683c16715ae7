# SPDX-License-Identifier: Apache-2.0
"""A file of LPIPS weights is read for one trunk, or refused."""

import jax
import numpy as np
import pytest

from ldm_jax.interop.feature_networks.lpips_file import LpipsFile, trunk_shapes
from ldm_jax.interop.safetensors import write_safetensors


@pytest.fixture
def alex(tmp_path):
    """A file with the trunk "alex" alone; only its names and shapes matter here."""
    shapes = trunk_shapes("alex")
    path = tmp_path / "lpips.safetensors"
    write_safetensors(
        path, {f"alex/{n}": np.full(s, 0.5, np.float32) for n, s in shapes.items()}
    )
    return str(path)


def test_a_missing_file_or_one_without_the_trunk_is_refused(alex, tmp_path):
    with pytest.raises(
        ValueError, match=r'config.lpips.file="" is not a file; make one'
    ):
        LpipsFile().load("alex")
    with pytest.raises(ValueError, match=r"lacks squeeze/lin_0 .* and holds alex;"):
        LpipsFile(alex).load("squeeze")
    other = tmp_path / "other.safetensors"
    write_safetensors(other, {"features.0.weight": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="holds no trunk"):
        LpipsFile(str(other)).load("alex")
    with pytest.raises(ValueError, match="unknown LPIPS trunk"):
        LpipsFile(alex).load("resnet")


def test_the_parameters_of_a_trunk_are_read(alex):
    """Identity: every parameter of the trunk, with the values stored."""
    leaves = jax.tree.leaves(LpipsFile(alex).load("alex"))
    assert len(leaves) == len(trunk_shapes("alex"))
    assert all((leaf == 0.5).all() for leaf in leaves)
