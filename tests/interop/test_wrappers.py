# SPDX-License-Identifier: Apache-2.0
"""Names of tensors are found behind prefixes of wrappers and outer modules."""

import numpy as np
import pytest

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.interop.wrappers import below, common_prefix, without_wrappers


@pytest.mark.parametrize(
    "name",
    [
        "module.a.weight",
        "_orig_mod.a.weight",
        "module._orig_mod.a.weight",
        "_forward_module.a._orig_mod.weight",
        "a._fsdp_wrapped_module._checkpoint_wrapped_module.weight",
    ],
)
def test_parts_that_wrappers_add_are_removed_anywhere(name):
    names, notes = without_wrappers([name, "b"])
    assert names == {"a.weight": name, "b": "b"}
    assert all(note.endswith("from 1 names.") for note in notes) and notes


def test_names_that_only_resemble_wrappers_stay():
    names = ["modules.a", "my_module.b", "submodule"]
    assert without_wrappers(names) == ({name: name for name in names}, ())


def test_two_names_that_become_one_are_refused():
    with pytest.raises(UnreadableFile, match=r'"a" and "module\.a" are one'):
        without_wrappers(["a", "module.a"])


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["a.b", "c"], ""),
        (["vae.a.b", "vae.c", "other"], "vae."),
        (["x.vae.a.b", "x.vae.c"], "x.vae."),
        (["vae.a.b", "c"], None),
        (["vae.a.b", "vae.c", "ema.a.b", "ema.c"], None),
    ],
)
def test_the_common_prefix_is_found(names, prefix):
    assert common_prefix(names, ["a.b", "c"]) == prefix


def test_tensors_below_a_prefix_are_taken():
    weights = {"x.a": np.zeros(1), "y.a": np.ones(1)}
    assert list(below(weights, "y.")) == ["a"]
    assert below(weights, "y.")["a"] == 1
