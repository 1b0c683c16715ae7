# SPDX-License-Identifier: Apache-2.0
"""Input files at URLs become local paths."""

import argparse

import pytest

from ldm_jax.cli import inputs, make_parser
from ldm_jax.cli.inputs import FILES, FOLDERS, copy_inputs


def test_every_name_is_an_argument_of_a_command():
    def names(parser):
        while parser._later:
            parser._later.pop(0)()
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    yield from names(command)
            yield action.dest

    assert set(names(make_parser())) >= FILES | FOLDERS


def test_files_at_urls_are_copied(monkeypatch):
    monkeypatch.setattr(
        "ldm_jax.files.stores.copies.local_copy", lambda url: f"/c/{url[-1]}"
    )
    args = argparse.Namespace(
        source="gs://b/a", files=["x", "gs://b/c"], model="gs://b/m", vocab=None
    )
    copy_inputs(args)
    assert vars(args) == dict(
        source="/c/a", files=["x", "/c/c"], model="gs://b/m", vocab=None
    )


def test_a_name_of_the_hub_is_left_to_it():
    args = argparse.Namespace(source="hf://user/model")
    copy_inputs(args)
    assert args.source == "hf://user/model"


def test_a_folder_that_needs_a_disk_is_refused():
    with pytest.raises(ValueError, match=r"--clip-model must be on a file system"):
        inputs.copy_inputs(argparse.Namespace(clip_model="gs://b/clip"))
