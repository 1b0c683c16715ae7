# SPDX-License-Identifier: Apache-2.0
"""Computes the inception score from the class probabilities of images."""

import numpy as np
from jaxtyping import Num

from ldm_jax.types import Array

# The seed of torch-fidelity, so that the same images are in the same splits.
SPLIT_SEED = 2020


class InceptionScore:
    """Accumulates the inception score from batches of logits, in the images' order.

        IS = mean over splits of exp( mean_i KL( p(y | x_i) || mean_j p(y | x_j) ) )

    Memory use does not depend on the number of images. This number must be known in
    advance, because a fixed permutation assigns image i to a split.

    Source: Salimans et al. 2016, Sec. 4; splits as in torch-fidelity.
    """

    def __init__(self, num_images: int, num_splits: int = 10):
        """Takes the total number of images, and a number of splits not above it.

        Raises:
          ValueError: there are fewer images than splits.
        """
        if num_images < num_splits:
            raise ValueError(
                f"an inception score of {num_splits} splits needs as many images: got "
                f"{num_images}; give more images."
            )
        order = np.random.RandomState(SPLIT_SEED).permutation(num_images)
        bounds = [i * num_images // num_splits for i in range(num_splits + 1)]
        self._split = np.empty(num_images, np.int32)
        self._split[order] = np.repeat(np.arange(num_splits), np.diff(bounds))
        self._sizes = np.diff(bounds)
        self._done = 0
        self._probability = None  # [splits, classes], sums
        self._negentropy = np.zeros(num_splits)

    def update(self, logits: Num[Array, "B classes"]) -> None:
        """Adds the logits of the next images.

        Raises:
          ValueError: there are more images than the score was made for.
        """
        logits = np.asarray(logits, np.float64)
        logits = logits - logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        if self._probability is None:
            self._probability = np.zeros((len(self._sizes), p.shape[1]))
        split = self._split[self._done : self._done + len(p)]
        if len(split) < len(p):
            raise ValueError(
                f"num_images must be the number of images: got {len(self._split)}, and "
                "more images; pass their number."
            )
        np.add.at(self._probability, split, p)
        np.add.at(self._negentropy, split, (p * log_p).sum(axis=1))
        self._done += len(p)

    def result(self) -> tuple[float, float]:
        """Returns the mean and standard deviation of the scores of the splits.

        Raises:
          ValueError: there were fewer images than the score was made for.
        """
        if self._done != len(self._split) or self._probability is None:
            raise ValueError(
                f"num_images must be the number of images: got {len(self._split)}, and "
                f"{self._done} images; pass their number, or all images."
            )
        mean = self._probability / self._sizes[:, None]
        entropy = -(mean * np.log(np.maximum(mean, 1e-300))).sum(axis=1)
        scores = np.exp(self._negentropy / self._sizes + entropy)
        return float(scores.mean()), float(scores.std())
