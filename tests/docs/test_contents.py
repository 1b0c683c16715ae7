# SPDX-License-Identifier: Apache-2.0
"""The site has every page of the repository and links that work without it."""

import fnmatch
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/**/*.md")]
    if path.relative_to(ROOT).parts[0] in ("ldm_jax", "configs", "launch", "docs")
    or path.parent == ROOT
]


def test_every_page_is_in_the_table_of_contents():
    listed = (ROOT / "docs/contents.txt").read_text().split()
    for path in PAGES:
        name = str(path.relative_to(ROOT).with_suffix(""))
        matches = [pattern for pattern in listed if fnmatch.fnmatch(name, pattern)]
        assert name == "README" or matches, name


def test_every_link_of_a_page_leads_to_a_file():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path}: {target}"
