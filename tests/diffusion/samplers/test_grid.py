# SPDX-License-Identifier: Apache-2.0
"""Grids of steps against the original's and as properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.diffusion.samplers.grid import (
    check_timesteps,
    keep_strength,
    make_timesteps,
    original_step_counts,
)


@pytest.mark.parametrize(
    ("num_steps", "last"),
    [(10, 901), (20, 951), (25, 961), (50, 981), (100, 991), (200, 996), (500, 999)],
)
def test_original_grid_is_the_released_samplers(num_steps, last):
    """Golden: make_ddim_timesteps("uniform") of the original, run at these S."""
    grid = make_timesteps(num_steps)
    assert len(grid) == num_steps + 1
    assert (grid[0], grid[-2], grid[-1]) == (last, 1, 0)
    assert set(np.diff(grid[:-1])) == {-(1000 // num_steps)}


@pytest.mark.parametrize(
    ("num_steps", "nearest"),
    [(9, "8, 10"), (60, "50, 63|50, 100|59, 63"), (400, "250, 500"), (1000, "500")],
)
def test_steps_the_original_would_silently_change_are_refused(num_steps, nearest):
    """Golden: S for which the original runs another number, or past its tables."""
    with pytest.raises(ValueError, match=f"nearest it has: ({nearest})"):
        make_timesteps(num_steps)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 1000))
def test_step_counts_named_as_good_are_good_and_all(num_timesteps):
    """Identity: a count is listed exactly if its grid has that many steps below T."""
    good = original_step_counts(num_timesteps)
    for num_steps in {1, 7, 50, num_timesteps // 2, num_timesteps} - {0}:
        if num_steps > num_timesteps:
            continue
        rising = np.arange(0, num_timesteps, num_timesteps // num_steps) + 1
        fits = len(rising) == num_steps and rising[-1] < num_timesteps
        assert (num_steps in good) == fits
        if fits:
            assert len(make_timesteps(num_steps, num_timesteps)) == num_steps + 1


@given(st.integers(1, 1500).flatmap(lambda T: st.tuples(st.integers(1, T), st.just(T))))
def test_even_grid_has_exactly_s_steps_from_all_noise_to_clean(counts):
    """Property: S steps, from T - 1 to -1, falling, no two falls over 1 apart."""
    num_steps, num_timesteps = counts
    grid = make_timesteps(num_steps, num_timesteps, "even")
    assert (len(grid), grid[0], grid[-1]) == (num_steps + 1, num_timesteps - 1, -1)
    falls = -np.diff(grid)
    assert falls.min() >= 1
    assert falls.max() - falls.min() <= 1


@given(st.floats(0.02, 1), st.sampled_from(["original", "even"]))
def test_strength_keeps_the_end_of_a_grid(strength, grid):
    """Property: image-to-image runs the last share of the steps."""
    timesteps = make_timesteps(50, 1000, grid)
    kept = keep_strength(timesteps, strength)
    assert len(kept) - 1 == round(strength * 50)
    np.testing.assert_array_equal(kept, timesteps[-len(kept) :])


@pytest.mark.parametrize("strength", [0, 1.01, 1e-3])
def test_strength_that_leaves_nothing_or_too_much_is_refused(strength):
    with pytest.raises(ValueError, match="strength"):
        keep_strength(make_timesteps(50), strength)


def test_unknown_grids_and_counts_outside_the_schedule_are_refused():
    with pytest.raises(ValueError, match="unknown grid"):
        make_timesteps(50, 1000, "uniform")
    for num_steps in (0, 1001):
        with pytest.raises(ValueError, match="num_steps must be"):
            make_timesteps(num_steps, 1000, "even")


@pytest.mark.parametrize("grid", [[5], [5, 5], [1, 3], [[3, 1]], [10, 0], [5, -2]])
def test_grids_no_sampler_could_follow_are_refused(grid, unchecked_shapes):
    with pytest.raises(ValueError, match="timesteps must"):
        check_timesteps(grid, 10)
