# SPDX-License-Identifier: Apache-2.0
"""Converts published weights of feature networks to one file of this package.

The file is a .safetensors of parameters by path. Its header names the network
("ldm_jax"), the origin of the weights ("origin") and the SHA-256 of the published file
("sha256"). Batch normalisations are folded into the preceding convolutions.
"""

import functools
import hashlib
import pathlib
import re
import struct
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.formats.structured import parse_json
from ldm_jax.files.reading import opened
from ldm_jax.files.writing import atomic_file
from ldm_jax.interop.name_rows import parameter_shapes
from ldm_jax.interop.safetensors import write_safetensors
from ldm_jax.interop.weight_files import read_weights
from ldm_jax.models.features.inception import InceptionV3
from ldm_jax.models.features.mobilenet import STAGES, MobileNetV2
from ldm_jax.parallel.outputs import output_file, reserves
from ldm_jax.types import PyTree

KIND = "ldm_jax"


class Published(NamedTuple):
    """A network's published weights.

    Attributes:
      url: where they are.
      sha256: the file's SHA-256 in hexadecimal digits, or the first of them, which
        publishers put into its name.
      origin: what our file says of them.
      epsilon: of the batch normalisations.
    """

    url: str
    sha256: str
    origin: str
    epsilon: float


PUBLISHED = {
    # torch-fidelity's weights-inception-2015-12-05-6726825d.pth is the same file.
    "inception": Published(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "tensorflow",
        1e-3,
    ),
    "mobilenet": Published(
        "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
        "b0353104",
        "torchvision",
        1e-5,
    ),
}


def make_network(kind: str, origin: str) -> nn.Module:
    """Makes the module of a network by name; `origin` is that of its weights."""
    return InceptionV3() if kind == "inception" else MobileNetV2(origin)


@functools.cache
def network_shapes(kind: str, origin: str) -> dict[str, tuple[int, ...]]:
    """Returns {path of a parameter: shape}."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return parameter_shapes(make_network(kind, origin), image)


@reserves(
    functools.partial(output_file, suffix=".safetensors", mark=f'"{KIND}":'.encode())
)
def build_feature_network(
    kind: str, out, source=None, skip_checksum: bool = False
) -> bool:
    """Converts a published file of weights to this package's format.

    Args:
      kind: a key of PUBLISHED.
      out: .safetensors file to write.
      source: the published .pth on disk; None downloads it.
      skip_checksum: take a file of another checksum; ours then says so, and no distance
        made with it is called FID.

    Returns:
      Whether the file is the published one.

    Raises:
      ValueError: the checksum or the contents are not the published file's.
      OSError: it cannot be read or downloaded.
    """
    published = PUBLISHED[kind]
    if source is None:
        source = pathlib.Path(out).with_suffix(".pth")
        if not source.is_file():
            download(published.url, source)
    with open(source, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    official = sha256.startswith(published.sha256)
    if not official and not skip_checksum:
        raise ValueError(
            f"the SHA-256 of {source} must begin with {published.sha256}: got "
            f"{sha256}, so it is not {published.url}; get that file, or take this "
            "one with --skip-checksum: figures made with it can be compared only with "
            "each other."
        )
    tensors = read_weights(source)
    flat = convert_feature_network(kind, tensors)
    header = {KIND: kind, "origin": published.origin, "sha256": sha256}
    write_safetensors(out, flat, {**header, "official": str(official)})
    return official


def download(url: str, path) -> None:
    """Downloads a file atomically.

    Raises:
      OSError: names the address, and the way out without a network.
    """
    try:
        # The addresses are those of PUBLISHED, never a user's.
        with (
            urllib.request.urlopen(url, timeout=60) as stream,
            atomic_file(path) as file,
        ):
            while chunk := stream.read(2**20):
                file.write(chunk)
    except (urllib.error.URLError, TimeoutError) as error:
        raise OSError(
            f"could not download {url} ({error}); download it elsewhere and give the "
            "file's path."
        ) from error


def convert_feature_network(
    kind: str, tensors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Converts published tensors to ours.

    Args:
      kind: a key of PUBLISHED.
      tensors: {PyTorch's name: array}.

    Returns:
      {our path: float32 array}.

    Raises:
      ValueError: a tensor is missing or has another shape.
    """
    published = PUBLISHED[kind]
    result = {}
    for path, shape in network_shapes(kind, published.origin).items():
        names = published_tensors(kind, path)
        missing = [name for name in names if name not in tensors]
        if missing:
            raise ValueError(
                f"the weights are not those of {kind}: {missing[0]} is missing."
            )
        values = [np.asarray(tensors[name], np.float64) for name in names]
        ours = values[0].T if len(values) == 1 else _folded(path, values, published)
        if ours.shape != shape:
            raise ValueError(
                f"the weights are not those of {kind}: {names[0]} makes "
                f"{ours.shape}, {path} is {shape}."
            )
        result[path] = np.ascontiguousarray(ours, np.float32)
    return result


