# SPDX-License-Identifier: Apache-2.0
"""Builds evaluations during training: of held-out images or latents, samples."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ldm_jax.conditions.base import Condition
from ldm_jax.data.loader import iterate_once
from ldm_jax.data.records import Record, Source, read_whole
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.diffusion.samplers.base import seed_keys
from ldm_jax.experiment.builders.pictures import NUM_RECORDS, draw_pictures
from ldm_jax.files.formats import png
from ldm_jax.metrics.evaluation import Evaluation, SampleMetrics, make_sample_metrics
from ldm_jax.metrics.reconstruct import (
    PairMetric,
    names_of_reconstruction_figures,
    reconstruct_all,
)
from ldm_jax.models.attention import attention
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import fetch
from ldm_jax.tasks.classifier import (
    NoisyLatentClassifier,
    classify_held_out,
    held_out_figures,
)
from ldm_jax.tasks.condition_transform import ConditionTransform
from ldm_jax.tasks.generate import generator
from ldm_jax.tasks.model import FirstStage, LatentDiffusion, with_frozen
from ldm_jax.tasks.sample_images import sample_images
from ldm_jax.tasks.sampling import Sampling
from ldm_jax.training.state import TrainState
from ldm_jax.types import PyTree, Task

NUM_SHOWN = 16
# Samples at once where they are measured.
MEASURED_AT_ONCE = 64

Result = tuple[dict[str, float], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """Reconstructs held-out images with a first stage.

    Attributes:
      model: the first stage.
      source: the images.
      transform: without randomness.
      batch_size: images at once.
      metrics: name -> function of images and reconstructions.
    """

    model: FirstStage
    source: Source
    transform: ImageTransform
    batch_size: int
    metrics: Mapping[str, PairMetric]

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures that a call returns."""
        return names_of_reconstruction_figures(self.model, self.metrics)

    def __call__(self, state: TrainState, step: int) -> Result:
        """Returns (the metrics' means, a sheet of image and reconstruction pairs)."""
        spread = sharding.batch_sharding(state.mesh)
        rows = iterate_once(self.source, self.transform, self.batch_size, spread)
        params = state.averaged_params()
        figures, sheet = reconstruct_all(
            self.model, params, rows, NUM_SHOWN, self.metrics, len(self.source)
        )
        return figures, {"reconstructions": sheet}


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOutClasses:
    """Classifies held-out latents at several noise levels.

    Attributes:
      model: the classifier.
      source: the latents, with their labels.
      transform: of their records.
      batch_size: latents at once.
    """

    model: NoisyLatentClassifier
    source: Source
    transform: ConditionTransform
    batch_size: int

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures that a call returns."""
        return held_out_figures(self.model)

    def __call__(self, state: TrainState, step: int) -> Result:
        """Returns (accuracies by noise level and their means, no sheets)."""
        spread = sharding.batch_sharding(state.mesh)
        rows = iterate_once(self.source, self.transform, self.batch_size, spread)
        return classify_held_out(self.model, state.averaged_params(), rows), {}


@dataclasses.dataclass(frozen=True, eq=False)
class SamplePreview:
    """Draws samples from a diffusion model, and measures them on request.

    Every evaluation uses the same noise and the conditions of the same records, spread
    over the set, so that the sheets of different steps can be compared.

    Attributes:
      model: the diffusion model.
      frozen: the parameters that it reads and never trains.
      y: the condition's fields, [N, ...] each.
      shape: (h, w, c) of a latent.
      sampling: sampler, steps and guidance.
      num_measured: number of samples whose metrics are computed, at most N.
      measure: computes the metrics; None computes none.
      captions: of the samples on the sheet; () shows none.
      pictures: further sheets, of `draw_pictures`.
      records: the moments or images of the first records, for these sheets.
    """

    model: LatentDiffusion
    frozen: Mapping[str, PyTree]
    y: dict[str, np.ndarray]
    shape: tuple[int, int, int]
    sampling: Sampling
    num_measured: int = 0
    measure: SampleMetrics | None = None
    captions: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    records: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def make(
        cls,
        model: LatentDiffusion,
        frozen: Mapping[str, PyTree],
        source: Source,
        transform: ConditionTransform,
        shape: tuple[int, int, int],
        sampling: Sampling,
        evaluation: Evaluation,
    ) -> "SamplePreview":
        """Reads the conditions of some records, and opens the metrics."""
        size = [model.autoencoder.f * side for side in shape[:2]]
        measure = make_sample_metrics(evaluation, size)
        span = getattr(source, "spans", [range(len(source))])[0]
        num_rows = max(NUM_SHOWN, evaluation.num if measure else 0)
        places = [span[i] for i in spread(num_rows, len(span))]
        records = [record for _, record in read_whole(source, places)]
        rows = [
            transform(record, np.random.default_rng(i))
            for i, record in enumerate(records)
        ]
        fields = model.conditioner.fields
        y = {name: np.stack([row[name] for row in rows]) for name in fields}
        subject = transform.subject
        learned = {subject: np.stack([row[subject] for row in rows[:NUM_RECORDS]])}
        captions = [_caption(model.conditioner, r) for r in records[:NUM_SHOWN]]
        return cls(
            model,
            frozen,
            y,
            shape,
            sampling,
            evaluation.num,
            measure,
            tuple(captions) if any(captions) else (),
            tuple(evaluation.pictures),
            learned if evaluation.pictures else {},
        )

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures that a call returns."""
        return self.measure.figures if self.measure else ()

    def check(self, task: Task, batch_shapes: Mapping[str, Any]) -> None:
        """Traces the sampler, so that its errors are raised before training.

        Args:
          task: makes the trained parameters.
          batch_shapes: field -> jax.ShapeDtypeStruct of a batch.

        Raises:
          ValueError: the section `sampling` does not fit the model.
        """
        draw = generator(self.model, self.shape, self.sampling)
        params, _ = task.shapes(batch_shapes)
        frozen = jax.eval_shape(lambda: dict(self.frozen))
        y = {
            name: jax.ShapeDtypeStruct((NUM_SHOWN, *x.shape[1:]), x.dtype)
            for name, x in self.y.items()
        }
        keys = jax.eval_shape(lambda: seed_keys(range(NUM_SHOWN)))
        try:
            with attention.portable():
                jax.eval_shape(draw, with_frozen(params, frozen), y, keys, {})
        except ValueError as error:
            raise ValueError(f"config.sampling does not fit: {error}") from error

    def __call__(self, state: TrainState, step: int) -> Result:
        """Returns (figures of the samples, a sheet of some)."""
        params = with_frozen(fetch(state.averaged_params()), self.frozen)

        def draw(count: int, batch_size: int) -> Iterator[np.ndarray]:
            y = {name: values[:count] for name, values in self.y.items()}
            seeds = np.arange(count)
            return sample_images(
                self.model, params, y, seeds, self.shape, self.sampling, batch_size
            )

        shown = np.concatenate(list(draw(NUM_SHOWN, NUM_SHOWN)))
        enlarge = png.enlargement(shown.shape[2])
        sheet = png.grid(shown, 4, enlarge=enlarge, captions=self.captions)
        figures: dict[str, Any] = {}
        if self.measure is not None:
            figures = self.measure(draw(self.num_measured, MEASURED_AT_ONCE))
        sheets = {"samples": sheet}
        if self.pictures:
            batch = {**self.y, **self.records}
            sheets |= draw_pictures(
                *(self.pictures, self.model, params, batch, self.shape, self.sampling)
            )
        return figures, sheets


Evaluator = HeldOut | HeldOutClasses | SamplePreview


def spread(count: int, num_records: int) -> list[int]:
    """Returns indices into a set in an order whose first few are spread over the set.

    They are the multiples, modulo the size of the set, of a number near its golden
    section that is coprime to the size: every index comes once before one is repeated.
    """
    step = max(round(0.618 * num_records), 1)
    while math.gcd(step, num_records) > 1:
        step += 1
    return [i * step % num_records for i in range(count)]


def _caption(condition: Condition, record: Record) -> str:
    """Returns the caption of a sample: its class or text; "" for other conditions."""
    if "label" in condition.fields and "label" in record:
        number = int(record["label"])
        names = getattr(condition, "class_names", ())
        return names[number] if number < len(names) else str(number)
    captions = record.get("captions", ()) if "tokens" in condition.fields else ()
    return captions[0] if captions else ""
