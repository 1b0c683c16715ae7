# SPDX-License-Identifier: Apache-2.0
"""Values of flags are read and checked; commands shown in help pages can be parsed."""

import argparse
import contextlib
import io
import re
import shlex

import pytest

from ldm_jax import cli
from ldm_jax.cli import values


def test_counts_sizes_and_intervals_are_read():
    assert values.count("7") == values.count_or_auto("7") == 7
    assert values.count_or_auto("auto") is None
    assert values.seed("0") == 0 and values.seed(str(2**32 - 1)) == 2**32 - 1
    assert values.size("256") == (256, 256) and values.size("256x512") == (256, 512)
    assert values.interval("200,800") == (200, 800)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *((values.count, text) for text in ("0", "-1", "1.5", "", "many")),
        *((values.count_or_auto, text) for text in ("0", "-1", "Auto", "none")),
        *((values.size, text) for text in ("0x8", "x8", "ax8", "8x8x8", "99999x99999")),
        *((values.seed, text) for text in ("-1", "1e3", str(2**32), "9" * 5000)),
        *(
            (values.interval, text)
            for text in ("8", "8,2", "-1,5", "1,2,3", f"0,{10**20}")
        ),
    ],
)
def test_other_values_are_refused(read, text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be .*: got"):
        read(text)


def examples():
    """Yields the commands in the examples of all help pages, one line each."""
    pages = [[c.__name__.rpartition(".")[2].rstrip("_")] for c in cli.COMMANDS]
    pages += [["weights", "lpips"], ["weights", "inception"]]
    pages += [["bench", name] for name in ("train", "sampler", "data", "metrics")]
    for words in pages:
        page = io.StringIO()
        with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
            cli.main([*words, "--help"])
        text = page.getvalue().partition("examples:")[2].replace("\\\n", "")
        for line in re.findall(r"^ +ldm-jax (.*)", text, re.MULTILINE):
            yield re.sub(r"  +\(.*\)$", "", line)


def test_the_examples_of_help_pages_can_be_parsed():
    lines = [line for line in examples() if "--help" not in line]
    assert len(lines) > 30
    for line in lines:
        args, _ = cli.parse(shlex.split(line))
        assert args.command == line.split()[0]
