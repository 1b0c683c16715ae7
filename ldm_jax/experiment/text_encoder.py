# SPDX-License-Identifier: Apache-2.0
"""The pretrained text encoder of a diffusion model: its fields, parameters and copy."""

from collections.abc import Mapping
from typing import Any

from ldm_jax.experiment.model_directory import load, read_config
from ldm_jax.experiment.vocabulary import copy_files, places_of, text_section
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.training.checkpoints.checkpointer import load_params, save_params
from ldm_jax.training.checkpoints.digest import params_fingerprint
from ldm_jax.types import PyTree

# What a run may decide about an encoder that it does not train.
FREE = ("dtype", "merges", "vocab")


def encoder_fields(directory: str, condition: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a text condition that a pretrained encoder decides.

    Args:
      directory: a model directory with a text encoder.
      condition: the section `condition` of the run that reads it.

    Returns:
      The fields of the encoder, with those that `condition` may set itself.

    Raises:
      ValueError: there is no text encoder, or the condition sets a field differently.
    """
    source = text_section(read_config(directory).get("condition", {}))
    target = text_section(condition)
    if source is None or target is None:
        kind = condition["kind"] if target is None else "none"
        raise ValueError(
            "config.text_encoder.directory is for a text condition, and must be a "
            "model directory with a text encoder (ldm-jax import): got "
            f"{directory}, "
            + (f"and condition.kind={kind!r}." if target is None else "which has none.")
        )
    fields = {**source.to_dict(), "is_frozen": True}
    chosen = {name: value for name, value in target.items() if value is not None}
    wrong = [
        n for n in chosen if n not in FREE and chosen[n] != fields.get(n, chosen[n])
    ]
    if wrong:
        raise ValueError(
            "the text encoder of config.text_encoder.directory decides its fields: got "
            f"{', '.join(f'{n}={chosen[n]!r}' for n in wrong)} in the text condition, "
            f"{', '.join(f'{n}={fields[n]!r}' for n in wrong)} in {directory}; "
            "leave these fields out."
        )
    return {**fields, **chosen}


def read_encoder(directory: str, expected: str | None) -> tuple[PyTree, str]:
    """Reads a text encoder.

    Args:
      directory: a model directory with one, alone or in a diffusion model.
      expected: fingerprint that the parameters must have; None for any.

    Returns:
      (its parameters, their fingerprint).

    Raises:
      ValueError: the parameters have another fingerprint.
    """
    _, params = load(directory)
    params = params["conditioner"]
    condition = read_config(directory).condition
    parts = condition.get("parts", {}).items()
    name = next((n for n, part in parts if part.kind == "text"), "")
    params = params[name] if name else params
    actual = params_fingerprint({"conditioner": params})
    if expected not in (None, actual):
        raise ValueError(
            f"config.text_encoder.fingerprint is {expected}, {directory} holds "
            f"{actual}; name the encoder of that run, or leave the fingerprint out in "
            "a new one."
        )
    return params, actual


def copy_encoder(
    workdir: str, section: Mapping[str, Any], params: PyTree, directory: str
) -> None:
    """Makes text_encoder/ of a run's directory, unless it is there.

    Args:
      workdir: of the run.
      section: the text condition, with the fields of the encoder.
      params: its parameters, from `directory`.
      directory: where they were read, for the error.

    Raises:
      ValueError: the run started with another text encoder.
    """
    folder = f"{workdir}/text_encoder"
    section = dict(section)
    if is_main_process():
        copy_files(folder, section)
    section |= places_of(section)
    section.pop("is_frozen")
    named = {"conditioner": params}
    save_params(folder, named, {"task": "text_encoder", "condition": section})
    kept, actual = params_fingerprint(load_params(folder)), params_fingerprint(named)
    if kept != actual:
        raise ValueError(
            f"a run keeps the text encoder that it began with: {folder} is {kept}, "
            f"{directory} holds {actual}; name the first one, or start in another "
            "directory."
        )
