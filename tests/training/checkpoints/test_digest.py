# SPDX-License-Identifier: Apache-2.0
"""Digests see every flipped bit and no sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ldm_jax.parallel.sharding import make_mesh
from ldm_jax.training.checkpoints import digest as digest_module
from ldm_jax.training.checkpoints.digest import digest, digests


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32, np.uint8])
def test_any_flipped_bit_changes_the_digest(dtype):
    """Identity: 64 bits of an array, each flipped alone, are all seen."""
    x = np.arange(24).reshape(2, 3, 4).astype(dtype)
    reference = digest(x)
    bits = 8 * x.dtype.itemsize
    for n in range(0, x.size * bits, max(1, x.size * bits // 64)):
        raw = bytearray(x.tobytes())
        raw[n // 8] ^= 1 << n % 8
        flipped = np.frombuffer(raw, x.dtype).reshape(x.shape)
        assert digest(flipped) != reference, n


def test_a_digest_is_the_weighted_sum_of_bits():
    """Oracle: sum bits_i (2 i + 1) mod 2^32, in Python integers."""
    x = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float32)
    bits = x.reshape(-1).view(np.uint32)
    want = sum(int(b) * (2 * i + 1) for i, b in enumerate(bits)) % 2**32
    assert digest(x) == want


def test_a_digest_does_not_depend_on_the_sharding():
    mesh = make_mesh(data=2, fsdp=4)
    x = jax.random.normal(jax.random.key(0), (8, 12))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("fsdp", "data")))
    assert digests({"a": {"x": x}}) == digests({"a": {"x": split}})


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int8, bool])
def test_an_array_of_numpy_has_the_digest_of_the_same_array_on_a_device(
    dtype, monkeypatch
):
    monkeypatch.setattr(digest_module, "CHUNK", 7)  # which does not divide its size
    x = np.random.default_rng(0).normal(0, 9, (5, 3, 4)).astype(dtype)
    assert digest(x) == digest(jnp.asarray(x))
    assert digest(x.transpose(2, 0, 1)) == digest(jnp.asarray(x.transpose(2, 0, 1)))


def test_of_two_copies_of_an_array_one_counts():
    x = jnp.arange(8.0)
    mesh = make_mesh(data=2, fsdp=4)
    for spec in (PartitionSpec(), PartitionSpec("fsdp"), PartitionSpec(("data",))):
        assert digest(jax.device_put(x, NamedSharding(mesh, spec))) == digest(x)


def test_with_64_bits_every_half_counts():
    """Oracle: eight bytes are two elements of four, the low half first."""
    with jax.enable_x64(True):
        x = jnp.array([[3.25, -1e-200], [7.5, 2.0]], jnp.float64)
        halves = np.asarray(x).view(np.uint32).reshape(-1)
        want = sum(int(b) * (2 * i + 1) for i, b in enumerate(halves)) % 2**32
        assert digest(x) == want
