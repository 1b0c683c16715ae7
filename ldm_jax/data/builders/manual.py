# SPDX-License-Identifier: Apache-2.0
"""The base class of builders for sets whose files a user has downloaded."""

import hashlib
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds
from absl import logging
from etils import epath
from tqdm import tqdm

from ldm_jax.data.builders.files import Files
from ldm_jax.files.errors import UnreadableFile, lined
from ldm_jax.files.formats.pictures import MAX_PIXELS, opened_image

# TFDS holds a shard in memory while it writes it.
SHARD_MIB = 128


class Split(NamedTuple):
    """A split: the names of its images, and a function that makes their records.

    `example(name)` gives "image", the bytes of a file, and the builder's own fields; it
    raises UnreadableFile or OSError for an image that is to be left out. `size(name)`
    says about how many bytes that is; None reads some examples to find out.
    """

    names: Sequence[str]
    example: Callable[[str], dict[str, Any]]
    size: Callable[[str], int] | None = None


class ManualBuilder(tfds.core.ShardBasedBuilder):
    """A TFDS set made of files that the user has downloaded.

    Images keep their bytes. Each is opened by its header; those that cannot be are left
    out, named in `info.metadata["refused"]` and in a warning, and the set is refused
    when there are more than `max_refused`. `info.metadata["digest"]` is of the names
    and sizes of what is stored, for the set's fingerprint. Nothing here needs
    TensorFlow, and shards of SHARD_MIB keep the memory flat at any size.

    Subclasses have MANUAL_DOWNLOAD_INSTRUCTIONS, which say what the folder must hold
    and where to get them; `find`; and, if they store more than images, `fields`.

    Attributes:
      COUNTS: images of each split in the paper; another number is a warning.
      ARCHIVE_FOLDERS: give the files of each archive a folder; see `Files`.
      max_refused: images that may be unreadable.
      max_pixels: largest width times height of an image.
    """

    VERSION = tfds.core.Version("1.0.0")
    # TFDS finds this by itself only where `importlib_resources`, which it does not
    # require, is installed.
    code_path = epath.Path(__file__)
    COUNTS: ClassVar[Mapping[str, int]] = {}
    ARCHIVE_FOLDERS = False
    max_refused = 100
    max_pixels = MAX_PIXELS

    def fields(self) -> dict[str, Any]:
        """Returns the TFDS features of a record other than "image" and "file_name"."""
        return {}

    def find(self, files: Files) -> Mapping[str, Split]:
        """Finds the images of every split; a split without any is not made."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "file_name": tfds.features.Text(),
                    **self.fields(),
                }
            ),
            metadata=tfds.core.MetadataDict(refused=[], digest=""),
        )

    @property
    def _metadata(self) -> dict[str, Any]:
        assert self.info.metadata is not None  # `_info` makes it
        return self.info.metadata

    def _shard_iterators_per_split(self, dl_manager):
        files = Files(dl_manager.manual_dir, self.ARCHIVE_FOLDERS)
        splits = {
            name: split for name, split in self.find(files).items() if split.names
        }
        if not splits:
            raise ValueError(
                f"{files.root} does not hold the files of {self.name}.\n"
                f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        for name, split in splits.items():
            here, expected = len(split.names), self.COUNTS.get(name)
            if expected is not None and here != expected:
                logging.warning(
                    "%s: %s has %d images, the paper's has %d.",
                    self.name,
                    name,
                    here,
                    expected,
                )
        stored = hashlib.sha256()
        return {
            name: self._shards(name, split, stored) for name, split in splits.items()
        }

    def _shards(self, name: str, split: Split, stored) -> list[Callable[[], Iterator]]:
        """Cuts a split into parts of about SHARD_MIB, by the sizes of some images."""
        some = split.names[:: -(-len(split.names) // 32)]
        mean = sum(self._size(split, file) for file in some) / len(some)
        count = max(1, round(mean * len(split.names) / (SHARD_MIB * 2**20)))
        bar = tqdm(desc=f"{self.name} {name}", total=len(split.names), delay=5)

        def part(files: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
            for file in files:
                bar.update()
                try:
                    example = self._example(split, file)
                except (UnreadableFile, OSError) as error:
                    self._refuse(str(error))
                else:
                    stored.update(f"{file}:{len(example['image'])}\n".encode())
                    yield file, example
            self._metadata["digest"] = stored.hexdigest()[:16]

        cuts = [len(split.names) * i // count for i in range(count + 1)]
        return [
            lambda low=low, high=high: part(split.names[low:high])
            for low, high in itertools.pairwise(cuts)
        ]

    def _example(self, split: Split, file: str) -> dict[str, Any]:
        example = split.example(file)
        with opened_image(example["image"], file, self.max_pixels):
            return {"file_name": file, **example}

    def _size(self, split: Split, file: str) -> int:
        try:
            return split.size(file) if split.size else _bytes_of(split.example(file))
        except (UnreadableFile, OSError):
            return 0

    def _refuse(self, message: str) -> None:
        """Counts an image that is left out; raises if there are too many."""
        refused = self._metadata["refused"]
        refused.append(message)
        logging.warning("%s: left out: %s", self.name, message)
        if len(refused) > self.max_refused:
            raise ValueError(
                f"{self.name}: more than max_refused = {self.max_refused} images "
                f"cannot be read:{lined(refused[:10])}\nMend or remove "
                "them, or raise the bound."
            )


def _bytes_of(example: Mapping[str, Any]) -> int:
    return len(example["image"])


def images_only(files: Files) -> Callable[[str], dict[str, Any]]:
    """Makes the `example` of a set of nothing but images."""
    return lambda name: {"image": files.read(name)}


def divide(
    files: Files,
    names: Sequence[str],
    key: Callable[[str], Hashable],
    lists: Mapping[str, str],
    held_out: Callable[[Sequence[str]], Sequence[str]],
) -> dict[str, list[str]]:
    """Divides images into splits by lists of file names, such as the paper's.

    Args:
      files: of the set.
      names: of its images.
      key: what identifies an image in `names` and in a list, whatever the folder.
      lists: name of the list of "train" and of "validation".
      held_out: chooses the images of "validation" where the lists are not there.

    Returns:
      Names by split, in the order of `names`.

    Raises:
      ValueError: one list is there without the other, or names images that are not;
        or two images have one key.
    """
    here, divided = {}, {}
    for name in names:
        if here.setdefault(key(name), name) != name:
            raise ValueError(
                f"names of images must differ: {files.root} holds two images of one "
                f"name: {here[key(name)]} and {name}. Keep one copy of the set there."
            )
    matches = {split: files.find(name) for split, name in lists.items()}
    if not any(matches.values()):
        chosen = set(held_out(names))
        logging.warning(
            "%s holds no %s: validation is chosen by our own rule, not the paper's.",
            files.root,
            " and ".join(lists.values()),
        )
        return {
            "train": [name for name in names if name not in chosen],
            "validation": [name for name in names if name in chosen],
        }
    if not all(matches.values()):
        given = ", ".join(lists[split] for split, name in matches.items() if name)
        raise ValueError(
            f"{files.root} needs both {' and '.join(lists.values())}: got {given}; add "
            "the other, or remove it to divide the images here."
        )
    for split, name in matches.items():
        keys = {key(line) for line in files.lines(name)}
        if missing := keys - here.keys():
            raise ValueError(
                f"{name} lists {len(missing)} images that are not in {files.root}, "
                f"for example {min(map(str, missing))}. Complete the folder, or remove "
                f"the lists to divide what is there."
            )
        divided[split] = [here[k] for k in here if k in keys]
    return divided


def by_digest(names: Sequence[str], key: Callable[[str], Hashable], most: int) -> list:
    """Chooses a tenth of the images, at most `most`, by the digests of their keys."""

    def digest(name: str) -> bytes:
        return hashlib.sha256(str(key(name)).encode()).digest()

    return sorted(names, key=digest)[: min(most, len(names) // 10)]
