# SPDX-License-Identifier: Apache-2.0
"""Valid inputs of the readers: small files in every layout that is read."""

import io
import json
import pathlib
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.experiment.config import config_files
from ldm_jax.interop.own_files import write_own_folder, write_own_npz
from ldm_jax.interop.safetensors import write_safetensors
from ldm_jax.interop.torch_files.writer import write_ckpt
from ldm_jax.metrics.image_sets.frechet import Gaussian
from ldm_jax.metrics.image_sets.reference import Reference, save_reference
from ldm_jax.training.checkpoints.params import save_params
from tests.conditions.test_tokens import WORDS
from tests.data.builders import layouts
from tests.data.latents import test_metadata
from tests.experiment.test_text_encoder import write_vocabulary
from tests.fuzz.mutate import Folder
from tests.interop import small
from tests.interop.torch_files.test_legacy_format import legacy
from tests.interop.torch_files.test_zip_format import only, tensor

TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.ones(3, np.float16),
    "n": np.array(7, np.int64),
}


def files_of(write: Callable[[pathlib.Path], object]) -> Folder:
    """Returns the files that a function writes into a folder."""
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        write(root)
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }


def torch_zip() -> list[Folder]:
    """What our writer makes, and pickles of trainers with arrays and objects."""
    ours = files_of(lambda root: write_ckpt(root / "a.ckpt", TENSORS))
    state = {"model": {"x": np.arange(4.0)}, "epoch": 3, "lr": [0.1, {"a": (1, 2)}]}
    return [ours, {"a.ckpt": zipped({"archive/data.pkl": pickle.dumps(state, 2)})}]


def zipped(members: dict[str, bytes]) -> bytes:
    """Writes a zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def torch_legacy() -> list[Folder]:
    """Five pickles and a storage."""
    shapes = (((2, 2), (1, 2)), ((4,), (1,)))
    return [
        files_of(lambda root, s=s: legacy(root / "a.pth", only(tensor(*s))))
        for s in shapes
    ]


def safetensors() -> list[Folder]:
    """One file, and shards with their index."""

    def shards(root: pathlib.Path) -> None:
        parts = [dict(list(TENSORS.items())[:1]), dict(list(TENSORS.items())[1:])]
        names = {}
        for i, part in enumerate(parts):
            write_safetensors(root / f"{i}.safetensors", part)
            names |= dict.fromkeys(part, f"{i}.safetensors")
        index = json.dumps({"metadata": {}, "weight_map": names})
        (root / "model.safetensors.index.json").write_text(index)

    one = files_of(lambda r: write_safetensors(r / "model.safetensors", TENSORS))
    return [one, files_of(shards)]


def fidelity() -> list[Folder]:
    """A cache of torch-fidelity, in two protocols of pickles."""
    stats = {"mu": np.arange(3.0), "sigma": np.eye(3)}
    return [
        {"a.pt": zipped({"stats/data.pkl": pickle.dumps(stats, protocol)})}
        for protocol in (2, 4)
    ]


def npz() -> list[Folder]:
    """Arrays of several kinds."""
    file = io.BytesIO()
    np.savez_compressed(file, a=np.arange(6.0).reshape(2, 3), text=np.array("{}"))
    other = io.BytesIO()
    np.savez(other, b=np.asfortranarray(np.eye(3, dtype=np.float32)))
    return [{"a.npz": file.getvalue()}, {"a.npz": other.getvalue()}]


def statistics() -> list[Folder]:
    """Reference statistics as we write them."""
    reference = Reference(
        Gaussian(np.zeros(3), np.eye(3), 10),
        None,
        np.ones((10, 3), np.float32),
        {"network": "x"},
    )
    return [files_of(lambda root: save_reference(root / "a.npz", reference))]


def finished() -> list[Folder]:
    """Images in an .npz, and in a folder."""
    file = io.BytesIO()
    np.savez(file, arr_0=np.zeros((3, 4, 6, 3), np.uint8))
    return [
        {"a.npz": file.getvalue()},
        {f"a/{i}.png": layouts.picture(i) for i in range(3)},
    ]


def own_model() -> list[Folder]:
    """A model under our own names: an .npz, and a folder."""
    spec = {k: v for k, v in small.PIXELS.items() if k != "latent_scale"}
    keep = {**spec, "seed": 0, "batch_size": 1, "mesh": {}, "optimizer": {}}
    keep |= {"latents": dict(directory="", image_size=8, scale=1.0), "train": {}}
    params = small.drawn(small.PIXELS)
    params = {name: tree for name, tree in params.items() if name == "unet"}
    return [
        files_of(lambda root: write_own_npz(root / "a.npz", keep, params)),
        files_of(lambda root: write_own_folder(root / "a", keep, params)),
    ]


def checkpoint() -> list[Folder]:
    """A checkpoint that Orbax wrote: metadata in JSON, a manifest, data in zarr."""
    rng = np.random.default_rng(0)
    params = {
        "unet": {"a": {"kernel": rng.normal(size=(3, 4)).astype(np.float32)}},
        "conditioner": {"b": np.ones(3, np.float32)},
    }
    return [files_of(lambda root: save_params(str(root), params, {"task": "x"}))]


def compvis() -> list[Folder]:
    """A checkpoint with its YAML."""
    return [files_of(lambda root: small.checkpoint(root, small.CLASSES))]


def diffusers() -> list[Folder]:
    """A pipeline of pixels, and one with a first stage and classes."""
    return [
        files_of(lambda root, s=s: small.pipeline(root, s))
        for s in (small.PIXELS, small.CLASSES)
    ]


def settings() -> list[Folder]:
    """config.json of both stages, as their runs write it: nothing is left open."""
    stage = config_files.load_config("quickstart:stage=first_stage")
    scale = ["--config.latents.scale=1.0"]
    denoiser = config_files.load_config("quickstart:stage=diffusion", scale)
    return [{"config.json": config.to_json().encode()} for config in (stage, denoiser)]


def bert() -> list[Folder]:
    """A vocabulary of BERT's size."""
    words = WORDS + [f"w{i}" for i in range(30522 - len(WORDS))]
    return [{"vocab.txt": "\n".join(words).encode()}]


