# SPDX-License-Identifier: Apache-2.0
"""The metrics that `ldm-jax evaluate` computes, and the files that they need."""

import dataclasses
from collections.abc import Sequence

from ldm_jax.metrics.image_sets.distribution import SET_METRICS
from ldm_jax.metrics.image_sets.measure import PAIR_METRICS
from ldm_jax.metrics.paper import find_protocol, find_row

METRICS = (*SET_METRICS, *PAIR_METRICS, "codebook", "clip_score")


@dataclasses.dataclass(frozen=True)
class Request:
    """The metrics to compute, and the files they need.

    Attributes:
      protocol: a key of `PROTOCOLS`; gives `metrics` and `num` where these are not.
      metrics: of SET_METRICS and PAIR_METRICS; () takes the protocol's, or "fid".
      num: images; None takes the protocol's, or all there are.
      reference: .npz of `ldm-jax stats`, ADM, pytorch-fid or torch-fidelity.
      more_references: further ones, each compared like the first (super-resolution is
        compared with the validation images and with the training images).
      feature_network, feature_weights: of `open_feature_network`.
      lpips_weights: file of `ldm-jax weights lpips`.
      lpips_trunk: which of its networks.
      standard_error: whether Frechet distances come with a standard error, which
        takes five more of them.
      clip_model: folder of a CLIPModel, for "clip_score"; see `captions.open_clip`.
      captions: .txt file with the caption of every image, one per line; image i has
        caption i modulo their number.
      masks: folder of the masks that images were painted with, one for each.
      mask_share: (low, high): evaluate the images whose mask covers such a share alone;
        the reference stays as it is. The paper's column is (0.4, 0.5).
      paper_row: the paper's row to print next to ours, a key of `ROWS`.
      batch_size: images at once.
    """

    protocol: str | None = None
    metrics: Sequence[str] = ()
    num: int | None = None
    reference: str | None = None
    more_references: Sequence[str] = ()
    feature_network: str = "inception"
    feature_weights: str | None = None
    lpips_weights: str | None = None
    lpips_trunk: str = "vgg"
    standard_error: bool = False
    clip_model: str | None = None
    captions: str | None = None
    masks: str | None = None
    mask_share: tuple[float, float] | None = None
    paper_row: str | None = None
    batch_size: int = 64

    def __post_init__(self):
        row = find_row(self.paper_row) if self.paper_row else None
        if self.protocol is None and row is not None:
            object.__setattr__(self, "protocol", row.protocol)
        protocol = find_protocol(self.protocol) if self.protocol else None
        if not self.metrics:
            metrics = protocol.metrics if protocol else ("fid",)
            object.__setattr__(self, "metrics", metrics)
        if self.num is None and protocol:
            object.__setattr__(self, "num", protocol.num_images)
        unknown = sorted({*self.metrics} - {*METRICS})
        if unknown:
            raise ValueError(
                f"unknown metrics {', '.join(unknown)}; some of: {', '.join(METRICS)}."
            )
        if "clip_score" in self.metrics and None in (self.clip_model, self.captions):
            raise ValueError(
                "clip_score compares images with their captions: got --clip-model "
                f"{self.clip_model} and --captions {self.captions}; give both."
            )

        if (self.masks is None) != (self.mask_share is None):
            raise ValueError(
                "images are chosen by the share of their masks: got --masks "
                f"{self.masks} and --mask-share {self.mask_share}; give both."
            )

    @property
    def compares_sets(self) -> bool:
        """Whether a feature network is needed."""
        return bool(set(SET_METRICS) & set(self.metrics))

    def needs_pairs(self) -> bool:
        """Returns whether every image is compared with another one."""
        return bool(set(PAIR_METRICS) & set(self.metrics))
