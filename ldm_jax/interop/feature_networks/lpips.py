# SPDX-License-Identifier: Apache-2.0
"""LPIPS weights: from torchvision's and LPIPS' own files into one file of ours.

LPIPS v0.1 has two parts, published apart: a trunk, the convolutions of a network of
torchvision, and linear weights. A file of ours is a .safetensors that holds both parts
of some trunks, as "vgg/trunk/conv_0/kernel" and so on.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ldm_jax.files.arrays import read_npz
from ldm_jax.interop.feature_networks.weights import download
from ldm_jax.interop.layouts import LAYOUTS
from ldm_jax.interop.safetensors import write_safetensors
from ldm_jax.interop.weight_files import read_weights
from ldm_jax.models.features.lpips import FIRES, LPIPS, TRUNKS
from ldm_jax.parallel.outputs import output_file, reserves
from ldm_jax.types import PyTree

# torchvision's number in `features` of each convolution, or module, in turn.
CONVS = {
    "alex": (0, 3, 6, 8, 10),
    "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "squeeze": (0,),
}
FIRE_NUMBERS = (3, 4, 6, 7, 9, 10, 11, 12)
FIRE_CONVS = {"squeeze": "squeeze", "expand_1": "expand1x1", "expand_3": "expand3x3"}


class Part(NamedTuple):
    """One of the two parts of an LPIPS.

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
    """Where a part is published, and how the SHA-256 of its file begins."""

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
def trunk_shapes(trunk: str) -> dict[str, tuple[int, ...]]:
    """{path of a parameter: shape} of `LPIPS(trunk)`."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(LPIPS(trunk).init, jax.random.key(0), image, image)
    flat: Mapping[str, Any] = traverse_util.flatten_dict(params["params"], sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


@functools.cache
def published_names(part: Part) -> dict[str, tuple[str, ...]]:
    """{our path: the names under which files hold it} of one part."""
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
        f"trunk/{ours}/{leaf}": (f"features.{theirs}.{their_leaf}",)
        for ours, theirs in convs.items()
        for leaf, their_leaf in (("kernel", "weight"), ("bias", "bias"))
    }


def read_arrays(path) -> Mapping[str, np.ndarray]:
    """Opens a .npz, or any file of `files.read_weights`, as {name: array}."""
    if pathlib.Path(path).suffix == ".npz":
        return read_npz(path)
    return read_weights(path)


def identify(path) -> tuple[Part, dict[str, np.ndarray]]:
    """Recognises which part a published file holds, by names and shapes.

    Args:
      path: of torchvision's alexnet, vgg16 or squeezenet1_1, or of LPIPS' linear
        weights; what else lies in it (a classifier) is left alone.

    Returns:
      (the part, {our path: float32 array in our layout}).

    Raises:
      ValueError: the file holds no whole part; the nearest and what it lacks are named.
    """
    arrays = read_arrays(path)
    lacking = {}
    for part in PARTS:
        found, missing = _match(part, arrays)
        if not missing:
            return part, found
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
    """Returns the part's parameters as far as they are there, and what is not."""
    shapes, found, missing = trunk_shapes(part.trunk), {}, []
    for path, names in published_names(part).items():
        name = next((name for name in names if name in arrays), None)
        theirs = None if name is None else np.asarray(arrays[name])
        ours = None if theirs is None else _to_ours(theirs)
        if ours is None or ours.shape != shapes[path]:
            missing.append(f"{names[0]} {_their_shape(shapes[path])}")
        else:
            found[path] = np.array(ours, np.float32)
    if part.half == "lin" and f"lin{len(published_names(part))}" in {
        name.partition(".")[0] for name in arrays
    }:
        missing.append("an end: it has more of them")
    return found, missing


def _to_ours(theirs: np.ndarray) -> np.ndarray:
    """Kernels O, I, h, w become h, w, I, O; linear weights 1, C, 1, 1 become C."""
    if theirs.ndim != 4:
        return theirs
    is_linear = theirs.shape[0] == theirs.shape[2] == theirs.shape[3] == 1
    return theirs.reshape(-1) if is_linear else LAYOUTS["conv"][0](theirs)


