# SPDX-License-Identifier: Apache-2.0
"""Chooses the steps of a sampler, as NumPy integers, before anything is traced.

A grid of S steps is [S + 1] int32, strictly falling: step i goes from `grid[i]` to
`grid[i + 1]`. 0 is the least noisy step of training, -1 is clean.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32

GRIDS = ("original", "even")


def make_timesteps(
    num_steps: int, num_timesteps: int = 1000, grid: str = "original"
) -> Int32[np.ndarray, " {num_steps}+1"]:
    """Makes the grid of a sampler.

    "original": that of the released samplers: stride c = T // S, steps 1, 1 + c,
    1 + 2c, ..., and the last one ends at t = 0, not at clean. It exists only for some
    S; with S = 400 the released code silently runs 500 steps, with S = 1000 it reads
    past its tables. "even": any S up to T, from T - 1 to clean (-1), at
    round(T * i / S) - 1; for schedules with zero terminal SNR, and for DDPM's S = T.

    Args:
      num_steps: S.
      num_timesteps: T.
      grid: "original" or "even".

    Raises:
      ValueError: unknown grid, or an S that it does not have; names the nearest.

    Source: CompVis `make_ddim_timesteps` ("uniform"); "trailing" in Lin et al. 2023.
    """
    if grid not in GRIDS:
        raise ValueError(f'unknown grid "{grid}"; one of: {", ".join(GRIDS)}.')
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(
            f"num_steps must be in [1, num_timesteps={num_timesteps}]: got {num_steps}."
        )
    if grid == "even":
        # Floor of x + 1/2 in integers: exact, where np.round would round half to even.
        i = np.arange(num_steps, -1, -1)
        rounded = (2 * num_timesteps * i + num_steps) // (2 * num_steps)
        return (rounded - 1).astype(np.int32)
    counts = original_step_counts(num_timesteps)
    if num_steps not in counts:
        below = [str(n) for n in counts if n < num_steps][-1:]
        above = [str(n) for n in counts if n > num_steps][:1]
        raise ValueError(
            f'grid="original" has no {num_steps} steps of T={num_timesteps}; the '
            f'nearest it has: {", ".join(below + above)}. Or use grid="even".'
        )
    stride = num_timesteps // num_steps
    rising = np.arange(0, num_timesteps, stride) + 1
    return np.append(rising[::-1], 0).astype(np.int32)


def original_step_counts(num_timesteps: int = 1000) -> list[int]:
    """Lists every S whose "original" grid has S steps, all of them below T."""
    counts = []
    for num_steps in range(1, num_timesteps + 1):
        stride = num_timesteps // num_steps
        visited = -(-num_timesteps // stride)
        last = (visited - 1) * stride + 1
        if visited == num_steps and last < num_timesteps:
            counts.append(num_steps)
    return counts


def keep_strength(
    timesteps: Int[np.ndarray, " grid"], strength: float
) -> Int[np.ndarray, " rest"]:
    """Keeps the last steps of a grid, for image-to-image sampling.

    Args:
      timesteps: from `make_timesteps`.
      strength: share of the steps to run, in (0, 1]; 1 keeps all.

    Returns:
      A grid of round(strength * S) steps; its first entry is the noise level at which
      to start from the image.

    Raises:
      ValueError: strength outside (0, 1], or too small for one step.
    """
    num_steps = len(timesteps) - 1
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1]: got {strength}.")
    kept = round(strength * num_steps)
    if kept == 0:
        raise ValueError(
            f"strength={strength} keeps none of {num_steps} steps; use at least "
            f"{1 / num_steps:.3g}, or more steps."
        )
    return timesteps[num_steps - kept :]


def check_timesteps(
    timesteps: Sequence[int] | Int[np.ndarray, " grid"], num_timesteps: int
) -> Int32[np.ndarray, " grid"]:
    """Returns the grid as NumPy int32.

    Raises:
      ValueError: not a strictly falling grid, or steps outside [-1, T).
    """
    grid = np.asarray(timesteps, np.int32)  # raises an error for a traced grid
    if grid.ndim != 1 or len(grid) < 2 or np.any(np.diff(grid) >= 0):
        raise ValueError(
            f"timesteps must be [S + 1] and strictly falling: got {grid.tolist()}; see "
            "make_timesteps."
        )
    if grid[0] >= num_timesteps or grid[-1] < -1:
        raise ValueError(
            f"timesteps must be in [-1, T={num_timesteps}): got {grid[0]} down to "
            f"{grid[-1]}; make them for this schedule with make_timesteps."
        )
    return grid
