# SPDX-License-Identifier: Apache-2.0
"""The list of configs: every one, with its arguments, from its own file."""

import pytest

from ldm_jax import cli, configs
from ldm_jax.commands.configs import describe_config, list_configs
from ldm_jax.experiment.config import config_files
from ldm_jax.study.config import load_study


def test_every_config_is_listed_with_a_sentence():
    listed = list_configs()
    assert [config.name for config in listed] == configs.names()
    assert all(len(config.summary) > 20 for config in listed)


@pytest.mark.parametrize("config", list_configs(), ids=lambda config: config.name)
def test_a_listed_usage_is_one_that_the_config_takes(config):
    """Identity: the defaults that are shown are the defaults."""
    if config.name.startswith("study"):
        given, default = (load_study(n) for n in (config.usage, config.name))
        assert str(given) == str(default)
        return
    given, default = (config_files.load_config(n) for n in (config.usage, config.name))
    assert given.to_dict() == default.to_dict()


def test_arguments_are_those_of_the_config():
    assert describe_config("imagenet_f").usage == "imagenet_f:f=8"
    assert dict(describe_config("celebahq").arguments) == {}


def test_one_config_is_described_by_its_note(capsys):
    assert cli.main(["configs", "small_text"]) == 0
    page = capsys.readouterr().out
    assert "ldm-jax sample" in page and "--config=small_text:frozen=0" in page


def test_an_error_for_an_unknown_config_suggests_the_nearest(capsys):
    assert cli.main(["configs", "smal_text"]) == 2
    assert 'did you mean "small_text"?' in capsys.readouterr().err
