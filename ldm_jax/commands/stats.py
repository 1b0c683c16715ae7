# SPDX-License-Identifier: Apache-2.0
"""Computes reference statistics of an image set, with the transforms of training."""

import functools
import importlib.metadata
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from ldm_jax.data.images.finished_images import open_set
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.loader import iterate_once
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.experiment.models import training_images
from ldm_jax.experiment.stored_config import first_stage_of
from ldm_jax.metrics.image_sets.distribution import (
    Collector,
    rank_warning,
)
from ldm_jax.metrics.image_sets.measure import (
    FeatureNetwork,
    image_metadata,
    open_feature_network,
    with_features,
)
from ldm_jax.metrics.image_sets.reference import (
    MARK,
    Reference,
    save_reference,
)
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import fetch, is_main_process
from ldm_jax.parallel.outputs import output_file, reserves

log = logging.getLogger(__name__)

# The network gets the transformed images as whole bytes.
QUANTIZATION = "none: bytes as the loader makes them"


@reserves(functools.partial(output_file, suffix=".npz", mark=MARK))
def write_stats(
    out: str,
    dataset: str | None = None,
    *,
    like: str | None = None,
    image_size: tuple[int, int] | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    network: str = "inception",
    weights: str | None = None,
    keep: int = 10_000,
    batch_size: int = 64,
) -> Reference:
    """Writes statistics of a set of real images.

    Args:
      out: .npz file to write.
      dataset: of `open_images`, or the .npz of images (ADM's reference batches); None
        takes what `like` was trained on.
      like: a model directory, whose crop, resize and size are taken over; without it
        the images are cropped in the center and resized bicubically.
      image_size: (height, width), without `like`.
      split: of the data set; None is that of `like`, or "train".
      data_dir: folder of the TFDS sets.
      network, weights: of `open_feature_network`.
      keep: features of single images kept, a uniform sample; KID, precision and
        recall need them.
      batch_size: images at once.

    Returns:
      The statistics.

    Raises:
      ValueError: no data, no size, or no weights.
    """
    opened = open_feature_network(network, weights)
    if dataset is not None and dataset.endswith(".npz"):
        image_set = open_set(dataset)
        metadata = image_metadata(opened, image_set.size, None) | {"dataset": dataset}
        count, batches = image_set.count, image_set.batches(batch_size)
    else:
        source, transform, metadata = _open(dataset, like, image_size, split, data_dir)
        metadata = (
            image_metadata(opened, transform.size, transform.description) | metadata
        )
        count, batches = len(source), iterate_bytes(source, transform, batch_size)
    metadata |= {
        "quantization": QUANTIZATION,
        "ldm_jax": importlib.metadata.version("ldm_jax"),
    }
    reference = collect(opened, batches, count, metadata, keep, out)
    if is_main_process():
        save_reference(out, reference)
    return reference


def _open(dataset, like, image_size, split, data_dir):
    """Opens the images of a set, or of a model's training, with their transform."""
    spec: dict[str, Any] = {}
    if like is not None:
        _, config = first_stage_of(like)
        spec, transform = training_images(config)
    elif image_size is not None:
        transform = ImageTransform(image_size=tuple(image_size))
    else:
        raise ValueError(
            "statistics need a size of image: got neither --like nor --size; give the "
            "model directory they are for, or HEIGHTxWIDTH."
        )
    given = dict(dataset=dataset, split=split, data_dir=data_dir)
    spec |= {name: value for name, value in given.items() if value is not None}
    if not spec.get("dataset"):
        raise ValueError("statistics need a data set: got none; name it.")
    source = open_images(**spec)
    metadata = {
        "dataset": spec["dataset"],
        "split": spec.get("split", "train"),
        "fingerprint": source.fingerprint,
        "count": len(source),
    }
    return source, transform, metadata


def iterate_bytes(source, transform, batch_size: int) -> Iterator[np.ndarray]:
    """Yields a set's images as uint8 [B, H, W, 3]."""
    for batch, valid in iterate_once(source, transform, batch_size, _sharding()):
        yield as_bytes(fetch(batch["image"])[:valid])


def as_bytes(image: np.ndarray) -> np.ndarray:
    """Undoes the loader's scaling to [-1, 1], exactly."""
    return np.rint((np.asarray(image, np.float32) + 1) * 127.5).astype(np.uint8)


def _sharding():
    return sharding.batch_sharding(sharding.make_mesh())


def collect(
    network: FeatureNetwork,
    batches: Iterator[np.ndarray],
    count: int,
    metadata: Mapping[str, Any],
    keep: int,
    path: str,
) -> Reference:
    """Passes images through the network once and sums up."""
    has_spatial = network.metadata["kind"] == "inception"
    metrics = ["fid", *(["sfid"] if has_spatial else []), *(["kid"] if keep else [])]
    collector = Collector(metrics, count, keep)
    with tqdm(desc="statistics", total=count, unit="image") as bar:
        with_features(network, batches, collector, bar.update)
    warnings = rank_warning(collector.count, network.widths["pool"], path)
    return collector.reference({**metadata, "warnings": warnings}, path)
