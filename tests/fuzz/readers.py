# SPDX-License-Identifier: Apache-2.0
"""Every reader of foreign files, each as a function of a folder."""

import contextlib
import pathlib
from typing import ClassVar

import numpy as np
from PIL import Image

from ldm_jax.conditions.tokens import make_tokenizer
from ldm_jax.data.builders.files import Files
from ldm_jax.data.builders.layouts import COCO
from ldm_jax.data.builders.lsun import LSUNChurches
from ldm_jax.data.builders.open_images import OpenImages
from ldm_jax.data.builders.pairs import ImageText
from ldm_jax.data.builders.tables import Tables
from ldm_jax.data.examples import read_example
from ldm_jax.data.images.annotations import Annotations
from ldm_jax.data.images.finished_images import open_set
from ldm_jax.data.images.folder import FolderSource
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.latents.source import open_latents
from ldm_jax.data.records import DamagedRecord, read_each
from ldm_jax.experiment.config import schema
from ldm_jax.experiment.model_directory import make_model
from ldm_jax.experiment.stored_config import read_config
from ldm_jax.files.errors import UnreadableFile, naming
from ldm_jax.files.formats.arrays import read_npz
from ldm_jax.files.formats.pictures import read_image, read_label_map, read_mask
from ldm_jax.files.formats.structured import read_yaml
from ldm_jax.files.lock import Unusable
from ldm_jax.interop.convert import import_model
from ldm_jax.interop.feature_networks.fidelity_cache import read_fidelity_cache
from ldm_jax.interop.own_files import read_own
from ldm_jax.interop.weight_files import read_weights
from ldm_jax.metrics.image_sets.reference import load_reference
from ldm_jax.training.checkpoints.params import load_params
from tests.fuzz import seeds
from tests.fuzz.harness import Reader

MAX_PIXELS = 2**22


def only(folder: pathlib.Path, name: str = "a") -> pathlib.Path:
    """Returns the file of a folder that holds one."""
    return next(iter(folder.glob("*")), folder / name)


def read_all_weights(folder: pathlib.Path) -> None:
    """Reads every tensor of a file, or of shards."""
    weights = read_weights(folder if (folder / INDEX).exists() else only(folder))
    for name in weights:
        np.array(weights[name])


INDEX = "model.safetensors.index.json"


def read_own_model(folder: pathlib.Path) -> None:
    """Reads a model under our own names as `ldm-jax import` does."""
    with naming(only(folder)):
        settings, _, _ = read_own(only(folder))
        schema.check_config(settings)


def read_checkpoint(folder: pathlib.Path) -> None:
    """Reads the parameters of a stranger's model directory, which Orbax wrote."""
    load_params(str(folder))


def read_compvis(folder: pathlib.Path) -> None:
    """Reads a checkpoint, described by the YAML next to it."""
    import_model(folder / "model.ckpt")


def read_diffusers(folder: pathlib.Path) -> None:
    """Reads a pipeline of diffusers."""
    import_model(folder)


def read_settings(folder: pathlib.Path) -> None:
    """Reads config.json of a model directory and makes the model."""
    config = read_config(str(folder))
    with naming(folder / "config.json"):  # as `load` does
        make_model(config)


def read_bert(folder: pathlib.Path) -> None:
    """Makes a tokenizer and encodes a text."""
    vocab = str(folder / "vocab.txt")
    make_tokenizer("bert", vocab=vocab).encode(["a photo of a cat"])


def read_clip(folder: pathlib.Path) -> None:
    """Makes a tokenizer and encodes a text."""
    files = {"vocab": folder / "vocab.json", "merges": folder / "merges.txt"}
    names = {name: str(path) for name, path in files.items()}
    make_tokenizer("clip", **names).encode(["a photo of a cat"])


def read_source(source) -> None:
    """Reads all records; damaged ones are skipped, as in training."""
    for start in range(0, min(len(source), 1000), 8):
        read_each(source, range(start, min(start + 8, len(source))))


def read_latents(folder: pathlib.Path) -> None:
    """Reads a set of latents."""
    source, _ = open_latents(folder / "set")
    read_source(source)


def read_tfds(folder: pathlib.Path) -> None:
    """Reads a prepared set."""
    read_source(open_images(str(folder / "set"), max_pixels=MAX_PIXELS))


def read_picture(folder: pathlib.Path) -> None:
    """Reads a picture as an image, as a map of classes and as a mask."""
    path, errors = only(folder), []
    for read in (read_image, read_label_map, read_mask):
        try:
            read(path, MAX_PIXELS)
        except UnreadableFile as error:
            errors.append(error)
    if len(errors) == 3:
        raise errors[0]


