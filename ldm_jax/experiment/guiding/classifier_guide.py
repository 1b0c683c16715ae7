# SPDX-License-Identifier: Apache-2.0
"""Opens a classifier that guides a diffusion model, and checks that they fit."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ldm_jax.conditions.kinds.class_label import ClassLabel
from ldm_jax.experiment import model_directory, stored_config
from ldm_jax.experiment.models import make_the_same
from ldm_jax.tasks.guides import ClassifierGuide
from ldm_jax.types import PyTree

# What a classifier takes from the model that it guides, see `resolve`.
SHARED = ("autoencoder", "schedule")


def open_guide(
    directory: str,
    scale: float,
    guided: ConfigDict,
    latent_shape: tuple[int, int, int],
    form: str = "eps",
    sampler: str = "ddim",
) -> tuple[ClassifierGuide, PyTree]:
    """Opens a classifier for a diffusion model.

    Args:
      directory: of a run of the task "classifier".
      scale: of its gradient; 1 follows Bayes' rule, the paper takes 10.
      guided: settings of the diffusion model.
      latent_shape: (h, w, c) of the latents to sample.
      form: "eps" or "mean", see `ClassifierGuide`.
      sampler: name of the sampler.

    Returns:
      (the guide, the classifier's parameters).

    Raises:
      ValueError: it is not a classifier, or it has another first stage, schedule,
        scale, number of classes or latent size; or the form "mean" is used with a
        sampler other than "ddpm".
    """
    if form == "mean" and sampler != "ddpm":
        raise ValueError(
            'the form "mean" moves the mean of the sampler "ddpm": got sampler '
            f'"{sampler}"; choose --sampler ddpm, or --classifier-form eps.'
        )
    config = stored_config.read_config(directory, "classifier")
    for name in SHARED:
        if not make_the_same(name, config[name], guided[name]):
            raise ValueError(
                f"a classifier must have the {name} of the model it guides: "
                f"{directory} has {dict(config[name])}, the model "
                f"{dict(guided[name])}; train one with --config.diffusion.directory="
                "MODEL."
            )
    if config.latents.scale != guided.latents.scale:
        raise ValueError(
            "a classifier must have the latent scale of the model it guides: "
            f"{directory} has {config.latents.scale}, the model {guided.latents.scale}."
        )
    classes = guided.condition.get("num_classes")
    if guided.condition.kind == "class" and classes != config.classifier.num_classes:
        raise ValueError(
            f"a classifier must have the classes of the model it guides: {directory} "
            f"has {config.classifier.num_classes}, the model {classes}."
        )
    model, params = model_directory.load(directory, task="classifier")
    side = model.classifier.latent_size
    if model.classifier.pool == "attention" and latent_shape[:2] != (side, side):
        f = model.autoencoder.f
        raise ValueError(
            f'a classifier with pool="attention" reads images of {side * f}x{side * f} '
            f"only: got {latent_shape[0] * f}x{latent_shape[1] * f}; leave --size out."
        )
    return ClassifierGuide(model, scale, form), params["classifier"]


def guided_labels(
    guide: ClassifierGuide,
    y: Mapping[str, np.ndarray],
    class_label: Any,
    class_names: tuple[str, ...] = (),
) -> np.ndarray:
    """Returns the classes [N] int32 that samples are guided towards.

    Args:
      guide: with the classifier.
      y: the fields of the model's condition; the labels of a class-conditional model.
      class_label: numbers or names, for any other model.
      class_names: of the classifier.

    Raises:
      ValueError: no class is given, or an unknown one, as which the null class counts.
    """
    num_classes = guide.classifier.classifier.num_classes
    if "label" in y:
        unknown = sorted({int(i) for i in y["label"] if not 0 <= i < num_classes})
        if unknown:
            raise ValueError(
                f"a classifier knows classes 0..{num_classes - 1}, and no null class: "
                f"got {', '.join(map(str, unknown))}; give a class for every sample."
            )
        return y["label"]
    if class_label is None:
        raise ValueError(
            "--classifier guides towards a class: got no --label; give numbers or "
            "names."
        )
    classes = ClassLabel(num_classes, class_names=tuple(class_names))
    return classes.from_user(class_label)["label"]
