# SPDX-License-Identifier: Apache-2.0
"""What the commands do: train, encode into latents, reconstruct, sample.

Each job is a function of a config or a model directory, and writes into a directory;
run again after an interruption, it goes on where it was.
"""

import contextlib
import logging
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from ldm_jax import experiment
from ldm_jax.data import latent_source, latents
from ldm_jax.data.images import open_images
from ldm_jax.data.loader import iterate_once, make_batches
from ldm_jax.data.transforms import ImageTransform
from ldm_jax.metrics.reconstruction import psnr
from ldm_jax.tasks import generate, pictures
from ldm_jax.tasks.first_stage import first_stage
from ldm_jax.tasks.latent_diffusion import Objective, latent_diffusion
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.training import sharding
from ldm_jax.training.checkpoint import load_params, save_params
from ldm_jax.training.digest import fingerprint
from ldm_jax.training.hosts import fetch, is_main_process
from ldm_jax.training.loop import TrainState
from ldm_jax.training.loop import train as run_loop
from ldm_jax.training.optimizer import make_optimizer

log = logging.getLogger(__name__)


def train(config, workdir: str) -> TrainState:
    """Trains what a config describes, or goes on where `workdir` was left.

    Args:
      config: ConfigDict of one experiment, see `experiment.SECTIONS`.
      workdir: becomes a model directory.

    Raises:
      ValueError: the config, the data or the directory do not fit.
    """
    experiment.check_config(config)
    jobs = dict(first_stage=_train_first_stage, latent_diffusion=_train_diffusion)
    return jobs[config.task](config, workdir)


def _train_first_stage(config, workdir):
    model = experiment.make_first_stage(config)
    mesh = sharding.make_mesh(**config.mesh)
    on_mesh = sharding.batch_sharding(mesh)
    transform = ImageTransform(**config.transform)
    model.autoencoder.latent_shape((*transform.size, model.autoencoder.in_channels))
    source = open_images(**config.images)
    batches = make_batches(
        source, transform, config.batch_size, on_mesh, seed=config.seed
    )
    evaluate = None
    if config.held_out:
        held_out = open_images(**{**config.images, "split": config.held_out})

        def evaluate(state, step):
            rows = iterate_once(held_out, transform, config.batch_size, on_mesh)
            quality, sheet = _reconstruct(
                model, state.averaged_params(), rows, num_shown=16
            )
            return {"psnr": quality}, {"reconstructions": sheet}

    return run_loop(
        first_stage(model.autoencoder, **config.objective),
        batches,
        make_optimizer(**config.optimizer),
        workdir,
        seed=config.seed,
        mesh=mesh,
        evaluate=evaluate,
        config=config.to_dict(),
        label="first stage",
        **config.train,
    )


def _train_diffusion(config, workdir):
    source, stats = latent_source.open_latents(config.latents.directory)
    config = experiment.resolve(config, stats.scale, stats.latent_shape)
    model = experiment.make_latent_diffusion(config)
    stage = _keep_first_stage(config, stats, workdir)
    mesh = sharding.make_mesh(**config.mesh)
    on_mesh = sharding.batch_sharding(mesh)
    transform = latent_source.LatentTransform(flip=config.latents.flip)
    batches = make_batches(
        source, transform, config.batch_size, on_mesh, seed=config.seed
    )
    return run_loop(
        latent_diffusion(model, Objective(**config.objective)),
        batches,
        make_optimizer(**config.optimizer),
        workdir,
        seed=config.seed,
        mesh=mesh,
        evaluate=_make_preview(model, stage, source, transform, config),
        config=config.to_dict(),
        label="diffusion",
        **config.train,
    )


def _keep_first_stage(config, stats, workdir):
    """Copies the first stage that wrote the latents into the model directory.

    Returns:
      Its params, checked to be the ones whose fingerprint the latents carry.
    """
    written_by = epath.Path(config.latents.directory) / "autoencoder"
    settings = experiment.read_config(str(written_by))
    given, used = dict(config.autoencoder), dict(settings.autoencoder)
    if given != used:
        raise ValueError(
            f"config.autoencoder must be the first stage that wrote the latents in "
            f"{config.latents.directory}: got {given}, they were written by {used}; "
            "copy its section, or write latents with yours (ldm-jax latents)."
        )
    params = load_params(str(written_by))
    stats.check(fingerprint(params), config.latents.directory)
    save_params(f"{workdir}/autoencoder", params, settings.to_dict())
    return params


def _make_preview(model, stage, source, transform, config, num=16):
    """Makes the evaluation of a diffusion run: a grid of samples.

    They have the conditions of the set's first records and the same noise every time,
    so that grids of different steps can be compared.
    """
    rows = [
        transform(source[i % len(source)], np.random.default_rng(i)) for i in range(num)
    ]
    y = {
        name: np.stack([row[name] for row in rows]) for name in model.conditioner.fields
    }
    shape = experiment.LatentSet(**config.latents).latent_shape(model.autoencoder)
    sampling = generate.Sampling(**config.sampling)

    def evaluate(state, step):
        params = {**fetch(state.averaged_params()), **stage}
        batches = sample_images(
            model, params, y, np.arange(num), shape, sampling, batch_size=num
        )
        sheet = pictures.grid(np.concatenate(list(batches)), num_columns=4)
        return {}, {"samples": sheet}

    return evaluate


