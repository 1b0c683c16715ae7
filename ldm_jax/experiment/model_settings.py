# SPDX-License-Identifier: Apache-2.0
"""The settings of a model directory as typed properties, for commands."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from ldm_jax.experiment.stored_config import first_stage_of, read_config
from ldm_jax.experiment.vocabulary import places_of, text_section
from ldm_jax.tasks.sampling import Sampling, replace_sampling

# What belongs to the machine or the run that a model was trained in.
OF_THE_RUN = ("latents.directory", "latents.first_stage", "images.data_dir")


def read_settings(directory: str, task: str | None = None) -> "ModelSettings":
    """Reads the settings of a model directory; see `stored_config.read_config`."""
    return ModelSettings(directory, read_config(directory, task))


@dataclasses.dataclass(frozen=True, eq=False)
class ModelSettings:
    """What the config of a trained or imported model contains.

    Attributes:
      directory: of the model.
      config: its settings, with nothing left open.
    """

    directory: str
    config: ConfigDict

    @property
    def task(self) -> str:
        """What the model is: "latent_diffusion", for example."""
        return self.config.task

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) of the images in training; None where it is not known."""
        place = self.config.get("latents", self.config.get("transform", {}))
        size = place.get("image_size")
        return (size, size) if isinstance(size, int) else size and tuple(size)

    @property
    def image_side(self) -> int | tuple[int, int] | None:
        """`image_size`, but one number where the images are square."""
        size = self.image_size
        return size[0] if size and size[0] == size[1] else size

    @property
    def num_steps(self) -> int | None:
        """Steps of its training; None of an imported model."""
        return self.config.train.get("num_steps")

    @property
    def has_first_stage(self) -> bool:
        """Whether the model has networks between pixels and latents."""
        section = self.config.get("autoencoder")
        return section is not None and section.get("bottleneck") != "pixels"

    @property
    def reads_text(self) -> bool:
        """Whether its condition, or a part of it, is a text."""
        return text_section(self.config.get("condition", {})) is not None

    @property
    def is_unconditional(self) -> bool:
        """Whether a diffusion model takes no input."""
        return self.config.get("condition", {}).get("kind", "none") == "none"

    @property
    def num_classes(self) -> int | None:
        """Classes of a classifier, or of a class-conditional model; else None."""
        if self.task == "classifier":
            return self.config.classifier.num_classes
        condition = self.config.get("condition", {})
        return condition.num_classes if condition.get("kind") == "class" else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of a classifier's classes; () where they have none."""
        return tuple(self.config.get("class_names", ()))

    @property
    def latents(self) -> str:
        """Directory of the latents that it was trained on; "" for none."""
        return self.config.get("latents", {}).get("directory", "")

    @property
    def mask(self) -> Any:
        """How masks were drawn in training; None for no masks."""
        return self.config.get("transform", {}).get("mask")

    @property
    def dataset(self) -> str:
        """Name or folder of the images it was trained on; "" where it is not known."""
        images = self.config.get("images", {})
        if not images.get("dataset") and self.task != "first_stage":
            if not self.has_first_stage:
                return ""
            images = first_stage_of(self.directory)[1].get("images", {})
        return images.get("dataset", "")

    @property
    def origin(self) -> str:
        """The data of the model in words, or "imported"."""
        images = self.config.get("images", {})
        dataset = images.get("dataset")
        if self.task == "first_stage":
            return f"images {dataset}, {images.split}" if dataset else "imported"
        if self.latents:
            return f"latents {self.latents}"
        return f"images {dataset}" if dataset else "imported"

    @property
    def training(self) -> dict[str, Any]:
        """Settings of the run by readable names; {} for an imported model."""
        config = self.config
        if not config.train:
            return {}
        rows = {"steps": self.num_steps, "batch size": config.batch_size}
        rows |= {
            "optimizer" if name == "name" else name.replace("_", " "): value
            for name, value in config.optimizer.to_dict().items()
            if isinstance(value, int | float | str)
        }
        return {name: value for name, value in rows.items() if value is not None}

    @property
    def process(self) -> dict[str, str]:
        """Scale, prediction and sampling of a diffusion model, in words."""
        config = self.config
        sampling = config.sampling.items()
        return {
            "scale": f"{config.latents.scale:.5g}",
            "predicts": f"{config.prediction}, {config.schedule.num_timesteps} steps",
            "sampling": ", ".join(f"{name} {value}" for name, value in sampling),
        }

    def sampling(self, changes: Mapping[str, Any] | None = None) -> Sampling | None:
        """Returns how a diffusion model is sampled; None of any other model.

        Args:
          changes: fields of `Sampling`, or options of its sampler, to replace.
        """
        if "sampling" not in self.config:
            return None
        return replace_sampling(self.config.sampling.to_dict(), changes or {})

    def sections(self) -> dict[str, Any]:
        """Returns the settings as nested dicts, for exports that contain them."""
        return self.config.to_dict()

    def with_vocabulary(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Returns (sections, files): with the vocabulary files by relative path."""
        sections, files = self.sections(), {}
        sections.pop("text_encoder", None)  # its parameters are among the model's
        section = text_section(sections.get("condition", {}))
        if section is not None:
            places = places_of(section)
            files = {p: epath.Path(section[f]).read_bytes() for f, p in places.items()}
            section.update(places)
        return sections, files

    def without_places(self) -> dict[str, Any]:
        """Returns the sections without paths of the machine that trained the model."""
        config = self.config.copy_and_resolve_references().unlock()
        for name in OF_THE_RUN:
            section, _, field = name.partition(".")
            if config.get(section, {}).get(field):
                config[section][field] = "" if field == "directory" else None
        return config.to_dict()
