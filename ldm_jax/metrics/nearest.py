# SPDX-License-Identifier: Apache-2.0
"""Classifies small images by their nearest neighbours, and detects copies.

Images are compared pixel by pixel, which suits small images such as the quickstart's
digits; larger images are compared in a feature space.
"""

import numpy as np
from jaxtyping import Float, Int, Num
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from ldm_jax.types import Array


def classification_accuracy(
    train_image: Num[Array, "N H W C"],
    train_label: Int[Array, " N"],
    image: Num[Array, "M H W C"],
    label: Int[Array, " M"],
    num_neighbors: int = 1,
) -> float:
    """Computes the accuracy of a nearest-neighbour classifier.

    Args:
      train_image: real images, to which the classifier is fitted.
      train_label: their classes.
      image: images to classify.
      label: their correct classes.
      num_neighbors: k; the distance is Euclidean, between pixels.

    Returns:
      Accuracy in [0, 1].
    """
    classifier = KNeighborsClassifier(num_neighbors)
    classifier.fit(_flat(train_image), np.asarray(train_label))
    return float(np.mean(classifier.predict(_flat(image)) == np.asarray(label)))


def nearest_distances(
    train_image: Num[Array, "N H W C"], image: Num[Array, "M H W C"]
) -> Float[np.ndarray, " M"]:
    """Computes the distance of every image to the nearest training image.

    The distances of a generator that copies are near zero; those of a generator that
    generalizes are about as large as those of held-out real images.

    Args:
      train_image: in any range.
      image: in the same range.

    Returns:
      Root-mean-square difference per pixel, in the units of the images.
    """
    neighbors = NearestNeighbors(n_neighbors=1).fit(_flat(train_image))
    distance, _ = neighbors.kneighbors(_flat(image))
    return distance[:, 0] / np.sqrt(np.prod(image.shape[1:]))


def _flat(image) -> np.ndarray:
    image = np.asarray(image, np.float32)
    return image.reshape(len(image), -1)