def _folded(path: str, values, published: Published) -> np.ndarray:
    """Folds scale, shift, mean and variance into a kernel or its bias."""
    *kernel, scale, shift, mean, variance = values
    factor = scale / np.sqrt(variance + published.epsilon)
    if path.endswith("bias"):
        return shift - mean * factor
    return kernel[0].transpose(2, 3, 1, 0) * factor


_NORM = ("weight", "bias", "running_mean", "running_var")


def published_tensors(kind: str, path: str) -> list[str]:
    """Lists the published tensors that make one of our parameters."""
    if path.startswith("logits"):
        linear = {"inception": "fc", "mobilenet": "classifier.1"}[kind]
        return [f"{linear}.{'bias' if path.endswith('bias') else 'weight'}"]
    layer, leaf = path.rsplit("/", 1)
    conv, norm = (_inception_layer if kind == "inception" else _mobilenet_layer)(layer)
    names = [f"{norm}.{name}" for name in _NORM]
    return [f"{conv}.weight", *names] if leaf == "kernel" else names


def _inception_layer(layer: str) -> tuple[str, str]:
    """Maps mixed_5b/branch1x1 to Mixed_5b.branch1x1.conv and .bn."""
    name = layer[0].upper() + layer[1:].replace("/", ".")
    return f"{name}.conv", f"{name}.bn"


def _mobilenet_layer(layer: str) -> tuple[str, str]:
    """Maps block_3/expand to features.4.conv.0.0 and features.4.conv.0.1."""
    last = 1 + sum(count for _, _, count, _ in STAGES)
    if layer in ("conv_in", "conv_out"):
        name = f"features.{0 if layer == 'conv_in' else last}"
        return f"{name}.0", f"{name}.1"
    match = re.fullmatch(r"block_(\d+)/(\w+)", layer)
    assert match is not None, layer
    block, part = match.groups()
    name = f"features.{int(block) + 1}.conv"
    # Only the first block has no expansion before its depthwise convolution.
    position = {"expand": 0, "depthwise": 1, "project": 2}[part] - (block == "0")
    if part == "project":
        return f"{name}.{position}", f"{name}.{position + 1}"
    return f"{name}.{position}.0", f"{name}.{position}.1"


def load_feature_network(path, kind: str) -> tuple[nn.Module, PyTree, dict[str, str]]:
    """Reads a network from a file of this package.

    Returns:
      (module, params, header): the header has "origin", "sha256" and "official".

    Raises:
      ValueError: there is no such file, or it is of another kind.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(
            f"{kind} needs a file of weights: there is none at {path}; make one with "
            f"`ldm-jax weights {kind}`, which downloads {PUBLISHED[kind].url} or takes "
            "your copy. --feature-network=random needs no file; its distances compare "
            "only with each other."
        )
    header = _read_header(path)
    if header.get(KIND) != kind:
        raise ValueError(
            f"{path} must hold {kind} weights: got {header.get(KIND, 'other ones')}; "
            f"make a file with `ldm-jax weights {kind}`."
        )
    stored = read_weights(path)
    shapes = network_shapes(kind, header["origin"])
    wrong = [n for n, s in shapes.items() if n not in stored or stored[n].shape != s]
    if wrong:
        raise ValueError(f"{path} is damaged: {wrong[0]} is missing or misshapen.")
    flat = {name: np.array(stored[name]) for name in shapes}
    params = traverse_util.unflatten_dict(flat, sep="/")
    return make_network(kind, header["origin"]), params, header


def _read_header(path) -> dict[str, str]:
    """Reads the metadata of the header; {} without any."""
    with opened(path) as file:
        prefix = file.read(8)
        if path.suffix != ".safetensors" or len(prefix) < 8:
            return {}
        length = struct.unpack("<Q", prefix)[0]
        header = parse_json(file.read(min(length, 2**24)), path)
    metadata = header.get("__metadata__", {})
    is_text = isinstance(metadata, dict) and all(
        isinstance(value, str) for value in metadata.values()
    )
    if not is_text:
        raise UnreadableFile(f"{path} must describe itself in texts.")
    return metadata
