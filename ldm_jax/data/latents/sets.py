# SPDX-License-Identifier: Apache-2.0
"""Opens the latents to train on: one set, a mixture of sets, or buckets of shapes."""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

from ldm_jax.data.latents.source import open_latents
from ldm_jax.data.latents.statistics import LatentStats
from ldm_jax.data.mixture import Buckets, Mixture
from ldm_jax.data.records import Source, fingerprint
from ldm_jax.files.errors import UnreadableFile, shown
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.paths import expand, listed_paths, resolve
from ldm_jax.files.stores.store_errors import reaching
from ldm_jax.files.writing import write_json

# Names the sets of a directory of buckets; written when all of them are complete.
BUCKETS_FILE = "buckets.json"


def open_latent_sets(
    directory: str | os.PathLike, weights: Sequence[float] | None = None
) -> tuple[Source, LatentStats, tuple[tuple[int, int, int], ...]]:
    """Opens sets of latents as one.

    Args:
      directory: of a set; or several, "runs/a,runs/b", that are mixed; or of buckets,
        written by `ldm-jax latents --buckets`.
      weights: shares of a mixture; None takes the sets' sizes.

    Returns:
      (source, stats, shapes): the statistics of what is drawn from the source, with the
      weights; and the shapes (h, w, c) that its batches have.

    Raises:
      ValueError: sets of different autoencoders, a mixture of different shapes, weights
        without a mixture, or what `open_latents` refuses.
    """
    paths = directories(directory)
    names = bucket_names(paths[0]) if len(paths) == 1 else None
    if weights and len(paths) == 1:
        raise ValueError(
            f"weights {tuple(weights)} need a mixture, several directories separated "
            f"by commas: got {directory}."
        )
    if names is not None:
        paths = [f"{paths[0]}/{name}" for name in names]
    opened = [open_latents(path) for path in paths]
    sources, stats = [o[0] for o in opened], [o[1] for o in opened]
    if names is None and len(opened) == 1:
        return sources[0], stats[0], (stats[0].latent_shape,)
    for path, other in zip(paths, stats, strict=True):
        if other.autoencoder != stats[0].autoencoder:
            raise ValueError(
                f"sets of latents that are used together must have one first stage: "
                f"{path} was written by {other.autoencoder}, the first by "
                f"{stats[0].autoencoder}. Write them again with one first stage."
            )
    shapes = tuple(dict.fromkeys(entry.latent_shape for entry in stats))
    if names is not None:
        buckets = Buckets(sources)
        return buckets, pool(stats, buckets.quotas), shapes
    if len(shapes) > 1:
        raise ValueError(
            f"sets that are mixed must have one shape: got {shapes} in {directory}. "
            f"For several, write buckets (ldm-jax latents --buckets)."
        )
    mixture = Mixture(sources, weights or [len(source) for source in sources])
    return mixture, pool(stats, mixture.quotas), shapes


def directories(directory: str | os.PathLike) -> list[str]:
    """Returns the directories that a `directory` of `open_latent_sets` names."""
    return [expand(part) for part in listed_paths(directory)]


def pool(stats: Sequence[LatentStats], weights: Sequence[float]) -> LatentStats:
    """Joins the statistics of sets that are mixed with these weights.

    Mean and variance are those of the mixture. The error of its scale follows from the
    errors of the sets, taken as independent: Var(V) is the sum of
    (w_k * 2 e_k / s_k^3)^2, where V is the variance, s_k a scale and e_k its error.
    """
    shares = [weight / sum(weights) for weight in weights]
    mean = sum(w * s.mean for w, s in zip(shares, stats, strict=True))
    square = sum(w * (s.std**2 + s.mean**2) for w, s in zip(shares, stats, strict=True))
    std = math.sqrt(square - mean**2)
    spread = math.hypot(
        *(
            w * 2 * s.scale_error / s.scale**3
            for w, s in zip(shares, stats, strict=True)
        )
    )
    return dataclasses.replace(
        stats[0],
        count=sum(s.count for s in stats),
        mean=mean,
        std=std,
        scale=1 / std,
        scale_error=spread / (2 * std**3),
        images=fingerprint([s.images for s in stats]),
        dropped=sum(s.dropped for s in stats),
        **_common_classes(stats),
    )


def _common_classes(stats: Sequence[LatentStats]) -> dict[str, Any]:
    """Returns number and names of the classes; none where the sets differ."""
    classes = {(s.num_classes, s.class_names) for s in stats}
    count, names = classes.pop() if len(classes) == 1 else (None, ())
    return dict(num_classes=count, class_names=names)


def write_bucket_names(directory: str, names: Sequence[str]) -> None:
    """Makes a directory of whole sets one of buckets."""
    path = resolve(directory) / BUCKETS_FILE
    write_json(path, {"buckets": list(names)})


def bucket_names(directory: str) -> list[str] | None:
    """Returns the sub-folders of a directory of buckets; None of another."""
    path = resolve(directory) / BUCKETS_FILE
    with reaching(directory):
        if not path.exists():
            return None
        names = read_json(path).get("buckets")
    if not isinstance(names, list) or not names:
        raise UnreadableFile(f"{path} must list the folders of buckets.")
    for name in names:
        if not isinstance(name, str) or "/" in name or name.startswith("."):
            raise UnreadableFile(
                f"{path} names {shown(name)}, which is not a sub-folder."
            )
    return names
