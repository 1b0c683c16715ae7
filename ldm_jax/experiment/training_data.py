# SPDX-License-Identifier: Apache-2.0
"""Opens the training data of a latent diffusion model, and its first stage."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.latents import sets
from ldm_jax.data.latents.statistics import LatentStats
from ldm_jax.data.records import Source
from ldm_jax.experiment.config.resuming import may_change_in_copy
from ldm_jax.experiment.config.sections import LatentSet
from ldm_jax.experiment.data_metadata import DataMetadata, Size, with_classes
from ldm_jax.experiment.models import stage_differences
from ldm_jax.experiment.stored_config import first_stage_of
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.training.checkpoints.digest import params_fingerprint
from ldm_jax.training.checkpoints.params import load_params, save_copy
from ldm_jax.types import PyTree


class TrainedStage(NamedTuple):
    """A pretrained first stage.

    Attributes:
      params: its parameters; {} for pixels, which need none.
      config: its settings; None for pixels.
      scale: factor that gives its latents unit variance.
    """

    params: PyTree
    config: Mapping[str, Any] | None
    scale: float

    def copy_to(self, workdir: str) -> None:
        """Copies the first stage to autoencoder/ of a run, unless it exists.

        Raises:
          ValueError: the run started with another first stage.
        """
        if self.config is None:
            return
        folder, params = f"{workdir}/autoencoder", {"autoencoder": self.params}
        save_copy(folder, params, self.config, "first stage", may_change_in_copy)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingData:
    """Latents, or images that the first stage encodes in every step.

    Attributes:
      where: the latents' directory, or the name of the image set.
      source: the records; None for images that are not open yet, see `open_source`.
      first_stage: a model directory with the first stage; None without one.
      stats: of the latents; None for images.
      shapes: (h, w, c) of the latents in each bucket; () for images.
      images: arguments of `open_images`; {} for latents.
    """

    where: str
    source: Source | None
    first_stage: str | None = None
    stats: LatentStats | None = None
    shapes: Sequence[tuple[int, int, int]] = ()
    images: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def open_source(self) -> Source:
        """Returns the records; opens images that are not open yet."""
        return open_images(**self.images) if self.source is None else self.source

    @functools.cached_property
    def _stage(self) -> tuple[str, ConfigDict] | None:
        """(directory, settings) of the first stage; None where none is named."""
        return first_stage_of(self.first_stage) if self.first_stage else None

    @property
    def metadata(self) -> DataMetadata:
        """The metadata of the data and of their first stage."""
        autoencoder = self._stage[1].autoencoder.to_dict() if self._stage else {}
        metadata = DataMetadata(self.where, autoencoder, self._image_size())
        return with_classes(metadata, self.stats or self.source)

    def _image_size(self) -> Size | None:
        """Returns that of the latents, or of the first stage."""
        if self.stats is None:
            return self._stage[1].transform.get("image_size") if self._stage else None
        if len(self.shapes) > 1:
            return None
        height, width = (self.stats.f * side for side in self.stats.latent_shape[:2])
        return height if height == width else (height, width)

    def load_first_stage(
        self, latent_set: LatentSet, autoencoder: Autoencoder
    ) -> TrainedStage:
        """Loads the first stage, which must be that of the config.

        Args:
          latent_set, autoencoder: the sections `latents` and `autoencoder`.

        Raises:
          ValueError: the first stage is not that of the config; the latents were
            written by another one or have another size; or, for images, the scale or
            the first stage is missing.
        """
        if self.stats is not None:
            params, config = self._read_stage(autoencoder)
            fingerprint = params_fingerprint({"autoencoder": params})
            self.stats.check(fingerprint, self.where)
            scale = latent_scale(latent_set, autoencoder, self.stats.scale, self.shapes)
            return TrainedStage(params, config, scale)
        if latent_set.scale is None:
            raise ValueError(
                "config.latents.scale must be given where images are encoded in every "
                "step: 1.0 for pixels and for the published VQ models; else ldm-jax "
                "latents measures it."
            )
        if autoencoder.bottleneck == "pixels":
            return TrainedStage({}, None, latent_set.scale)
        if self._stage is None:
            raise ValueError(
                "config.latents.first_stage must be the directory of the first stage "
                "that encodes the images: got none; or set config.latents.directory to "
                "latents."
            )
        return TrainedStage(*self._read_stage(autoencoder), latent_set.scale)

    def _read_stage(self, autoencoder: Autoencoder) -> tuple[PyTree, dict[str, Any]]:
        """Returns (parameters, settings)."""
        assert self._stage is not None
        directory, settings = self._stage
        stored = Autoencoder(**settings.autoencoder)
        if differing := stage_differences(autoencoder, stored):
            raise ValueError(
                f"config.autoencoder must be the first stage in {directory}: got "
                f"{', '.join(f'{n}={x!r}' for n, (x, _) in differing.items())}, that "
                f"one has {', '.join(f'{n}={x!r}' for n, (_, x) in differing.items())}"
                "; copy its section, or write latents with yours (ldm-jax latents)."
            )
        return load_params(directory)["autoencoder"], settings.to_dict()


def open_training_data(
    latents: Mapping[str, Any],
    images: Mapping[str, Any],
    *,
    reads_images: bool = True,
) -> TrainingData | None:
    """Opens the latents, or the images, that a config names.

    Args:
      latents: fields of `LatentSet`; its size may be open.
      images: the section `images`; {} for none.
      reads_images: False does not open images, which takes long for a large set; their
        classes are then not known.

    Returns:
      The data; None where the config names neither latents nor images.

    Raises:
      ValueError: there are no such latents, images or first stage.
    """
    where = latents["directory"]
    if where:
        source, stats, shapes = sets.open_latent_sets(where, latents.get("weights", ()))
        first_stage = f"{sets.directories(where)[0]}/autoencoder"
        return TrainingData(where, source, first_stage, stats, shapes)
    if not images.get("dataset"):
        return None
    source = open_images(**images) if reads_images else None
    first_stage = latents.get("first_stage")
    return TrainingData(images["dataset"], source, first_stage, images=images)


def latent_scale(
    latent_set: LatentSet,
    autoencoder: Autoencoder,
    measured: float,
    shapes: Sequence[tuple[int, int, int]],
) -> float:
    """Returns the scale of latents: the config's, or the one that was measured.

    Args:
      latent_set, autoencoder: of the config.
      measured: 1 / standard deviation of the raw latents.
      shapes: (h, w, c) of the latents in each bucket.

    Raises:
      ValueError: the latents do not have the size that the config describes.
    """
    expected = latent_set.latent_shape(autoencoder)
    if expected not in shapes:
        raise ValueError(
            f"config.latents.image_size={latent_set.image_size} and "
            f"config.autoencoder make latents of {expected}: those in "
            f"{latent_set.directory} are {', '.join(map(str, shapes))}; "
            "change the config, or write latents of that size (ldm-jax latents)."
        )
    return measured if latent_set.scale is None else latent_set.scale
