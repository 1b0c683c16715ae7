# SPDX-License-Identifier: Apache-2.0
"""Makes the training examples of a diffusion model: latent or image, and condition."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditions.base import Condition
from ldm_jax.data.records import Record
from ldm_jax.tasks.model import LatentDiffusion


@dataclasses.dataclass(frozen=True)
class ConditionTransform:
    """Makes a training example, and the fields of its condition.

    Attributes:
      transform: (record, rng) -> example.
      conditioner: of the model.
      subject: the field that is learned, "moments" or "image"; only this and the
        condition's fields are kept.
    """

    transform: Callable[..., dict[str, Any]]
    conditioner: Condition
    subject: str = "moments"

    @property
    def description(self) -> dict[str, Any]:
        """The transform as JSON."""
        return {**self.transform.description, "condition": self.conditioner.kind}

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """Returns the example of a record: arrays by name."""
        # After the transform: a mirrored image's boxes are mirrored before they are
        # encoded as tokens.
        example = self.transform(record, rng)
        together = [n for n in self.conditioner.shuffled if n in example]
        if together:
            order = rng.permutation(len(example[together[0]]))
            example |= {name: np.asarray(example[name])[order] for name in together}
        example = self.conditioner.prepare(example)
        kept = {self.subject, *self.conditioner.fields}
        return {name: value for name, value in example.items() if name in kept}


def batch_shapes(
    model: LatentDiffusion, batch_size: int, shape: tuple[int, int, int], subject: str
) -> dict[str, jax.ShapeDtypeStruct]:
    """Lists the fields of a batch of such examples.

    Args:
      model: that learns from them.
      batch_size: B.
      shape: (h, w, c) of a latent.
      subject: "moments" or "image".

    Returns:
      {field: jax.ShapeDtypeStruct [B, ...]} of the subject and the condition's fields.
    """
    h, w, _ = shape
    f, autoencoder = model.autoencoder.f, model.autoencoder
    subjects = {
        "moments": (h, w, autoencoder.moments_channels),
        "image": (f * h, f * w, autoencoder.in_channels),
    }
    learned = jax.ShapeDtypeStruct((batch_size, *subjects[subject]), jnp.float32)
    condition = model.conditioner.shapes(batch_size, (f * h, f * w), f)
    return {subject: learned, **condition}


@dataclasses.dataclass(frozen=True)
class StoredTransform:
    """Makes the examples that are stored as latents, with a condition's fields.

    Attributes:
      transform: (record, rng) -> example.
      conditioner: of the model; its `stored` fields are added if an example lacks them.
    """

    transform: Callable[..., dict[str, Any]]
    conditioner: Condition

    @property
    def description(self) -> dict[str, Any]:
        """The transform of the images, as JSON."""
        return self.transform.description

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """Returns the example of a record: arrays and text by name."""
        example = self.transform(record, rng)
        return {**example, **self.conditioner.to_store(example)}
