# SPDX-License-Identifier: Apache-2.0
"""Builds a file of LPIPS weights from the published ones.

LPIPS v0.1 has two parts, which are published separately: a trunk, the convolutions of
a network of torchvision, and linear weights. `lpips_file` describes the file built.
"""

import functools
import hashlib
import pathlib
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.interop.feature_networks.lpips_file import (
    check_trunks,
    read_arrays,
    trunk_shapes,
)
from ldm_jax.interop.feature_networks.weights import download
from ldm_jax.interop.layouts import LAYOUTS
from ldm_jax.interop.safetensors import write_safetensors
from ldm_jax.models.features.lpips import FIRES
from ldm_jax.parallel.outputs import output_file, reserves

# The number of each convolution in `features` of torchvision's network.
CONVS = {
    "alex": (0, 3, 6, 8, 10),
    "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "squeeze": (0,),
}
FIRE_NUMBERS = (3, 4, 6, 7, 9, 10, 11, 12)
FIRE_CONVS = {"squeeze": "squeeze", "expand_1": "expand1x1", "expand_3": "expand3x3"}


class Part(NamedTuple):
    """One of the two parts of LPIPS: a trunk, or its linear weights.

    Attributes:
      trunk: a key of TRUNKS.
      half: "trunk", the convolutions, or "lin", the linear weights.
    """

    trunk: str
    half: str

    def __str__(self):
        what = {"trunk": "convolutions", "lin": "linear weights"}[self.half]
        return f"{self.trunk} {what} ({SOURCES[self].url})"


class PublishedPart(NamedTuple):
    """The address of a published part, and the first digits of its file's SHA-256."""

    url: str
    sha256: str


_TORCHVISION = "https://download.pytorch.org/models/"
_LPIPS = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/"
    "082bb24f84c091ea94de2867d34c4544f68e0963/lpips/weights/v0.1/"
)
SOURCES = {
    Part("vgg", "trunk"): PublishedPart(
        _TORCHVISION + "vgg16-397923af.pth", "397923af"
    ),
    Part("vgg", "lin"): PublishedPart(_LPIPS + "vgg.pth", "a78928a0af1e5f0f"),
    Part("alex", "trunk"): PublishedPart(
        _TORCHVISION + "alexnet-owt-7be5be79.pth", "7be5be79"
    ),
    Part("alex", "lin"): PublishedPart(_LPIPS + "alex.pth", "df73285e35b22355"),
    Part("squeeze", "trunk"): PublishedPart(
        _TORCHVISION + "squeezenet1_1-b8a52dc0.pth", "b8a52dc0"
    ),
    Part("squeeze", "lin"): PublishedPart(_LPIPS + "squeeze.pth", "4a5350f23600cb79"),
}
PARTS = tuple(SOURCES)


@functools.cache
def published_names(part: Part) -> dict[str, tuple[str, ...]]:
    """Lists the parameters of a part with their names in published files.

    Returns:
      {path of a parameter: its possible names}.
    """
    if part.half == "lin":
        lins = [path for path in trunk_shapes(part.trunk) if path.startswith("lin_")]
        spellings = ("lin{}.model.1.weight", "lin{}")
        return {
            f"lin_{n}": tuple(s.format(n) for s in spellings) for n in range(len(lins))
        }
    convs = {f"conv_{i}": f"{n}" for i, n in enumerate(CONVS[part.trunk])}
    if part.trunk == "squeeze":
        for i, n in zip(range(len(FIRES)), FIRE_NUMBERS, strict=True):
            convs |= {f"fire_{i}/{o}": f"{n}.{t}" for o, t in FIRE_CONVS.items()}
    return {
        f"trunk/{path}/{leaf}": (f"features.{number}.{torch_leaf}",)
        for path, number in convs.items()
        for leaf, torch_leaf in (("kernel", "weight"), ("bias", "bias"))
    }


