# SPDX-License-Identifier: Apache-2.0
"""Computes the requested metrics with the feature networks they need."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

from ldm_jax.commands.evaluation.captions import open_clip, read_caption_lines
from ldm_jax.commands.evaluation.request import Request
from ldm_jax.data.images import finished_images
from ldm_jax.metrics.codebook import CodebookUsage
from ldm_jax.metrics.image_sets.distribution import (
    SET_METRICS,
    Collector,
    Figure,
    check_network,
    check_reference,
    rank_warning,
)
from ldm_jax.metrics.image_sets.distribution import label as label_of
from ldm_jax.metrics.image_sets.measure import (
    PAIR_METRICS,
    Mean,
    Pairs,
    image_metadata,
    open_feature_network,
    place_rows,
)
from ldm_jax.metrics.image_sets.open_reference import open_reference
from ldm_jax.metrics.image_sets.reference import Reference

# Inception scores below this say that the network saw one class.
ONE_CLASS = 1.01


class Evaluator:
    """Computes the metrics of a request; opens all networks and files at once."""

    def __init__(self, request: Request, transform: Mapping[str, Any] | None):
        self._request, self._transform = request, transform
        self._network = self._reference = None
        self._more: list[Reference] = []
        if request.compares_sets:
            self._network = open_feature_network(
                request.feature_network, request.feature_weights
            )
            check_network(request.metrics, self._network.widths)
            if request.reference:
                self._reference = open_reference(
                    request.reference, self._network, request.metrics
                )
            self._more = [
                open_reference(path, self._network, request.metrics)
                for path in request.more_references
            ]
        self._pairs = (
            Pairs(request.metrics, request.lpips_weights, request.lpips_trunk)
            if request.needs_pairs()
            else None
        )

        self._clip: Any = None
        self._captions: Any = None
        if "clip_score" in request.metrics:
            assert request.clip_model is not None and request.captions is not None
            self._clip = open_clip(request.clip_model)
            self._captions = read_caption_lines(request.captions)

    def check(self, count: int, size, pairs: str | None) -> None:
        """Refuses images that could not be evaluated, before they are made.

        Args:
          count: how many.
          size: their (height, width).
          pairs: what each is compared with, of `open_set`; or None.

        Raises:
          ValueError: the reference or the pairs are missing, of other images or fewer.
        """
        if self._network is not None:
            for reference in (self._reference, *self._more):
                check_reference(self._request.metrics, reference)
            self._differences(size)
        if self._pairs is None:
            return
        if pairs is None:
            raise ValueError(
                f"{', '.join(PAIR_METRICS)} compare images one by one: got nothing to "
                "compare with; give --pairs, or leave them out."
            )
        others = finished_images.open_set(pairs, count)
        if tuple(others.size) != tuple(size):
            raise ValueError(
                f"images and those they are compared with must have one size: got "
                f"{size[0]}x{size[1]}, but {pairs} has {others.size[0]}x"
                f"{others.size[1]}; resize either."
            )

    def _differences(self, size) -> list[str]:
        """Warns of differences between the images and the reference.

        A ValueError where no comparison has a meaning.
        """
        if self._network is None or self._reference is None:
            return []
        metadata = image_metadata(self._network, size, self._transform)
        references = (self._reference, *self._more)
        return [text for one in references for text in one.check(metadata)]

    def images(
        self, path: str, pairs: str | None, by_name: bool = True
    ) -> dict[str, Any]:
        """Evaluates images on disk, after `check` of the request.

        Args:
          path: of `open_set`.
          pairs: what each is compared with, of `open_set`; or None.
          by_name: whether the files of a pair have the same name. Samples are named by
            their number, so they are compared in the order of the names.
        """
        request = self._request
        image_set = finished_images.open_set(path, request.num)
        self.check(image_set.count, image_set.size, pairs)
        sets = [image_set]
        if self._pairs is not None:
            sets += [
                finished_images.open_pairs(image_set, pairs)
                if by_name
                else finished_images.open_set(pairs, image_set.count)
            ]
        if request.masks is not None and request.mask_share is not None:
            chosen = finished_images.rows_by_mask_share(
                request.masks, request.mask_share, image_set.count
            )
            sets = [finished_images.choose_images(one, chosen) for one in sets]
        image_set, *other_sets = sets
        others = [other.batches(request.batch_size) for other in other_sets]
        rows = (
            (next(others[0]) if others else None, image, None)
            for image in image_set.batches(request.batch_size)
        )
        return self._compute(rows, image_set.count, image_set.size, None, None)

    def reconstructions(self, rows, count, size, model) -> dict[str, Any]:
        """Evaluates reconstructions against their images."""
        codes = None
        if "codebook" in self._request.metrics:
            if model.autoencoder.bottleneck != "vq":
                raise ValueError(
                    "codebook usage needs a VQ first stage: got "
                    f'"{model.autoencoder.bottleneck}"; leave "codebook" out.'
                )
            codes = CodebookUsage(model.autoencoder.num_codes)
        own = None
        if self._network is not None and self._reference is None:
            metrics = {*SET_METRICS} & {*self._request.metrics} - {"is"}
            own = Collector([*metrics, "fid"], count)
        return self._compute(rows, count, size, codes, own)

    def _compute(self, rows, count, size, codes, own) -> dict[str, Any]:
        """Passes (other, image, codes) once; `own` collects the others' statistics."""
        warnings = self._differences(size)
        collector, agreement = self._collector(count), Mean()
        updates = self._updates(collector, own, codes, agreement)
        with tqdm(desc="evaluated", total=count, unit="image") as bar:
            for row in rows:
                for update in updates:
                    update(*row)
                bar.update(len(row[1]))
        figures: dict[str, Figure] = {}
        if collector is not None:
            reference = self._reference
            if own is not None:
                reference = own.reference({}, "the images themselves")
            figures |= collector.compute(reference, place_rows)
            for number, other in enumerate(self._more, 2):
                values = collector.compute(other, place_rows)
                # The inception score compares with nothing.
                figures |= {
                    f"{name}@{number}": value
                    for name, value in values.items()
                    if name != "is"
                }
            warnings = warnings + self._doubts(figures, count, reference)
        if self._pairs is not None:
            figures |= self._pairs.figures()
        if codes is not None:
            figures |= {name: Figure(x) for name, x in codes.result().items()}
        if self._clip is not None:
            figures["clip_score"] = agreement.figure()
        return self._report(count, figures, warnings)

    def _collector(self, count: int) -> Collector | None:
        """Makes the collector of features; None where no metric needs them."""
        if self._network is None:
            return None
        metrics = [name for name in self._request.metrics if name in SET_METRICS]
        return Collector(metrics, count, has_spread=self._request.standard_error)

    def _updates(self, collector, own, codes, agreement) -> list[Callable]:
        """Lists the functions of (other, image, codes) that update the metrics."""
        pairs, updates = self._pairs, []
        run = None if self._network is None else self._network.run
        if collector is not None and run is not None:
            updates.append(lambda _, image, __: collector.update(run(image)))
        if own is not None and run is not None:
            updates.append(lambda other, _, __: own.update(run(other)))
        if pairs is not None:
            updates.append(lambda other, image, _: pairs.update(other, image))
        if codes is not None:
            updates.append(lambda _, __, indices: codes.update(indices))
        if self._clip is not None:
            updates.append(lambda _, image, __: self._read(image, agreement))
        return updates

    def _read(self, image, agreement) -> None:
        """Compares the next images with their captions."""
        captions = self._captions
        which = range(agreement.count, agreement.count + len(image))
        agreement.update(
            self._clip(image, [captions[i % len(captions)] for i in which])
        )

    def _doubts(self, figures, count: int, reference) -> list[str]:
        """Warns where metrics mean less than usual."""
        warnings = []
        if "is" in figures and figures["is"].value < ONE_CLASS:
            warnings.append(
                f"the inception score is {figures['is'].value:.3f}: to the network all "
                "images are of one class; are they all alike?"
            )
        if {"fid", "sfid"} & set(figures) and self._network is not None:
            width = self._network.widths["pool"]
            warnings += rank_warning(count, width, "the images evaluated")
            warnings += rank_warning(reference.pool.count, width, reference.path)
        return warnings

    def _report(self, count, figures, warnings) -> dict[str, Any]:
        metadata = {} if self._network is None else self._network.metadata
        return {
            "num_images": count,
            "figures": {
                name: {
                    "label": self._label(name, metadata),
                    "value": figure.value,
                    "spread": figure.spread,
                }
                for name, figure in figures.items()
            },
            "network": metadata,
            "more_references": list(self._request.more_references),
            "reference_metadata": dict(self._reference.metadata)
            if self._reference
            else {},
            "warnings": warnings,
        }

    def _label(self, name: str, metadata: Mapping[str, Any]) -> str:
        """Names a figure, and its reference where it is not the first."""
        metric, _, number = name.partition("@")
        label = label_of(metric, metadata) if metric in SET_METRICS else metric
        if not number:
            return label
        path = self._request.more_references[int(number) - 2]
        return f"{label}, {pathlib.Path(path).name}"
