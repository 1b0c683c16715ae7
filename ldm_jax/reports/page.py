# SPDX-License-Identifier: Apache-2.0
"""The parts of a page: text, tables, pictures, curves, bars; and the page itself."""

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ldm_jax.files.writing import write_text

STYLE = """
:root { color-scheme: light dark; --line: #8886; --accent: #3b6fd4; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .2em 1em .2em 0; vertical-align: top;
         border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { font-weight: 600; white-space: nowrap; }
td.number { text-align: right; white-space: nowrap;
            font-variant-numeric: tabular-nums; }
figure { display: inline-block; margin: .5em 1em .5em 0; max-width: 100%;
         vertical-align: top; }
figcaption { font-size: .9em; opacity: .8; }
img { image-rendering: pixelated; max-width: 100%; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
pre { overflow-x: auto; background: #8882; padding: .6em; }
details > summary { cursor: pointer; margin: 1em 0; }
"""
COLOURS = ("#3b6fd4", "#d4643b", "#3ba272", "#8a56c2", "#b8860b", "#777777")


class Html(str):
    """Escaped HTML, a part of a page."""


def heading(text: str) -> Html:
    """Makes the heading of a section."""
    return Html(f"<h2>{html.escape(text)}</h2>")


def paragraph(text: str) -> Html:
    """Makes a paragraph of plain text."""
    return Html(f"<p>{html.escape(text)}</p>")


def code(text: str) -> Html:
    """Makes a block of commands or settings, shown as they are."""
    return Html(f"<pre>{html.escape(text)}</pre>")


def folded(title: str, *parts: Html) -> Html:
    """Makes a section that is opened by a click."""
    return Html(
        f"<details><summary>{html.escape(title)}</summary>{''.join(parts)}</details>"
    )


def pairs(entries: Mapping[str, Any]) -> Html:
    """Makes a table of names and values, one per line."""
    lines = [
        f"<tr><th>{_text(n)}</th><td>{_text(v)}</td></tr>" for n, v in entries.items()
    ]
    return Html(f"<table>{''.join(lines)}</table>")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Html:
    """Makes a table with a head; numbers are aligned to the right.

    Raises:
      ValueError: a row has another length than the head.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"a row must have {len(columns)} cells, as the head: got {len(row)}."
            )
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return Html(f"<table><tr>{head}</tr>{body}</table>")


def picture(image: np.ndarray | str | os.PathLike, caption: str = "") -> Html:
    """Makes a figure of an image, which is copied into the page.

    Args:
      image: uint8 [H, W, 3], or the path of a PNG file that this package wrote.
      caption: below the image.
    """
    if isinstance(image, np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        data = buffer.getvalue()
    else:
        with open(image, "rb") as file:
            data = file.read()
    source = base64.b64encode(data).decode()
    return Html(
        f'<figure><img alt="{html.escape(caption)}" '
        f'src="data:image/png;base64,{source}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def bars(title: str, values: Mapping[str, float], unit: str = "") -> Html:
    """Makes a histogram: a bar for each name, as long as its value."""
    largest = max([*values.values(), 1e-12])
    lines = [
        f'<tr><th>{_text(name)}</th><td class="number">{_number(value)}{unit}</td>'
        f'<td style="width:50%"><div style="background:var(--accent);height:.8em;'
        f'width:{100 * max(value, 0) / largest:.1f}%"></div></td></tr>'
        for name, value in values.items()
    ]
    table = f'<table style="width:640px;max-width:100%">{"".join(lines)}</table>'
    return Html(
        f"<figure>{table}<figcaption>{html.escape(title)}</figcaption></figure>"
    )


def write_page(path: str | os.PathLike, title: str, parts: Sequence[Html]) -> None:
    """Writes a page atomically.

    Args:
      path: file to write.
      title: of the page.
      parts: made by the functions of this module and of `curves`.
    """
    escaped = html.escape(title)
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escaped}</title><style>{STYLE}</style>"
        f"<h1>{escaped}</h1>{''.join(parts)}</html>\n"
    )
    write_text(path, page)


def _cell(value: Any) -> str:
    """Makes a cell of a table."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (
        f'<td class="number">{_number(value)}</td>'
        if is_number
        else f"<td>{_text(value)}</td>"
    )


def _text(value: Any) -> str:
    """Formats a cell of a table; HTML is unchanged."""
    if isinstance(value, Html):
        return value
    if isinstance(value, float):
        return _number(value)
    return html.escape(str(value)).replace("\n", "<br>")


def _number(value: float) -> str:
    """Formats a number with four digits, whole numbers with separators."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
