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
    assert values.whole("-3") == -3 and values.finite_number("1e-3") == 1e-3
    assert values.port("0") == 0 and values.port("65535") == 65535


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *((values.whole, text) for text in ("x", "1.5", "", "9" * 5000, "1" * 12)),
        *((values.finite_number, text) for text in ("x", "nan", "-inf", "1e400", "")),
        *((values.port, text) for text in ("x", "-1", "65536", "9" * 5000)),
        *((values.count, text) for text in ("9" * 12, "9" * 5000)),
        (values.counts, f"1,{'9' * 5000}"),
        (values.share, "9" * 5000),
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
    match = r"^must be .*: got"
    with pytest.raises(argparse.ArgumentTypeError, match=match) as raised:
        read(text)
    assert len(str(raised.value)) < 200


def test_every_number_of_a_flag_is_read_here():
    """argparse's own words, "invalid int value", have no rule and all digits."""
    actions = [a for c in cli.make_parser().all_commands() for a in c._actions]
    assert len(actions) > 100
    for action in actions:
        assert action.type not in (int, float), action.option_strings


@pytest.mark.parametrize(
    "argv",
    [
        ["sample", "--num-steps=a\nb"],
        ["sample", "--guidance-scale=" + "9" * 5000],
        ["sample", "--sampler=" + "9" * 5000],
        ["sample", "--" + "9" * 5000],
        ["sample", "--guide-by=a\nb"],
        ["demo", "--port=x"],
        ["bench", "data", "--needed=x"],
        ["bench", "data", "--records=" + "9" * 5000],
        ["9" * 5000],
    ],
)
def test_a_value_that_is_refused_is_repeated_in_part_and_in_one_line(argv, capsys):
    required = ["--model=a", "--out=b"] if argv[0] == "sample" else []
    assert _code([*argv, *required]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("ldm-jax") and len(lines[-1]) < 600
    assert not any(line.startswith("b") for line in lines)
    assert "invalid" not in lines[-1]


def _code(argv):
    try:
        return cli.main(argv)
    except SystemExit as stop:
        return stop.code


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
