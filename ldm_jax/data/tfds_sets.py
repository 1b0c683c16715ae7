# SPDX-License-Identifier: Apache-2.0
"""Opens untrusted TFDS sets: no module that their files name is imported.

TFDS rebuilds the features of a set from features.json, and imports any module that a
`pythonClassName` in it names, even from the working directory.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from ldm_jax.data.record_files import RecordFile, RecordFiles
from ldm_jax.files.errors import UnreadableFile, described, reading, shown
from ldm_jax.files.folders import refuse_special_files
from ldm_jax.files.formats.structured import parse_json, read_json
from ldm_jax.files.paths import PathLike, is_remote, printable, resolve
from ldm_jax.files.stores.objects import list_objects
from ldm_jax.files.stores.store_errors import reaching

FEATURES_FILE = "features.json"
MAX_BYTES = 2**26
# The modules of TFDS' own features.
ALLOWED = re.compile(r"tensorflow_datasets\.core\.features\.[a-z_0-9.]*[A-Z]\w*")
NAMES = ("pythonClassName", "python_class_name", "type")
# How the records of a set must be stored.
FORMAT = "array_record"
# Names of splits, without their slices.
_PARTS = re.compile(r"([\w-]+)(?:\[[^\]]*\])?")


def open_tfds(directory: PathLike) -> Any:
    """Opens a prepared set as a TFDS builder.

    Args:
      directory: with dataset_info.json; local or a URL.

    Raises:
      UnreadableFile: its metadata are damaged, or name a class that is not TFDS'.
    """
    folder = epath.Path(resolve(directory))
    if not is_remote(folder):
        refuse_special_files(folder)
    with reaching(folder):
        check_features(folder)
    advice = "Copy it again, or prepare it again with this version of TFDS."
    with (
        reaching(folder),
        reading(folder, rule="must hold a prepared TFDS set", advice=advice, data=b"-"),
    ):
        return tfds.builder_from_directory(folder)


def open_split(builder: Any, split: str) -> tuple[RecordFiles, list]:
    """Opens a split of a prepared set for random access.

    Args:
      builder: of the set.
      split: in TFDS' syntax: "train", "train+test", "all", "train[:10%]+test[-5:]".

    Returns:
      (records as bytes, the numbers of records in the shards of the split or, if there
      are several, of each).

    Raises:
      ValueError: no such split, or no record in it.
      UnreadableFile: the shards cannot be read at random, or are not all there and
        whole.
    """
    info, folder = builder.info, printable(builder.data_path)
    suffix = info.file_format.file_suffix
    if suffix != FORMAT:
        raise UnreadableFile(
            f"a set must be stored as {FORMAT}, which can be read at random: {folder} "
            f"is of {suffix}. Convert it where TensorFlow is installed: tfds "
            f"convert_format --dataset_dir={folder} --out_file_format={FORMAT} "
            "--out_path=FOLDER; or prepare it again with another data_dir."
        )
    chosen, files = _choose_split(builder, split)
    stored = _check_shards(builder, files)
    names = _PARTS.findall(split)
    lengths = [
        list(info.splits[name].shard_lengths)
        for name in (info.splits if "all" in names else names)
    ]
    # Raw bytes: our parser is faster than TFDS', and our decoding bounds the size.
    records = RecordFiles(
        [
            RecordFile(
                path=part.filename,
                count=part.examples_in_shard,
                skip=part.skip,
                take=None if part.take < 0 else part.take,
                item=stored.get(os.path.basename(part.filename)),
            )
            for part in chosen.file_instructions
        ],
        folder,
    )
    records.check()
    return records, lengths[0] if len(lengths) == 1 else lengths


def _choose_split(builder: Any, split: str) -> tuple[Any, Sequence[Any]]:
    """Returns (`SplitInfo`, files) of a split or of parts of some; it has records."""
    splits = builder.info.splits
    try:
        chosen = splits[split]
        count, files = chosen.num_examples, chosen.filepaths
    except (KeyError, ValueError, NotImplementedError, AssertionError) as error:
        raise ValueError(
            f'unknown split "{split}" of {builder.name}; one of: '
            f"{', '.join(splits)}, all, or parts of these in TFDS' syntax: "
            f"train[:10%]+test ({described(error)})."
        ) from error
    if count < 1:
        raise ValueError(
            f'split "{split}" of {builder.name} has no records; of '
            f"{', '.join(f'{n}: {s.num_examples}' for n, s in splits.items())}."
        )
    return chosen, files


def _check_shards(builder: Any, files: Sequence[Any]) -> Mapping[str, Any]:
    """Checks that no shard is missing; returns the objects of a set at a URL."""
    url = is_remote(builder.data_path)
    stored = list_objects(builder.data_path) if url else {}
    if missing := [
        file for file in files if not (file.name in stored if url else file.exists())
    ]:
        raise UnreadableFile(
            f"{len(missing)} shards of {builder.name} are not there, the first is "
            f"{missing[0]}. Copy them again, or delete the set and prepare it again."
        )
    return stored


def check_features(folder: PathLike) -> None:
    """Raises UnreadableFile if features.json names a class that is not TFDS'."""
    path = epath.Path(folder) / FEATURES_FILE
    if path.exists():
        _check(read_json(os.fspath(path), MAX_BYTES), path)


def check_prepared(data_dir: PathLike | None, name: str) -> None:
    """Checks the features of every prepared version of a set in a folder of sets.

    Args:
      data_dir: None is TFDS' own place.
      name: of the set, as for `tfds.builder`.

    Raises:
      UnreadableFile: see `check_features`.
    """
    root = resolve(data_dir or "~/tensorflow_datasets")
    base = re.split(r"[/:]", name)[0]
    if not base or base in (".", ".."):
        return
    with reaching(root):
        versions = ("*", "*/*")  # VERSION, or CONFIG/VERSION
        paths = [
            p for v in versions for p in (root / base).glob(f"{v}/{FEATURES_FILE}")
        ]
    for path in paths:
        check_features(path.parent)


def _check(value: Any, path: PathLike) -> None:
    """Walks the JSON; texts of JSON inside of it, as older versions write, too."""
    if isinstance(value, list):
        for entry in value:
            _check(entry, path)
    if not isinstance(value, dict):
        return
    for name, entry in value.items():
        if name in NAMES and isinstance(entry, str) and not ALLOWED.fullmatch(entry):
            raise UnreadableFile(
                f"{printable(path)} must name features of TFDS only: got "
                f"{shown(entry)}, whose module would be imported. If you trust the "
                "set, write its images to a folder with the code that made it."
            )
        if isinstance(entry, str) and entry.lstrip().startswith(("{", "[")):
            entry = parse_json(entry.encode(), path, object)
        _check(entry, path)
