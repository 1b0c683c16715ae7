# SPDX-License-Identifier: Apache-2.0
"""Measures which share of a codebook the images of a set use."""

import numpy as np
from jaxtyping import Int

from ldm_jax.types import Array

# Names of what is measured.
CODEBOOK_FIGURES = ("codebook_usage", "perplexity")


class CodebookUsage:
    """Counts the codes of latents, batch by batch."""

    def __init__(self, num_codes: int):
        self._counts = np.zeros(num_codes, np.int64)

    def update(self, indices: Int[Array, "..."]) -> None:
        """Adds the codes of a batch, in [0, num_codes)."""
        self._counts += np.bincount(np.ravel(indices), minlength=len(self._counts))

    def result(self) -> dict[str, float]:
        """Returns "codebook_usage", the share of codes that occur, in [0, 1],
        and "perplexity", exp(-sum p ln p), in [1, num_codes]."""
        share = self._counts / max(self._counts.sum(), 1)
        entropy = -(share * np.log(np.maximum(share, 1e-300))).sum()
        figures = float((self._counts > 0).mean()), float(np.exp(entropy))
        return dict(zip(CODEBOOK_FIGURES, figures, strict=True))
