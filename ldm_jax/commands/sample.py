# SPDX-License-Identifier: Apache-2.0
"""Samples images from a diffusion model: PNG files, a grid, an array for metrics."""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from ldm_jax.commands.sampling.drawing import Drawing, Guidance, prepare_drawing
from ldm_jax.commands.sampling.sample_sheets import (
    name_conditions,
    write_neighbours,
    write_sheets,
)
from ldm_jax.commands.sampling.stopwatch import Stopwatch
from ldm_jax.diffusion.samplers.base import check_seeds
from ldm_jax.experiment import model_directory
from ldm_jax.experiment.model_settings import read_settings
from ldm_jax.files.formats import png
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.writing import write_json
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.parallel.outputs import output_directory, reserves
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.tasks.sample_latents import check_previews
from ldm_jax.types import PyTree

PREVIEWED = 8
# Of one directory: files are named 000000.png to 999999.png.
MAX_IMAGES = 10**6


@reserves(output_directory)
def write_samples(
    model_dir: str,
    out: str,
    inputs: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    num: int | None = None,
    seed: int = 0,
    batch_size: int | None = 64,
    image_size: tuple[int, int] | None = None,
    which: str = "ema",
    images: Mapping[str, str] | None = None,
    write_npz: bool = False,
    num_previews: int = 0,
    guidance: Guidance = Guidance(),
    admit: Callable[[int, tuple[int, int]], None] = lambda num, size: None,
    step: int | None = None,
    loaded: tuple[LatentDiffusion, PyTree] | None = None,
    measures_speed: bool = False,
) -> dict[str, Any]:
    """Samples images into a directory; resumes where an earlier call was stopped.

    Image i has seed + i and condition i modulo the number of conditions, so it is the
    same for every batch size and number of devices, and after interruptions.

    Args:
      model_dir: directory of a diffusion model.
      out: gets 000000.png ..., grid.png of the first 100, settings.json. Of a retrieval
        model, neighbours.json describes the neighbours, and neighbours.png shows them
        next to the samples, if their images are available.
      inputs: a user's inputs for the condition, the arguments of its `from_user`.
      options: fields of `Sampling` that replace those of the model's config.
      num: images in all, at most MAX_IMAGES; None makes one for each condition.
      seed: of image 0.
      batch_size: images at once, at most `num`; None takes as many as fit into the
        memory.
      image_size: (height, width); None takes that of the condition (a label map, an
        image to inpaint, f times a small image), otherwise that of training.
      which: "ema" or "raw" parameters.
      images: paths of "start", or of "known" and "hole" (white is painted).
      write_npz: whether samples.npz is written too: arr_0 [N, H, W, 3] uint8.
      num_previews: predictions of x0 in a row of previews.png, before the finished
        image; 0 draws none.
      guidance: a classifier, images or a query.
      admit: called with number and (height, width) before sampling; may raise.
      step: of the checkpoint; None takes the newest.
      loaded: (model, parameters) of this directory and step, if they are loaded
        already: a model that is passed again is not compiled again.
      measures_speed: whether to draw more images if there are too few to measure it.

    Returns:
      The speed, as in throughput.json: "images_per_second" of the fastest batch but the
      first, which is compiled, "batch_size", "device" and "num_devices"; {} where it
      was not measured.

    Raises:
      ValueError: `num` is out of range, the options or the condition do not fit the
        model, or `out` holds samples made in another way.
    """
    _check_range(num or 1, seed)
    trained = read_settings(model_dir, "latent_diffusion")
    sampling = trained.sampling(options)
    assert sampling is not None  # a diffusion model has it
    check_previews(num_previews, sampling.num_steps)
    model, params = loaded or model_directory.load(
        model_dir, which, step, task="latent_diffusion"
    )
    drawing = prepare_drawing(
        model,
        params,
        trained,
        sampling,
        inputs,
        options,
        guidance,
        images,
        image_size,
        num,
        seed,
    )
    num = num or drawing.num_conditions
    admit(num, drawing.size)
    settings = dict(model=str(model_dir), which=which, **drawing.settings)
    # Names of files stay where their contents are replaced.
    settings["weights_and_inputs"] = drawing.fingerprint
    settings |= {} if step is None else {"step": step}
    folder = pathlib.Path(out)
    _refuse_other_samples(folder, settings)
    missing = np.array([i for i in range(num) if not _file(folder, i).exists()], int)
    # Of `num` and not of the missing ones: a command that resumes has the same batches.
    at_once = min(batch_size, num) if batch_size else drawing.batch_size(len(missing))
    watch = Stopwatch(at_once)
    _write_missing(folder, num, missing, drawing, watch, settings)
    throughput = watch.read(folder)
    if measures_speed and not throughput:
        rows = np.arange(2 * watch.batch_size)
        for _ in watch.timed(drawing.draw(rows, watch.batch_size)):
            pass
        throughput = watch.read(folder)
    if is_main_process():
        captions = name_conditions(model.conditioner, inputs, drawing.y)
        files = [_file(folder, i) for i in range(num)]
        write_sheets(files, write_npz, captions)
        if drawing.retrieved and drawing.retrieved.images:
            write_neighbours(files, drawing.retrieved.images)
    if num_previews:
        _write_previews(folder, min(num, PREVIEWED), drawing, num_previews, settings)
    return throughput


