# SPDX-License-Identifier: Apache-2.0
"""Mutates folders of files: bytes, and structures by the kind of a file."""

import functools
import os
import pathlib
import random
from collections.abc import Callable

from tests.fuzz import structures
from tests.fuzz.ocdbt import MAGIC, mutated_ocdbt
from tests.fuzz.trees import mutated_json, mutated_lines, mutated_yaml

# What may replace a file, other than bytes.
ODD = ("a FIFO", "a folder", "a link to itself", "a link to nothing", "missing")
Folder = dict[str, bytes | str]

NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63]
IMPOSTORS = (
    b"",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    b"<!DOCTYPE html><html><body>404</body></html>",
    b"\xff\xfe{\x00}\x00",
    b"\x00" * 4096,
)

# By the ending of a name; the structure of others is not known.
STRUCTURES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": mutated_json,
    ".jsonl": mutated_lines,
    ".csv": mutated_lines,
    ".txt": mutated_lines,
    ".yaml": mutated_yaml,
    ".pkl": structures.mutated_pickle,
    ".ckpt": structures.mutated_zip,
    ".pt": structures.mutated_zip,
    ".zip": structures.mutated_zip,
    ".npz": structures.mutated_zip,
    ".npy": structures.mutated_npy,
    ".pth": structures.mutated_legacy,
    ".tar": structures.mutated_tar,
    ".safetensors": structures.mutated_safetensors,
    ".example": structures.mutated_protobuf,
}


def mutated(seeds: list[Folder], rng: random.Random) -> Folder:
    """Mutates one of some folders in one file or, seldom, several."""
    folder = dict(rng.choice(seeds))
    for _ in range(1 + (rng.random() < 0.2)):
        name = rng.choice(sorted(folder))
        content = folder[name]
        if isinstance(content, str) or rng.random() < 0.03:
            folder[name] = rng.choice(ODD)
        else:
            folder[name] = mutated_file(name, content, rng)
    return folder


def mutated_file(name: str, data: bytes, rng: random.Random) -> bytes:
    """Mutates a file, by its structure where that is known."""
    structure = STRUCTURES.get(pathlib.PurePath(name).suffix)
    if structure is None and data.startswith((b"{", b"[")):  # of Orbax, "metadata"
        structure = mutated_json
    if data.startswith(MAGIC):
        structure = functools.partial(mutated_ocdbt, inner=mutated_bytes)
    if structure is not None and rng.random() < 0.65:
        for _ in range(rng.choice((1, 1, 2, 4))):
            try:
                data = structure(data, rng)
            except Exception:  # already damaged by the mutation before
                return mutated_bytes(data, rng)
        return data
    return mutated_bytes(data, rng)


structures.INNER.append(mutated_file)


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Changes, inserts, deletes or repeats bytes, or cuts the file off."""
    if rng.random() < 0.03:
        return rng.choice(IMPOSTORS)
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        # Headers are at the beginning, and of zips and parquets at the end.
        span = rng.choice((64, 512, len(data)))
        at = rng.randrange(max(1, min(span, len(data) + 1)))
        at = rng.choice((at, at, max(0, len(data) - at)))
        size = rng.choice((1, 2, 4, 8, 64))
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) % 256**width
            data[at : at + width] = number.to_bytes(
                width, rng.choice(("little", "big"))
            )
        elif kind == 2:
            data[at:at] = rng.randbytes(size)
        elif kind == 3:
            del data[at : at + size]
        elif kind == 4:
            data[at:at] = data[at : at + size] * rng.choice((1, 2, 50))
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def write_folder(root: pathlib.Path, folder: Folder) -> None:
    """Writes a folder of files, and of what may replace them."""
    root.mkdir()
    for name, content in folder.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content == "a FIFO":
            os.mkfifo(path)
        elif content == "a folder":
            path.mkdir()
        elif content == "a link to itself":
            path.symlink_to(path)
        elif content == "a link to nothing":
            path.symlink_to(root / "nothing")
