# SPDX-License-Identifier: Apache-2.0
"""Statistics that torch-fidelity caches are read without running any code."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from ldm_jax.interop.feature_networks.fidelity_cache import read_fidelity_cache

STATS = {"mu": np.arange(3.0), "sigma": np.arange(9.0).reshape(3, 3).T}


def write(path, root, protocol=2):
    """Writes as torch.save does where there are no tensors."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("stats/data.pkl", pickle.dumps(root, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 4])
def test_statistics_are_read_back(tmp_path, protocol):
    """Identity, of an array in C's order and one in Fortran's."""
    statistics = read_fidelity_cache(write(tmp_path / "s.pt", STATS, protocol))
    for name, array in STATS.items():
        np.testing.assert_array_equal(statistics[name], array)


@pytest.mark.torch
def test_a_file_of_torch_save_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(STATS, tmp_path / "s.pt")
    statistics = read_fidelity_cache(tmp_path / "s.pt")
    np.testing.assert_array_equal(statistics["sigma"], STATS["sigma"])


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/ran",)


def test_anything_else_is_refused(tmp_path):
    evil = write(tmp_path / "e.pt", {"mu": Evil(), "sigma": Evil()})
    with pytest.raises(ValueError, match=r"asks for \w+\.system.* nothing was run"):
        read_fidelity_cache(evil)
    with pytest.raises(ValueError, match='must hold "mu" and "sigma"'):
        read_fidelity_cache(write(tmp_path / "a.pt", {"mu": STATS["mu"]}))
    (tmp_path / "b.pt").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="must be a complete zip file"):
        read_fidelity_cache(tmp_path / "b.pt")
