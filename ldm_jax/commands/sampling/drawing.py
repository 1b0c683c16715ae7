# SPDX-License-Identifier: Apache-2.0
"""Collects the inputs of sampling: a model, a condition, guides, images."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.commands.sampling.sample_inputs import (
    check_makes_images,
    check_sample_size,
    choose_image_size,
    read_condition,
    read_images,
    retrieval_of,
)
from ldm_jax.experiment.guiding.classifier_guide import guided_labels, open_guide
from ldm_jax.experiment.guiding.image_guide import GuidingImages
from ldm_jax.experiment.model_settings import ModelSettings, read_settings
from ldm_jax.experiment.retrieval.context import RetrievalQuery, Retrieved
from ldm_jax.tasks.guides import Guide
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.tasks.sample_images import fitting_batch_size, sample_images
from ldm_jax.tasks.sampling import Sampling
from ldm_jax.training.checkpoints.digest import params_fingerprint
from ldm_jax.types import PyTree

SHOWN = (str, int, float)


class Guidance(NamedTuple):
    """What attracts samples besides the condition; absent entries are None.

    Attributes:
      classifier: directory of a classifier of noisy latents that guides the samples
        towards their classes: those of the condition, or, for a model without classes,
        the input "class_label".
      classifier_scale, classifier_form: see `tasks.guides.ClassifierGuide`.
      images: image i is attracted by image i modulo their number.
      query: of a retrieval model.
    """

    classifier: str | None = None
    classifier_scale: float = 1.0
    classifier_form: str = "eps"
    images: GuidingImages | None = None
    query: RetrievalQuery | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the entries of settings.json."""
        entries: dict[str, Any] = {}
        if self.classifier:
            entries |= {"classifier": str(self.classifier)}
            entries |= {"classifier_scale": self.classifier_scale}
            if self.classifier_form != "eps":
                entries |= {"form": self.classifier_form}
        if self.images is not None:
            entries |= {"guide": self.images.to_dict()}
        if self.query is not None:
            entries |= {"query": self.query.to_dict()}
        return entries


