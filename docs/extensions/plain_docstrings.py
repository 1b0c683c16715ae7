# SPDX-License-Identifier: Apache-2.0
"""Reads docstrings and types as this package writes them.

Formulas and examples in docstrings are indented below a line of text, without the "::"
that reStructuredText asks for. `Array` in an annotation is a JAX or a NumPy array;
Python shows it as a union of both.
"""

import re
from collections.abc import Iterable

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects this extension, before napoleon; called by Sphinx."""
    app.connect("autodoc-process-docstring", _process_docstring, priority=100)
    app.connect("autodoc-process-signature", _process_signature)
    return {"parallel_read_safe": True}


def _process_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = mark_code(lines)


def _process_signature(app, what, name, obj, options, signature, returns):
    return tuple(text and shorten_arrays(text) for text in (signature, returns))


def mark_code(lines: Iterable[str]) -> list[str]:
    """Puts "::" before each paragraph that is indented further than the one above it.

    Args:
      lines: of a docstring without its common indentation.
    """
    marked: list[str] = []
    above, is_new = 0, False
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if is_new and line.strip() and depth > above and marked:
            marked += [" " * above + "::", ""]
        if line.strip():
            above = depth
        is_new = not line.strip()
        marked.append(line)
    return marked


def shorten_arrays(text: str) -> str:
    """Writes the union of JAX' and NumPy's arrays as `Array`, keys as `RandomKey`."""
    module = r"(?:~?\w+\.)*"
    both = (
        rf"{module}(\w+)\[{module}Array, ('[^']*')\] \| "
        rf"{module}\1\[{module}ndarray, \2\]"
    )
    text = re.sub(both, r"\1[Array, \2]", text)
    return text.replace("Key[Array, '...'] | UInt32[Array, '... 2']", "RandomKey")
