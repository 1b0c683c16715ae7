# SPDX-License-Identifier: Apache-2.0
"""The step is compiled once for each shape of batches; options fit the devices."""

import jax
import numpy as np
import pytest

from ldm_jax.parallel import compile as compile_module
from ldm_jax.parallel.compile import StepByShape, sampling_options


def test_every_shape_is_compiled_once():
    compiled = []

    def compile_for(batch):
        compiled.append(batch["x"].shape)
        return lambda state, frozen, batch, key: (state + batch["x"].size, frozen)

    first = {"x": jax.ShapeDtypeStruct((2, 3), np.float32)}
    step = StepByShape(compile_for, first)
    for shape, expected in (((2, 3), 6), ((3, 4), 12), ((2, 3), 6), ((3, 4), 12)):
        assert step(0, "frozen", {"x": np.zeros(shape)}, None) == (expected, "frozen")
    assert compiled == [(2, 3), (3, 4)]


@pytest.fixture
def _chosen_anew():
    sampling_options.cache_clear()
    yield
    sampling_options.cache_clear()


@pytest.mark.usefixtures("_chosen_anew")
@pytest.mark.parametrize("cores, has_options", [(1, False), (2, True), (16, True)])
def test_samplers_have_options_on_several_cores(monkeypatch, cores, has_options):
    monkeypatch.setattr(compile_module, "num_cores", lambda: cores)
    options = sampling_options()
    assert bool(options) == has_options
    square = jax.jit(lambda x: x * x, compiler_options=options)
    assert square(3.0) == 9.0


@pytest.mark.usefixtures("_chosen_anew")
def test_an_option_that_this_xla_does_not_have_is_left_out(monkeypatch):
    monkeypatch.setattr(compile_module, "num_cores", lambda: 2)
    monkeypatch.setattr(compile_module, "_SEVERAL_CORES", {"xla_cpu_no_such": ""})
    assert sampling_options() == {}
