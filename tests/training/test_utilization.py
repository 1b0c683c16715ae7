# SPDX-License-Identifier: Apache-2.0
"""The share of the devices' peak that a run makes use of."""

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.models.attention.attention import attend
from ldm_jax.parallel import chips
from ldm_jax.parallel.sharding import make_mesh
from ldm_jax.training.utilization import peak_share, training_flops
from ldm_jax.types import Task


def init(key, batch):
    return {"net": {"w": jnp.zeros((8, 8))}}, {"stats": jnp.zeros(())}


def loss(params, collections, batch, key, step):
    q = batch["x"] @ params["net"]["w"] + collections["frozen"][None, None]
    out = attend(q[:, :, None], q[:, :, None], q[:, :, None])
    return out.sum(), ({}, {"stats": collections["stats"]})


TASK = Task(init, loss, jnp.zeros(8))
BATCH = {"x": jax.ShapeDtypeStruct((2, 4, 8), jnp.float32)}
PRODUCT, TABLE = 2 * 8 * 8 * 8, 2 * 8 * 4 * 8


def test_attention_counts_as_its_two_products():
    """Oracle: a product and its gradient; two tables and both gradients of each."""
    assert training_flops(TASK, BATCH) == 2 * PRODUCT + 6 * TABLE


def test_the_share_is_work_over_what_all_devices_could_do(monkeypatch):
    mesh, flops = make_mesh(), training_flops(TASK, BATCH)
    assert peak_share(flops, mesh) is None  # the peak of a CPU is unknown
    monkeypatch.setitem(chips.CHIPS, "cpu", chips.Chip(1e6, 1, 1))
    share = peak_share(flops, mesh)
    assert share(3.0) == pytest.approx(3 * (2 * PRODUCT + 6 * TABLE) / 8e6)
