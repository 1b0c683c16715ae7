# SPDX-License-Identifier: Apache-2.0
"""Runs the stages of a study with the functions of the commands."""

import statistics
import time
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from ldm_jax.commands import evaluate as evaluation
from ldm_jax.commands.bench.train import make_step
from ldm_jax.commands.evaluation.points import Point
from ldm_jax.commands.evaluation.request import Request
from ldm_jax.commands.latents import encode_image_set
from ldm_jax.commands.stats import write_stats
from ldm_jax.commands.train import train_config
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.loader import iterate_once
from ldm_jax.experiment import model_directory, stored_config
from ldm_jax.experiment.encoding import images_of
from ldm_jax.experiment.model_settings import read_settings
from ldm_jax.experiment.prepare import prepare
from ldm_jax.files.formats import png
from ldm_jax.files.formats.structured import read_json_object
from ldm_jax.files.paths import resolve
from ldm_jax.files.stores.objects import delete_many
from ldm_jax.metrics.reconstruction import WINDOW
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import fetch, is_main_process
from ldm_jax.study.config import Study
from ldm_jax.training.monitoring.metric_rows import read_rows

REFERENCE = "reference/reference.npz"
# Images of a sheet of reconstructions.
NUM_SHOWN = 8
MEASURED_STEPS = 10


def train_in(folder: epath.Path, *, config: ConfigDict) -> dict[str, Any]:
    """Trains a config in the folder, or resumes it."""
    train_config(config, str(folder))
    rows = read_rows(folder / "timing.jsonl", ("time",))
    seconds = [row["seconds_per_step"] for row in rows if "seconds_per_step" in row]
    median = statistics.median(seconds) if seconds else None
    return dict(
        steps=config.train.num_steps,
        images=config.train.num_steps * config.batch_size,
        seconds_per_step=median,
        device=jax.devices()[0].device_kind,
        num_devices=jax.device_count(),
    )


def measure_reference(folder: epath.Path, *, study: Study) -> dict[str, Any]:
    """Writes the statistics of the real images that samples are compared with."""
    made = write_stats(
        str(folder / "reference.npz"),
        study.images["dataset"],
        image_size=(study.image_size, study.image_size),
        split=study.reference_split,
        data_dir=study.images.get("data_dir"),
        network=study.feature_network,
        weights=study.feature_weights or None,
        batch_size=study.batch_size,
    )
    return dict(count=made.pool.count, warnings=list(made.metadata["warnings"]))


def measure_reconstructions(
    folder: epath.Path, *, model_dir: str, study: Study
) -> dict[str, Any]:
    """Measures a first stage on held-out images, and shows some."""
    _, config = stored_config.first_stage_of(model_dir)
    metrics = [m for m in study.metrics if m not in ("is", "sfid")] + ["psnr"]
    if study.image_size >= WINDOW:
        metrics.append("ssim")
    if study.lpips_weights:
        metrics.append("lpips")
    if config.autoencoder.bottleneck == "vq":
        metrics.append("codebook")
    result = evaluation.evaluate_reconstructions(
        model_dir,
        str(folder),
        _request(study, metrics, None, None),
        images=study.images["dataset"],
        split=study.held_out,
    )
    _show_reconstructions(folder, model_dir, study)
    return {name: result[name] for name in ("num_images", "figures", "warnings")}


def _show_reconstructions(folder: epath.Path, model_dir: str, study: Study) -> None:
    """Writes originals.png and reconstructions.png: the same images for every arm."""
    directory, config = stored_config.first_stage_of(model_dir)
    model, params = model_directory.load(directory, task="first_stage")
    dataset = study.images["dataset"]
    spec, transform = images_of(config, dataset, study.held_out)
    on_mesh = sharding.batch_sharding(sharding.make_mesh())
    count = -(-NUM_SHOWN // jax.device_count()) * jax.device_count()
    batch, valid = next(
        iter(iterate_once(open_images(**spec), transform, count, on_mesh))
    )
    decoded = jax.jit(lambda p, x: model.decode(p, model.encode(p, x)))
    pictures = {
        "originals": fetch(batch["image"]),
        "reconstructions": fetch(decoded(params, batch["image"])),
    }
    if is_main_process():
        for name, images in pictures.items():
            row = png.to_uint8(images)[: min(valid, NUM_SHOWN)]
            png.save_png(folder / f"{name}.png", np.concatenate(row, axis=1))


def encode_images(
    folder: epath.Path, *, model_dir: str, config: ConfigDict
) -> dict[str, Any]:
    """Encodes the images."""
    stats = encode_image_set(model_dir, str(folder), config=config)
    return dict(count=stats.count, scale=stats.scale, scale_error=stats.scale_error)


def measure_speed(folder: epath.Path, *, config: ConfigDict) -> dict[str, Any]:
    """Measures the seconds of a training step, on numbers instead of images."""
    del folder
    step = make_step(prepare(config, abstract=True))
    step()
    seconds = []
    for _ in range(MEASURED_STEPS):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return dict(seconds_per_step=statistics.median(seconds))


def measure_samples(
    folder: epath.Path, *, model_dir: str, study: Study, out: str
) -> dict[str, Any]:
    """Measures samples along the budget, and of the last with more or fewer steps.

    Points that are measured are not measured again.
    """
    steps = read_settings(model_dir).num_steps
    assert steps is not None  # it was trained here
    points = evaluation_points(study, steps)
    missing = [
        Point(str(folder / name), step, num_steps)
        for name, (step, num_steps) in points.items()
        if not (folder / name / "results.json").exists()
    ]
    request = _request(
        study, study.metrics, study.num_samples, str(resolve(out) / REFERENCE)
    )
    results = evaluation.evaluate_samples(model_dir, missing, request, {}, {})
    for point, _ in zip(missing, results, strict=True):
        _delete_images(resolve(point.out) / "images", study.num_shown)
    rows = []
    for name, (step, num_steps) in points.items():
        path = folder / name / "results.json"
        kept = dict(figures=dict, throughput=dict, num_images=int, warnings=list)
        results = read_json_object(path, kept)
        row = dict(name=name, step=step, num_steps=num_steps)
        rows.append(row | {field: results[field] for field in kept})
    return dict(points=rows)


def evaluation_points(study: Study, steps: int) -> dict[str, tuple[int, int]]:
    """Lists the evaluations of a denoiser: name -> (checkpoint, sampling steps)."""
    points = {}
    for i in range(1, study.evaluate_at + 1):
        name = f"point{i}of{study.evaluate_at}-sampled{study.num_steps}"
        points[name] = (steps * i // study.evaluate_at, study.num_steps)
    for num_steps in study.sampling_steps:
        name = f"point{study.evaluate_at}of{study.evaluate_at}-sampled{num_steps}"
        points[name] = (steps, num_steps)
    return points


def _request(study: Study, metrics, num: int | None, reference: str | None) -> Request:
    return Request(
        metrics=tuple(metrics),
        num=num,
        reference=reference,
        feature_network=study.feature_network,
        feature_weights=study.feature_weights or None,
        lpips_weights=study.lpips_weights or None,
        batch_size=study.batch_size,
    )


def _delete_images(folder: epath.Path, num_kept: int) -> None:
    """Deletes samples that were measured, but for the first, which are shown."""
    if not is_main_process():
        return
    delete_many(sorted(folder.glob("[0-9]*.png"))[num_kept:])
