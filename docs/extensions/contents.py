# SPDX-License-Identifier: Apache-2.0
"""Adds the table of contents, docs/contents.txt, to the first page of the site.

README.md itself has none, since it is also read on GitHub. index.html leads to it.
"""

import pathlib

from sphinx.application import Sphinx

CONTENTS = pathlib.Path(__file__).parents[1] / "contents.txt"
INDEX = '<!doctype html><meta http-equiv="refresh" content="0; url={page}.html">\n'


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects this extension; called by Sphinx."""
    app.connect("source-read", _add_contents)
    app.connect("build-finished", _write_index)
    return {"parallel_read_safe": True}


def _add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Appends the table of contents to the text of the first page."""
    if docname == app.config.root_doc:
        source[0] += "\n\n" + CONTENTS.read_text()


def _write_index(app: Sphinx, error: Exception | None) -> None:
    """Writes index.html, which leads to the first page."""
    if error is None and app.builder.format == "html":
        index = pathlib.Path(app.outdir) / "index.html"
        index.write_text(INDEX.format(page=app.config.root_doc))
