# SPDX-License-Identifier: Apache-2.0
"""Whether and how samples are judged while a model is trained."""

import dataclasses

from ldm_jax.metrics.distribution import SET_METRICS


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
