# SPDX-License-Identifier: Apache-2.0
"""The steps a sampler visits: NumPy integers, chosen before anything is traced.

A grid of S steps is [S + 1] int32, falling: step i goes from `grid[i]` to
`grid[i + 1]`. 0 is the least noisy step of training, -1 is clean.
"""

import numpy as np

GRIDS = ("original", "even")


def make_timesteps(
    num_steps: int, num_timesteps: int = 1000, grid: str = "original"
) -> np.ndarray:
    """Makes the grid of a sampler.

    "original": that of the released samplers, for parity: stride c = T // S, steps
    1, 1 + c, 1 + 2c, ..., and the last one ends at t = 0, not at clean. It exists only
    for some S; at S = 400 the released code silently runs 500 steps, at S = 1000 it
    reads past its tables. "even": any S up to T, from T - 1 to clean (-1), at
    round(T * i / S) - 1; for a schedule with zero terminal SNR, and for DDPM's S = T.

    Args:
      num_steps: S.
      num_timesteps: T.
      grid: "original" or "even".

    Returns:
      [S + 1] int32, strictly falling.

    Raises:
      ValueError: unknown grid, or an S it cannot serve; names the nearest it can.

    Source: CompVis `make_ddim_timesteps` ("uniform"); "trailing" in Lin et al. 2023.
    """
    if grid not in GRIDS:
        raise ValueError(f'unknown grid "{grid}"; one of: {", ".join(GRIDS)}.')
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(
            f"num_steps must lie in [1, num_timesteps={num_timesteps}]: "
            f"got {num_steps}."
        )
    if grid == "even":
        # Floor of x + 1/2 in integers: exact, where np.round would round half to even.
        i = np.arange(num_steps, -1, -1)
        rounded = (2 * num_timesteps * i + num_steps) // (2 * num_steps)
        return (rounded - 1).astype(np.int32)
    good = original_step_counts(num_timesteps)
    if num_steps not in good:
        below = [str(n) for n in good if n < num_steps][-1:]
        above = [str(n) for n in good if n > num_steps][:1]
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


def keep_strength(timesteps: np.ndarray, strength: float) -> np.ndarray:
    """Keeps the last part of a grid, for image-to-image sampling.

    Args:
      timesteps: [S + 1] from `make_timesteps`.
      strength: share of the steps to run, in (0, 1]; 1 keeps all.

    Returns:
      [round(strength * S) + 1]; its first entry is the step to noise the image to.

    Raises:
      ValueError: strength outside (0, 1], or too small for one step.
    """
    num_steps = len(timesteps) - 1
    if not 0 < strength <= 1:
        raise ValueError(f"strength must lie in (0, 1]: got {strength}.")
    kept = round(strength * num_steps)
    if kept == 0:
        raise ValueError(
            f"strength={strength} keeps none of {num_steps} steps; use at least "
            f"{1 / num_steps:.3g}, or more steps."
        )
    return timesteps[num_steps - kept :]


def check_timesteps(timesteps, num_timesteps: int) -> np.ndarray:
    """Returns the grid as NumPy int32, refusing one that no sampler could follow."""
    grid = np.asarray(timesteps, np.int32)  # a traced grid fails here, as it should
    if grid.ndim != 1 or len(grid) < 2 or np.any(np.diff(grid) >= 0):
        raise ValueError(
            f"timesteps must be [S + 1] and strictly falling: got {grid.tolist()}; see "
            "make_timesteps."
        )
    if grid[0] >= num_timesteps or grid[-1] < -1:
        raise ValueError(
            f"timesteps must lie in [-1, T={num_timesteps}): got {grid[0]} down to "
            f"{grid[-1]}; make them for this schedule with make_timesteps."
        )
    return grid
