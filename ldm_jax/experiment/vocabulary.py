# SPDX-License-Identifier: Apache-2.0
"""Finds and copies the vocabulary files of text conditions.

A model directory contains copies of them in tokenizer/, so that it can be moved.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from ldm_jax.conditions.tokens import make_tokenizer
from ldm_jax.conditions.vocabulary import FILES
from ldm_jax.files.writing import write_bytes
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.types import PyTree


def files_of(directory, condition: Mapping[str, Any]) -> dict[str, str]:
    """Finds the vocabulary files in a model directory.

    Args:
      directory: the model's.
      condition: its section `condition`, whose `vocab` and `merges` may be relative to
        the directory.

    Returns:
      {field: path}, without files that are missing.
    """
    given = {name: condition.get(name) for name in ("vocab", "merges")}
    paths = {n: epath.Path(directory) / file for n, file in given.items() if file}
    return {name: str(path) for name, path in paths.items() if path.exists()}


def text_section(condition: Mapping[str, Any]) -> Any:
    """Finds the section of a text condition: the condition itself, or a part of it.

    Returns:
      The section, not a copy; None if the model takes no text.
    """
    for section in (condition, *condition.get("parts", {}).values()):
        if section.get("kind") == "text":
            return section
    return None


def by_part(condition: Mapping[str, Any], params: PyTree) -> PyTree:
    """Nests a text encoder's parameters like those of the condition: see `Hybrid`."""
    if condition["kind"] == "text":
        return params
    parts = condition["parts"].items()
    return {name: params for name, part in parts if part["kind"] == "text"}


def places_of(section: Mapping[str, Any]) -> dict[str, str]:
    """Maps the files of a text section to their places in a model directory.

    Returns:
      {field: path relative to the directory}.
    """
    names = FILES.get(section.get("tokenizer", ""), {})
    return {field: f"tokenizer/{names[field]}" for field in names if section.get(field)}


def copy_files(directory, section: Mapping[str, Any]) -> None:
    """Copies the files that a text section names to `places_of` of a model directory.

    Raises:
      ValueError: a file is missing, or the directory holds another vocabulary.
    """
    for field, place in places_of(section).items():
        source, copy = epath.Path(section[field]), epath.Path(directory) / place
        if not source.exists():
            raise ValueError(f"condition.{field} must be a file: got {source}.")
        content = source.read_bytes()
        if not copy.exists():
            write_bytes(copy, content)
        elif copy.read_bytes() != content:
            raise ValueError(
                f"a model keeps the vocabulary that it began with: {source} differs "
                f"from {copy}; name the same file, or another directory."
            )


class Vocabulary(NamedTuple):
    """The vocabulary files of a run's text condition.

    Attributes:
      section: of the text condition.
    """

    section: Mapping[str, Any]

    def copy_to(self, workdir: str) -> None:
        """Copies the files into a run's directory: see `copy_files`."""
        if is_main_process():
            copy_files(workdir, self.section)


def stored_form(config: ConfigDict) -> Mapping[str, Any]:
    """Returns a config for config.json: with the paths of the copied vocabulary."""
    stored = config.copy_and_resolve_references()
    section = text_section(stored.get("condition", {}))
    if section is not None:
        section.update(places_of(section))
    return stored.to_dict()


def add_vocabulary(
    folder: str, settings: Mapping[str, Any], files: Mapping[str, str | None]
) -> list[str]:
    """Copies the tokenizer's files into a model directory.

    Args:
      folder: the model directory.
      settings: of the model; its fields `vocab` and `merges` are set.
      files: paths by field; None takes the file that came with the model.

    Returns:
      Notes on files that are missing.

    Raises:
      ValueError: a file is missing, is not the tokenizer's, or is not needed.
    """
    condition = settings.get("condition", {})
    names = FILES.get(condition.get("tokenizer"), {})
    given = {field: path for field, path in files.items() if path is not None}
    if given.keys() - names.keys():
        raise ValueError(
            f"{', '.join(sorted(given.keys() - names.keys()))} must be files that the "
            f"model's tokenizer reads: this one ({condition.get('tokenizer', 'none')}) "
            f"takes {', '.join(names) or 'none'}; leave the others out."
        )
    paths = {f: given.get(f) or condition.get(f) for f in names}
    if not any(paths.values()):
        lacking = " and ".join(names.values())
        return (
            [f"{lacking} not given: the model takes tokens. Texts need --vocab."]
            if names
            else []
        )
    make_tokenizer(condition["tokenizer"], condition.get("length", 77), **paths)
    copy_files(folder, {**condition, **paths})
    condition.update(places_of({**condition, **paths}))
    return []
