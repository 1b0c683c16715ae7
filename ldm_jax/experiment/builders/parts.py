# SPDX-License-Identifier: Apache-2.0
"""The parts that a builder makes from the sections of a config."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from ldm_jax.data.loader import Batches, make_batches
from ldm_jax.data.records import Source
from ldm_jax.experiment.builders.evaluation import Evaluator
from ldm_jax.parallel.sharding import batch_sharding
from ldm_jax.tasks.sampling import Sampling
from ldm_jax.types import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The training examples of a run, before they are divided into batches.

    Attributes:
      source: the records.
      transform: (record, generator) -> fields of a sample.
      what: what the records are and where, "images of ./photos".
      num_threads: number of threads that read records: one per core for photographs,
        one for latents, which are read faster than they are trained on.
    """

    source: Source
    transform: Callable
    what: str
    num_threads: int = 1

    def batches(self, batch_size: int, mesh: Mesh, seed: int) -> Batches:
        """Makes the batches of a run, split over a mesh."""
        return make_batches(
            self.source,
            self.transform,
            batch_size,
            batch_sharding(mesh),
            seed=seed,
            num_threads=self.num_threads,
        )

    @property
    def description(self) -> str:
        """Describes them: "540 images of ./photos, 5 classes (daisy, ...)"."""
        parts = [f"{len(self.source):,} {self.what}"]
        names = getattr(self.source, "class_names", ())
        count = getattr(self.source, "num_classes", None)
        if names:
            shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            parts.append(f"{len(names)} classes ({shown})")
        elif count:
            parts.append(f"{count} classes")
        if refused := getattr(self.source, "refused", ()):
            files = "file" if len(refused) == 1 else "files"
            parts.append(f"{len(refused)} {files} left out")
        return ", ".join(parts)

    def enlarged(self, side: int) -> str:
        """Describes the pictures that are smaller than the images; "" for none.

        Args:
          side: shorter side of the images.
        """
        sides = getattr(self.source, "short_sides", ())
        if not (small := sum(s < side for s in sides)):
            return ""
        return (
            f"{small:,} of {len(sides):,} pictures have sides below {side} pixels: set "
            f"transform.image_size to less, or leave them out by images.min_side={side}"
        )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Parts:
    """The parts of a run before its data is placed on devices.

    Attributes:
      model: the specification of the networks that are trained.
      task: what is learned.
      label: kind of run, in words.
      batch_shapes: field -> jax.ShapeDtypeStruct of a global batch, as the config
        describes it.
      latent_shape: (h, w, c) of the model's latents.
      examples: the data; None in an abstract run.
      evaluate: called between steps; None for none.
      sampling: of a diffusion model.
    """

    model: Any
    task: Task
    label: str
    batch_shapes: Mapping[str, jax.ShapeDtypeStruct]
    latent_shape: tuple[int, int, int]
    examples: Examples | None = None
    evaluate: Evaluator | None = None
    sampling: Sampling | None = None

    @property
    def description(self) -> dict[str, str]:
        """Lines of a run's summary: the data, and the sizes of images and latents."""
        (h, w, c), f = self.latent_shape, self.model.autoencoder.f
        data = {"data": self.examples.description} if self.examples else {}
        if self.examples and (small := self.examples.enlarged(f * min(h, w))):
            data["enlarged"] = small
        return data | {"images": f"{h * f}x{w * f}", "latents": f"{h}x{w}x{c}, f = {f}"}
