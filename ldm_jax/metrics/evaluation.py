# SPDX-License-Identifier: Apache-2.0
"""Computes metrics of samples during training."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence

import numpy as np

from ldm_jax.metrics.image_sets.distribution import (
    SET_METRICS,
    Collector,
    check_network,
    check_reference,
    label,
    rank_warning,
)
from ldm_jax.metrics.image_sets.measure import (
    FeatureNetwork,
    check_feature_network,
    image_metadata,
    open_feature_network,
    place_rows,
    with_features,
)
from ldm_jax.metrics.image_sets.open_reference import open_reference
from ldm_jax.metrics.image_sets.reference import Reference

# What a run can draw of its records: the latents that are learned, decoded; conditions
# that are images; latents at rising t; the predictions of x0 during sampling, and along
# all T steps of ancestral sampling; samples of quantized estimates (VQ); samples, the
# same decoded without quantization, and the difference (VQ); the middle of the inputs
# replaced by samples, or everything else.
PICTURES = (
    *("inputs", "conditions", "noising", "denoising"),
    *("progressive", "quantized", "unquantized", "inpainting", "outpainting"),
)

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Settings of the metrics of samples; the config section `evaluation`.

    Attributes:
      reference: .npz file of `ldm-jax stats`; with "", no metrics are computed.
      feature_network: "inception", "mobilenet" or "random".
      feature_weights: its weights file; "" is weights/FEATURE_NETWORK.safetensors.
      num: number of samples. They are drawn with the averaged parameters, the
        conditions of the data set's first records and the same noise at every
        evaluation; a few thousand show a trend.
      metrics: names from SET_METRICS.
      pictures: sheets in addition to that of samples, names from PICTURES.

    Raises:
      ValueError: a metric or a sheet is unknown, or there are too few samples.
    """

    reference: str = ""
    feature_network: str = "inception"
    feature_weights: str = ""
    num: int = 2_000
    metrics: tuple[str, ...] = ("fid",)
    pictures: tuple[str, ...] = ()

    def __post_init__(self):
        unknown = sorted(set(self.metrics) - set(SET_METRICS))
        if unknown:
            raise ValueError(
                f"config.evaluation.metrics has {', '.join(unknown)}; some of: "
                f"{', '.join(SET_METRICS)}."
            )
        unknown = sorted(set(self.pictures) - set(PICTURES))
        if unknown:
            raise ValueError(
                f"config.evaluation.pictures has {', '.join(unknown)}; some of: "
                f"{', '.join(PICTURES)}."
            )
        check_feature_network(self.feature_network)
        if self.num < 10:
            raise ValueError(
                f"config.evaluation.num must be at least 10 samples: got {self.num}."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class SampleMetrics:
    """Evaluates samples.

    Attributes:
      evaluation: which metrics, of how many samples.
      network: that computes the features.
      reference: what the samples are compared with.
    """

    evaluation: Evaluation
    network: FeatureNetwork
    reference: Reference

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the results."""
        metadata = self.network.metadata
        return tuple(label(name, metadata) for name in self.evaluation.metrics)

    def __call__(self, batches: Iterator[np.ndarray]) -> dict[str, float]:
        """Returns the figures of batches of uint8 [B, H, W, 3], `num` images in all."""
        collector = Collector(self.evaluation.metrics, self.evaluation.num)
        with_features(self.network, batches, collector, lambda count: None)
        figures = collector.compute(self.reference, place_rows)
        metadata = self.network.metadata
        return {label(name, metadata): f.value for name, f in figures.items()}


def make_sample_metrics(
    evaluation: Evaluation, image_size: Sequence[int]
) -> SampleMetrics | None:
    """Opens what the evaluation of samples needs; None if there is no reference.

    Args:
      evaluation: settings.
      image_size: (height, width) of the samples, which the reference must have too.

    Raises:
      ValueError: the weights are missing, or the reference is of images of another
        size or lacks statistics that the metrics need. Raised before the run starts.
    """
    if not evaluation.reference:
        return None
    network = open_feature_network(
        evaluation.feature_network, evaluation.feature_weights or None
    )
    reference = open_reference(evaluation.reference, network, evaluation.metrics)
    for text in reference.check(image_metadata(network, image_size, None)):
        log.warning("evaluation: %s", text)
    check_network(evaluation.metrics, network.widths)
    check_reference(evaluation.metrics, reference)
    width = network.widths["pool"]
    for text in rank_warning(evaluation.num, width, "config.evaluation.num"):
        log.warning("evaluation: %s", text)

    return SampleMetrics(evaluation, network, reference)
