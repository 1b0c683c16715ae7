# SPDX-License-Identifier: Apache-2.0
"""Whether and how samples are judged while a model is trained."""

import dataclasses
import logging
from collections.abc import Callable

from ldm_jax.metrics.distribution import (
    SET_METRICS,
    Collector,
    check_network,
    check_reference,
    label,
    rank_warning,
)
from ldm_jax.metrics.measure import (
    image_facts,
    open_network,
    place_rows,
    with_features,
)
from ldm_jax.metrics.open_reference import open_reference

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Judging:
    """What is measured at every evaluation of a run; the section `judging`.

    Attributes:
      reference: .npz of `ldm-jax stats`; "" judges nothing.
      network: "inception" or "mobilenet", whose weights `weights` holds ("" is
        weights/NETWORK.safetensors).
      num: samples, of the averaged parameters, with the conditions of the set's first
        records and the same noise every time; a few thousand show a trend.
      metrics: of SET_METRICS.

    Raises:
      ValueError: a metric is unknown, or there are too few samples.
    """

    reference: str = ""
    network: str = "inception"
    weights: str = ""
    num: int = 2_000
    metrics: tuple[str, ...] = ("fid",)

    def __post_init__(self):
        unknown = sorted(set(self.metrics) - set(SET_METRICS))
        if unknown:
            raise ValueError(
                f"config.judging.metrics has {', '.join(unknown)}; some of: "
                f"{', '.join(SET_METRICS)}."
            )
        if self.num < 10:
            raise ValueError(
                f"config.judging.num must be at least 10 samples: got {self.num}."
            )


def make_judge(judging: Judging, image_size) -> Callable | None:
    """Makes the judge of a run's samples; None where the config has none.

    Args:
      judging: the section of the config.
      image_size: (height, width) of the samples, checked against the reference's.

    Returns:
      Function of batches of uint8 [B, H, W, 3], `judging.num` images in all: its
      figures by name.

    Raises:
      ValueError: no weights, or a reference of other images or too little for the
        metrics: before the run begins.
    """
    if not judging.reference:
        return None
    network = open_network(judging.network, judging.weights or None)
    reference = open_reference(judging.reference, network, judging.metrics)
    for text in reference.check(image_facts(network, image_size, None)):
        log.warning("judging: %s", text)
    check_network(judging.metrics, network.widths)
    check_reference(judging.metrics, reference)
    width = network.widths["pool"]
    for text in rank_warning(judging.num, width, "config.judging.num"):
        log.warning("judging: %s", text)

    def judge(batches):
        collector = Collector(judging.metrics, judging.num)
        with_features(network, batches, collector, lambda count: None)
        figures = collector.judge(reference, place_rows)
        return {label(name, network.facts): f.value for name, f in figures.items()}

    return judge