def identify(path) -> tuple[Part, dict[str, np.ndarray]]:
    """Recognises which part a published file contains, by names and shapes.

    Args:
      path: of torchvision's alexnet, vgg16 or squeezenet1_1, or of LPIPS' linear
        weights; other tensors (a classifier) are ignored.

    Returns:
      (the part, {path of a parameter: float32 array in the layout of `LPIPS`}).

    Raises:
      ValueError: the file has no complete part; the error names the nearest part and
        what is missing of it.
    """
    arrays = read_arrays(path)
    lacking = {}
    for part in PARTS:
        params, missing = _match(part, arrays)
        if not missing:
            return part, params
        lacking[part] = missing
    nearest = min(
        PARTS, key=lambda part: len(lacking[part]) / len(published_names(part))
    )
    missing = lacking[nearest]
    if len(missing) == len(published_names(nearest)):
        raise ValueError(
            f"{path} holds no part of LPIPS: it has {', '.join(sorted(arrays)[:3])}, "
            f"...; a part is one of:\n{_listed(PARTS)}"
        )
    raise ValueError(
        f"{path} holds only some of the {nearest}: {len(missing)} are missing or of "
        f"another shape, first {missing[0]}; get the whole file."
    )


def _listed(parts) -> str:
    return "\n".join(f"  {part}" for part in parts)


def _match(part: Part, arrays) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the parameters of a part that a file has, and those that are missing."""
    shapes, params, missing = trunk_shapes(part.trunk), {}, []
    for path, names in published_names(part).items():
        name = next((name for name in names if name in arrays), None)
        array = None if name is None else _from_torch(np.asarray(arrays[name]))
        if array is None or array.shape != shapes[path]:
            missing.append(f"{names[0]} {_torch_shape(shapes[path])}")
        else:
            params[path] = np.array(array, np.float32)
    if part.half == "lin" and f"lin{len(published_names(part))}" in {
        name.partition(".")[0] for name in arrays
    }:
        missing.append("an end: it has more of them")
    return params, missing


def _from_torch(array: np.ndarray) -> np.ndarray:
    """Makes kernels h, w, I, O of O, I, h, w, and linear weights C of 1, C, 1, 1."""
    if array.ndim != 4:
        return array
    is_linear = array.shape[0] == array.shape[2] == array.shape[3] == 1
    return array.reshape(-1) if is_linear else LAYOUTS["conv"][0](array)


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape


@reserves(
    functools.partial(output_file, suffix=".safetensors", mark=b'"ldm_jax":"lpips"')
)
def build_lpips(paths, out, trunks_to_fetch=()) -> list[str]:
    """Combines published files into one.

    Args:
      paths: files of one part each; every trunk needs both parts.
      out: .safetensors file to write.
      trunks_to_fetch: trunks whose two parts are downloaded to the folder of `out`.

    Returns:
      The trunks in the file.

    Raises:
      ValueError: a file is not a part, a part is given twice or is missing; nothing
        is written.
      OSError: a download failed.
    """
    fetched = [download_part(part, out) for part in parts_of_trunks(trunks_to_fetch)]
    paths = [*paths, *fetched]
    given: dict[Part, Any] = {}
    tensors = {}
    for path in paths:
        part, params = identify(path)
        if part in given:
            raise ValueError(
                f"{path} and {given[part]} both hold the {part}; give one."
            )
        given[part] = path
        tensors |= {f"{part.trunk}/{name}": array for name, array in params.items()}
    trunks = sorted({part.trunk for part in given})
    lacking = [p for p in PARTS if p.trunk in trunks and p not in given]
    if lacking or not trunks:
        raise ValueError(
            "LPIPS has two parts, trunk and linear weights: got\n"
            f"{_listed(given) or '  no file'}\nadd, or let --download fetch,\n"
            f"{_listed(lacking or PARTS)}"
        )
    write_safetensors(out, tensors, {"ldm_jax": "lpips", "lpips": "0.1"})
    return trunks


def parts_of_trunks(trunks) -> list[Part]:
    """Lists both parts of each trunk; ValueError for an unknown one."""
    check_trunks(trunks)
    return [part for part in PARTS if part.trunk in trunks]


def download_part(part: Part, out) -> pathlib.Path:
    """Downloads a part to the folder of `out` unless it exists, and checks it.

    Raises:
      ValueError: the checksum differs.
      OSError: the download failed.
    """
    url, expected = SOURCES[part]
    path = pathlib.Path(out).parent / f"{part.trunk}-{part.half}-{url.split('/')[-1]}"
    if not path.is_file():
        download(url, path)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(expected):
        raise ValueError(
            f"the SHA-256 of {path} must begin with {expected}: got {digest[:16]}; "
            f"delete it and fetch {url} again."
        )
    return path
