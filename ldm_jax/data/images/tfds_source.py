# SPDX-License-Identifier: Apache-2.0
"""Reads a split of a TFDS image set by index, with the decoder of this package."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ldm_jax.data.examples import read_example
from ldm_jax.data.records import DamagedRecord, Record, fingerprint, reading_record
from ldm_jax.data.tfds_sets import open_split
from ldm_jax.files.errors import naming, reading, shown
from ldm_jax.files.formats.pictures import (
    MAX_PIXELS,
    decode_image,
    decode_label_map,
    upright_size,
)

# What TFDS' sets call their maps of classes.
LABEL_MAPS = ("label_map", "segmentation_label", "segmentation_mask")


class TfdsSource:
    """A TFDS split as a source.

    Of the set's features these are read: "image"; "label", a class; "captions" or
    "caption"; "objects", boxes with labels; LABEL_MAPS.

    Attributes:
      fingerprint: digest of name, version, split and shard lengths, and, of a
        `ManualBuilder`'s set, of the files that are in it.
      num_classes: of the label; None without one.
      class_names: of the label; () without one.
      box_names: of the objects' classes; () without objects.
    """

    def __init__(self, builder: Any, split: str, max_pixels: int = MAX_PIXELS):
        with naming(builder.data_path):
            self._open(builder, split, max_pixels)

    def _open(self, builder: Any, split: str, max_pixels: int) -> None:
        info, features = builder.info, builder.info.features
        if "image" not in features:
            raise ValueError(
                f"an image set needs a feature named image: {builder.name} has "
                f"{sorted(features)}. Use another set, or write the images to a folder."
            )
        if not isinstance(features["image"], tfds.features.Image):
            raise ValueError(
                f"the feature image of {builder.name} must be a tfds.features.Image: "
                f"got {features['image']}. Use another set, or write it to a folder."
            )
        self._records, shard_lengths = open_split(builder, split)
        self._name = f"{info.full_name}:{split}"
        self._max_pixels = max_pixels
        features = dict(features.items())  # a FeaturesDict has no `get`
        label = features.get("label")
        is_class = isinstance(label, tfds.features.ClassLabel)
        self.num_classes = label.num_classes if is_class else None
        self.class_names = tuple(label.names) if is_class else ()
        self.box_names = _box_names(features)
        self._readers = _readers(features, max_pixels)
        identity = [info.full_name, split, shard_lengths]
        if info.metadata and info.metadata.get("digest"):  # of our own builders
            identity.append(info.metadata["digest"])
        self.fingerprint = fingerprint(identity)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        examples = zip(self._read(indices), indices, strict=True)
        return [self._record(data, int(index)) for data, index in examples]

    def sizes(self) -> np.ndarray:
        """Returns heights and widths [N, 2] of the images, from their headers."""
        sizes = []
        for start in range(0, len(self), 256):
            indices = range(start, min(start + 256, len(self)))
            for index, data in zip(indices, self._read(indices), strict=True):
                name = f"{self._name}[{index}]"
                with reading(name, data=data):
                    image = read_example(data)["image"][0]
                sizes.append(upright_size(image, name, self._max_pixels))
        return np.array(sizes).reshape(-1, 2)

    def _read(self, indices: Sequence[int]) -> list[bytes]:
        indices = [int(i) for i in indices]
        try:
            return self._records.__getitems__(indices)
        except DamagedRecord as error:
            raise DamagedRecord(f"{self._name}{indices}: {error}") from error

    def _record(self, data: bytes, index: int) -> Record:
        name = f"{self._name}[{index}]"
        with reading_record(), reading(name, data=b"-"):
            example = read_example(data)
            if "file_name" in example:
                name += f" ({example['file_name'][0].decode(errors='replace')})"
            image = decode_image(example["image"][0], name, self._max_pixels)
            record: Record = {"image": image}
            for read in self._readers:
                record.update(read(example, name))
        label_map = record.get("label_map")
        if label_map is not None and label_map.shape != image.shape[:2]:
            raise DamagedRecord(
                f"label map of {name} is {label_map.shape}, the image is "
                f"{image.shape[:2]}"
            )
        return record


# (features of a record as stored, its name) -> fields of the record.
Read = Callable[[dict[str, Any], str], Record]


def _readers(features: dict[str, Any], max_pixels: int) -> list[Read]:
    """Chooses the functions that read the fields of a record."""
    readers: list[Read] = []
    if isinstance(features.get("label"), tfds.features.ClassLabel):
        count = features["label"].num_classes
        readers.append(lambda stored, _: {"label": _labels(stored["label"], count)[0]})
    if captions := _captions_key(features):
        readers.append(lambda stored, name: _captions(stored[captions], name))
    if _box_names(features):
        readers.append(functools.partial(_boxes, len(_box_names(features))))
        if "attributes" in features["objects"].feature:
            readers.append(_box_attributes)
    for key in LABEL_MAPS:
        feature = features.get(key)
        channels = getattr(feature, "shape", ())[-1:]
        if isinstance(feature, tfds.features.Image) and channels == (1,):
            readers.append(functools.partial(_label_map, key, max_pixels))
            break
    return readers


def _captions_key(features: dict[str, Any]) -> str:
    """Returns under which key captions are stored; "" without captions."""
    if isinstance(features.get("caption"), tfds.features.Text):
        return "caption"
    several = features.get("captions")
    if isinstance(several, tfds.features.Sequence):
        if isinstance(several.feature, tfds.features.Text):
            return "captions"
        entry = several.feature
        if isinstance(entry, tfds.features.FeaturesDict) and "text" in entry:
            return "captions/text"
    return ""


def _label_map(key: str, max_pixels: int, stored: dict[str, Any], name: str) -> Record:
    name = f"label map of {name}"
    return {"label_map": decode_label_map(stored[key][0], name, max_pixels)}


def _captions(stored: Sequence[bytes], name: str) -> Record:
    captions = tuple(text.decode(errors="replace") for text in stored)
    if not captions:
        raise DamagedRecord(f"{name} has no caption")
    return {"captions": captions}


def _box_names(features: dict[str, Any]) -> tuple[str, ...]:
    """Returns the names of the objects' classes; () without boxes as we read them."""
    objects = features.get("objects")
    if not isinstance(objects, tfds.features.Sequence):
        return ()
    entry = objects.feature
    if not isinstance(entry, tfds.features.FeaturesDict) or "bbox" not in entry:
        return ()
    box, label = entry["bbox"], dict(entry.items()).get("label")
    relative = getattr(getattr(box, "bbox_format", None), "name", "") == "REL_YXYX"
    is_class = isinstance(label, tfds.features.ClassLabel)
    return tuple(label.names) if relative and is_class else ()


