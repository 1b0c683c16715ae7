# SPDX-License-Identifier: Apache-2.0
"""A frozen text encoder, taken from another model directory into that of a run."""

from typing import Any

from ldm_jax.conditions.vocabulary import by_part, copy_files, places_of, text_section
from ldm_jax.experiment import experiment
from ldm_jax.experiment.sections import TextEncoderSource
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.training.checkpoints.checkpointer import load_params, save_params
from ldm_jax.training.checkpoints.digest import fingerprint
from ldm_jax.types import PyTree

# What a run may decide about an encoder that it did not train.
FREE = ("dtype", "merges", "vocab")


def described(config) -> Any:
    """Fills a text condition in with the fields of the encoder that a config names.

    Returns:
      A copy; the config itself where `text_encoder.directory` is not set.

    Raises:
      ValueError: there is no text encoder, or the condition says something else.
    """
    source = TextEncoderSource(**config.get("text_encoder", {}))
    if not source.directory:
        return config
    theirs = text_section(experiment.read_config(source.directory).get("condition", {}))
    ours = text_section(config.condition)
    if theirs is None or ours is None:
        kind = config.condition.kind if ours is None else "none"
        raise ValueError(
            "config.text_encoder.directory is for a text condition, and must be a "
            "model directory with a text encoder (ldm-jax import): got "
            f"{source.directory}, "
            + (f"and condition.kind={kind!r}." if ours is None else "which has none.")
        )
    fields = {**theirs.to_dict(), "is_frozen": True}
    said = {name: value for name, value in ours.items() if value is not None}
    wrong = [n for n in said if n not in FREE and said[n] != fields.get(n, said[n])]
    if wrong:
        raise ValueError(
            "the text encoder of config.text_encoder.directory says what it is: got "
            f"{', '.join(f'{n}={said[n]!r}' for n in wrong)} in the text condition, "
            f"{', '.join(f'{n}={fields[n]!r}' for n in wrong)} in {source.directory}; "
            "leave these fields out."
        )
    config = config.copy_and_resolve_references()
    with config.unlocked():
        text_section(config.condition).update({**fields, **said})
    return config


def open_text_encoder(config, workdir: str) -> tuple[Any, dict[str, PyTree]]:
    """Loads the text encoder that a config names, and copies it to the run's directory.

    Returns:
      (the config as `described` fills it in, with `text_encoder.fingerprint`;
      {"conditioner": parameters}, or {} where no encoder is named).

    Raises:
      ValueError: as `described`, or the parameters are not those whose fingerprint the
        config gives, or which the directory began with.
    """
    source = TextEncoderSource(**config.get("text_encoder", {}))
    config = described(config)
    if not source.directory:
        return config, {}
    params = _encoder_of(source.directory)
    found = fingerprint(params)
    kept = fingerprint(_keep(config, source.directory, params, workdir))
    for where, expected in {
        "config.text_encoder.fingerprint": source.fingerprint,
        f"{workdir}/text_encoder": kept,
    }.items():
        if expected not in (None, found):
            raise ValueError(
                f"a run keeps the text encoder that it began with: {where} is "
                f"{expected}, {source.directory} holds {found}; name the first one, "
                "or begin anew in another directory."
            )
    with config.unlocked():
        config.text_encoder = dict(directory=source.directory, fingerprint=found)
    return config, {"conditioner": by_part(config.condition, params["conditioner"])}


def _encoder_of(directory: str) -> dict[str, PyTree]:
    """Reads {"conditioner": parameters of the text encoder} of a model directory."""
    _, params = experiment.load(directory)
    condition = experiment.read_config(directory).condition
    name = next(
        (n for n, p in condition.get("parts", {}).items() if p.kind == "text"), ""
    )
    return {
        "conditioner": params["conditioner"][name] if name else params["conditioner"]
    }


def _keep(config, directory: str, params, workdir: str) -> dict[str, PyTree]:
    """Makes text_encoder/ of a run, unless it is there; returns its parameters."""
    folder = f"{workdir}/text_encoder"
    section = text_section(config.condition).to_dict()
    if is_main_process():
        copy_files(folder, section)
    section = {**section, **places_of(section)}
    section.pop("is_frozen")
    save_params(folder, params, {"task": "text_encoder", "condition": section})
    return load_params(folder)


def with_vocabulary(config, workdir: str) -> Any:
    """Copies a text model's vocabulary to the run's directory.

    Returns:
      The config that says where the copies are.
    """
    section = text_section(config.condition)
    if section is None:
        return config
    if is_main_process():
        copy_files(workdir, section)
    config = config.copy_and_resolve_references()
    text_section(config.condition).update(places_of(section))
    return config