def write_latents(
    model_dir: str,
    out: str,
    images: str | None = None,
    split: str | None = None,
    batch_size: int = 64,
    records_per_shard: int = 4096,
    mirror: bool = False,
):
    """Encodes an image set into latents, and puts the first stage beside them.

    Args:
      model_dir: directory of a first stage.
      out: directory of the latents.
      images, split: of `open_images`; None takes what the first stage was trained on.
      batch_size: images per call of the encoder.
      records_per_shard: what one file holds; a killed run loses its unfinished files.
      mirror: whether the mirror image's latent is stored too.

    Returns:
      The statistics of the set.

    Raises:
      ValueError: no first stage, no such images, or another set in `out`.
    """
    model, params = experiment.load(model_dir)
    config = experiment.read_config(model_dir)
    source, transform = _images_of(config, images, split)
    mesh = sharding.make_mesh(devices=jax.local_devices())
    on_mesh = sharding.batch_sharding(mesh)
    placed = sharding.place(params, mesh)
    encode = jax.jit(model.moments)
    job = latents.LatentJob(
        latent_channels=model.autoencoder.embed_channels,
        autoencoder=fingerprint(params),
        batch_size=batch_size,
        records_per_shard=records_per_shard,
        mirror=mirror,
    )
    with _progress_bar("latents", len(source)) as bar:
        stats = latents.write_latents(
            lambda image: encode(placed, jax.device_put(image, on_mesh)),
            source,
            transform,
            out,
            job,
            bar,
        )
    save_params(f"{out}/autoencoder", params, config.to_dict())
    log.info(
        "%d latents of %s, scale %.4f +- %.4f, in %s",
        stats.count,
        "x".join(map(str, stats.latent_shape)),
        stats.scale,
        stats.scale_error,
        out,
    )
    return stats


@contextlib.contextmanager
def _progress_bar(label: str, total: int):
    """Yields (done, total) -> None, shown as a bar with rate and time left."""
    with tqdm(desc=label, total=total, disable=not is_main_process()) as bar:

        def show(done, total):
            bar.total = total
            bar.update(done - bar.n)

        yield show


def reconstruct(
    model_dir: str,
    out: str,
    images: str | None = None,
    split: str | None = None,
    num: int = 16,
    batch_size: int = 64,
) -> float:
    """Encodes and decodes an image set; writes some of it as pairs.

    Args:
      model_dir: directory of a first stage.
      out: PNG file; pairs of image and reconstruction, side by side.
      images, split: as for `write_latents`.
      num: pairs to show; the whole set is measured.
      batch_size: images at once.

    Returns:
      The mean PSNR in dB.
    """
    model, params = experiment.load(model_dir)
    source, transform = _images_of(experiment.read_config(model_dir), images, split)
    on_mesh = sharding.batch_sharding(sharding.make_mesh())
    rows = iterate_once(source, transform, batch_size, on_mesh)
    quality, sheet = _reconstruct(model, params, rows, num)
    if is_main_process():
        pictures.save_png(out, sheet, dict(model=model_dir, psnr=f"{quality:.2f}"))
    return quality


def _images_of(config, images, split):
    """Opens the images of a first stage's config, or others through its transform."""
    spec = dict(config.images)
    if images is not None:
        spec.update(dataset=images)
    if split:
        spec.update(split=split)
    transform = ImageTransform(**{**config.transform, "crop": "center", "flip": False})
    return open_images(**spec), transform


def _reconstruct(model, params, rows, num_shown):
    """Returns the mean PSNR over `rows` and a sheet of pairs."""

    @jax.jit
    def run(params, image):
        reconstruction = model.decode(params, model.encode(params, image))
        return reconstruction, psnr(image, reconstruction)

    quality, shown = [], []
    for batch, valid in rows:
        image = batch["image"]
        reconstruction, values = fetch(run(params, image))
        quality.append(values[:valid])
        if sum(map(len, shown)) < 2 * num_shown:
            pairs = np.stack([fetch(image)[:valid], reconstruction[:valid]], axis=1)
            shown.append(pairs.reshape(-1, *pairs.shape[2:]))
    sheet = np.concatenate(shown)[: 2 * num_shown]
    return float(np.concatenate(quality).mean()), pictures.grid(
        pictures.to_uint8(sheet), num_columns=8
    )


def sample_images(
    model: LatentDiffusion,
    params,
    y: dict[str, np.ndarray],
    seeds: np.ndarray,
    latent_shape: tuple[int, int, int],
    sampling: generate.Sampling,
    batch_size: int = 64,
) -> Iterator[np.ndarray]:
    """Samples one image per row of a condition, batch by batch.

    Args:
      model, params: from `experiment.load`.
      y: the conditioner's fields, [N, ...] each.
      seeds: [N] whole numbers; image i depends on its seed and condition alone.
      latent_shape: (h, w, c).
      sampling: sampler, steps and guidance.
      batch_size: images at once; rounded up to a multiple of the devices.

    Yields:
      [B, H, W, 3] uint8; the last one may be shorter.
    """
    mesh = sharding.make_mesh()
    on_mesh = sharding.batch_sharding(mesh)
    batch_size = -(-batch_size // mesh.size) * mesh.size
    draw = generate.make_generate(model, latent_shape, sampling)
    placed = sharding.place(params, mesh)
    for low in range(0, len(seeds), batch_size):
        valid = min(batch_size, len(seeds) - low)
        # The last batch is filled up with its first row: one shape, one compilation.
        rows = low + np.where(np.arange(batch_size) < valid, np.arange(batch_size), 0)
        part = {name: jax.device_put(x[rows], on_mesh) for name, x in y.items()}
        keys = jax.device_put(generate.seed_keys(seeds[rows]), on_mesh)
        yield pictures.to_uint8(fetch(draw(placed, part, keys)))[:valid]