def read_annotated(folder: pathlib.Path, **where: str) -> None:
    """Reads the images of a folder with their annotations."""
    read_source(FolderSource(folder, "all", MAX_PIXELS, 100, Annotations(**where)))


def read_captioned(folder: pathlib.Path) -> None:
    """Reads captions of the format that is there."""
    lists = [path.name for path in folder.iterdir() if path.stem == "captions"]
    read_annotated(folder, captions=lists[0] if lists else "txt")


def read_boxed(folder: pathlib.Path) -> None:
    """Reads boxes."""
    read_annotated(folder, boxes="boxes.json")


def read_mapped(folder: pathlib.Path) -> None:
    """Reads label maps."""
    read_annotated(folder, label_maps="maps")


def read_archives(folder: pathlib.Path) -> None:
    """Reads every member of the archives of a folder."""
    files = Files(folder)
    for name in files.names(suffixes=("",)):
        with contextlib.suppress(UnreadableFile):
            files.read(name)


def read_splits(splits) -> None:
    """Reads every example that a builder finds."""
    for split in splits.values():
        for name in split.names:
            with contextlib.suppress(UnreadableFile, OSError):
                split.example(name)


class Info:
    """What builders note the names of classes in: they are known already."""

    class Names:
        num_classes = 1

    features: ClassVar = {"objects": {"label": Names()}}


def read_sets(folder: pathlib.Path) -> None:
    """Reads the files of a set as its builder finds them."""
    files = Files(folder)
    for builder in (COCO, OpenImages, ImageText):
        builder.info = Info()  # of this process only
        made = builder.__new__(builder)
        with contextlib.suppress(DamagedRecord):
            read_splits(made.find(files))


def read_lsun(folder: pathlib.Path) -> None:
    """Reads every image of a database of LSUN."""
    read_splits(LSUNChurches.__new__(LSUNChurches).find(Files(folder)))


def read_parquet(folder: pathlib.Path) -> None:
    """Reads the rows of parquet files."""
    files = Files(folder)
    tables = Tables(files, files.names(suffixes=(".parquet",)))
    for name in tables.names()[:100]:
        with contextlib.suppress(DamagedRecord):
            tables.example(name)


def read_message(folder: pathlib.Path) -> None:
    """Reads a tf.Example, which knows no file."""
    path = only(folder)
    if path.is_file():
        try:
            read_example(path.read_bytes())
        except ValueError as error:
            raise UnreadableFile(f"{path}: {error!r}") from error


def read_finished(folder: pathlib.Path) -> None:
    """Reads finished images."""
    for batch in open_set(only(folder)).batches(2):
        Image.fromarray(batch[0])


READERS = {
    "torch zip": Reader(seeds.torch_zip, read_all_weights),
    "torch legacy": Reader(seeds.torch_legacy, read_all_weights),
    "safetensors": Reader(seeds.safetensors, read_all_weights),
    "fidelity cache": Reader(
        seeds.fidelity, lambda folder: read_fidelity_cache(only(folder)) and None
    ),
    "npz": Reader(seeds.npz, lambda folder: read_npz(only(folder)) and None),
    "statistics": Reader(
        seeds.statistics, lambda folder: load_reference(only(folder)) and None
    ),
    "finished images": Reader(seeds.finished, read_finished),
    "own model": Reader(seeds.own_model, read_own_model),
    # `Unusable`: a checkpoint that may be whole on another machine.
    "checkpoint": Reader(seeds.checkpoint, read_checkpoint, (Unusable,)),
    "YAML": Reader(
        lambda: [{"a.yaml": folder["model.yaml"]} for folder in seeds.compvis()],
        lambda folder: read_yaml(only(folder)) and None,
    ),
    "compvis": Reader(seeds.compvis, read_compvis),
    "diffusers": Reader(seeds.diffusers, read_diffusers),
    "config.json": Reader(seeds.settings, read_settings),
    "BERT vocabulary": Reader(seeds.bert, read_bert),
    "CLIP vocabulary": Reader(seeds.clip, read_clip),
    "latents": Reader(seeds.latents, read_latents),
    "TFDS": Reader(seeds.tfds, read_tfds),
    "tf.Example": Reader(seeds.examples, read_message),
    "pictures": Reader(seeds.pictures, read_picture),
    "captions": Reader(seeds.captions, read_captioned),
    "boxes": Reader(seeds.boxes, read_boxed),
    "label maps": Reader(seeds.label_maps, read_mapped),
    "archives": Reader(seeds.archives, read_archives),
    "sets of makers": Reader(seeds.sets_of_makers, read_sets),
    "lmdb": Reader(seeds.lmdb_database, read_lsun),
    "parquet": Reader(seeds.parquet, read_parquet),
}
