# SPDX-License-Identifier: Apache-2.0
"""Small model directories: parameters to the rounding of half precision."""

import numpy as np
import pytest

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.training.checkpoints.compact import write_compact
from ldm_jax.training.checkpoints.params import load_params


def test_parameters_come_back_rounded(tmp_path):
    """Oracle: float16 has 11 significant bits."""
    kernel = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    write_compact(tmp_path, {}, {"unet": {"conv": {"kernel": kernel}}})
    read = load_params(str(tmp_path))["unet"]["conv"]["kernel"]
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, kernel, rtol=2**-11)


@pytest.mark.parametrize("value", [1e5, -1e5])
def test_what_half_precision_cannot_hold_is_refused(value, tmp_path):
    params = {"unet": {"kernel": np.array([value], np.float32)}}
    with pytest.raises(ValueError, match="unet/kernel"):
        write_compact(tmp_path, {}, params)


@pytest.mark.parametrize(
    "arrays",
    [
        {"unet/kernel": np.ones(3, np.int8)},
        {"unet/kernel": np.ones(3, np.complex64)},
        {"unet/kernel": np.array(["0.5"])},
        {"unet/bias": np.ones(3), "unet/bias/x": np.ones(3)},
    ],
    ids=["whole", "complex", "texts", "a name within another"],
)
def test_what_is_no_tree_of_numbers_is_refused_by_name(arrays, tmp_path):
    np.savez(tmp_path / "params.npz", **arrays)
    with pytest.raises(UnreadableFile, match=r"params\.npz: 'unet/(kernel|bias)' must"):
        load_params(str(tmp_path))
