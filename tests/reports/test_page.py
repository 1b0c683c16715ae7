# SPDX-License-Identifier: Apache-2.0
"""Pages are complete, escape their contents and need no external files."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ldm_jax.reports.page import (
    bars,
    code,
    folded,
    heading,
    pairs,
    paragraph,
    picture,
    table,
    write_page,
)

NASTY = "<script>alert('a & b')</script>"


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for n, v in attributes if n in ("src", "href", "srcset")]

    def handle_data(self, data):
        self.text += data


def test_a_page_contains_everything_and_links_to_nothing(tmp_path):
    image = np.full((4, 4, 3), 7, np.uint8)
    parts = [heading("Curves"), paragraph("text"), picture(image, "red"), code("a\nb")]
    write_page(tmp_path / "page.html", "A run", parts)
    page = Tags((tmp_path / "page.html").read_text())
    assert all(link.startswith("data:") for link in page.links) and page.links
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "A run" in page.text and "Curves" in page.text


def test_what_a_page_shows_is_escaped():
    """Names of files and classes come from strangers."""
    image = np.zeros((2, 2, 3), np.uint8)
    made = [heading(NASTY), paragraph(NASTY), code(NASTY), pairs({NASTY: NASTY})]
    made += [
        table([NASTY], [[NASTY]]),
        picture(image, NASTY),
        bars(NASTY, {NASTY: 1.0}),
    ]
    made.append(folded(NASTY))
    for part in made:
        assert "script" not in Tags(part).tags


def test_a_picture_in_a_page_is_the_picture(tmp_path):
    """Identity: bytes of a file, pixels of an array."""
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    for given in (image, tmp_path / "a.png"):
        data = re.search(r"base64,([^\"]+)", picture(given))[1]
        read = Image.open(io.BytesIO(base64.b64decode(data)))
        np.testing.assert_array_equal(np.asarray(read), image)


def test_rows_of_a_table_are_as_long_as_its_head():
    assert "<td>x</td>" in table(["a", "b"], [["x", 1234]])
    assert "1,234" in table(["a"], [[1234]])
    with pytest.raises(ValueError, match="must have 1 cells"):
        table(["a"], [[1, 2]])


def test_a_bar_is_as_long_as_its_share_of_the_largest():
    made = bars("time", {"step": 4.0, "data": 1.0}, " s")
    assert "width:100.0%" in made and "width:25.0%" in made
