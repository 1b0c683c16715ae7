# SPDX-License-Identifier: Apache-2.0
"""The parts that a builder makes from the sections of a config."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ldm_jax.data.records import Source
from ldm_jax.tasks.sampling import Sampling
from ldm_jax.training.run import Evaluate
from ldm_jax.types import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The training examples of a run, before they are divided into batches.

    Attributes:
      source: the records.
      transform: (record, generator) -> fields of a sample.
      description: what the records are and where, in words.
      num_threads: that read: every core for photographs, one for latents, which are
        read faster than any step.
    """

    source: Source
    transform: Callable
    description: str
    num_threads: int = 1


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Parts:
    """The parts of a run before its data is placed on devices.

    Attributes:
      model: the specification of the networks that are trained.
      task: what is learned.
      label: kind of run, in words.
      batch_shapes: field -> jax.ShapeDtypeStruct of a global batch, as the config
        describes it.
      examples: the data; None in an abstract run.
      evaluate: called between steps; None for none.
      sampling, latent_shape: of a diffusion model.
    """

    model: Any
    task: Task
    label: str
    batch_shapes: Mapping[str, jax.ShapeDtypeStruct]
    examples: Examples | None = None
    evaluate: Evaluate | None = None
    sampling: Sampling | None = None
    latent_shape: tuple[int, int, int] | None = None
