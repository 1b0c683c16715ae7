# SPDX-License-Identifier: Apache-2.0
"""The base class of all conditions: fields as data, encoding, null and dropping.

A kind of condition is one subclass and one row in `registry.CONDITIONS`. It declares
its arrays as `fields`. The flags of `ldm-jax sample`, the keywords of
`model.condition`, the fields stored with latents, the shapes of plans and the inputs of
exported programs are derived from them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ldm_jax.conditions.fields import Field, FirstStageFields
from ldm_jax.types import Array, Batch, Conditioning, PyTree, RandomKey


@dataclasses.dataclass(frozen=True)
class Condition:
    """A kind of condition; its dataclass fields are those of the config's section.

    A subclass declares `kind`, `fields` and `record_fields`, and overrides what it
    needs of `module`, `encode_fields`, `null_fields`, `prepare`, `from_user`, `finish`
    and `image_size`.

    Attributes:
      kind: its name in `registry.CONDITIONS`.
      fields: the arrays that it reads, by their name in a batch.
      record_fields: the fields of a record that it is made of, each with the way to get
        them, for errors.
      drawn_anew: those of `record_fields` that latents do not store, since they are
        drawn in every step.
    """

    kind: ClassVar[str]
    fields: ClassVar[Mapping[str, Field]] = {}
    record_fields: ClassVar[Mapping[str, str]] = {}
    drawn_anew: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_section(
        cls,
        section: Mapping[str, Any],
        first_stage: FirstStageFields | None,
        make: Callable[..., "Condition"],
    ) -> "Condition":
        """Makes the condition of a config's section without its `kind`.

        Args:
          section: dataclass fields by name.
          first_stage: of the model; gives "autoencoder", "latent_scale" and "f" to a
            kind that has these fields where `section` leaves them out.
          make: makes a condition of a section with its `kind`, for kinds with parts.
        """
        del make
        if first_stage is None:
            return cls(**section)
        names = {"autoencoder", "latent_scale", "f"}
        if "autoencoder" in section:
            # A condition with its own first stage, as in imported models: the original
            # does not scale the latents of a condition.
            names.remove("latent_scale")
        known = names & {field.name for field in dataclasses.fields(cls)}
        defaults = {name: getattr(first_stage, name) for name in known}
        return cls(**{**defaults, **section})

    @property
    def module(self) -> nn.Module | None:
        """The network that encodes the first of `fields`; None without one."""
        return None

    @property
    def reads_frozen(self) -> tuple[str, ...]:
        """The networks whose frozen parameters the condition uses.

        "conditioner" is its own `module`, "autoencoder" the model's first stage.
        """
        return ()

    @property
    def has_null(self) -> bool:
        """Whether a sample can go without its condition."""
        return True

    @property
    def parts(self) -> Mapping[str, "Condition"]:
        """The parts of the condition by name: itself, unless it is hybrid."""
        return {"": self}

    def encode_fields(
        self, apply: Callable[[Array], Array], batch: Batch, frozen: Mapping[str, Any]
    ) -> Conditioning:
        """Encodes the fields of a batch as inputs of the denoiser.

        Args:
          apply: runs `module` with its parameters.
          batch: arrays with first axis B.
          frozen: parameters that are never trained, by network.
        """
        del apply, batch, frozen
        return Conditioning()

    def null_fields(self, batch: Batch) -> Batch:
        """Returns the fields of the null condition, shaped like those of the batch."""
        del batch
        return {}

    def prepare(self, record: dict[str, Any]) -> dict[str, Any]:
        """Makes the fields of one record: a caption into tokens, boxes into tokens.

        Args:
          record: NumPy arrays and text, after the transform of images.

        Returns:
          The record with `fields`.

        Raises:
          ValueError: the record lacks one of `record_fields`, or holds a wrong value.
        """
        for name, way_out in self.record_fields.items():
            if name not in record:
                raise ValueError(
                    f'the "{self.kind}" condition is made of {name}: got records with '
                    f"{', '.join(sorted(record)) or 'nothing'}; {way_out}; "
                    "ldm-jax latents --config stores it with the latents."
                )
        return record

    def from_user(self, **inputs: Any) -> dict[str, np.ndarray]:
        """Reads a user's inputs, by `Field.argument`: numbers, text, files.

        Returns:
          The fields, [N, ...] each.

        Raises:
          ValueError: a value does not fit; names it, or its file.
        """
        assert not inputs, f"{type(self).__name__} must define from_user"
        return {}

    def finish(
        self, batch: Batch, image: Float[Array, "B H W 3"]
    ) -> Float[Array, "B H W 3"]:
        """Finishes decoded images in about [-1, 1]."""
        return image

    def image_size(self, batch: Mapping[str, Any]) -> tuple[int, int] | None:
        """Returns (H, W) of the images that the fields are about; None if any."""
        del batch
        return None

    def init(self, key: RandomKey, batch: Mapping[str, Any]) -> PyTree:
        """Draws the parameters that are trained with the denoiser; {} if none.

        `batch` may hold `jax.ShapeDtypeStruct`s.
        """
        return {} if "conditioner" in self.reads_frozen else self._draw(key, batch)

    def init_frozen(self, key: RandomKey, batch: Mapping[str, Any]) -> PyTree:
        """Draws parameters like those of frozen["conditioner"]; {} if none."""
        return self._draw(key, batch) if "conditioner" in self.reads_frozen else {}

    def _draw(self, key: RandomKey, batch: Mapping[str, Any]) -> PyTree:
        self.check(batch)
        if self.module is None:
            return {}
        y = batch[next(iter(self.fields))]
        return self.module.init(key, jnp.zeros(y.shape, y.dtype)).get("params", {})

    def encode(
        self, params: PyTree, batch: Batch, frozen: Mapping[str, PyTree] | None = None
    ) -> Conditioning:
        """Encodes the fields of a batch.

        Args:
          params: from `init`.
          batch: arrays with first axis B; other fields than `fields` are ignored.
          frozen: parameters that are never trained, by network.

        Returns:
          Conditioning with first axes B.

        Raises:
          ValueError: a field of the batch, or a frozen network, is missing.
        """
        self.check(batch)
        frozen = frozen or {}
        for name in self.reads_frozen:
            # A model of pixels has an autoencoder without parameters.
            if name not in frozen or (name == "conditioner" and not frozen[name]):
                raise ValueError(
                    f'this "{self.kind}" condition needs frozen["{name}"], the '
                    f"parameters of that network: got {sorted(frozen)}."
                )
        if "conditioner" in self.reads_frozen:
            params = frozen["conditioner"]

        def apply(y):
            assert self.module is not None, f"{self.kind} has no network"
            return self.module.apply({"params": params}, y)

        return self.encode_fields(apply, batch, frozen)

    def null(self, batch: Batch) -> Batch:
        """Replaces the fields of this condition by those of the null condition.

        Raises:
          ValueError: the model was made without a null condition.
        """
        if not self.has_null:
            raise ValueError(
                f'the "{self.kind}" condition was made without a null, so it can '
                "neither be dropped in training nor guided: make it with "
                "has_null=True, or set the drop probability to 0 and the guidance "
                "scale to 1."
            )
        return {**batch, **self.null_fields(batch)}

    def drop(self, batch: Batch, key: RandomKey, probability: float) -> Batch:
        """Replaces the condition by null, sample by sample, with a probability.

        Args:
          batch: arrays with first axis B.
          key: random key.
          probability: of losing the condition; 0 returns the batch itself.
        """
        if probability == 0 or not self.fields:
            return batch
        null = self.null(batch)
        size = batch[next(iter(self.fields))].shape[0]
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

    def shapes(
        self, batch_size: Any, image_size: tuple[int, int], f: int
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of the fields for a batch of images.

        Args:
          batch_size: B, a number or a symbolic dimension.
          image_size: (H, W).
          f: downsampling of the first stage.
        """
        H, W = image_size
        sizes = dict(B=batch_size, H=H, W=W, h=H // f, w=W // f)
        return {
            name: jax.ShapeDtypeStruct(field.shape(self, sizes), field.dtype)
            for name, field in self.fields.items()
        }

    @property
    def stored(self) -> tuple[str, ...]:
        """The fields of a record that latents store for this condition."""
        return tuple(n for n in self.record_fields if n not in self.drawn_anew)

    @property
    def shuffled(self) -> tuple[str, ...]:
        """The fields of a record whose rows training brings to a new order each time.

        One order for all of them.
        """
        return ()

    @property
    def mirrored(self) -> tuple[str, ...]:
        """The stored fields that differ in the mirror image, by their axes."""
        names = [name for name, field in self.fields.items() if field.is_mirrored]
        return tuple(name for name in names if name in self.stored)

    def to_store(self, record: dict[str, Any]) -> dict[str, Any]:
        """Returns the fields that latents store of a record, made where it lacks them.

        Raises:
          ValueError: as `prepare`.
        """
        if not set(self.stored) <= set(record):
            record = self.prepare(record)
        return {name: record[name] for name in self.stored}
