# SPDX-License-Identifier: Apache-2.0
"""Opens image sets: our own builders, any TFDS name, any folder."""

import contextlib
import functools
import io
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ldm_jax.data.builders.digits import Digits
from ldm_jax.data.builders.faces import FFHQ, CelebAHQ
from ldm_jax.data.builders.layouts import COCO, COCOStuff, Landscapes
from ldm_jax.data.builders.lsun import LSUNBedrooms, LSUNChurches
from ldm_jax.data.builders.manual import ManualBuilder
from ldm_jax.data.builders.open_images import OpenImages, OpenImagesLayout
from ldm_jax.data.builders.pairs import ImageText
from ldm_jax.data.builders.scenes import ImageNet, Places
from ldm_jax.data.images.annotations import Annotations
from ldm_jax.data.images.folder import FolderSource
from ldm_jax.data.images.in_memory import InMemory
from ldm_jax.data.images.tfds_source import TfdsSource
from ldm_jax.data.mixture import Mixture
from ldm_jax.data.records import Source
from ldm_jax.data.tfds_sets import FORMAT, check_prepared, open_tfds
from ldm_jax.data.transforms.buckets import Subset, image_sizes
from ldm_jax.files.errors import shown
from ldm_jax.files.formats.pictures import LARGEST_MAX_PIXELS, MAX_PIXELS
from ldm_jax.files.paths import expand, listed_paths, printable, resolve
from ldm_jax.files.stores.store_errors import reaching
from ldm_jax.files.write_errors import reported

# Builders of this package, prepared on first use; none of them downloads.
BUILDERS: dict[str, type] = {
    builder.name: builder
    for builder in (
        Digits,
        CelebAHQ,
        FFHQ,
        LSUNChurches,
        LSUNBedrooms,
        ImageNet,
        Places,
        COCO,
        COCOStuff,
        OpenImages,
        OpenImagesLayout,
        Landscapes,
        ImageText,
    )
}


