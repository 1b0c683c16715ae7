# SPDX-License-Identifier: Apache-2.0
"""Arrays that orbax writes in groups: identity, and how much is under way at once."""

import copy

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore as ts

from ldm_jax.files.formats import array_groups
from ldm_jax.files.formats.array_groups import write_arrays
from ldm_jax.files.write_errors import WriteError

TREE = {
    "a": {"kernel": np.arange(300, dtype=np.float32).reshape(20, 15)},
    "b": {str(i): np.full(10, i, np.float32) for i in range(9)},
    "c": np.array(3, np.int32),
}
NUM_BYTES = 4 * 300 + 9 * 40 + 4


@pytest.mark.parametrize("limit", [100, 10**6])
def test_plain_orbax_reads_what_was_written_in_groups(limit, tmp_path, monkeypatch):
    monkeypatch.setattr(array_groups, "GROUP_BYTES", limit)
    sizes = []
    write_arrays(tmp_path / "a", TREE, sizes.append)
    assert sum(sizes) == NUM_BYTES
    # A group is within the limit, or is one larger array.
    assert all(size <= limit or size == 1200 for size in sizes)
    with ocp.StandardCheckpointer() as checkpointer:
        again = checkpointer.restore(tmp_path / "a")
    assert jax.tree.structure(again) == jax.tree.structure(TREE)
    jax.tree.map(np.testing.assert_array_equal, again, TREE)


def test_arrays_that_cannot_be_written_are_an_error_of_writing(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match=r"could not write .*file/a \(.* GiB free\)"):
        write_arrays(tmp_path / "file" / "a", TREE, lambda size: None)


def test_arrays_are_not_copied_before_they_are_written(tmp_path, monkeypatch):
    """The copies that orbax makes are the arrays themselves."""
    copies = []
    deepcopy = copy.deepcopy

    def recorded(value, memo=None):
        result = deepcopy(value, memo)
        if isinstance(value, np.ndarray):
            copies.append(np.shares_memory(value, result) or value.size == 0)
        return result

    monkeypatch.setattr(copy, "deepcopy", recorded)
    write_arrays(tmp_path / "a", TREE, lambda size: None)
    assert len(copies) == len(jax.tree.leaves(TREE)) and all(copies)


def test_arrays_are_written_from_where_they_are(tmp_path, monkeypatch):
    """Compression and chunks are copies; a cache of 100 MB fills with old lists."""
    contexts = []
    serialize = ocp.type_handlers.NumpyHandler.serialize

    async def recorded(self, values, infos, args=None):
        contexts.extend(info.ts_context for info in infos)
        return await serialize(self, values, infos, args)

    monkeypatch.setattr(ocp.type_handlers.NumpyHandler, "serialize", recorded)
    monkeypatch.setattr(array_groups, "GROUP_BYTES", 100)
    write_arrays(tmp_path / "a", TREE, lambda size: None)
    store = {"driver": "ocdbt", "base": f"file://{tmp_path}/a/", "path": "a.kernel/"}
    array = ts.open({"driver": "zarr", "kvstore": store}).result()
    metadata = array.spec().to_json()["metadata"]
    assert metadata["compressor"] is None and metadata["chunks"] == [20, 15]
    caches = [context["cache_pool#ocdbt"].to_json() for context in contexts]
    assert caches == [{"total_bytes_limit": array_groups.CACHE_BYTES}] * 11


def test_an_error_of_a_group_ends_the_writing(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(Exception, match="a"):
        write_arrays(tmp_path / "a" / "b", TREE, lambda size: None)
