# SPDX-License-Identifier: Apache-2.0
"""Computes features and image metrics on all devices."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Num, Shaped, UInt8

from ldm_jax.interop.feature_networks.lpips_file import LpipsFile
from ldm_jax.interop.feature_networks.weights import PUBLISHED, load_feature_network
from ldm_jax.metrics import reconstruction
from ldm_jax.metrics.image_sets.distribution import Figure
from ldm_jax.models.features.lpips import LPIPS
from ldm_jax.models.features.random_features import SEED, RandomFeatures, kernels
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import fetch
from ldm_jax.types import Array, PyTree

# The feature network that needs no weights file.
RANDOM = "random"
PAIR_METRICS = ("psnr", "ssim", "ms_ssim", "lpips")


class FeatureNetwork(NamedTuple):
    """A feature network with its parameters, placed on the devices.

    Attributes:
      metadata: "kind", "origin", "sha256", "official", on which results depend.
      run: images -> their features and logits, for any B.
      widths: {name of an output: its size per image}; always contains "pool".
    """

    metadata: dict[str, Any]
    run: Callable[[UInt8[Array, "B H W 3"]], dict[str, Float[np.ndarray, "B _"]]]
    widths: dict[str, int]


def check_feature_network(kind: str) -> None:
    """Raises ValueError unless there is a feature network of this kind."""
    if kind not in (*PUBLISHED, RANDOM):
        known = ", ".join([*PUBLISHED, RANDOM])
        raise ValueError(f'unknown feature network "{kind}"; one of: {known}.')


def open_feature_network(
    kind: str = "inception", weights: str | None = None
) -> FeatureNetwork:
    """Opens a feature network on all devices.

    Args:
      kind: "inception", "mobilenet" or "random", which needs no weights file.
      weights: file of `ldm-jax weights KIND`; None is weights/KIND.safetensors.

    Raises:
      ValueError: unknown kind, or missing weights; the error says how to get them.
    """
    check_feature_network(kind)
    module, params, header = _load(kind, weights)
    metadata = {name: header[name] for name in ("origin", "sha256")}
    mesh = sharding.make_mesh()
    placed = jax.device_put(params, sharding.replicated(mesh))
    apply = _compiled(module)
    shapes = jax.eval_shape(apply, params, jax.ShapeDtypeStruct((1, 8, 8, 3), "uint8"))

    def run(image):
        return on_devices(lambda x: apply(placed, x), image)

    return FeatureNetwork(
        {"kind": kind, **metadata, "official": header["official"] == "True"},
        run,
        {name: output.shape[-1] for name, output in shapes.items()},
    )


def _load(kind: str, weights: str | None) -> tuple[nn.Module, PyTree, dict[str, str]]:
    """Returns (module, parameters, header) as `load_feature_network` does."""
    if kind != RANDOM:
        path = weights or f"weights/{kind}.safetensors"
        return load_feature_network(path, kind)
    if weights:
        raise ValueError(
            f'the feature network "{RANDOM}" draws its weights: got the file {weights};'
            " leave it out."
        )
    sha256 = hashlib.sha256(b"".join(k.tobytes() for k in kernels())).hexdigest()
    header = dict(origin=f"seed {SEED}", sha256=sha256, official="True")
    return RandomFeatures(), {}, header


@functools.lru_cache(maxsize=4)
def _compiled(module):
    """Compiles a network once, even if it is opened several times."""
    return jax.jit(lambda params, image: module.apply({"params": params}, image))


def on_devices(function: Callable, *arrays: Shaped[Array, "B ..."]) -> PyTree:
    """Applies a function to arrays whose first axis is split over all devices.

    Every process passes complete arrays and receives complete results. B is padded to a
    multiple of the number of devices with copies of the first row.
    """
    mesh = sharding.make_mesh()
    on_mesh = sharding.batch_sharding(mesh)
    valid = len(arrays[0])
    rows = np.arange(-(-valid // mesh.size) * mesh.size)
    rows = np.where(rows < valid, rows, 0)
    placed = [
        jax.make_array_from_callback((len(rows), *x.shape[1:]), on_mesh, x.__getitem__)
        for x in (np.asarray(array)[rows] for array in arrays)
    ]
    return jax.tree.map(lambda x: x[:valid], fetch(function(*placed)))


def place_rows(x: Shaped[Array, "B ..."]) -> Shaped[jax.Array, "B ..."]:
    """Splits rows over this process's devices if the number of devices divides B."""
    mesh = sharding.make_mesh(devices=jax.local_devices())
    if len(x) % mesh.size:
        return jnp.asarray(x)
    return jax.device_put(x, sharding.batch_sharding(mesh))


