# SPDX-License-Identifier: Apache-2.0
"""Shows a set of latents: its statistics, and decoded latents next to their images."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ldm_jax.commands.latents import IMAGES_FILE, by_bucket
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.latents.metadata import METADATA_FILE
from ldm_jax.data.latents.sets import bucket_names
from ldm_jax.data.latents.source import LatentSource, open_latents
from ldm_jax.data.latents.statistics import LatentStats
from ldm_jax.data.order import RecordRng, Row
from ldm_jax.data.records import Record, Source, read_whole
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.data.transforms.pixels import to_unit_range
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.experiment import model_directory
from ldm_jax.files.errors import naming
from ldm_jax.files.formats import png
from ldm_jax.files.formats.structured import read_json_object
from ldm_jax.files.outputs import check_writable_file
from ldm_jax.metrics.reconstruction import psnr

log = logging.getLogger(__name__)

PICTURE = "inspect.png"
# Latents in the picture, which are decoded at once.
MAX_SHOWN = 1000
AGAIN = "Write the latents again."


def inspect_latents(directory: str, num: int = 16) -> str:
    """Decodes some latents of a set, evenly spread, and shows them next to the images.

    Args:
      directory: written by `write_latents`; with buckets, every set in it.
      num: latents of each set.

    Returns:
      The statistics of the sets, as lines of text. The pictures are written to PICTURE
      in the folder of each set: image, decoded latent, image, ...; the decoded latents
      alone where the images cannot be opened any more.

    Raises:
      ValueError: `num` is above MAX_SHOWN, there are no latents, or no first stage is
        stored with them.
      OSError: the pictures cannot be written.
    """
    if num > MAX_SHOWN:
        raise ValueError(
            f"--num must be at most {MAX_SHOWN:,} latents, which are decoded together "
            f"into one picture: got {num:,}; inspect fewer."
        )
    model, params = model_directory.load(f"{directory}/autoencoder", task="first_stage")
    decode = jax.jit(model.decode)
    names = bucket_names(directory)
    folders = {n: f"{directory}/{n}" if n else directory for n in names or [""]}
    for folder in folders.values():
        check_writable_file(f"{folder}/{PICTURE}", "--inspect")
    reports = []
    for name, folder in folders.items():
        latents, stats = open_latents(folder)
        spread = np.linspace(0, len(latents) - 1, min(num, len(latents))).astype(int)
        rows, records = zip(*read_whole(latents, spread), strict=True)
        means = np.stack([r["moments"][..., : stats.latent_shape[2]] for r in records])
        decoded = np.asarray(decode(params, means.astype(np.float32)))
        try:
            originals = _originals(directory, name, stats, rows, records)
        except (ValueError, OSError) as error:
            log.warning("the images cannot be shown next to the latents: %s", error)
            originals = None
        path = f"{folder}/{PICTURE}"
        png.save_png(path, _sheet(decoded, originals))
        lines = [*statistics_lines(latents, stats), f"  pictures     {path}"]
        if originals is not None:
            lines.append(f"  PSNR         {np.mean(psnr(originals, decoded)):.2f} dB")
        reports.append("\n".join([folder, *lines]))
    return "\n".join(reports)


def _originals(
    directory: str,
    name: str,
    stats: LatentStats,
    rows: Sequence[int],
    records: Sequence[Record],
) -> np.ndarray:
    """Reads and transforms the images [N, H, W, 3] in [-1, 1] that were encoded."""
    if all("image" in record for record in records):
        return np.stack([to_unit_range(record["image"]) for record in records])
    path = pathlib.Path(directory) / IMAGES_FILE
    with naming(path):
        origin = read_json_object(path, dict(images=dict, buckets=str, seed=int), AGAIN)
        source: Source = open_images(**origin["images"])
    if name:
        source = by_bucket(source, origin["buckets"])[name]
    if source.fingerprint != stats.images:
        raise ValueError(
            f"the images are {source.fingerprint}, those encoded were {stats.images}."
        )
    fields = {k: v for k, v in stats.transform.items() if k != "kind"}
    with naming(f"{directory}/{name}".rstrip("/") + f"/{METADATA_FILE}"):
        transform = ImageTransform(**fields)
    rngs = RecordRng(origin["seed"])
    images = []
    for row, record in zip(rows, records, strict=True):
        index = int(record["source_index"])
        # Crop k of image i is record k * N + i, less the dropped ones before it.
        crop = -(-(row - index) // len(source))
        rng = rngs.at(Row(crop, index))
        images.append(transform(read_whole(source, [index])[0][1], rng)["image"])
    return np.stack(images)


def _sheet(decoded: np.ndarray, originals: np.ndarray | None) -> np.ndarray:
    if originals is None:
        return png.grid(png.to_uint8(decoded), num_columns=8)
    pairs = np.stack([originals, decoded], axis=1).reshape(-1, *decoded.shape[1:])
    return png.grid(png.to_uint8(pairs), num_columns=8)


def statistics_lines(latents: LatentSource, stats: LatentStats) -> list[str]:
    """Formats the statistics and the metadata of a set, a line each."""
    height, width, channels = stats.latent_shape
    values = dataclasses.asdict(stats)
    ((_, first),) = read_whole(latents, [0])
    return [
        f"  records      {stats.count} ({stats.dropped} damaged ones left out)",
        f"  latents      {height}x{width}x{channels}, f = {stats.f}",
        f"  fields       {', '.join(_field(*field) for field in first.items())}",
        f"  mean, std    {stats.mean:.5g}, {stats.std:.5g}",
        f"  scale        {stats.scale:.5g} +- {stats.scale_error:.2g}",
        *_snr_lines(stats.std),
        f"  autoencoder  {stats.autoencoder}",
        f"  images       {stats.images}",
        f"  transform    {json.dumps(values['transform'])}",
    ]


def _snr_lines(std: float) -> list[str]:
    """Formats the signal-to-noise ratios with and without the scale (Fig. 15)."""
    schedule = make_schedule()
    last = schedule.num_timesteps - 1
    steps = np.array([0, schedule.num_timesteps // 2, last])
    raw, scaled = (np.asarray(schedule.snr(x))[steps] for x in (std, 1.0))
    return [
        f"  SNR at t     {', '.join(map(str, steps))} of the default schedule: "
        f"{', '.join(f'{x:.3g}' for x in scaled)}",
        f"  without scale {', '.join(f'{x:.3g}' for x in raw)}",
    ]


def _field(name: str, value: Any) -> str:
    """Describes a field: "moments float16 32x32x8", "caption str"."""
    if isinstance(value, str):
        return f"{name} str"
    return f"{name} {value.dtype.name} {'x'.join(map(str, value.shape))}".strip()
