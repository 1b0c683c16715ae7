# SPDX-License-Identifier: Apache-2.0
"""Compares a set of images with a reference, in one pass over their features.

Memory use does not depend on the number of images: means, covariances and the splits of
the inception score are accumulated, and a sample of bounded size is kept of the
features.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Num

from ldm_jax.metrics.image_sets.frechet import FeatureMoments, frechet_distance
from ldm_jax.metrics.image_sets.inception_score import InceptionScore
from ldm_jax.metrics.image_sets.kernel import kernel_distance
from ldm_jax.metrics.image_sets.manifold import density_coverage, precision_recall
from ldm_jax.metrics.image_sets.reference import Reference
from ldm_jax.metrics.image_sets.reservoir import Reservoir
from ldm_jax.types import Array

# Metrics of image sets, in the order in which they are printed.
SET_METRICS = (
    "fid",
    "sfid",
    "kid",
    "is",
    "precision",
    "recall",
    "density",
    "coverage",
)
NEED_FEATURES = {"kid", "precision", "recall", "density", "coverage"}
LABELS = {"fid": "FID", "sfid": "sFID", "kid": "KID", "is": "IS"}
# Maximum number of features that are kept, for the metrics that compare single images:
# 400 MB for 2,048 features.
KEEP = 50_000
# Parts of the jackknife, which leaves out one at a time, for the standard error of a
# Frechet distance.
NUM_FOLDS = 5


class Figure(NamedTuple):
    """A number and its uncertainty.

    Attributes:
      value: the metric.
      spread: a standard deviation over splits (IS), subsets (KID) or images, a
        jackknife standard error (Frechet distances), or None.
    """

    value: float
    spread: float | None = None


def label(metric: str, network: Mapping[str, Any]) -> str:
    """Returns the printed name of a metric, which depends on the feature network.

    Args:
      metric: one of SET_METRICS.
      network: metadata of the feature network: "kind" and "official".

    Returns:
      "FID", "KID", "IS" and so on for the published InceptionV3 only; otherwise
      "FD(mobilenet)", "KD(random)", "IS(mobilenet)", "precision(mobilenet)".
    """
    kind = network["kind"]
    if kind == "inception" and network["official"]:
        return LABELS.get(metric, metric)
    name = kind if network["official"] else f"{kind}, other weights"
    short = {"fid": "FD", "sfid": "sFD", "kid": "KD", "is": "IS"}.get(metric, metric)
    return f"{short}({name})"


def check_network(metrics: Collection[str], outputs: Collection[str]) -> None:
    """Raises a ValueError if a metric needs an output that the network does not have.

    Args:
      metrics: names from SET_METRICS.
      outputs: the network's outputs, from "pool", "spatial" and "logits".
    """
    for metric, name in (("sfid", "spatial"), ("is", "logits")):
        if metric in metrics and name not in outputs:
            raise ValueError(
                f"{metric} needs {name} features: the network gives "
                f"{', '.join(sorted(outputs))}; leave it out, or use inception."
            )


def check_reference(metrics: Collection[str], reference: Reference | None) -> None:
    """Raises a ValueError if the reference lacks statistics that a metric needs."""
    comparing = [name for name in SET_METRICS if name in metrics and name != "is"]
    if not comparing:
        return
    if reference is None:
        raise ValueError(
            f"{', '.join(comparing)} compare with a reference: got none; make one with "
            "`ldm-jax stats` and give it with --reference."
        )
    if "sfid" in comparing and reference.spatial is None:
        raise ValueError(
            f"{reference.path} has no spatial statistics, which sFID needs; make one "
            "with `ldm-jax stats` and the network inception."
        )
    needy = [name for name in comparing if name in NEED_FEATURES]
    if needy and reference.features is None:
        raise ValueError(
            f"{', '.join(needy)} compare features of single images: {reference.path} "
            "holds none; leave these metrics out, or make the reference with "
            "`ldm-jax stats`."
        )


class Collector:
    """Accumulates features of images batch by batch, and computes metrics of them."""

    def __init__(
        self,
        metrics: Sequence[str],
        num_images: int,
        keep: int = KEEP,
        has_spread: bool = False,
    ):
        """Creates a collector without images.

        Args:
          metrics: names from SET_METRICS.
          num_images: number of images in the whole set.
          keep: maximum number of features that are kept, as a uniform sample.
          has_spread: whether to compute the standard error of Frechet distances.

        Raises:
          ValueError: a metric is unknown, or there are too few images for it.
        """
        unknown = sorted(set(metrics) - set(SET_METRICS))
        if unknown:
            raise ValueError(
                f"unknown metrics {', '.join(unknown)}; some of: "
                f"{', '.join(SET_METRICS)}."
            )
        self.metrics = [name for name in SET_METRICS if name in metrics]
        self._folds = NUM_FOLDS if has_spread and num_images >= 2 * NUM_FOLDS else 1
        self._moments: dict[str, list[FeatureMoments]] = {}
        self._score = InceptionScore(num_images) if "is" in metrics else None
        kept = keep if NEED_FEATURES & set(metrics) else 0
        self._reservoir = Reservoir(kept)
        self.count = 0

    def update(self, features: Mapping[str, Num[Array, "B _"]]) -> None:
        """Adds a batch of "pool" features, with "logits" and "spatial" if needed.

        `check_network` checks that the network has the outputs that the metrics need.
        """
        rows = len(features["pool"])
        fold = (self.count + np.arange(rows)) % self._folds
        for name, metric in (("pool", "fid"), ("spatial", "sfid")):
            if metric not in self.metrics:
                continue
            x = features[name]
            parts = self._moments.setdefault(
                name, [FeatureMoments(x.shape[1]) for _ in range(self._folds)]
            )
            for n, part in enumerate(parts):
                if (fold == n).any():
                    part.update(x[fold == n])
        if self._score is not None:
            self._score.update(features["logits"])
        self._reservoir.update(features["pool"])
        self.count += rows

    def reference(self, metadata: Mapping[str, Any], path: str = "") -> Reference:
        """Returns the statistics of all images so far."""
        features = self._reservoir.rows()
        return Reference(
            self._total("pool").gaussian(),
            self._total("spatial").gaussian() if "spatial" in self._moments else None,
            features if len(features) else None,
            metadata,
            path,
        )

    def kept(self) -> Num[np.ndarray, "K D"]:
        """Returns the features that were kept."""
        return self._reservoir.rows()

    def compute(
        self, reference: Reference | None, place: Callable = jnp.asarray
    ) -> dict[str, Figure]:
        """Computes the metrics.

        Args:
          reference: statistics to compare with; None if no metric needs any.
          place: places rows on the devices, as in `precision_recall`.

        Returns:
          metric -> Figure, in the order of SET_METRICS.

        Raises:
          ValueError: the reference lacks statistics that a metric needs.
        """
        check_reference(self.metrics, reference)
        figures: dict[str, Figure] = {}
        if self._score is not None:
            figures["is"] = Figure(*self._score.result())
        for metric, name in (("fid", "pool"), ("sfid", "spatial")):
            if metric in self.metrics:
                assert reference is not None  # `check_reference`
                figures[metric] = self._frechet(name, reference)
        if NEED_FEATURES & set(self.metrics):
            assert reference is not None  # `check_reference`
            figures |= self._among_features(reference, place)
        return {name: figures[name] for name in self.metrics}

    def _total(self, name: str, without: int | None = None) -> FeatureMoments:
        parts = self._moments[name]
        total = FeatureMoments(parts[0].width)
        for n, part in enumerate(parts):
            if n != without:
                total.merge(part)
        return total

    def _frechet(self, name: str, reference: Reference) -> Figure:
        statistics = getattr(reference, name)
        value = frechet_distance(self._total(name).gaussian(), statistics)
        if self._folds == 1:
            return Figure(value)
        left_out = np.array(
            [
                frechet_distance(self._total(name, without=n).gaussian(), statistics)
                for n in range(self._folds)
            ]
        )
        scatter = np.square(left_out - left_out.mean()).sum()
        return Figure(value, float(np.sqrt(scatter * (1 - 1 / self._folds))))

    def _among_features(self, reference: Reference, place) -> dict[str, Figure]:
        real, fake = reference.features, self._reservoir.rows()
        assert real is not None  # `check_reference`
        figures: dict[str, Figure] = {}
        if "kid" in self.metrics:
            figures["kid"] = _kernel(real, fake)
        pairs = (("precision", "recall"), ("density", "coverage"))
        for names, measure in zip(
            pairs, (precision_recall, density_coverage), strict=True
        ):
            if set(names) & set(self.metrics):
                values = measure(real, fake, place=place)
                figures |= dict(zip(names, map(Figure, values), strict=True))
        return figures


def _kernel(real, fake) -> Figure:
    """Uses subsets of 1,000, or all images if there are fewer, without a spread."""
    size = min(1000, len(real), len(fake))
    if size == len(real) == len(fake):
        return Figure(kernel_distance(real, fake, 1, size)[0])
    return Figure(*kernel_distance(real, fake, subset_size=size))


def rank_warning(count: int, width: int, what: str) -> list[str]:
    """Makes a warning if there are fewer images than features (singular covariance)."""
    if not count or count > width:
        return []
    return [
        f"{what}: {count} images cannot fill a covariance of {width} features (rank "
        f"{max(count - 1, 0)}): the Frechet distance comes out too large, and only "
        "figures with the same numbers of images can be compared. Use more images, or "
        "KID, which has no such bias."
    ]
