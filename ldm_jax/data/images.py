# SPDX-License-Identifier: Apache-2.0
"""Opens image sets: our own builders, any TFDS name, any folder."""

import contextlib
import io
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ldm_jax.data.annotations import Annotations
from ldm_jax.data.builders.digits import Digits
from ldm_jax.data.decode import MAX_PIXELS, decode_image
from ldm_jax.data.examples import read_example
from ldm_jax.data.folder import FolderSource
from ldm_jax.data.memory import InMemory
from ldm_jax.data.records import DamagedRecord, Record, Source, fingerprint

# Builders of this package, prepared on first use; none of them downloads.
BUILDERS = {"digits": Digits}


def open_images(
    dataset: str,
    split: str = "train",
    data_dir: str | None = None,
    download: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_refused: int = 100,
    cache_mib: int = 256,
    captions: str | None = None,
    boxes: str | None = None,
    label_maps: str | None = None,
) -> Source:
    """Opens an image set by name or path.

    Args:
      dataset: a row of BUILDERS ("digits"); or a TFDS name ("cifar10"); or a path
        (absolute, or beginning with "./", "../" or "~") of a folder of images whose
        sub-folders are classes, or of a prepared TFDS set (with dataset_info.json).
      split: a TFDS split ("train", "test", "train[:10%]"); of a folder see
        `FolderSource`.
      data_dir: where TFDS sets lie and BUILDERS are prepared; None is TFDS' own
        place, ~/tensorflow_datasets.
      download: may TFDS download and prepare a set that is not there yet?
      max_pixels: largest width times height that is decoded; a larger one is damaged.
      max_refused: how many files of a folder may be unreadable before it is refused.
      cache_mib: decoded records kept in memory; 0 keeps none.
      captions, boxes, label_maps: where a folder's annotations lie; see `Annotations`.

    Returns:
      A source of records with "image" uint8 [H0, W0, 3] and, where the set has one,
      "label" int32 [].

    Raises:
      ValueError: unknown name or split, no such folder, or a folder that is empty.
    """
    annotations = Annotations(captions, boxes, label_maps)
    path = pathlib.Path(dataset).expanduser()
    is_path = path.is_absolute() or dataset.startswith(("./", "../", "~"))
    if is_path and not (path / "dataset_info.json").is_file():
        folder = FolderSource(path, split, max_pixels, max_refused, annotations)
        return InMemory(folder, cache_mib)
    if annotations != Annotations():
        raise ValueError(
            f"captions, boxes and label_maps are for folders: got them for {dataset}."
        )
    if is_path:
        builder = tfds.builder_from_directory(path)
    elif dataset in BUILDERS:
        builder = BUILDERS[dataset](data_dir=data_dir, file_format="array_record")
        builder = _prepared(builder)
    else:
        builder = _tfds_builder(dataset, data_dir, download)
    return InMemory(TfdsSource(builder, split, max_pixels), cache_mib)


class TfdsSource:
    """A TFDS split as a source: random access, images decoded by our own rules.

    Attributes:
      fingerprint: digest of name, version, split and shard lengths.
      num_classes: of the label; None without one.
      class_names: of the label; () without one.
    """

    def __init__(self, builder: Any, split: str, max_pixels: int = MAX_PIXELS):
        info, features = builder.info, builder.info.features
        if "image" not in features:
            raise ValueError(
                f"an image set needs a feature named image: {builder.name} has "
                f"{sorted(features)}. Use another set, or write the images to a folder."
            )
        whole = split.split("[")[0]
        if whole not in info.splits:
            raise ValueError(
                f'unknown split "{split}" of {builder.name}; one of: '
                f"{', '.join(info.splits)}."
            )
        missing = [file for file in info.splits[whole].filepaths if not file.exists()]
        if missing:
            raise ValueError(
                f"{len(missing)} shards of {builder.name} are not there, the first is "
                f"{missing[0]}. Copy them again, or delete the set and prepare it anew."
            )
        if not isinstance(features["image"], tfds.features.Image):
            raise ValueError(
                f"the feature image of {builder.name} must be a tfds.features.Image: "
                f"got {features['image']}. Use another set, or write it to a folder."
            )
        # Raw bytes: our parser is faster than TFDS', and our decoding bounds the size.
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self._records = builder.as_data_source(split, deserialize_method=raw)
        self._name = f"{info.full_name}:{split}"
        self._max_pixels = max_pixels
        label = dict(features.items()).get("label")  # `features` has no `get`
        is_class = isinstance(label, tfds.features.ClassLabel)
        self._has_label = is_class
        self.num_classes = label.num_classes if is_class else None
        self.class_names = tuple(label.names) if is_class else ()
        lengths = list(info.splits[whole].shard_lengths)
        self.fingerprint = fingerprint([info.full_name, split, lengths])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        indices = [int(i) for i in indices]
        try:
            records = self._records.__getitems__(indices)
        except (RuntimeError, ValueError) as error:  # ArrayRecord: a checksum is wrong
            raise DamagedRecord(f"{self._name}{indices}: {error}") from error
        return [self._record(r, i) for r, i in zip(records, indices, strict=True)]

    def _record(self, data: bytes, index: int) -> Record:
        name = f"{self._name}[{index}]"
        try:
            found = read_example(data)
        except ValueError as error:
            raise DamagedRecord(f"{name}: {error}") from error
        record: Record = {
            "image": decode_image(found["image"][0], name, self._max_pixels)
        }
        if self._has_label:
            record["label"] = np.int32(found["label"][0])
        return record


def _tfds_builder(name: str, data_dir: str | None, download: bool) -> Any:
    """Finds a set by its TFDS name, prepared for random access."""
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f'unknown image set "{name}"; one of: {", ".join(sorted(BUILDERS))}, a '
            f"TFDS name, or a folder (write ./{name} for one in this directory)."
        ) from error
    if builder.data_path.exists():
        return builder
    if not download:
        raise ValueError(
            f"{name} is not in {builder.data_path}. Pass download=True to have TFDS "
            f"fetch and prepare it, or set data_dir to where it lies."
        )
    return _prepared(builder, quietly=False)


def _prepared(builder: Any, quietly: bool = True) -> Any:
    """Prepares a builder's files unless they are there; never a half-written set."""
    if builder.data_path.exists():
        return builder
    prepare: Callable[[], None] = builder.download_and_prepare
    try:
        if not quietly:
            prepare()
            return builder
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
            prepare()
    except OSError:
        # TFDS writes aside and renames. If another process was faster, its set stands.
        if not os.path.exists(builder.data_path):
            raise
        return type(builder)(
            data_dir=os.fspath(builder.data_path.parent.parent),
            file_format="array_record",
        )
    finally:
        if quietly:
            tfds.enable_progress_bar()
    return builder
