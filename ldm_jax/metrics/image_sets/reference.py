# SPDX-License-Identifier: Apache-2.0
"""Reads and writes reference statistics of a set of real images.

The file is an .npz with "mu" and "sigma" (which other programs read too), "mu_s" and
"sigma_s" of spatial features, "features" of some of the images, "count", and
"metadata", a JSON text that describes how the statistics were made. The reference
batches of ADM ("arr_0", "mu", "sigma", "mu_s", "sigma_s") and statistics of pytorch-fid
("mu", "sigma") are read too; they do not describe how they were made.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ldm_jax.files.errors import UnreadableFile, naming, shown
from ldm_jax.files.formats.arrays import Npz
from ldm_jax.files.formats.structured import parse_json
from ldm_jax.files.paths import printable
from ldm_jax.files.writing import atomic_file
from ldm_jax.metrics.image_sets.frechet import Gaussian

# Within the first bytes of a file of this package: the name of its first array.
MARK = b"metadata.npy"


@dataclasses.dataclass(frozen=True)
class Reference:
    """Feature statistics of a set of images.

    Attributes:
      pool: mean and covariance of the network's pool features.
      spatial: mean and covariance of its spatial features; None if it has none.
      features: pool features of some of the images. If None, KID, precision, recall,
        density and coverage cannot be computed.
      metadata: how the statistics were made: "network", "transform", "dataset" and so
        on; {} if unknown.
      path: the file's path, for error messages.
      has_images: whether the file also contains images, as "arr_0".
    """

    pool: Gaussian
    spatial: Gaussian | None
    features: Float[np.ndarray, "K D"] | None
    metadata: Mapping[str, Any]
    path: str = ""
    has_images: bool = False

    def check(self, metadata: Mapping[str, Any]) -> list[str]:
        """Checks that features were made in the same way as these statistics.

        Args:
          metadata: "network" and, if known, "image_size" and "transform" of the images
            to compare with these statistics.

        Returns:
          Warnings about unknown or different settings that make results incomparable.

        Raises:
          ValueError: network or image size differ, so that no comparison is possible.
        """
        if not self.metadata:
            return [
                f"{self.path} does not say how it was made: if its images went through "
                "another crop, resize or network, the figures mean nothing."
            ]
        for name in ("network", "image_size"):
            if name in metadata and metadata[name] != self.metadata.get(name):
                raise ValueError(
                    f"images and reference must have the same {name}: got "
                    f"{metadata[name]}, but {self.path} was made with "
                    f"{self.metadata.get(name)}; make it again with `ldm-jax stats`."
                )
        transform, stored = metadata.get("transform"), self.metadata.get("transform")
        if transform and stored and transform != stored:
            changed = sorted(
                name
                for name in {*transform, *stored}
                if transform.get(name) != stored.get(name)
            )
            return [
                f"the model's images went through another {', '.join(changed)} than "
                f"those of {self.path}: the figures compare the loaders too."
            ]
        return []


def save_reference(path, reference: Reference) -> None:
    """Writes statistics to an .npz file."""
    arrays: dict[str, Any] = {
        "metadata": np.array(json.dumps(dict(reference.metadata), sort_keys=True)),
        "mu": reference.pool.mean,
        "sigma": reference.pool.covariance,
        "count": np.int64(reference.pool.count),
    }
    if reference.spatial is not None:
        arrays["mu_s"] = reference.spatial.mean
        arrays["sigma_s"] = reference.spatial.covariance
    if reference.features is not None:
        arrays["features"] = np.asarray(reference.features, np.float32)
    with atomic_file(path) as file:
        np.savez(file, **arrays)


def load_reference(path) -> Reference:
    """Reads statistics from an .npz file of this package, of ADM or of pytorch-fid.

    Raises:
      ValueError: the file is not one of these.
    """
    try:
        with Npz(path) as stored:
            names = [name for name in stored.names if name != "arr_0"]
            arrays = {name: stored.read(name) for name in names}
            has_images = "arr_0" in stored.names
    except ValueError as error:
        raise UnreadableFile(
            f"reference statistics are an .npz file: {printable(path)} cannot be read "
            f"({error}); make one with `ldm-jax stats`."
        ) from error
    return make_reference(arrays, path, has_images)


def make_reference(
    arrays: Mapping[str, np.ndarray], path, has_images: bool = False
) -> Reference:
    """Makes statistics from the arrays of a file.

    Args:
      arrays: "mu" and "sigma", and optionally the other arrays of the file format.
      path: the file's path, for error messages.
      has_images: whether the file also contains images.

    Raises:
      UnreadableFile: "mu" or "sigma" is missing, their shapes do not match, or an
        array contains invalid values.
    """
    if not {"mu", "sigma"} <= set(arrays):
        raise UnreadableFile(
            f'reference statistics hold "mu" and "sigma": {printable(path)} holds '
            f"{shown(sorted(arrays)) if arrays else 'only images'}; make them of the "
            "images with `ldm-jax stats`."
        )
    with naming(path):
        pool = _gaussian(arrays, "", _count(arrays))
        features = arrays.get("features")
        if features is not None and (
            features.shape[1:] != pool.mean.shape or not _is_finite(features)
        ):
            raise ValueError(
                f"features must be finite numbers [K, {len(pool.mean)}]: got "
                f"{shown(features)}; the file is damaged or of another kind."
            )
        metadata = str(arrays.get("metadata", "{}")).encode()
        return Reference(
            pool,
            _gaussian(arrays, "_s", pool.count) if "mu_s" in arrays else None,
            features,
            parse_json(metadata, path),
            str(path),
            has_images,
        )


def _count(arrays: Mapping[str, np.ndarray]) -> int:
    """Returns the number of images; 0 if the file does not contain it."""
    count = np.asarray(arrays.get("count", 0))
    if count.shape != () or count.dtype.kind not in "iu" or not 0 <= count < 2**48:
        raise ValueError(f"count must be a number of images: got {shown(count)}.")
    return int(count)


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind in "fiu" and bool(np.isfinite(array).all())


def _gaussian(arrays: Mapping[str, np.ndarray], suffix: str, count: int) -> Gaussian:
    mean, covariance = arrays[f"mu{suffix}"], arrays.get(f"sigma{suffix}")
    shape = None if covariance is None else covariance.shape
    if covariance is None or mean.ndim != 1 or shape != (len(mean), len(mean)):
        raise ValueError(
            f"a mean [D] needs a covariance [D, D]: got {mean.shape} and {shape}; the "
            "file is damaged or of another kind."
        )
    if not _is_finite(mean) or not _is_finite(covariance):
        raise ValueError(
            f"mu{suffix} and sigma{suffix} must be finite numbers; the file is damaged."
        )
    return Gaussian(mean.astype(np.float64), covariance.astype(np.float64), count)
