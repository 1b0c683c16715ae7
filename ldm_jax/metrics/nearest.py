# SPDX-License-Identifier: Apache-2.0
"""Classifies small images by their nearest neighbours, and looks for copies.

For image sets small enough to be compared pixel by pixel (the quickstart's digits);
larger sets are compared in a feature space.
"""

import numpy as np
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors


def classification_accuracy(
    train_image: np.ndarray,
    train_label: np.ndarray,
    image: np.ndarray,
    label: np.ndarray,
    num_neighbors: int = 1,
) -> float:
    """Share of images that a k-nearest-neighbour classifier names as `label`.

    Args:
      train_image: [N, H, W, C] real images the classifier is fitted on.
      train_label: [N] their classes.
      image: [M, H, W, C] images to be named.
      label: [M] the class each of them should be.
      num_neighbors: k, by Euclidean distance between pixels.

    Returns:
      Accuracy in [0, 1].
    """
    classifier = KNeighborsClassifier(num_neighbors)
    classifier.fit(_flat(train_image), np.asarray(train_label))
    return float(np.mean(classifier.predict(_flat(image)) == np.asarray(label)))


def nearest_distances(train_image: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Distance of every image to the nearest training image.

    A generator that copies has distances near zero; one that generalises has about
    those of held-out real images.

    Args:
      train_image: [N, H, W, C].
      image: [M, H, W, C], same range.

    Returns:
      [M] root-mean-square difference per pixel, in the images' own units.
    """
    neighbors = NearestNeighbors(n_neighbors=1).fit(_flat(train_image))
    distance, _ = neighbors.kneighbors(_flat(image))
    return distance[:, 0] / np.sqrt(np.prod(image.shape[1:]))


def _flat(image) -> np.ndarray:
    image = np.asarray(image, np.float32)
    return image.reshape(len(image), -1)
