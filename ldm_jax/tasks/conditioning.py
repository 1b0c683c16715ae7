# SPDX-License-Identifier: Apache-2.0
"""The seven kinds of condition: which fields of a batch, and how they enter.

A condition is dropped, for classifier-free guidance, by replacing its fields of the
batch with values that say nothing (`null`) before anything is encoded: the same few
lines serve training, where a share of the samples is replaced, and sampling, where all
are.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.models.conditioners import ClassToken
from ldm_jax.types import Array, Batch, Conditioning, PyTree


@dataclasses.dataclass(frozen=True)
class Conditioner:
    """A kind of condition with everything that is decided about it.

    Attributes:
      kind: its name, a key of CONDITIONS.
      fields: what it reads of a batch.
      module: the network that encodes it, trained with the denoiser; None if nothing
        is learned.
      encode_fields: (apply, batch, frozen) -> Conditioning, where `apply` runs the
        module on its input.
      null_fields: (batch) -> the fields, saying nothing; None where the model has no
        way to say nothing, so that it cannot be guided.
    """

    kind: str
    fields: tuple[str, ...] = ()
    module: nn.Module | None = None
    module_input: str | None = None
    encode_fields: Callable[..., Conditioning] = lambda apply, batch, frozen: (
        Conditioning()
    )
    null_fields: Callable[[Batch], Batch] | None = lambda batch: {}

    def init(self, key: Array, batch: Mapping[str, Any]) -> PyTree:
        """Draws the parameters that are trained with the denoiser; {} if none.

        `batch` may hold `jax.ShapeDtypeStruct`s.
        """
        self.check(batch)
        if self.module is None:
            return {}
        y = batch[self.module_input]
        return self.module.init(key, jnp.zeros(y.shape, y.dtype))["params"]

    def encode(
        self, params: PyTree, batch: Batch, frozen: Mapping[str, PyTree] | None = None
    ) -> Conditioning:
        """Turns the fields of a batch into what the denoiser reads.

        Args:
          params: from `init`.
          batch: arrays with first axis B; other fields than `fields` are ignored.
          frozen: parameters that are never trained, by network.

        Returns:
          Conditioning with first axes B.
        """
        self.check(batch)

        def apply(y):
            return self.module.apply({"params": params}, y)

        return self.encode_fields(apply, batch, frozen or {})

    def null(self, batch: Batch) -> Batch:
        """Replaces the fields of this condition by values that say nothing.

        Raises:
          ValueError: the model was made without a null condition.
        """
        if self.null_fields is None:
            raise ValueError(
                f'the "{self.kind}" condition was made without a null, so it can '
                "neither be dropped in training nor guided: make it with "
                "has_null=True, or set the drop probability to 0 and the guidance "
                "scale to 1."
            )
        return {**batch, **self.null_fields(batch)}

    def drop(self, batch: Batch, key: Array, probability: float) -> Batch:
        """Replaces the condition by null, sample by sample, with a probability.

        Args:
          batch: arrays with first axis B.
          key: random key.
          probability: of a sample's losing its condition; 0 leaves the batch alone.

        Returns:
          The batch with the same shapes.
        """
        if probability == 0 or not self.fields:
            return batch
        null = self.null(batch)
        size = batch[self.fields[0]].shape[0]
        lost = jax.random.bernoulli(key, probability, (size,))

        def choose(name):
            y = batch[name]
            return jnp.where(lost.reshape(-1, *[1] * (y.ndim - 1)), null[name], y)

        return {**batch, **{name: choose(name) for name in self.fields}}

    def check(self, batch: Mapping[str, Any]) -> None:
        """Raises ValueError unless the batch holds the fields of this condition."""
        missing = [name for name in self.fields if name not in batch]
        if missing:
            raise ValueError(
                f'the "{self.kind}" condition reads {", ".join(self.fields)} of a '
                f"batch: got a batch of {', '.join(sorted(batch)) or 'nothing'}; take "
                "a dataset (or write latents) with these fields."
            )


def no_condition() -> Conditioner:
    """Makes the condition of an unconditional model."""
    return Conditioner("none")


def class_condition(
    num_classes: int, width: int | None = 512, has_null: bool = True
) -> Conditioner:
    """Makes a class label [B] int32 into one token, or hands it on.

    Args:
      num_classes: classes; labels are in [0, num_classes).
      width: d of the token; None hands the label to the UNet, which adds its embedding
        to that of time (set UNet.num_classes to num_classes + has_null).
      has_null: whether one more class, num_classes, stands for "any".
    """
    rows = num_classes + has_null

    def encode(apply, batch, frozen):
        if width is None:
            return Conditioning(class_label=batch["label"])
        return Conditioning(context=apply(batch["label"]))

    def null(batch):
        return {"label": jnp.full_like(batch["label"], num_classes)}

    return Conditioner(
        kind="class",
        fields=("label",),
        module=None if width is None else ClassToken(rows, width),
        module_input="label",
        encode_fields=encode,
        null_fields=null if has_null else None,
    )


# Every kind of condition, by name.
CONDITIONS = {"none": no_condition, "class": class_condition}


def make_conditioner(kind: str, **fields) -> Conditioner:
    """Makes a conditioner by name.

    Raises:
      ValueError: the kind is unknown.
      TypeError: a field is unknown or missing.
    """
    if kind not in CONDITIONS:
        raise ValueError(
            f'unknown condition "{kind}"; one of: {", ".join(sorted(CONDITIONS))}.'
        )
    return CONDITIONS[kind](**fields)