def _boxes(num_classes: int, stored: dict[str, Any], name: str) -> Record:
    """Turns TFDS' corners (y, x, y, x) into x, y, width, height."""
    del name
    corners = np.asarray(stored["objects/bbox"], np.float32).reshape(-1, 2, 2)
    labels = _labels(stored["objects/label"], num_classes)
    low, high = corners[:, 0, ::-1], corners[:, 1, ::-1]
    within = (low >= 0) & (low <= high) & (high <= 1)  # also False of NaN
    if len(labels) != len(corners) or not within.all():
        raise ValueError(
            f"boxes must be within the image, with a label each: got {len(labels)} "
            f"labels for {shown(corners.reshape(-1, 4).tolist())}"
        )
    return {"boxes": np.concatenate([low, high - low], axis=1), "box_labels": labels}


def _labels(stored: Any, num_classes: int | None) -> np.ndarray:
    """Returns class numbers int32 [N] as they are stored; ValueError out of range."""
    labels = np.asarray(stored, np.int64)
    high = num_classes or 2**31  # of a class without names any number
    if labels.size and not (labels.min() >= 0 and labels.max() < high):
        raise ValueError(
            f"a label must be in 0..{high - 1}: got {shown(labels.tolist())}"
        )
    return labels.astype(np.int32)


def _box_attributes(stored: dict[str, Any], name: str) -> Record:
    del name
    bits = np.asarray(stored["objects/attributes"], np.int32)
    return {"box_attributes": bits}
