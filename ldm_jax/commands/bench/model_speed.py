# SPDX-License-Identifier: Apache-2.0
"""Measures the speed of sampling from a model or a config, with a row of the paper."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ldm_jax.commands.bench.history import Figures
from ldm_jax.commands.bench.timing import best_of
from ldm_jax.conditions.kinds.class_label import ClassLabel
from ldm_jax.diffusion.samplers.base import seed_keys
from ldm_jax.experiment import model_directory, stored_config
from ldm_jax.experiment.builders.abstract import zero_lpips, zero_params
from ldm_jax.experiment.prepare import prepare
from ldm_jax.metrics.paper import PaperSpeed
from ldm_jax.models.classifier import LatentClassifier
from ldm_jax.parallel.compile import sampling_options
from ldm_jax.tasks.classifier import NoisyLatentClassifier
from ldm_jax.tasks.generate import latent_generator
from ldm_jax.tasks.guides import TRANSFORMS, ClassifierGuide, Guide, ImageGuide
from ldm_jax.tasks.model import LatentDiffusion, with_frozen
from ldm_jax.tasks.sample_images import sample_images
from ldm_jax.tasks.sampling import Sampling
from ldm_jax.types import PyTree

# The paper's scale of the classifier; how fast it is does not depend on it.
CLASSIFIER_SCALE = 10.0


class Sampled(NamedTuple):
    """A model that is measured.

    Attributes:
      model, params: the diffusion model.
      shape: (h, w, c) of a latent.
      sampling: sampler, steps and guidance.
      guides: of the denoiser, whose parameters are in `params`.
      y: fields of the condition and of the guides, [B, ...] each.
    """

    model: LatentDiffusion
    params: PyTree
    shape: tuple[int, int, int]
    sampling: Sampling
    guides: tuple[Guide, ...]
    y: dict[str, np.ndarray]


def open_model(directory: str, num_steps: int, size: int) -> Sampled:
    """Opens a trained model.

    Args:
      directory: of a diffusion model.
      num_steps: of its sampler.
      size: samples of a batch.
    """
    model, params = model_directory.load(directory, task="latent_diffusion")
    shape = stored_config.latent_shape(directory)
    sampling = stored_config.read_sampling(directory, {"num_steps": num_steps})
    return Sampled(model, params, shape, sampling, (), _fields(model, shape, size))


def open_config(config: ConfigDict, size: int) -> Sampled:
    """Makes the model of a config, with weights of zeros and its own sampling.

    Args:
      config: of a diffusion model.
      size: samples of a batch.

    Raises:
      ValueError: it is not of a diffusion model.
    """
    run = prepare(config, abstract=True)
    if run.sampling is None or run.latent_shape is None:
        raise ValueError(
            f"--config must be of a diffusion model: got the task {config.task}."
        )
    model = run.model
    trained, _ = run.task.shapes(run.batch_shapes)
    frozen = zero_params(model, {"autoencoder", *model.conditioner.reads_frozen})
    params = _zeros(with_frozen(trained, frozen))
    y = _fields(model, run.latent_shape, size)
    return Sampled(model, params, run.latent_shape, run.sampling, (), y)


def as_in_the_paper(sampled: Sampled, paper: PaperSpeed) -> Sampled:
    """Takes steps and guidance of a row of the paper.

    A classifier has the body of the denoiser, as LDM-8-G has, and LPIPS is that of
    VGG16 at a quarter of the size; both have weights of zeros.

    Raises:
      ValueError: the model has no classes that a classifier could guide towards.
    """
    model, params, shape, sampling, guides, y = sampled
    changes: dict[str, Any] = {"guidance_scale": paper.guidance_scale}
    if paper.steps is not None:
        changes["num_steps"] = paper.steps
    sampling = dataclasses.replace(sampling, **changes)
    size = next((len(x) for x in y.values()), 0)
    if paper.guide == "classifier":
        if not isinstance(model.conditioner, ClassLabel):
            raise ValueError(
                "this row of the paper is guided by a classifier: got a model without "
                f'classes (condition "{model.conditioner.kind}"); take '
                "imagenet:f=8."
            )
        classifier = _classifier(model, shape)
        weights = _zeros(
            jax.eval_shape(
                classifier.classifier.init,
                jax.random.key(0),
                jax.ShapeDtypeStruct((1, *shape), "float32"),
                jax.ShapeDtypeStruct((1,), "int32"),
            )["params"]
        )
        params = {**params, "classifier": weights}
        guides = (ClassifierGuide(classifier, CLASSIFIER_SCALE),)
        y = {**y, "guided_label": np.zeros(size, np.int32)}
    if paper.guide == "lpips":
        guide = ImageGuide("lpips", transform="down4")
        divisor = TRANSFORMS[guide.transform]
        h, w = (model.autoencoder.f * side // divisor for side in shape[:2])
        params = {**params, "guide": _zeros(zero_lpips(guide.trunk))}
        guides, y = (guide,), {**y, "guided_image": np.zeros((size, h, w, 3), "f4")}
    return Sampled(model, params, shape, sampling, guides, y)


def measure(sampled: Sampled, size: int, repeats: int) -> Figures:
    """Samples with and without the decoder in turns, prints and returns the times.

    A guide by an image decodes in every step all the same.

    Args:
      sampled: the model.
      size: samples of a batch.
      repeats: runs, of which the fastest counts.

    Returns:
      Seconds of a batch, "with decoder" and "without".
    """
    model, params, shape, sampling, guides, y = sampled
    seeds = np.arange(size)
    latents = jax.jit(
        latent_generator(model, shape, sampling, guides=guides),
        compiler_options=sampling_options(),
    )

    def draw() -> None:
        list(
            sample_images(
                *(model, params, y, seeds, shape, sampling, size), guides=guides
            )
        )

    def draw_latents() -> None:
        jax.block_until_ready(latents(params, y, seed_keys(seeds), {}))

    names = [type(guide).__name__ for guide in guides]
    print(
        f"{sampling.num_steps} steps of {sampling.sampler}, guidance scale "
        f"{sampling.guidance_scale:g}, {', '.join(names) or 'no other guide'}, batches "
        f"of {size} on {jax.device_count()} {jax.devices()[0].device_kind}"
    )
    seconds = best_of({"with decoder": draw, "without": draw_latents}, repeats)
    for name, best in seconds.items():
        print(f"{name:12s} {best:8.3f} s a batch, {size / best:.4g} images/s")
    return seconds


def paper_line(name: str, paper: PaperSpeed) -> str:
    """Describes the paper's speed of a row and the work of the original's layers."""
    steps = f"{paper.steps} steps" if paper.steps else "steps not published"
    gmac = f"{paper.gmac} GMAC per evaluation of the original's denoiser"
    work = f", {gmac}" if paper.gmac else ""
    return (
        f"paper: {name}, {steps}{work}: {paper.images_per_second} images/s on an A100"
    )


def _fields(model: LatentDiffusion, shape, size: int) -> dict[str, np.ndarray]:
    """Makes the fields of a condition, zeros [size, ...] each."""
    f = model.autoencoder.f
    h, w, _ = shape
    return _zeros(model.conditioner.shapes(size, (f * h, f * w), f))


def _classifier(model: LatentDiffusion, shape) -> NoisyLatentClassifier:
    """Makes a classifier with the body of the denoiser."""
    unet: Any = model.unet
    assert isinstance(model.conditioner, ClassLabel)  # checked by its caller
    names = ("channels", "channel_mult", "num_res_blocks", "attention_levels")
    network = LatentClassifier(
        num_classes=model.conditioner.num_classes,
        latent_channels=shape[2],
        latent_size=shape[0],
        head_channels=unet.head_channels,
        **{name: getattr(unet, name) for name in names},
    )
    return NoisyLatentClassifier(
        *(model.autoencoder, model.latent_scale),
        classifier=network,
        schedule=model.schedule,
    )


def _zeros(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