class Drawing(NamedTuple):
    """What images are sampled from; image i from seed + i alone.

    Attributes:
      model, sampling: networks and sampler.
      params: of the model, the classifier, and the network that compares images.
      y: the fields of the condition and of the guides, [C, ...] each; image i gets row
        i modulo C.
      given: images to start from or to keep, [1, H, W, ...] each.
      guides: of the denoiser of x0, the first innermost.
      size: (height, width) of the images.
      seed: of image 0.
      settings: entries of settings.json.
      retrieved: neighbours of a query.
    """

    model: LatentDiffusion
    sampling: Sampling
    params: PyTree
    y: dict[str, np.ndarray]
    given: dict[str, np.ndarray]
    guides: tuple[Guide, ...]
    size: tuple[int, int]
    seed: int
    settings: dict[str, Any]
    retrieved: Retrieved | None

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of one latent."""
        autoencoder = self.model.autoencoder
        return autoencoder.latent_shape((*self.size, autoencoder.in_channels))

    @property
    def num_conditions(self) -> int:
        """C, at least 1."""
        return max(map(len, self.y.values()), default=1)

    @property
    def fingerprint(self) -> str:
        """Names the values of the weights and inputs that an image depends on.

        Queries drawn from a database are left out, because they depend on the number of
        images.
        """
        digest = hashlib.sha256(params_fingerprint(self.params).encode())
        y = self.y if self.retrieved is None else {}
        for name, x in sorted({**y, **self.given}.items()):
            digest.update(f"{name} {x.dtype.str} {x.shape} ".encode())
            digest.update(np.ascontiguousarray(x).tobytes())
        return digest.hexdigest()[:16]

    def guided(
        self, guide: Guide, y: dict[str, np.ndarray], params: dict[str, PyTree]
    ) -> "Drawing":
        """Adds a guide, outside the others, with the fields and parameters it reads."""
        return self._replace(
            y={**self.y, **y},
            params={**self.params, **params},
            guides=(*self.guides, guide),
        )

    def batch_size(self, num: int) -> int:
        """Chooses how many of `num` images are sampled at once, by the free memory."""
        return fitting_batch_size(
            self.model,
            self.params,
            self.y,
            num,
            self.latent_shape,
            self.sampling,
            self.given,
            self.guides,
        )

    def draw(
        self, rows: np.ndarray, batch_size: int, num_previews: int = 0
    ) -> Iterator[np.ndarray]:
        """Samples the images with the given numbers: batches, see `sample_images`."""
        return sample_images(
            self.model,
            self.params,
            {name: x[rows % len(x)] for name, x in self.y.items()},
            self.seed + rows,
            self.latent_shape,
            self.sampling,
            batch_size,
            {name: np.repeat(x, len(rows), axis=0) for name, x in self.given.items()},
            num_previews,
            self.guides,
        )


def prepare_drawing(
    model: LatentDiffusion,
    params: PyTree,
    trained: ModelSettings,
    sampling: Sampling,
    inputs: Mapping[str, Any],
    options: Mapping[str, Any],
    guidance: Guidance = Guidance(),
    images: Mapping[str, str] | None = None,
    image_size: tuple[int, int] | None = None,
    num: int | None = None,
    seed: int = 0,
) -> Drawing:
    """Reads a user's inputs, and checks that the model takes them.

    Args:
      model, params, trained: of a diffusion model.
      sampling: its own, with `options`.
      inputs, options, images, image_size, num, seed: of `write_samples`.
      guidance: what attracts samples besides the condition.

    Raises:
      ValueError: the options, the condition or the guides do not fit the model.
    """
    check_makes_images(model)
    sampling.make_timesteps(model.schedule)  # which checks that there are such steps
    inputs, towards = dict(inputs), None
    if guidance.classifier and "label" not in model.conditioner.fields:
        towards = inputs.pop("class_label", None)
    y, retrieved = _conditioned(model, inputs, guidance.query, num or 1, seed)
    size = choose_image_size(trained, model.conditioner.image_size(y), image_size)
    check_sample_size(model, size, bool(sampling.tile))
    condition = {n: x if isinstance(x, SHOWN) else str(x) for n, x in inputs.items()}
    condition |= {} if towards is None else {"class_label": towards}
    settings = dict(
        seed=seed,
        image_size=list(size),
        condition=condition,
        images=dict(images or {}),
        sampling=json.loads(json.dumps(sampling.to_dict())),
        **guidance.to_dict(),
    )
    given = read_images(images or {}, size, options)
    drawing = Drawing(
        model,
        sampling,
        params,
        y,
        given,
        (),
        size,
        seed,
        settings,
        retrieved,
    )
    if guidance.classifier:
        drawing = _with_classifier(drawing, guidance, trained, towards)
    if guidance.images is not None:
        images_to_match, params = guidance.images.open(size)
        drawing = drawing.guided(
            guidance.images.how,
            {"guided_image": images_to_match},
            {"guide": params},
        )
    return drawing


def _conditioned(
    model, inputs: dict[str, Any], query: RetrievalQuery | None, num: int, seed: int
) -> tuple[dict[str, np.ndarray], Retrieved | None]:
    """Returns the fields of the condition, and the neighbours of a query."""
    if query is None:
        return read_condition(model.conditioner, inputs), None
    retrieved = query.open(retrieval_of(model.conditioner), num, seed)
    inputs = {**inputs, "embeddings": retrieved.tokens}
    return read_condition(model.conditioner, inputs), retrieved


def _with_classifier(
    drawing: Drawing, guidance: Guidance, trained: ModelSettings, towards
) -> Drawing:
    """Adds a classifier, and the classes that it guides towards."""
    directory = str(guidance.classifier)
    guide, params = open_guide(
        directory,
        guidance.classifier_scale,
        trained.config,
        drawing.latent_shape,
        guidance.classifier_form,
        drawing.sampling.sampler,
    )
    names = read_settings(directory).class_names
    labels = guided_labels(guide, drawing.y, towards, names)
    return drawing.guided(guide, {"guided_label": labels}, {"classifier": params})