class Pairs:
    """Compares pairs of images and averages the metrics, in constant memory."""

    def __init__(self, metrics, lpips: str | None = None, trunk: str = "vgg"):
        """Creates an accumulator without pairs.

        Args:
          metrics: names from PAIR_METRICS.
          lpips: file of `ldm-jax weights lpips`; needed for the metric "lpips".
          trunk: the network of LPIPS: "vgg", "alex" or "squeeze".
        """
        functions: dict[str, Callable] = {
            name: getattr(reconstruction, name)
            for name in PAIR_METRICS
            if name in metrics and name != "lpips"
        }
        params = {}
        if "lpips" in metrics:
            if not lpips:
                raise ValueError(
                    "lpips needs a file of weights: got none; give --lpips-weights "
                    f"FILE, made with `ldm-jax weights lpips --download {trunk} --out "
                    "FILE`."
                )
            params = LpipsFile(lpips).load(trunk)

        @jax.jit
        def compare(params, image_u8, other_u8):
            image, other = (
                x.astype(jnp.float32) / 127.5 - 1 for x in (image_u8, other_u8)
            )
            values = {name: f(image, other) for name, f in functions.items()}
            if "lpips" in metrics:
                values["lpips"] = LPIPS(trunk).apply({"params": params}, image, other)
            return values

        self._compare = lambda *images: compare(params, *images)
        self._means: dict[str, Mean] = {}

    def update(
        self, image: UInt8[Array, "B H W 3"], other: UInt8[Array, "B H W 3"]
    ) -> None:
        """Adds a batch of pairs.

        Raises:
          ValueError: the two arrays differ in shape.
        """
        if image.shape != other.shape:
            raise ValueError(
                f"images and those they are compared with must have one shape: got "
                f"{image.shape} and {other.shape}; give as many, of the same size."
            )
        for name, values in on_devices(self._compare, image, other).items():
            # The PSNR of equal images is infinite; it is limited to 100 dB, which is
            # beyond 8-bit precision.
            self._means.setdefault(name, Mean()).update(np.minimum(values, 100))

    def figures(self) -> dict[str, Figure]:
        """Returns the mean and standard deviation over images of each metric."""
        return {name: mean.figure() for name, mean in self._means.items()}


class Mean:
    """Accumulates the mean and standard deviation of batches of numbers."""

    def __init__(self):
        self.count, self._total, self._squares = 0, 0.0, 0.0

    def update(self, values: Num[Array, " B"]) -> None:
        """Adds a batch of numbers."""
        values = np.asarray(values, np.float64)
        self.count += len(values)
        self._total += values.sum()
        self._squares += (values * values).sum()

    def figure(self) -> Figure:
        """Returns the mean, with the standard deviation as its spread."""
        mean = self._total / self.count
        variance = max(self._squares / self.count - mean**2, 0)
        return Figure(float(mean), float(np.sqrt(variance)))


def with_features(
    network: FeatureNetwork,
    batches: Iterable[UInt8[Array, "B H W 3"]],
    collector: Any,
    show: Callable[[int], Any],
) -> None:
    """Adds the features of batches to `collector`, and calls `show` with each size."""
    for batch in batches:
        collector.update(network.run(batch))
        show(len(batch))


def image_metadata(
    network: FeatureNetwork, size, transform: Mapping[str, Any] | None
) -> dict:
    """Makes the metadata of features that `Reference.check` compares."""
    metadata = {"network": network.metadata, "image_size": list(size)}
    return metadata if transform is None else {**metadata, "transform": dict(transform)}