def _write_missing(
    folder: pathlib.Path,
    num: int,
    missing: np.ndarray,
    drawing: Drawing,
    watch: Stopwatch,
    settings: Mapping[str, Any],
) -> None:
    """Writes those of `num` images that are missing; before them, settings.json."""
    with tqdm(
        desc=f"samples, {watch.batch_size} at once",
        total=num,
        initial=num - len(missing),
        unit="image",
    ) as bar:
        done = 0
        for batch in watch.timed(drawing.draw(missing, watch.batch_size)):
            if done == 0:  # not earlier: a failing call must not claim the folder
                _note(folder, settings, drawing)
            if is_main_process():
                numbers = missing[done : done + len(batch)]
                png.save_pngs(
                    (_file(folder, i), image, _of_image(settings, i, drawing.seed))
                    for i, image in zip(numbers, batch, strict=True)
                )
            done += len(batch)
            bar.update(len(batch))


def _of_image(settings: Mapping[str, Any], index: int, seed: int) -> dict[str, Any]:
    """Returns what is written into a PNG file: the settings of one image."""
    return {**settings, "index": index, "seed": seed + index}


def _write_previews(
    folder: pathlib.Path,
    count: int,
    drawing: Drawing,
    num_previews: int,
    settings: Mapping[str, Any],
) -> None:
    """Writes previews.png: a row for each of the first images, predictions of x0."""
    (shown,) = drawing.draw(np.arange(count), PREVIEWED, num_previews)
    if is_main_process():  # shown: [K + 1, B, H, W, 3]
        in_rows = np.concatenate(np.moveaxis(shown, 0, 1))
        sheet = png.grid(in_rows, num_previews + 1)
        png.save_png(folder / "previews.png", sheet, settings)


def _check_range(num: int, seed: int) -> None:
    """Raises ValueError unless all images have a name and a seed."""
    if not 1 <= num <= MAX_IMAGES:
        raise ValueError(
            f"num must be 1 to {MAX_IMAGES:,} images, whose names have six digits: got "
            f"{num:,}; draw more into another directory, with another seed."
        )
    check_seeds(seed, seed + num - 1)


def _file(folder: pathlib.Path, index: int) -> pathlib.Path:
    return folder / f"{index:06d}.png"


def _refuse_other_samples(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Raises ValueError where a directory holds samples made with other settings."""
    path = folder / "settings.json"
    if not path.exists():
        _refuse_other_pictures(folder)
        return
    stored = read_json(path)
    differing = sorted(name for name in settings if stored.get(name) != settings[name])
    if differing:
        raise ValueError(
            f"{folder} holds samples made with other settings "
            f"({', '.join(differing)}); use another --out, or delete it."
        )


def _refuse_other_pictures(folder: pathlib.Path) -> None:
    """Raises ValueError for pictures that have names of samples, but no settings."""
    names = sorted(path.name for path in folder.glob("[0-9]*.png"))
    if taken := [name for name in names if re.fullmatch(r"[0-9]{6}\.png", name)]:
        raise ValueError(
            f"{folder} must not hold pictures of others: got {taken[0]} without a "
            "settings.json, so it is no sample of this command; use another --out."
        )


def _note(folder: pathlib.Path, settings: Mapping[str, Any], drawing: Drawing) -> None:
    """Writes the settings of the images, and the neighbours of a query, to a folder."""
    if is_main_process():
        write_json(folder / "settings.json", settings)
        if drawing.retrieved and any(drawing.retrieved.notes):
            write_json(folder / "neighbours.json", drawing.retrieved.notes)
