# SPDX-License-Identifier: Apache-2.0
"""Declares the arrays of a condition, and the bounds of its counts."""

import dataclasses
import numbers
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ldm_jax.models.autoencoder import Autoencoder

# The largest counts that a config may ask for.
MAX_CLASSES, MAX_IDS, MAX_WIDTH = 2**20, 2**24, 2**16
MAX_DEPTH, MAX_TOKENS, MAX_OBJECTS = 2**10, 2**16, 2**12


@dataclasses.dataclass(frozen=True)
class Field:
    """One array that a condition reads: its names, shape and values.

    Attributes:
      keyword: takes the array in Python, `model.condition(params, KEYWORD=...)`, and in
        exported programs.
      flag: of `ldm-jax sample`, without the dashes; its text is read by `from_user`.
      axes: one entry per axis: a number, or a name: "B" samples, "H", "W" sides of the
        image, "h", "w" those of the latent, or an attribute of the condition.
      dtype: "int32" or "float32".
      limit: attribute of the condition that bounds the ids, which are in [0, limit); ""
        bounds nothing.
      doc: what the flag takes, for the help page.
      example: a value of the flag, for commands that are shown.
      user_keyword: takes what the flag takes, in Python too; "" where that is `keyword`
        (and Python takes the array alone).
    """

    keyword: str
    flag: str
    axes: tuple[str | int, ...]
    dtype: str
    limit: str = ""
    doc: str = ""
    user_keyword: str = ""
    example: str = ""

    @property
    def argument(self) -> str:
        """The name of the argument of `from_user`."""
        return self.user_keyword or self.keyword

    @property
    def keywords(self) -> tuple[str, ...]:
        """The keywords that Python takes, of which one is given."""
        return tuple(dict.fromkeys((self.keyword, self.argument)))

    def shape(
        self, condition: Any, sizes: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[Any, ...]:
        """Returns the size of each axis; the name of the axis where it is not known.

        Args:
          condition: has the field; its attributes are sizes of axes too.
          sizes: of the axes of a batch, by name.
        """
        return tuple(
            axis
            if isinstance(axis, int)
            else sizes.get(axis, getattr(condition, axis, axis))
            for axis in self.axes
        )

    @property
    def is_mirrored(self) -> bool:
        """Whether the array is laid out like an image, so that it can be mirrored."""
        return not {"W", "w"}.isdisjoint(self.axes)


@dataclasses.dataclass(frozen=True)
class FirstStageFields:
    """Fields that a condition may copy from the first stage of its model.

    Attributes:
      autoencoder: the module.
      latent_scale: of the model; None where it has not been measured yet.
      f: downsampling.
    """

    autoencoder: Autoencoder
    latent_scale: float | None

    @property
    def f(self) -> int:
        return self.autoencoder.f


def check_counts(condition: Any, **largest: int) -> None:
    """Checks counts among the fields of a condition; None is not a count.

    Args:
      condition: a dataclass.
      **largest: name of a field -> the largest number that it may be.

    Raises:
      ValueError: one is not a whole number from 1 to its largest.
    """
    for name, bound in largest.items():
        value = getattr(condition, name)
        is_count = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if value is not None and not (is_count and not value < 1 and value <= bound):
            raise ValueError(
                f"condition.{name} must be a whole number from 1 to {bound}: got "
                f"{value!r}."
            )
