# SPDX-License-Identifier: Apache-2.0
"""Samples images from a diffusion model: PNG files, a grid, an array for metrics."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from ldm_jax.commands.sampling.sample_inputs import (
    check_makes_images,
    choose_image_size,
    read_condition,
    read_images,
    retrieval_of,
)
from ldm_jax.commands.sampling.sample_sheets import (
    name_conditions,
    write_neighbours,
    write_sheets,
)
from ldm_jax.commands.sampling.stopwatch import Stopwatch
from ldm_jax.experiment import model_directory
from ldm_jax.experiment.guiding.classifier_guide import guided_labels, open_guide
from ldm_jax.experiment.guiding.image_guide import GuidingImages
from ldm_jax.experiment.model_settings import read_settings
from ldm_jax.experiment.retrieval.context import RetrievalQuery
from ldm_jax.files.formats import png
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.writing import write_json
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.parallel.outputs import output_directory, reserves
from ldm_jax.tasks.guides import Guide
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.tasks.sample_images import fitting_batch_size, sample_images
from ldm_jax.types import PyTree

PREVIEWED = 8
SHOWN = (str, int, float)


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
    classifier: str | None = None,
    classifier_scale: float = 1.0,
    classifier_form: str = "eps",
    guide: GuidingImages | None = None,
    query: RetrievalQuery | None = None,
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
      out: gets 000000.png ..., grid.png of the first 100, settings.json.
      inputs: a user's inputs for the condition, the arguments of its `from_user`.
      options: fields of `Sampling` that replace those of the model's config.
      num: images in all; None makes one for each condition.
      seed: of image 0.
      batch_size: images at once; None takes as many as fit into the memory.
      image_size: (height, width); None takes that of the condition (a label map, an
        image to inpaint, f times a small image), otherwise that of training.
      which: "ema" or "raw" parameters.
      images: paths of "start", or of "known" and "hole" (white is painted).
      write_npz: whether samples.npz is written too: arr_0 [N, H, W, 3] uint8.
      num_previews: predictions of x0 in a row of previews.png, before the finished
        image; 0 draws none.
      classifier: directory of a classifier of noisy latents that guides the samples
        towards their classes: those of the condition, or, for a model without classes,
        `inputs["class_label"]`.
      classifier_scale, classifier_form: see `tasks.guides.ClassifierGuide`.
      guide: images that attract samples, image i to guide i modulo their number.
      query: of a retrieval model; neighbours.json describes the neighbours, and
        neighbours.png shows them next to the samples, if their images are available.
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
      ValueError: the options or the condition do not fit the model, or `out` holds
        samples made in another way.
    """
    trained = read_settings(model_dir, "latent_diffusion")
    sampling = trained.sampling(options)
    assert sampling is not None  # a diffusion model has it
    model, params = loaded or model_directory.load(
        model_dir, which, step, task="latent_diffusion"
    )
    params = dict(params)
    check_makes_images(model)
    towards = None
    if classifier and "label" not in model.conditioner.fields:
        inputs, towards = dict(inputs), inputs.get("class_label")
        inputs.pop("class_label", None)
    retrieved = None
    if query is not None:
        retrieved = query.open(retrieval_of(model.conditioner), num or 1, seed)
        y = read_condition(
            model.conditioner, {**inputs, "embeddings": retrieved.tokens}
        )
    else:
        y = read_condition(model.conditioner, inputs)
    size = choose_image_size(trained, model.conditioner.image_size(y), image_size)
    shape = model.autoencoder.latent_shape((*size, model.autoencoder.in_channels))
    guides: list[Guide] = []
    if classifier:
        by_class, params["classifier"] = open_guide(
            classifier,
            classifier_scale,
            trained.config,
            shape,
            classifier_form,
            sampling.sampler,
        )
        names = read_settings(classifier).class_names
        y = {**y, "guided_label": guided_labels(by_class, y, towards, names)}
        guides.append(by_class)
    if guide is not None:
        y["guided_image"], params["guide"] = guide.open(size)
        guides.append(guide.how)
    num = num or max(map(len, y.values()), default=1)
    given = read_images(images or {}, size, options)
    admit(num, size)
    condition = {n: x if isinstance(x, SHOWN) else str(x) for n, x in inputs.items()}
    condition |= {} if towards is None else {"class_label": towards}
    settings = dict(
        model=str(model_dir),
        which=which,
        seed=seed,
        image_size=list(size),
        condition=condition,
        images=dict(images or {}),
        sampling=json.loads(json.dumps(sampling.to_dict())),
    )
    if classifier:
        settings |= dict(classifier=str(classifier), classifier_scale=classifier_scale)
        settings |= {} if classifier_form == "eps" else dict(form=classifier_form)
    settings |= {} if guide is None else {"guide": guide.to_dict()}
    settings |= {} if step is None else {"step": step}
    settings |= {} if query is None else {"query": query.to_dict()}
    folder = pathlib.Path(out)
    _refuse_other_samples(folder, settings)
    missing = np.array([i for i in range(num) if not _file(folder, i).exists()], int)
    if batch_size is None:
        fixed = (shape, sampling, given, tuple(guides))
        batch_size = fitting_batch_size(model, params, y, num, *fixed)

    def draw(rows, batch_size, num_previews=0):
        return sample_images(
            model,
            params,
            {name: x[rows % len(x)] for name, x in y.items()},
            seed + rows,
            shape,
            sampling,
            batch_size,
            {name: np.repeat(x, len(rows), axis=0) for name, x in given.items()},
            num_previews,
            tuple(guides),
        )

    watch = Stopwatch(batch_size)
    with tqdm(
        desc=f"samples, {batch_size} at once",
        total=num,
        initial=num - len(missing),
        unit="image",
    ) as bar:
        done = 0
        for batch in watch.timed(draw(missing, batch_size)):
            if done == 0:  # not earlier: a failing call must not claim the folder
                _note(folder, settings)
                if retrieved and any(retrieved.notes) and is_main_process():
                    write_json(folder / "neighbours.json", retrieved.notes)
            if is_main_process():
                png.save_pngs(
                    (
                        _file(folder, i),
                        image,
                        {**settings, "index": i, "seed": seed + i},
                    )
                    for i, image in zip(missing[done:], batch, strict=False)
                )
            done += len(batch)
            bar.update(len(batch))
    throughput = watch.read(folder)
    if measures_speed and not throughput:
        for _ in watch.timed(draw(np.arange(2 * batch_size), batch_size)):
            pass
        throughput = watch.read(folder)
    if is_main_process():
        captions = name_conditions(model.conditioner, inputs, y)
        files = [_file(folder, i) for i in range(num)]
        write_sheets(files, write_npz, captions)
        if retrieved and retrieved.images:
            write_neighbours(files, retrieved.images)
    if num_previews:
        rows = np.arange(min(num, PREVIEWED))
        (shown,) = draw(rows, PREVIEWED, num_previews)  # [K + 1, B, H, W, 3]
        if is_main_process():
            in_rows = np.concatenate(np.moveaxis(shown, 0, 1))
            sheet = png.grid(in_rows, num_previews + 1)
            png.save_png(folder / "previews.png", sheet, settings)
    return throughput


def _file(folder: pathlib.Path, index: int) -> pathlib.Path:
    return folder / f"{index:06d}.png"


def _refuse_other_samples(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Raises ValueError where a directory holds samples made with other settings."""
    path = folder / "settings.json"
    if not path.exists():
        return
    stored = read_json(path)
    differing = sorted(name for name in settings if stored.get(name) != settings[name])
    if differing:
        raise ValueError(
            f"{folder} holds samples made with other settings "
            f"({', '.join(differing)}); use another --out, or delete it."
        )


def _note(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings to the folder of the images made with them."""
    if is_main_process():
        write_json(folder / "settings.json", settings)
