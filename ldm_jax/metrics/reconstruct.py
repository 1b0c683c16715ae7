# SPDX-License-Identifier: Apache-2.0
"""Encodes and decodes image sets, and evaluates the reconstructions."""

import functools
from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
from jaxtyping import Float, UInt8

from ldm_jax.files.formats import png
from ldm_jax.metrics.codebook import CODEBOOK_FIGURES, CodebookUsage
from ldm_jax.metrics.reconstruction import WINDOW, psnr, ssim
from ldm_jax.models.features.lpips import LPIPS
from ldm_jax.parallel.hosts import fetch
from ldm_jax.tasks.model import FirstStage
from ldm_jax.types import Array, Batch, PyTree

# (images, reconstructions), both in [-1, 1] -> one number per image.
PairMetric = Callable[
    [Float[Array, "B H W C"], Float[Array, "B H W C"]], Float[Array, " B"]
]


def make_pair_metrics(
    size: tuple[int, int], perceptual: str, lpips_params: PyTree
) -> dict[str, PairMetric]:
    """Makes the metrics that compare held-out images with their reconstructions.

    Returns:
      "psnr" in dB; "ssim", unless the images are smaller than its window; "lpips",
      unless `perceptual` is "none".
    """
    metrics: dict[str, PairMetric] = {"psnr": jax.jit(psnr)}
    if min(size) >= WINDOW:
        metrics["ssim"] = jax.jit(ssim)
    if perceptual != "none":
        lpips = LPIPS(perceptual)
        # The parameters are an argument: as constants, they would add many megabytes
        # to the program.
        distance = jax.jit(lambda p, x, y: lpips.apply({"params": p}, x, y))
        metrics["lpips"] = functools.partial(distance, lpips_params)
    return metrics


def reconstruct_all(
    model: FirstStage,
    params: PyTree,
    rows: Iterable[tuple[Batch, int]],
    num_shown: int,
    metrics: Mapping[str, PairMetric],
    num_rows: int,
) -> tuple[dict[str, float], UInt8[np.ndarray, "H W 3"]]:
    """Encodes and decodes all images and computes the metrics of the set.

    Args:
      model, params: a first stage and its parameters.
      rows: iterator of (batch, number of valid rows).
      num_shown: number of pairs in the sheet, evenly spaced over all rows.
      metrics: name -> function of images and their reconstructions.
      num_rows: total number of valid rows.

    Returns:
      {name: mean over all rows}, for VQ also with "codebook_usage" and "perplexity" of
      all rows; and a sheet of (image, reconstruction) pairs, uint8.
    """
    num_codes = model.autoencoder.num_codes
    usage = CodebookUsage(num_codes) if num_codes else None
    run = _program(model)
    values = {name: [] for name in metrics}
    places = np.linspace(0, num_rows - 1, min(num_shown, num_rows)).astype(int)
    shown, first = [], 0
    for batch, valid in rows:
        image = batch["image"]
        reconstruction, indices = run(params, image)
        for name, metric in metrics.items():
            values[name].append(fetch(metric(image, reconstruction))[:valid])
        reconstruction, indices = fetch((reconstruction, indices))
        if usage:
            usage.update(indices[:valid])
        here = places[(places >= first) & (places < first + valid)] - first
        if len(here):
            shown += [x for i in here for x in (fetch(image)[i], reconstruction[i])]
        first += valid
    figures = {name: float(np.concatenate(values[name]).mean()) for name in values}
    figures |= usage.result() if usage else {}
    sheet = png.to_uint8(np.stack(shown))
    enlarge = png.enlargement(sheet.shape[2])
    return figures, png.grid(sheet, num_columns=8, enlarge=enlarge)


def names_of_reconstruction_figures(
    model: FirstStage, metrics: Mapping[str, PairMetric]
) -> tuple[str, ...]:
    """Returns the names of the figures of `reconstruct_all`."""
    return (*metrics, *(CODEBOOK_FIGURES if model.autoencoder.num_codes else ()))


@functools.cache
def _program(model):
    """Makes (params, image) -> (reconstruction, codes or ()), compiled once."""

    @jax.jit
    def run(params, image):
        z_0 = model.encode(params, image)
        codes = model.indices(params, z_0) if model.autoencoder.num_codes else ()
        return model.decode(params, z_0), codes

    return run
