# SPDX-License-Identifier: Apache-2.0
"""Opens and copies the pretrained text encoder of a diffusion model."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ldm_jax.experiment.config.sections import TextEncoderSource
from ldm_jax.experiment.model_directory import FREE, load
from ldm_jax.experiment.stored_config import read_config
from ldm_jax.experiment.vocabulary import copy_files, places_of, text_section
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.training.checkpoints.digest import params_fingerprint
from ldm_jax.training.checkpoints.params import save_copy
from ldm_jax.types import PyTree


def fill_text_section(directory: str, section: ConfigDict | None) -> ConfigDict:
    """Fills in the fields of a text condition that its pretrained encoder defines.

    Args:
      directory: a model directory with a text encoder.
      section: of the run's text condition, unlocked; is changed.

    Returns:
      The section.

    Raises:
      ValueError: there is no text encoder or no text condition, or the condition sets a
        field differently.
    """
    source = text_section(read_config(directory).get("condition", {}))
    if source is None or section is None:
        missing = "that one has none" if source is None else "config.condition has none"
        raise ValueError(
            "config.text_encoder.directory is for a text condition, and must be a "
            f"model directory with a text encoder (ldm-jax import): got {directory}, "
            f"and {missing}."
        )
    fields = {**source.to_dict(), "is_frozen": True}
    chosen = {name: value for name, value in section.items() if value is not None}
    wrong = [
        n for n in chosen if n not in FREE and chosen[n] != fields.get(n, chosen[n])
    ]
    if wrong:
        raise ValueError(
            "the fields of a pretrained text encoder are those of its directory: got "
            f"{', '.join(f'{n}={chosen[n]!r}' for n in wrong)} in the text condition, "
            f"{', '.join(f'{n}={fields[n]!r}' for n in wrong)} in {directory}; "
            "leave these fields out."
        )
    section.update({**fields, **chosen})
    return section


class TrainedEncoder(NamedTuple):
    """A pretrained text encoder.

    Attributes:
      directory: that it was read from.
      section: the run's text condition, with the encoder's fields.
      params: its parameters.
      fingerprint: of the parameters.
    """

    directory: str
    section: Mapping[str, Any]
    params: PyTree
    fingerprint: str

    def copy_to(self, workdir: str) -> None:
        """Copies the encoder to text_encoder/ in a run's directory, unless it exists.

        Raises:
          ValueError: the run started with another text encoder.
        """
        folder = f"{workdir}/text_encoder"
        section = dict(self.section)
        if is_main_process():
            copy_files(folder, section)
        section |= places_of(section)
        section.pop("is_frozen")
        settings = {"task": "text_encoder", "condition": section}
        save_copy(folder, {"conditioner": self.params}, settings, "text encoder")


def open_encoder(source: TextEncoderSource, section: ConfigDict) -> TrainedEncoder:
    """Reads the text encoder that a config names.

    Args:
      source: the section `text_encoder`.
      section: of the text condition, with the encoder's fields.

    Raises:
      ValueError: the parameters do not have the fingerprint in the config.
    """
    directory = source.directory
    _, params = load(directory)
    params = params["conditioner"]
    parts = read_config(directory).condition.get("parts", {}).items()
    name = next((n for n, part in parts if part.kind == "text"), "")
    params = params[name] if name else params
    actual = params_fingerprint({"conditioner": params})
    if source.fingerprint not in (None, actual):
        raise ValueError(
            f"config.text_encoder.fingerprint is {source.fingerprint}, {directory} "
            f"holds {actual}; name the encoder of that run, or leave the fingerprint "
            "out in a new one."
        )
    return TrainedEncoder(directory, section.to_dict(), params, actual)
