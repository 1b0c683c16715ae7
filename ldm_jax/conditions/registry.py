# SPDX-License-Identifier: Apache-2.0
"""The table of all kinds of condition, and the function that builds one of them.

kind       fields          enters by          null
none       -               -                  -
class      label           cross-attention    one more class
text       tokens          cross-attention    the empty text
layout     tokens          cross-attention    no objects
semantic   label_map       concatenation      no label anywhere
superres   low_res         concatenation      mid-grey
inpaint    image, mask     concatenation      the hole covers the image
retrieval  embeddings      cross-attention    zeros
hybrid     of its parts    both               that of each part
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.fields import FirstStageFields
from ldm_jax.conditions.kinds.class_label import ClassLabel
from ldm_jax.conditions.kinds.hybrid import Hybrid
from ldm_jax.conditions.kinds.inpainting import Inpainting
from ldm_jax.conditions.kinds.layout import Layout
from ldm_jax.conditions.kinds.retrieval import Retrieval
from ldm_jax.conditions.kinds.semantic_map import SemanticMap
from ldm_jax.conditions.kinds.super_resolution import SuperResolution
from ldm_jax.conditions.kinds.text import Text
from ldm_jax.conditions.kinds.unconditional import Unconditional
from ldm_jax.files.errors import nearest_name

# `condition.kind` of a config -> the class whose fields the section has.
CONDITIONS: dict[str, type[Condition]] = {
    "none": Unconditional,
    "class": ClassLabel,
    "text": Text,
    "layout": Layout,
    "semantic": SemanticMap,
    "superres": SuperResolution,
    "inpaint": Inpainting,
    "retrieval": Retrieval,
    "hybrid": Hybrid,
}


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of `ldm-jax sample` that gives a condition.

    Attributes:
      argument: of `from_user`.
      doc: what it takes.
      kinds: that take it.
    """

    argument: str
    doc: str
    kinds: tuple[str, ...]


def condition_flags() -> dict[str, Flag]:
    """Lists the flags of all kinds, by name without the dashes."""
    flags: dict[str, Flag] = {}
    for kind, condition in CONDITIONS.items():
        if not isinstance(condition.fields, Mapping):
            continue  # a hybrid has those of its parts
        for field in condition.fields.values():
            known = flags.get(field.flag, Flag(field.argument, field.doc, ()))
            flags[field.flag] = dataclasses.replace(known, kinds=(*known.kinds, kind))
    return flags


def make_condition(
    kind: str, first_stage: FirstStageFields | None = None, **section: Any
) -> Condition:
    """Makes a condition of a config's section.

    Args:
      kind: a key of CONDITIONS.
      first_stage: of the model; see `Condition.from_section`.
      **section: fields of that kind.

    Raises:
      ValueError: the kind or a field is unknown, or a value is out of its range.
      TypeError: a field is missing.
    """
    if kind not in CONDITIONS:
        raise ValueError(
            f'unknown condition "{kind}"; one of: {", ".join(sorted(CONDITIONS))}.'
        )
    condition = CONDITIONS[kind]
    known = {field.name for field in dataclasses.fields(condition)}
    for name in section.keys() - known:
        hint = nearest_name(name, known)
        takes = ", ".join(sorted(known)) or "no field"
        raise ValueError(
            f'the condition "{kind}" has no {name}{hint} It takes: {takes}.'
        )
    return condition.from_section(section, first_stage, make_condition)
