# SPDX-License-Identifier: Apache-2.0
"""Shows the training images nearest to samples, as Fig. 32 to 34, with distances."""

import pathlib
from typing import Any

import numpy as np

from ldm_jax.commands.stats import as_bytes
from ldm_jax.data.images.finished_images import open_set
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.records import Source, read_whole
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.experiment.encoding import images_of
from ldm_jax.experiment.stored_config import first_stage_of
from ldm_jax.files.formats import png
from ldm_jax.files.writing import write_json
from ldm_jax.interop.feature_networks.lpips_file import LpipsFile
from ldm_jax.metrics.nearest_images import NearestImages, PerceptualSearch
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.parallel.outputs import output_directory, reserves

# Samples of the sheet.
NUM_ROWS = 16


@reserves(output_directory)
def write_nearest(
    images: str,
    like: str,
    out: str,
    *,
    k: int = 10,
    num: int | None = None,
    lpips_weights: str | None = None,
    trunk: str = "vgg",
    split: str | None = None,
    held_out: str | None = None,
) -> dict[str, Any]:
    """Finds the training images nearest to samples, and shows them.

    Args:
      images: samples, a folder or .npz of `open_set`.
      like: model directory, whose training images, crop and size are compared with.
      out: gets nearest.png, in each row a sample and its nearest images, and
        nearest.json.
      k: nearest images of each sample.
      num: samples; None takes all.
      lpips_weights, trunk: file of `ldm-jax weights lpips`, and which of its networks.
      split: of the model's images; None is that of training.
      held_out: folder of images that the model did not learn from; their distances show
        what to expect of a model that does not copy. None takes the model's held-out
        split, if it has one.

    Returns:
      The contents of nearest.json: "samples" [{"image", "nearest": [{"index",
      "distance"}]}], "median distance" of the nearest image of samples, and of
      held-out images.

    Raises:
      ValueError: sizes differ, or there are fewer training images than k.
    """
    if not lpips_weights:
        raise ValueError(
            "nearest images are compared by LPIPS: got no --lpips-weights; give a file "
            "of `ldm-jax weights lpips`."
        )
    samples = open_set(images, num)
    _, config = first_stage_of(like)
    spec, transform = images_of(config, None, split)
    if tuple(samples.size) != tuple(transform.size):
        raise ValueError(
            f"samples must have the size of the training images, {transform.size[0]}x"
            f"{transform.size[1]}: got {samples.size[0]}x{samples.size[1]}."
        )
    source = open_images(**spec)
    params = LpipsFile(lpips_weights).load(trunk)

    def read(rows):
        return _read(source, transform, rows)

    search = PerceptualSearch(trunk, params, read, len(source))
    image = np.concatenate(list(samples.batches(64)))
    nearest = search.nearest(image, k)
    result = _describe(samples.names, nearest)
    others = _held_out(config, transform, held_out, len(image))
    if others is not None:
        distance = search.nearest(others, 1).distances[:, 0]
        result["median distance of held-out images"] = float(np.median(distance))
    if is_main_process():
        _write_sheet(pathlib.Path(out, "nearest.png"), image, nearest, read)
        write_json(pathlib.Path(out, "nearest.json"), result)
    return result


def _read(source: Source, transform: ImageTransform, rows) -> np.ndarray:
    """Reads images as in training: uint8 [B, H, W, 3]."""
    rng = np.random.default_rng(0)  # the transform draws nothing
    records = read_whole(source, rows)
    return as_bytes(np.stack([transform(one, rng)["image"] for _, one in records]))


def _held_out(
    config, transform: ImageTransform, folder: str | None, num: int
) -> np.ndarray | None:
    """Reads at most `num` held-out images; None if there are none."""
    if folder is not None:
        source = open_images(folder, "all")
    else:
        spec, _ = images_of(config, None, None, held_out=True)
        if spec == images_of(config, None, None)[0]:
            return None
        source = open_images(**spec)
    return _read(source, transform, range(min(num, len(source))))


def _describe(names: tuple[str, ...], nearest: NearestImages) -> dict[str, Any]:
    """Describes the nearest images of each sample as JSON."""
    samples = [
        {
            "image": names[i] if names else i,
            "nearest": [
                {"index": int(index), "distance": float(distance)}
                for index, distance in zip(indices, distances, strict=True)
            ],
        }
        for i, (indices, distances) in enumerate(zip(*nearest, strict=True))
    ]
    median = float(np.median(nearest.distances[:, 0]))
    return {"samples": samples, "median distance of samples": median}


def _write_sheet(path, image: np.ndarray, nearest: NearestImages, read) -> None:
    """Writes the sheet: a sample in the first column, then its nearest images."""
    rows, captions = [], []
    for one, indices, distances in list(zip(image, *nearest, strict=True))[:NUM_ROWS]:
        rows.append(np.concatenate([one[None], read(indices)]))
        captions += ["sample", *(f"{distance:.3f}" for distance in distances)]
    enlarge = png.enlargement(image.shape[2])
    sheet = np.concatenate(rows)
    png.save_png(
        path, png.grid(sheet, len(rows[0]), enlarge=enlarge, captions=captions)
    )
