# SPDX-License-Identifier: Apache-2.0
"""Reads reference statistics, and computes missing features that a metric needs."""

from tqdm import tqdm

from ldm_jax.data.images.finished_images import open_set
from ldm_jax.interop.feature_networks.fidelity_cache import read_fidelity_cache
from ldm_jax.metrics.image_sets.distribution import Collector
from ldm_jax.metrics.image_sets.measure import FeatureNetwork, with_features
from ldm_jax.metrics.image_sets.reference import (
    Reference,
    load_reference,
    make_reference,
)


def open_reference(
    path: str, network: FeatureNetwork, metrics, batch_size: int = 64
) -> Reference:
    """Reads statistics from an .npz file, or from a .pt file of torch-fidelity's cache.

    ADM's reference batches contain images, and means and covariances of many more
    images. The means and covariances are used as they are; the features of the images
    are computed if a metric needs them.
    """
    if path.endswith(".pt"):
        reference = make_reference(read_fidelity_cache(path), path)
    else:
        reference = load_reference(path)
    needs = {"kid", "precision", "recall", "density", "coverage"} & set(metrics)
    if not needs or reference.features is not None or not reference.has_images:
        return reference
    image_set = open_set(path)
    collector = Collector(["kid"], image_set.count, image_set.count)
    with tqdm(desc=f"features of {path}", total=image_set.count, unit="image") as bar:
        with_features(network, image_set.batches(batch_size), collector, bar.update)
    return Reference(
        reference.pool,
        reference.spatial,
        collector.kept(),
        reference.metadata,
        path,
    )
