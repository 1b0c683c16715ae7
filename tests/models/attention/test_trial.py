# SPDX-License-Identifier: Apache-2.0
"""Kernels are tried before they are relied on; wrong ones are left out."""

import logging

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from ldm_jax.models.attention import attention, trial

BF16 = jnp.dtype(jnp.bfloat16)


@pytest.fixture(autouse=True)
def no_verdicts(tmp_path, monkeypatch):
    """Starts with no verdict, in memory or in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(trial, "_verdicts", {})


def right(q, k, v):
    return attention.attend_xla(q, k, v)


def without_scale(q, k, v):
    return attention.attend_xla(q * q.shape[-1] ** 0.5, k, v)


def without_last_keys(q, k, v):
    return attention.attend_xla(q, k[:, :-32], v[:, :-32])


def with_one_head_twice(q, k, v):
    return attention.attend_xla(q, k, v.at[:, :, 1].set(v[:, :, 0]))


def with_nan(q, k, v):
    return attention.attend_xla(q, k, v).at[0, 0, 0, 0].set(jnp.nan)


@jax.custom_vjp
def with_half_a_gradient(q, k, v):
    return attention.attend_xla(q, k, v)


def _forward(*qkv):
    return jax.vjp(attention.attend_xla, *qkv)


def _backward(pull_back, cotangent):
    q, k, v = pull_back(cotangent)
    return q, k / 2, v


with_half_a_gradient.defvjp(_forward, _backward)


def not_compiling(q, k, v):
    raise NotImplementedError("Mosaic: no such layout\nwith a page of details")


WRONG = [
    without_scale,
    without_last_keys,
    with_one_head_twice,
    with_nan,
    with_half_a_gradient,
    not_compiling,
]


def test_a_right_kernel_passes_by_far():
    errors = trial.kernel_errors(right, 32, BF16)
    assert len(errors) == 4 and max(errors.values()) < trial.TOLERANCE / 2
    assert max(trial.kernel_errors(right, 32, jnp.dtype("float32")).values()) < 1e-5
    assert trial.works("packed", right, 32, BF16)


@pytest.mark.parametrize("kernel", WRONG, ids=lambda kernel: kernel.__name__)
def test_a_wrong_kernel_is_left_out_with_a_warning(kernel, caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert not trial.works("packed", kernel, 32, BF16)
    (warning,) = caplog.messages
    assert 'attention kernel "packed" is not used on this device' in warning
    assert "\n" not in warning and "report" in warning
    reason = "NotImplementedError: Mosaic" if kernel is not_compiling else "differs"
    assert reason in warning


def test_the_verdict_is_kept_for_the_next_start(monkeypatch, caplog):
    assert trial.works("packed", right, 32, BF16)
    assert not trial.works("splash", without_scale, 32, BF16)
    caplog.clear()
    monkeypatch.setattr(trial, "_verdicts", {})  # another process
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert trial.works("packed", not_compiling, 32, BF16)  # not run again
        assert not trial.works("splash", right, 32, BF16)
    assert len(caplog.messages) == 1  # logged at every start


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert trial.works("packed", right, 32, BF16)


def test_a_trial_is_not_part_of_the_traced_program():
    """Under a mesh, while another program is traced, as `attend` asks for it."""
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))

    def program(x):
        assert trial.works("packed", right, 32, BF16)
        return 2 * x

    with jax.set_mesh(mesh):
        traced = jax.jit(program).trace(jnp.ones(8))
    assert str(traced.jaxpr).count("dot_general") == 0


def test_attention_falls_back_to_the_next_best_kernel():
    shape = (1, 1024, 4, 32)
    choose = attention.choose_backend
    for platform, failing, expected in [
        ("tpu", (), "packed"),
        ("tpu", ("packed",), "splash"),
        ("tpu", ("packed", "splash"), "xla"),
        ("gpu", (), "cudnn"),
        ("gpu", ("cudnn",), "xla"),
    ]:
        works = lambda backend, failing=failing: backend not in failing  # noqa: E731
        assert choose(shape, shape, BF16, platform, works) == expected


def test_attend_tries_a_kernel_before_it_takes_it(monkeypatch):
    """A wrong kernel instead of cuDNN's, on a device that is taken for a GPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "attend_cudnn", without_scale)
    monkeypatch.setitem(attention.BACKENDS, "cudnn", without_scale)
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 256, 8, 32), jnp.bfloat16)
    out = attention.attend(q, k, v)
    assert (out == attention.attend(q, k, v, "xla")).all()
    with attention.planned_for("gpu"):  # nothing to try it on
        planned = attention.attend(q, k, v)
    assert (planned == without_scale(q, k, v)).all()
