# SPDX-License-Identifier: Apache-2.0
"""The options of a sampler, as its maker declares them.

An option is an argument of the maker after the schedule, with a default and a line for
the help page of `ldm-jax sample`:

    def ddim(schedule, eta: Annotated[float, "noise added, 0 to 1"] = 0.0) -> Sampler:

Flags of the command line and fields of a config's section `sampling` derive from it.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

# Of every sampler that adds noise.
Temperature = Annotated[float, "factor of the added noise"]


def check_temperature(temperature: float) -> None:
    """Raises ValueError for a factor below 0, which would subtract the noise."""
    if temperature < 0:
        raise ValueError(f"temperature must be 0 or more: got {temperature}.")


@dataclasses.dataclass(frozen=True)
class Option:
    """A value with a name, a type and a line of help.

    Attributes:
      kind: its type, as annotated.
      default: where it is left out.
      doc: one line, for help pages.
    """

    kind: Any
    default: Any
    doc: str


def read_option(annotation: Any, default: Any) -> Option:
    """Reads an option off an annotation, Annotated[type, "doc"] or a type alone."""
    if typing.get_origin(annotation) is Annotated:
        kind, *notes = typing.get_args(annotation)
        docs = [note for note in notes if isinstance(note, str)]
        return Option(kind, default, docs[0] if docs else "")
    return Option(annotation, default, "")


def options_of(maker: Callable[..., Any]) -> dict[str, Option]:
    """Lists the options of a sampler's maker by name."""
    hints = typing.get_type_hints(maker, include_extras=True)
    _, *parameters = inspect.signature(maker).parameters.values()
    return {
        parameter.name: read_option(
            hints.get(parameter.name, type(parameter.default)), parameter.default
        )
        for parameter in parameters
    }
