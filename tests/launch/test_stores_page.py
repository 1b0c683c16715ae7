# SPDX-License-Identifier: Apache-2.0
"""The page on object stores: its commands parse, its scripts know their actions."""

import pathlib
import re
import shlex

import pytest

from ldm_jax import cli, configs
from ldm_jax.experiment.config import config_files

ROOT = pathlib.Path(__file__).parents[2]


def commands():
    """Yields the lines of the page's code blocks, continued lines joined."""
    page = (ROOT / "launch" / "STORES.md").read_text()
    for block in re.findall(r"^```\n(.*?)^```", page, re.M | re.S):
        yield from filter(None, block.replace("\\\n", " ").split("\n"))


def of_ldm_jax(line):
    """Returns the arguments of `ldm-jax` in a line; None without it."""
    words = shlex.split(line)
    return words[words.index("ldm-jax") + 1 :] if "ldm-jax" in words else None


@pytest.mark.parametrize("line", [*filter(of_ldm_jax, commands())])
def test_a_command_is_parsed_with_its_config(line):
    argv = of_ldm_jax(line)
    args, overrides = cli.parse(argv)
    assert args.command == argv[0]
    if getattr(args, "config", None):
        assert args.config.partition(":")[0] in configs.names()
        config_files.load_config(args.config, overrides)
    for place in ("workdir", "out"):
        assert (getattr(args, place, None) or "gs://").startswith("gs://")


@pytest.mark.parametrize("line", [x for x in commands() if x.startswith("launch/")])
def test_a_script_knows_its_action(line):
    script, action = shlex.split(line)[:2]
    text = (ROOT / script).read_text()
    assert re.search(rf"^  (\w+\|)*{action}[)|]", text, re.M)


def test_the_page_goes_through_every_stage():
    used = {argv[0] for line in commands() if (argv := of_ldm_jax(line))}
    assert used >= {"plan", "train", "latents", "info", "sample", "evaluate", "export"}
