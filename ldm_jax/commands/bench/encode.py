# SPDX-License-Identifier: Apache-2.0
"""Measures how fast images become latents: their files, the encoder, and both."""

import dataclasses
import os
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from ldm_jax.commands.bench.history import Figures
from ldm_jax.commands.bench.timing import best_of
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.latents.encoder import Encode
from ldm_jax.data.latents.write import LatentJob, write_latents
from ldm_jax.data.loader import iterate_once
from ldm_jax.data.records import Source
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.experiment.builders.abstract import zero_params
from ldm_jax.experiment.encoding import images_of
from ldm_jax.experiment.prepare import prepare
from ldm_jax.files.writing import atomic_file
from ldm_jax.parallel import sharding
from ldm_jax.training.run import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the benchmark, one flag each.

    Attributes:
      config: experiment of a first stage, whose transform and encoder are measured.
      images: a set of `open_images`; None makes JPEG files.
      source_size: height and width of the files that are made.
      records: number of the files that are made.
      batch_size: images per call of the encoder.
    """

    config: ConfigDict
    images: str | None
    source_size: int
    records: int
    batch_size: int


def run(options: Options) -> Figures:
    """Measures each part and the whole; prints and returns images per second."""
    if options.config.task != "first_stage":
        raise ValueError(
            f"--config must be of a first stage: got a {options.config.task}."
        )
    prepared = prepare(options.config, abstract=True)
    _, transform = images_of(options.config, options.images or ".", None)
    with tempfile.TemporaryDirectory() as folder:
        images = options.images or _make_files(options, folder)
        # Nothing is kept in memory: each file is decoded in every pass.
        source = open_images(images, "all", cache_mib=0)
        encode, place = _make_encode(prepared)
        image = np.zeros((options.batch_size, *transform.size, 3), np.float32)
        figures = _files(source, transform, options.batch_size)
        figures |= _encoder(encode, jax.device_put(image, place))
        channels = prepared.model.autoencoder.embed_channels
        job = LatentJob(channels, "none", options.batch_size, mirror=False)
        figures |= _whole(encode, source, transform, job)
    least = min("files", "encoder", key=lambda name: figures[name])
    share = figures["latents"] / figures[least]
    print(f"the slower part is the {least}: latents have {share:.0%} of its rate")
    return figures


def _make_files(options: Options, folder: str) -> str:
    """Writes JPEG files of smooth noise, about as large as those of photographs."""
    rng = np.random.default_rng(0)
    side, place = options.source_size, pathlib.Path(folder) / "images"
    place.mkdir()
    for number in range(options.records):
        small = rng.integers(0, 256, (side // 8 + 1, side // 8 + 1, 3), np.uint8)
        image = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
        with atomic_file(place / f"{number:06d}.jpg") as file:
            image.save(file, "JPEG", quality=90)
    return str(place)


def _files(source: Source, transform: ImageTransform, batch_size: int) -> Figures:
    """Decodes and resizes all images, on one thread per core."""
    threads, count = os.cpu_count() or 1, len(source)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in iterate_once(source, transform, batch_size, num_threads=threads):
        pass
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rates = {"files": count / wall, "files per core": count / cpu}
    print(
        f"files       {rates['files']:8.4g} images/s, {rates['files per core']:.4g} "
        "per core: read, decoded, cut and resized"
    )
    return rates


def _encoder(encode: Encode, image: Any) -> Figures:
    """Encodes one batch that the devices hold, again and again."""
    seconds = best_of({"": lambda: jax.block_until_ready(encode(image))}, 3)[""]
    rate = len(image) / seconds
    device = jax.devices()[0].device_kind
    print(f"encoder     {rate:8.4g} images/s on {jax.local_device_count()} {device}")
    return {"encoder": rate}


def _whole(
    encode: Encode, source: Source, transform: ImageTransform, job: LatentJob
) -> Figures:
    """Writes latents as `ldm-jax latents` does; the encoder is compiled already."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_latents(
            encode, source, transform, folder, job, num_threads=os.cpu_count() or 1
        )
        rate = len(source) / (time.perf_counter() - start)
    print(f"latents     {rate:8.4g} images/s: both, and the latents are written")
    return {"latents": rate}


def _make_encode(prepared: Run) -> tuple[Encode, jax.sharding.Sharding]:
    """Returns the encoder, compiled once, with weights of zeros, and where it runs."""
    mesh = sharding.make_mesh(devices=jax.local_devices())
    params = sharding.place(zero_params(prepared.model, ["autoencoder"]), mesh)
    moments, place = jax.jit(prepared.model.moments), sharding.batch_sharding(mesh)
    return lambda image: moments(params, jax.device_put(image, place)), place