def clip() -> list[Folder]:
    """A vocabulary of CLIP's size, and its merges."""
    return [files_of(write_vocabulary)]


def latents() -> list[Folder]:
    """Two shards of latents."""
    return [files_of(lambda root: test_metadata.write(root / "set"))]


def tfds() -> list[Folder]:
    """Prepared sets: photographs with captions, boxes and maps, in one shard each."""

    def prepare(root: pathlib.Path) -> None:
        with tempfile.TemporaryDirectory() as files:
            layouts.coco(pathlib.Path(files))
            layouts.stuff_maps(pathlib.Path(files))
            open_images("coco2017_stuff", data_dir=str(root), manual_dir=files)

    stored = files_of(prepare)
    return [{f"set/{name.split('/')[-1]}": data for name, data in stored.items()}]


def pictures() -> list[Folder]:
    """One picture of each format and several modes."""
    result: list[Folder] = []
    ramp = np.arange(24 * 16 * 3, dtype=np.uint8).reshape(16, 24, 3)
    rgb = Image.fromarray(ramp)
    grey16 = Image.fromarray(np.arange(384, dtype=np.uint16).reshape(16, 24) * 100)
    exif = Image.Exif()
    exif[274] = 6
    for image, form, how in (
        (rgb, "PNG", {}),
        (rgb.convert("RGBA"), "PNG", {}),
        (rgb.convert("P"), "PNG", {}),
        (grey16, "PNG", {}),
        (rgb, "JPEG", {"exif": exif}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "WEBP", {"lossless": True}),
        (rgb, "BMP", {}),
        (rgb.convert("P"), "GIF", {"save_all": True, "append_images": [rgb] * 2}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (grey16, "TIFF", {}),
        (rgb, "PPM", {}),
        (rgb, "AVIF", {}),
    ):
        file = io.BytesIO()
        image.save(file, form, **how)
        result.append({f"a.{form.lower()}": file.getvalue()})
    return result


IMAGES = {f"{i}.png": layouts.picture(i) for i in range(3)}


def captions() -> list[Folder]:
    """Captions in every format."""
    csv = b'file_name,caption\n0.png,a cat\n1.png,"a, dog"\n2.png,x\n'
    rows = [{"file_name": f"{i}.png", "text": ["a", "b"]} for i in range(3)]
    coco = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(3)],
        "annotations": [{"image_id": i, "caption": f"c{i}"} for i in range(3)],
    }
    return [
        {**IMAGES, "captions.csv": csv},
        {**IMAGES, "captions.jsonl": "\n".join(map(json.dumps, rows)).encode()},
        {**IMAGES, "captions.json": json.dumps(coco).encode()},
        {**IMAGES, **{f"{i}.txt": b"a cat\nanother" for i in range(3)}},
    ]


