# SPDX-License-Identifier: Apache-2.0
"""Every command shown to a reader that names a config: the config takes its fields."""

import contextlib
import io
import pathlib
import re

import pytest

from ldm_jax import cli
from ldm_jax.experiment.config import config_files
from ldm_jax.study.config import load_study

ROOT = pathlib.Path(__file__).parents[2]


def shown_to_readers():
    """Yields (where, text) of pages, configs' lab notes and help pages."""
    for pattern in ("*.md", "configs/*.py", "launch/*", "ldm_jax/**/*.md"):
        for path in sorted(ROOT.glob(pattern)):
            yield str(path.relative_to(ROOT)), path.read_text()
    for command in (
        "train",
        "quickstart",
        "plan",
        "latents",
        "import",
        "weights",
        "study",
    ):
        page = io.StringIO()
        with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
            cli.main([command, "--help"])
        yield f"ldm-jax {command} --help", page.getvalue()


def examples():
    for where, text in shown_to_readers():
        joined = re.sub(r"\\\n\s*", "", text)
        for line in re.findall(r"ldm-jax [a-z].*--config[= ][a-z].*", joined):
            words = re.sub(r"[`'\"].*", "", line).replace("--config ", "--config=")
            words = words.split()
            config = next(w for w in words if w.startswith("--config="))[9:]
            overrides = [w for w in words if w.startswith("--config.")]
            if not config.endswith((".py", ".yaml")):  # the reader's own
                is_study = "study" in words[:2] or "study_slurm" in line
                yield pytest.param(config, overrides, is_study, id=where)


@pytest.mark.parametrize(("config", "overrides", "is_study"), list(examples()))
def test_the_config_of_an_example_takes_its_fields(
    config, overrides, is_study, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if is_study:
        load_study(config)
        return
    config_files.load_config(config, [o for o in overrides if "..." not in o])


def test_examples_are_found():
    ids = [param.id for param in examples()]
    assert {"README.md", "ldm-jax train --help", "configs/text.py"} <= set(ids)
