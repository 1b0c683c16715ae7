# SPDX-License-Identifier: Apache-2.0
"""Runs all stages on real digits, with the commands that are used on a pod.

Every stage resumes where it stopped, so the whole command can be run again.
"""

import pathlib
from collections.abc import Mapping

import numpy as np

from ldm_jax.commands.latents import encode_image_set
from ldm_jax.commands.reconstruct import write_reconstructions
from ldm_jax.commands.train import train_experiment
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.loader import iterate_once
from ldm_jax.experiment import model_directory, stored_config
from ldm_jax.experiment.chain import Chain, ResultCheck, make_chain
from ldm_jax.experiment.model_settings import read_settings
from ldm_jax.experiment.models import training_images
from ldm_jax.files.formats import png
from ldm_jax.files.writing import write_json
from ldm_jax.metrics.nearest import classification_accuracy, nearest_distances
from ldm_jax.parallel.outputs import output_directory, reserves
from ldm_jax.tasks.sample_images import sample_images
from ldm_jax.training.monitoring.metric_rows import read_rows

SECTIONS = ("first_stage", "latents", "diffusion", "classifier")
COLUMNS = 10
READ_AT_ONCE = 64


class PoorResultError(ValueError):
    """Raised when the quickstart finished but its results are not good enough."""


@reserves(output_directory, "workdir", "--workdir")
def run_quickstart(config, workdir: str) -> dict[str, float]:
    """Trains a first stage, encodes, trains a denoiser, samples and classifies.

    Args:
      config: ConfigDict with the SECTIONS, see configs/quickstart.py.
      workdir: everything is written here.

    Returns:
      The metrics, as in `results.json`.

    Raises:
      ValueError: the config does not fit, or accuracies are below `config.classifier`.
    """
    if sorted(config) != sorted(SECTIONS):
        raise ValueError(
            f"a quickstart config has the sections {', '.join(SECTIONS)}: got "
            f"{', '.join(sorted(config))}; use `ldm-jax train` for one experiment."
        )
    root = pathlib.Path(workdir)
    stage_dir, latents_dir = str(root / "first_stage"), str(root / "latents")
    diffusion_dir = str(root / "diffusion")
    chain = make_chain(config, latents_dir, str(root / "data"))
    check = chain.check
    assert check is not None  # one of the SECTIONS

    _announce(1, "train the first stage: images -> latents -> images")
    train_experiment("first_stage", chain.first_stage, stage_dir)
    pairs = str(root / "reconstructions.png")
    psnr = write_reconstructions(stage_dir, pairs, split=chain.held_out)
    _announce(2, "encode the training images into a data set of latents")
    encode_image_set(stage_dir, latents_dir, **chain.encoding)
    _announce(3, "train the denoiser on the latents")
    train_experiment("diffusion", chain.diffusion, diffusion_dir)
    _announce(4, "sample every class and write pictures")
    labels = np.repeat(np.arange(chain.num_classes), check.samples_per_class)
    images = _sample(diffusion_dir, labels)
    _write_pictures(root, images, labels)
    _announce(5, "classify the samples with nearest neighbours")
    figures = {"psnr_held_out": psnr, **_classify(chain, check, images, labels)}
    write_json(root / "results.json", figures)
    _print_summary(root, figures)
    _refuse_poor(check, figures)
    return figures


def _announce(number: int, what: str) -> None:
    print(f"\n[{number}/5] {what}", flush=True)


def _sample(diffusion_dir: str, labels: np.ndarray) -> np.ndarray:
    """Samples an image of each label [N]: [N, H, W, 3] uint8."""
    sampling = read_settings(diffusion_dir).sampling()
    assert sampling is not None  # a diffusion model has it
    model, params = model_directory.load(diffusion_dir, task="latent_diffusion")
    images = sample_images(
        model,
        params,
        {"label": labels.astype(np.int32)},
        seeds=np.arange(len(labels)),
        latent_shape=stored_config.latent_shape(diffusion_dir),
        sampling=sampling,
        batch_size=100,
    )
    return np.concatenate(list(images))


def _write_pictures(root, images, labels) -> None:
    classes = np.unique(labels)
    shown = [images[labels == c][:COLUMNS] for c in classes]
    sheet = png.grid(
        np.concatenate(shown), len(shown[0]), [str(c) for c in classes], enlarge=2
    )
    png.save_png(root / "samples.png", sheet)
    runs = {
        name: read_rows(root / name / "metrics.jsonl")
        for name in ("first_stage", "diffusion")
    }
    png.plot_losses(root / "loss.png", runs)


def _classify(
    chain: Chain, check: ResultCheck, images: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Names the samples with a classifier of real digits; looks for copies."""
    train, train_label = _real(chain, held_out=False)
    held_out, held_out_label = _real(chain, held_out=True)
    samples = images / 127.5 - 1
    named = dict(num_neighbors=check.num_neighbors)
    return {
        "classifier_accuracy_held_out": classification_accuracy(
            train, train_label, held_out, held_out_label, **named
        ),
        "classifier_accuracy_samples": classification_accuracy(
            train, train_label, samples, labels, **named
        ),
        "nearest_distance_held_out": float(nearest_distances(train, held_out).mean()),
        "nearest_distance_samples": float(nearest_distances(train, samples).mean()),
        "nearest_distance_samples_least": float(
            nearest_distances(train, samples).min()
        ),
    }


def _real(chain: Chain, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """Reads all of a split: images [N, H, W, 3] in [-1, 1] and labels [N]."""
    spec, transform = training_images(chain.first_stage, held_out=held_out)
    rows = iterate_once(open_images(**spec), transform, READ_AT_ONCE, None)
    parts = [
        (np.asarray(batch["image"])[:valid], np.asarray(batch["label"])[:valid])
        for batch, valid in rows
    ]
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _refuse_poor(check: ResultCheck, figures: Mapping[str, float]) -> None:
    """Raises where an accuracy is below what the config expects."""
    for name, least in (
        ("classifier_accuracy_held_out", check.min_held_out_accuracy),
        ("classifier_accuracy_samples", check.min_sample_accuracy),
    ):
        if figures[name] < least:
            raise PoorResultError(
                f"{name} must be at least {least}: got {figures[name]:.3f}; train "
                "longer (--config.diffusion.train.num_steps) or lower "
                "config.classifier."
            )


def _print_summary(root: pathlib.Path, figures) -> None:
    print(SUMMARY.format(root=root, **figures))


SUMMARY = """
Held-out digits come back from their latents with a PSNR of {psnr_held_out:.1f} dB.
A nearest-neighbour classifier of real digits recognizes \
{classifier_accuracy_samples:.1%} of the samples
as the requested class ({classifier_accuracy_held_out:.1%} of held-out real digits).
Distance to the nearest training image (root mean square, of a range of 2):
  samples                {nearest_distance_samples:.3f}, the closest \
{nearest_distance_samples_least:.3f}
  held-out real digits   {nearest_distance_held_out:.3f}
Samples about as far as held-out digits are not copies.

{root}/samples.png            ten samples of every class
{root}/reconstructions.png    held-out digits next to their reconstructions
{root}/loss.png               the loss of both runs
{root}/results.json           the figures above
{root}/first_stage            model directories: checkpoints/, metrics.jsonl,
{root}/diffusion              images/, tensorboard/
{root}/latents                the data set of latents

Next:
  ldm-jax sample --model {root}/diffusion --out threes --label 3 --num 16
  ldm-jax demo --model {root}/diffusion
  ldm-jax quickstart --images ./photos     the same with pictures of your own
  ldm-jax train --help          and configs/ for the experiments of the paper"""
