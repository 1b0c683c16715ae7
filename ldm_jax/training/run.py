# SPDX-License-Identifier: Apache-2.0
"""The record of a run: the objects that training needs, built from the settings."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from ldm_jax.training.optimizer import Optimizer
from ldm_jax.training.options import LoopOptions
from ldm_jax.training.state import TrainState
from ldm_jax.types import Batch, Task

# (state, step) -> (scalars by name, pictures uint8 [H, W, 3] by name).
Evaluate = Callable[[TrainState, int], tuple[Mapping[str, Any], Mapping[str, Any]]]


class BatchSource(Protocol):
    """A source of batches; the rows of a step are a function of (seed, step)."""

    def shapes(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Returns the global shape and dtype of every field."""
        ...

    def stream(self, first_step: int) -> Iterator[Batch]:
        """Iterates over the batches of steps first_step, first_step + 1, ..."""
        ...

    def records(self, step: int) -> list:
        """Names the records of a step's batch, JSON-able, in their order."""
        ...

    def state(self, step: int) -> dict[str, Any]:
        """Returns a small JSON dict that names the data and the position in it."""
        ...

    def check(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError, which lists the changes, if `state` is of other data."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """Everything that a training run consists of.

    Attributes:
      task: what is learned, with the parameters that are only read (`task.frozen`).
      batch_shapes: field -> jax.ShapeDtypeStruct of a global batch.
      batches: placed by `batch_sharding(mesh)`; None where the run is abstract: shapes
        without data, for planning.
      mesh: from `make_mesh`.
      optimizer: from `make_optimizer`.
      options: of the loop.
      evaluate: called every `options.evaluate_every` steps; None for none.
      seed: of the initial parameters and of the steps' randomness.
      model: the specification of the networks that the task trains.
      sampling: how a diffusion model is sampled, `tasks.sampling.Sampling`.
      latent_shape: (h, w, c) of a diffusion model's latents.
      config: the settings that all of this was made of, JSON-able, with nothing left
        open; None writes and compares none.
      may_change: name of a setting, dotted -> whether it may differ when the run is
        resumed: True, False, or the option of `LoopOptions` that allows it.
      defines_model: name of a setting, dotted -> whether it decides what the networks
        compute.
      description: lines of the summary that name the data and the sizes, by name.
      label: kind of run, in words, for the progress line.
    """

    task: Task
    batch_shapes: Mapping[str, jax.ShapeDtypeStruct]
    mesh: Mesh
    optimizer: Optimizer
    options: LoopOptions
    batches: BatchSource | None = None
    evaluate: Evaluate | None = None
    seed: int = 0
    model: Any = None
    sampling: Any = None
    latent_shape: tuple[int, int, int] | None = None
    config: Mapping[str, Any] | None = None
    may_change: Callable[[str], bool | str] = lambda name: False
    defines_model: Callable[[str], bool] = lambda name: False
    description: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label: str = "train"

    def data(self) -> BatchSource:
        """Returns the batches.

        Raises:
          ValueError: the run is abstract.
        """
        if self.batches is None:
            raise ValueError(
                "a run must have batches to be trained: got an abstract one, which is "
                "for planning; prepare it without abstract=True."
            )
        return self.batches

    @property
    def batch_size(self) -> int:
        """Samples per step, over all devices."""
        return next(iter(self.batch_shapes.values())).shape[0]