def _their_shape(ours: tuple[int, ...]) -> tuple[int, ...]:
    return (ours[3], ours[2], *ours[:2]) if len(ours) == 4 else ours


@reserves(output_file)
def build_lpips(paths, out, trunks_to_fetch=()) -> list[str]:
    """Puts published files together into one file of ours.

    Args:
      paths: files, each one part; every trunk needs both parts.
      out: .safetensors file to write.
      trunks_to_fetch: trunks whose two parts are downloaded, beside `out`.

    Returns:
      The trunks it holds.

    Raises:
      ValueError: a file is no part, a part is given twice, or one is missing; nothing
        is written.
      OSError: a download failed.
    """
    fetched = [download_part(part, out) for part in parts_of_trunks(trunks_to_fetch)]
    paths = [*paths, *fetched]
    given: dict[Part, Any] = {}
    tensors = {}
    for path in paths:
        part, found = identify(path)
        if part in given:
            raise ValueError(
                f"{path} and {given[part]} both hold the {part}; give one."
            )
        given[part] = path
        tensors |= {f"{part.trunk}/{name}": array for name, array in found.items()}
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
    unknown = sorted(set(trunks) - set(TRUNKS))
    if unknown:
        raise ValueError(
            f"unknown LPIPS trunk {unknown[0]!r}; one of: {', '.join(sorted(TRUNKS))}."
        )
    return [part for part in PARTS if part.trunk in trunks]


def download_part(part: Part, out) -> pathlib.Path:
    """Downloads a part to the folder of `out`, unless it lies there, and checks it.

    Raises:
      ValueError: the checksum is another.
      OSError: the download failed.
    """
    url, expected = SOURCES[part]
    path = pathlib.Path(out).parent / f"{part.trunk}-{part.half}-{url.split('/')[-1]}"
    if not path.is_file():
        download(url, path)
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise ValueError(
            f"the SHA-256 of {path} must begin with {expected}: got {found[:16]}; "
            f"delete it and fetch {url} again."
        )
    return path


@dataclasses.dataclass(frozen=True)
class LpipsFile:
    """Where a run's LPIPS weights are; the section `lpips` of a first stage's config.

    Attributes:
      file: written by `build_lpips`; "" where there is none yet.
      fingerprint: of the parameters of the trunk in use; a run notes it, so that it is
        not continued with others.
    """

    file: str = ""
    fingerprint: str | None = None

    def load(self, trunk: str) -> PyTree:
        """Reads the parameters of `LPIPS(trunk)`.

        Raises:
          ValueError: there is no such file, it is of another kind, or holds other
            trunks.
        """
        parts_of_trunks([trunk])
        if not self.file or not pathlib.Path(self.file).is_file():
            raise ValueError(
                f'objective.perceptual="{trunk}" needs LPIPS weights, and config.lpips.'
                f'file="{self.file}" is no file; make one with `ldm-jax weights lpips '
                f"--download {trunk} --out FILE`, or set objective.perceptual to "
                '"none" to train without, which blurs.'
            )
        stored = read_arrays(self.file)
        shapes = trunk_shapes(trunk)
        wrong = [n for n, s in shapes.items() if _shape(stored, f"{trunk}/{n}") != s]
        if wrong:
            held = {name.partition("/")[0] for name in stored} & set(TRUNKS)
            raise ValueError(
                f"{self.file} must hold LPIPS weights of the trunk {trunk}: it lacks "
                f"{trunk}/{wrong[0]} of {shapes[wrong[0]]} and holds "
                f"{', '.join(sorted(held)) or 'no trunk'}; make a file with `ldm-jax "
                "weights lpips`."
            )
        flat = {name: np.array(stored[f"{trunk}/{name}"]) for name in shapes}
        return traverse_util.unflatten_dict(flat, sep="/")


def _shape(stored, name: str) -> tuple[int, ...] | None:
    return stored[name].shape if name in stored else None