def open_images(
    dataset: str,
    split: str = "train",
    data_dir: str | None = None,
    manual_dir: str | None = None,
    download: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_refused: int | None = None,
    cache_mib: int = 256,
    captions: str | None = None,
    boxes: str | None = None,
    label_maps: str | None = None,
    min_side: int = 0,
    weights: Sequence[float] | None = None,
) -> Source:
    """Opens an image set by name or path, or several as a mixture.

    Args:
      dataset: a row of BUILDERS ("digits", "ffhq"); or a TFDS name ("cifar10"); or a
        path (absolute, or beginning with "./", "../" or "~") of a folder of images
        whose sub-folders are classes, or of a prepared TFDS set (with
        dataset_info.json), the latter also a URL ("gs://..."). Several, separated by
        commas ("celebahq,ffhq"), are mixed; the other arguments count for each.
      split: in TFDS' syntax ("train", "train+test", "all", "train[:10%]+test[-5:]");
        of a folder see `FolderSource`.
      data_dir: the folder of TFDS sets, where those of BUILDERS are prepared; None is
        TFDS' default, ~/tensorflow_datasets.
      manual_dir: the folder with the files of a set that you must download yourself
        (ImageNet, FFHQ, ...), read once, when the set is prepared; without it, an error
        lists the files.
      download: may TFDS download and prepare a set that is not there yet?
      max_pixels: largest width times height that is decoded; a larger one is damaged.
      max_refused: how many files of a folder, or of `manual_dir`, may be unreadable
        before it is refused; None is the default, 100 (10,000 of image_text).
      cache_mib: decoded records kept in memory; 0 keeps none.
      captions, boxes, label_maps: where a folder's annotations lie; see `Annotations`.
      min_side: images whose shorter side is less are left out, as for the paper's
        super-resolution (256); each image's header is read for it.
      weights: shares of the sets of a mixture; None takes their sizes.

    Returns:
      A source of records with "image" uint8 [H0, W0, 3] and, where the set has them,
      the fields that `records` lists.

    Raises:
      ValueError: unknown name or split, no such folder, or a folder that is empty.
    """
    if not 1 <= max_pixels <= LARGEST_MAX_PIXELS:
        raise ValueError(
            f"images.max_pixels must be in 1..{LARGEST_MAX_PIXELS}, the largest that "
            f"Pillow opens: got {max_pixels}."
        )
    if min_side < 0:
        raise ValueError(
            f"images.min_side must be 0 or more, the shortest side that is taken: got "
            f"{shown(min_side)}; 0 takes all images."
        )
    names = listed_paths(dataset)
    annotations = Annotations(captions, boxes, label_maps)
    open_one = functools.partial(
        _open_one,
        split=split,
        data_dir=None if data_dir is None else expand(data_dir),
        manual_dir=None if manual_dir is None else expand(manual_dir),
        download=download,
        max_pixels=max_pixels,
        max_refused=max_refused,
        annotations=annotations,
        min_side=min_side,
    )
    sources = [InMemory(open_one(name), cache_mib // len(names)) for name in names]
    if len(names) > 1:
        return Mixture(sources, weights or [len(source) for source in sources])
    if weights:
        raise ValueError(
            f"weights {tuple(weights)} need a mixture, several sets separated by "
            f"commas: got {dataset}."
        )
    return sources[0]


def _open_one(dataset: str, *, min_side: int, **how: Any) -> Source:
    """Opens one set, without its small images."""
    source = _open_whole(dataset, **how)
    if not min_side:
        return source
    large = np.flatnonzero(image_sizes(source).min(axis=1) >= min_side)
    if not len(large):
        raise ValueError(
            f"no image of {dataset} has a side of min_side = {min_side} or more: lower "
            f"it, or choose another set."
        )
    return Subset(source, large)


def _open_whole(
    dataset: str,
    split: str,
    data_dir: str | None,
    manual_dir: str | None,
    download: bool,
    max_pixels: int,
    max_refused: int | None,
    annotations: Annotations,
) -> Source:
    """Opens one set; see `open_images`."""
    is_path = _is_path(dataset)
    path = pathlib.Path(expand(dataset) if is_path else dataset)
    if manual_dir and (is_path or "://" in dataset):
        raise ValueError(
            f"manual_dir is for sets that are opened by name: got {manual_dir} for "
            f"{dataset}. Leave it out."
        )
    if is_path and not (path / "dataset_info.json").is_file():
        bound = 100 if max_refused is None else max_refused
        return FolderSource(path, split, max_pixels, bound, annotations)
    if annotations != Annotations():
        raise ValueError(
            f"captions, boxes and label_maps are for folders: got them for {dataset}."
        )
    if is_path:
        builder = open_tfds(path)
    elif "://" in dataset:
        builder = _remote_builder(dataset)
    elif dataset in BUILDERS:
        builder = _own_builder(dataset, data_dir, manual_dir, max_refused, max_pixels)
    else:
        builder = _tfds_builder(dataset, data_dir, manual_dir, download)
    return TfdsSource(builder, split, max_pixels)


def local_folders(dataset: str) -> list[str]:
    """Returns the folders among the sets that `open_images` mixes."""
    return [name for name in listed_paths(dataset) if _is_path(name)]


def _is_path(dataset: str) -> bool:
    return dataset.startswith(("/", "./", "../", "~"))


def _own_builder(
    name: str,
    data_dir: str | None,
    manual_dir: str | None,
    max_refused: int | None,
    max_pixels: int,
) -> Any:
    """Finds a set of BUILDERS, prepared."""
    check_prepared(data_dir, name)
    builder = BUILDERS[name](data_dir=data_dir)  # of whatever format is there
    if builder.data_path.exists():
        return builder
    builder = BUILDERS[name](data_dir=data_dir, file_format=FORMAT)
    if not isinstance(builder, ManualBuilder):
        return _prepared(builder)
    if manual_dir is None:
        raise ValueError(
            f"{name} is not in {builder.data_path}, and you must download it "
            f"yourself. Set manual_dir to a folder with its files.\n"
            f"{builder.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    folder = pathlib.Path(manual_dir)
    if not folder.is_dir() or not any(folder.iterdir()):
        state = "is empty" if folder.is_dir() else "is not a directory"
        raise ValueError(
            f"manual_dir {folder} {state}.\n{builder.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    if max_refused is not None:
        builder.max_refused = max_refused
    builder.max_pixels = max_pixels
    config = tfds.download.DownloadConfig(manual_dir=os.fspath(folder))
    return _prepared(builder, download_config=config)


def _remote_builder(url: str) -> Any:
    """Finds a prepared set on an object store."""
    with reaching(url):
        is_prepared = (resolve(url) / "dataset_info.json").exists()
    if not is_prepared:
        raise ValueError(
            f"an image set at a URL must be a prepared TFDS set: {url} has no "
            "dataset_info.json. Folders of pictures and archives are read from a disk: "
            "copy them there, or mount the bucket, and give the path."
        )
    return open_tfds(url)


def _tfds_builder(
    name: str, data_dir: str | None, manual_dir: str | None, download: bool
) -> Any:
    """Finds a set by its TFDS name, prepared for random access."""
    check_prepared(data_dir, name)
    if re.match(r"[A-Za-z_]\w*:[A-Za-z_]", name):
        raise ValueError(
            f'an image set must be one of TFDS itself: got "{printable(name)}", for '
            "which TFDS would fetch code of others. Prepare it with TFDS, and give the "
            "path of the prepared set."
        )
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if builder.data_path.exists():
            return builder  # of whatever format is there
        builder = tfds.builder(name, data_dir=data_dir, file_format=FORMAT)
    except (ValueError, AssertionError) as error:
        if "Failed to construct" in str(error):  # no such config or version of a set
            raise ValueError(str(error)) from error
        raise ValueError(
            f'unknown image set "{name}"; one of: {", ".join(sorted(BUILDERS))}, a '
            f"TFDS name, or a folder (write ./{name or 'FOLDER'} for one in this "
            "directory)."
        ) from error
    if not download:
        raise ValueError(
            f"{name} is not in {builder.data_path}. Pass download=True to have TFDS "
            f"fetch and prepare it, or set data_dir to its folder."
        )
    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    return _prepared(builder, quietly=False, download_config=config)


def _prepared(builder: Any, quietly: bool = True, **how: Any) -> Any:
    """Prepares a builder's files if they are missing, atomically."""
    if builder.data_path.exists():
        return builder
    prepare: Callable[..., None] = builder.download_and_prepare
    try:
        if not quietly:
            prepare(**how)
            return builder
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
            prepare(**how)
    except OSError:
        # TFDS writes aside and renames. If another process was faster, its set stands.
        if not os.path.exists(builder.data_path):
            with reported(builder.data_path, "a data set"):
                raise
        return type(builder)(
            data_dir=os.fspath(builder.data_path.parent.parent),
            file_format=FORMAT,
        )
    finally:
        if quietly:
            tfds.enable_progress_bar()
    return builder
