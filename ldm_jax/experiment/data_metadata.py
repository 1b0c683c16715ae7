# SPDX-License-Identifier: Apache-2.0
"""Completes a denoiser's config with the metadata of its training data.

A set of latents stores its first stage, the size of its images, and the classes. A
config may leave these fields open (an empty section `autoencoder`, None, no class
names); the fields that it sets must agree with the data.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.files.paths import printable

Size = int | tuple[int, int]


@dataclasses.dataclass(frozen=True)
class DataMetadata:
    """Metadata of a data set that completes a config.

    Attributes:
      where: directory of the data, for errors.
      autoencoder: fields of the section `autoencoder`; empty if they are not known.
      image_size: side of the images, or (height, width); None if there are several.
      num_classes: None without labels.
      class_names: () where the classes have no names.
    """

    where: str
    autoencoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    image_size: Size | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()


def complete(config: ConfigDict, metadata: DataMetadata) -> None:
    """Fills in the fields that a denoiser's config leaves open.

    Args:
      config: of the task "latent_diffusion", unlocked; is changed.
      metadata: of the data that it learns from.

    Raises:
      ValueError: the data do not contain what the config leaves open, or have other
        classes than the config; names the field.
    """
    with config.ignore_type():
        if not config.autoencoder:
            known = metadata.autoencoder
            config.autoencoder = _known("autoencoder", known, metadata)
        if config.latents.image_size is None:
            size = _known("latents.image_size", metadata.image_size, metadata)
            config.latents.image_size = size
        for name, section in class_sections(config):
            _complete_classes(name, section, metadata)


def is_open(config: ConfigDict) -> bool:
    """Returns whether a denoiser's config needs the metadata of its data."""
    lacks_size = not config.autoencoder or config.latents.image_size is None
    return lacks_size or has_open_classes(config)


def has_open_classes(config: ConfigDict) -> bool:
    """Returns whether a denoiser's config leaves the number of its classes open."""
    sections = class_sections(config)
    return any(section.get("num_classes") is None for _, section in sections)


def class_sections(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, section) of each class condition of a config."""
    condition = config["condition"]
    parts = condition.get("parts", {}).items()
    named = {f"condition.parts.{name}": part for name, part in parts}
    for name, section in {"condition": condition, **named}.items():
        if section.get("kind") == "class":
            yield name, section


def with_classes(metadata: DataMetadata, labels: Any) -> DataMetadata:
    """Adds the classes of an image set, or of the statistics of latents."""
    return dataclasses.replace(
        metadata,
        num_classes=getattr(labels, "num_classes", None),
        class_names=tuple(getattr(labels, "class_names", ())),
    )


def _complete_classes(name: str, section: Any, metadata: DataMetadata) -> None:
    """Fills in the number and the names of a condition's classes."""
    count = section.get("num_classes")
    if count is None:
        section.num_classes = _known(
            f"{name}.num_classes", metadata.num_classes, metadata
        )
    elif metadata.num_classes not in (None, count):
        raise ValueError(
            f"config.{name}.num_classes must be that of the data: got {count}, "
            f"{metadata.where} has {metadata.num_classes} classes; leave it out."
        )
    names = tuple(section.get("class_names") or ())
    if names and metadata.class_names and names != metadata.class_names:
        raise ValueError(
            f"config.{name}.class_names must be those of the data: got "
            f"{printable(', '.join(names[:5]))}, {metadata.where} has "
            f"{printable(', '.join(metadata.class_names[:5]))}; leave them out."
        )
    section.class_names = names or metadata.class_names


def _known(name: str, value: Any, metadata: DataMetadata) -> Any:
    if not value:
        raise ValueError(
            f"config.{name} must be given: {metadata.where} does not tell it; set "
            f"--config.{name}, or take other data."
        )
    return value