def boxes() -> list[Folder]:
    """Boxes in COCO's format and in the plain one."""
    coco = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 6, "height": 4}
            for i in range(3)
        ],
        "annotations": [
            {"image_id": i, "category_id": 1, "bbox": [0, 1, 2.5, 3]} for i in range(3)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    plain = {f"{i}.png": [{"label": "cat", "box": [0, 0, 0.5, 1]}] for i in range(3)}
    numbers = {f"{i}.png": [{"label": i, "box": [0, 0, 0.5, 1]}] for i in range(3)}
    return [
        {**IMAGES, "boxes.json": json.dumps(content).encode()}
        for content in (coco, plain, numbers)
    ]


def label_maps() -> list[Folder]:
    """Maps of classes next to images."""
    maps = {f"maps/{i}.png": layouts.label_map(i) for i in range(3)}
    return [{**IMAGES, **maps}]


def archives() -> list[Folder]:
    """Zips, tars and tars in tars of pictures."""
    members = {f"a/{i}.png": layouts.picture(i) for i in range(3)}
    inner = files_of(lambda root: layouts.tar(root / "b.tar", members))
    outer = files_of(lambda root: layouts.tar(root / "outer.tar", inner))
    return [{"a.zip": zipped(members)}, inner, outer]


def sets_of_makers() -> list[Folder]:
    """The files that builders read: COCO, Open Images, landscapes, image_text."""
    return [
        files_of(layouts.openimages),
        files_of(layouts.coco),
        files_of(layouts.image_text),
    ]


def lmdb_database() -> list[Folder]:
    """LSUN's: pages of leaves and of overflows."""

    def write(root: pathlib.Path) -> None:
        with lmdb.open(str(root)) as database, database.begin(write=True) as writer:
            for i in range(300):
                size = 5000 if i % 7 == 0 else 40
                writer.put(
                    f"key{i:04}".encode(), layouts.picture(i % 256) + b"x" * size
                )

    return [{"data.mdb": files_of(write)["data.mdb"]}]


def parquet() -> list[Folder]:
    """Rows as of Hugging Face and of img2dataset, compressed and not."""
    count, result = 12, []
    images = [layouts.picture(i) for i in range(count)]
    structs = [{"bytes": image, "path": None} for image in images]
    for columns, compression in (
        ({"image": structs, "text": [["a", "b"]] * count}, "snappy"),
        ({"caption": ["a cat"] * count, "jpg": images}, "zstd"),
        ({"caption": ["a cat"] * count, "jpg": images}, "none"),
    ):
        file = io.BytesIO()
        table = pa.table(columns)
        pyarrow.parquet.write_table(
            table, file, row_group_size=5, compression=compression
        )
        result.append({"a.parquet": file.getvalue()})
    return result


def examples() -> list[Folder]:
    """Messages as TFDS stores them: bytes, floats, integers, packed and not."""
    from ldm_jax.data.examples import write_example

    one = write_example({"image": b"x" * 300, "caption": b"a cat", "empty": b""})
    packed = struct.pack("<3f", 1, 2, 3)
    floats = (
        b"\x12" + bytes([len(packed) + 2]) + b"\x0a" + bytes([len(packed)]) + packed
    )
    entry = b"\x0a\x01f" + b"\x12" + bytes([len(floats)]) + floats
    entry = b"\x0a" + bytes([len(entry)]) + entry
    return [{"a.example": one}, {"a.example": b"\x0a" + bytes([len(entry)]) + entry}]
