# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model, or finished images, by a named protocol or chosen metrics."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from ldm_jax.commands import sample, stats
from ldm_jax.commands.evaluation.class_labels import choose_classes, count_classes
from ldm_jax.commands.evaluation.feature_networks import Evaluator
from ldm_jax.commands.evaluation.points import Point
from ldm_jax.commands.evaluation.request import Request
from ldm_jax.commands.evaluation.results import finish_results
from ldm_jax.commands.sampling.drawing import Guidance
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.loader import iterate_once
from ldm_jax.experiment import model_directory, stored_config
from ldm_jax.experiment.model_settings import read_settings
from ldm_jax.experiment.models import training_images
from ldm_jax.experiment.stored_config import first_stage_of
from ldm_jax.files.formats import png
from ldm_jax.files.formats.structured import read_json_object
from ldm_jax.files.paths import resolve
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import agreed, fetch
from ldm_jax.parallel.outputs import output_directories, output_directory, reserves

QUANTIZATION = "truncation to bytes, as the original"


def evaluate_samples(
    model_dir: str,
    points: Sequence[Point],
    request: Request,
    inputs: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    classes: str = "balanced",
    seed: int = 0,
    which: str = "ema",
    pairs: str | None = None,
    guidance: Guidance = Guidance(),
) -> Iterator[dict[str, Any]]:
    """Samples from a diffusion model into OUT/images, then evaluates the images.

    Interrupted and run again it makes the images that are missing; the evaluation
    starts from scratch. The sampler is compiled once for each number of steps.

    Args:
      model_dir: a diffusion model.
      points: checkpoints and numbers of steps; the OUT of each gets images/,
        results.json and results.md.
      request: what to measure.
      inputs, options, seed, which: of `write_samples`; a class model
        without classes gets all of them.
      classes: "balanced", one class after the other, or "random".
      pairs: images that the samples are to resemble one by one (super-resolution,
        inpainting): of `open_set`.
      guidance: a classifier or a query; a model without classes gets those of the
        classifier.

    Yields:
      What was measured at each point, as in results.json.

    Raises:
      ValueError: something does not fit, before anything is sampled where it can be.
      OSError, Unusable: of `output_directory`, before anything is loaded.
    """
    with output_directories([point.out for point in points]) as places:
        trained = read_settings(model_dir, "latent_diffusion")
        evaluator = Evaluator(request, _transform_of(model_dir))
        num_classes = count_classes(trained, guidance)
        if num_classes and not inputs:
            labels = choose_classes(num_classes, classes, request.num, seed)
            inputs = {"class_label": labels}
        settings = {
            "model": model_dir,
            "weights": which,
            "classes": classes if "class_label" in inputs else "",
            "seed of image 0": seed,
            "bytes": QUANTIZATION,
            **{n.replace("_", " "): value for n, value in guidance.to_dict().items()},
        }
        write = functools.partial(
            sample.write_samples,
            model_dir,
            inputs=inputs,
            num=request.num,
            seed=seed,
            batch_size=request.batch_size,
            which=which,
            admit=lambda num, size: evaluator.check(num, size, pairs),
            measures_speed=True,
            guidance=guidance,
        )
        for point, place, loaded in _load_each(model_dir, which, points, places):
            step, number = point.step, point.num_steps
            changes = {} if number is None else {"num_steps": number}
            with place as out:
                images = f"{out}/images"
                throughput = write(
                    out=images, options={**options, **changes}, step=step, loaded=loaded
                )
                agreed(True)  # the main process has written its last picture
                measured = evaluator.images(images, pairs, by_name=False)
                measured["throughput"] = throughput
                made = {**settings, "sampling": _sampling_of(images)}
                made |= {} if step is None else {"step": step}
                result = finish_results(measured, str(out), request, made)
            # Not before: on a store, the directory is copied at its end.
            yield result


def _load_each(model_dir: str, which: str, points: Sequence[Point], places: Sequence):
    """Yields each point with its place and (model, parameters), loaded once a step."""
    model = None
    pairs = zip(points, places, strict=True)
    for step, group in itertools.groupby(pairs, key=lambda pair: pair[0].step):
        fresh, params = model_directory.load(
            model_dir, which, step, task="latent_diffusion"
        )
        model = model or fresh  # another one would be compiled again
        for point, place in group:
            yield point, place, (model, params)


@reserves(output_directory)
def evaluate_images(
    images: str, out: str, request: Request, pairs: str | None = None
) -> dict[str, Any]:
    """Evaluates finished images.

    Args:
      images: a folder or .npz, of `open_set`.
      out: directory of the results.
      request: what to measure.
      pairs: images that they are to resemble one by one, of `open_set`.

    Returns:
      What was measured, as in results.json.
    """
    evaluator = Evaluator(request, None)
    settings = {"images": images, "bytes": "as they are"}
    return finish_results(evaluator.images(images, pairs), out, request, settings)


@reserves(output_directory)
def evaluate_reconstructions(
    model_dir: str,
    out: str,
    request: Request,
    images: str | None = None,
    split: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Evaluates a first stage by its reconstructions of images.

    Args:
      model_dir: a first stage.
      out: directory of the results.
      request: what to measure. Without a reference, the images themselves are it: then
        the Frechet distance is the paper's R-FID.
      images, split: of `open_images`; None takes the set and the held-out split that
        the model was trained with.
      image_size: (height, width), multiples of f; None is that of training.

    Returns:
      What was measured, as in results.json.

    Raises:
      ValueError: no such images, or f does not divide the size.
    """
    config = stored_config.read_config(model_dir)
    model, params = model_directory.load(model_dir)
    spec, transform = training_images(config, image_size, held_out=True)
    spec |= {"dataset": images} if images else {}
    spec["split"] = split or spec.get("split", "train")
    model.autoencoder.latent_shape((*transform.size, model.autoencoder.in_channels))
    evaluator = Evaluator(request, transform.description)
    source = open_images(**spec)
    rows = _reconstructed(model, params, source, transform, request)
    settings = {
        "model": model_dir,
        "images": f"{spec['dataset']}, split {spec['split']}",
        "size": "x".join(map(str, transform.size)),
        "bytes": QUANTIZATION,
    }
    count = min(len(source), request.num or len(source))
    return finish_results(
        evaluator.reconstructions(rows, count, transform.size, model),
        out,
        request,
        settings,
    )


def _reconstructed(model, params, source, transform, request):
    """Yields (bytes of images, bytes of their reconstructions, codes or None)."""
    on_mesh = sharding.batch_sharding(sharding.make_mesh())
    placed = sharding.place(params, sharding.make_mesh())
    wants_codes = "codebook" in request.metrics

    @jax.jit
    def run(params, image):
        moments = model.moments(params, image)
        codes = None
        if wants_codes:
            codebook = params["autoencoder"]["codebook"]["embedding"]
            codes = model.autoencoder.bottleneck_layer.to_decoder(moments, codebook)[1]
        return model.decode(params, model.latent(moments)), codes

    left = request.num or len(source)
    for batch, valid in iterate_once(source, transform, request.batch_size, on_mesh):
        valid = min(valid, left)
        made, codes = fetch(run(placed, batch["image"]))
        image = stats.as_bytes(fetch(batch["image"])[:valid])
        yield (
            image,
            png.to_uint8(made[:valid]),
            codes if codes is None else codes[:valid],
        )
        left -= valid
        if not left:
            return


def _transform_of(model_dir: str) -> Mapping[str, Any] | None:
    """Returns how a model's training images were cropped; None if it is unknown."""
    if not (epath.Path(model_dir) / "autoencoder").exists():  # a model of pixels
        return None
    _, config = first_stage_of(model_dir)
    spec, transform = training_images(config)
    # That of an imported model is not known.
    return transform.description if spec["dataset"] else None


def _sampling_of(images: str) -> dict[str, Any]:
    """Reads the sampling settings of images, without those that were not set."""
    path = resolve(images) / "settings.json"
    made = read_json_object(path, {"sampling": dict}, "Sample again.")
    sampling = made["sampling"].items()
    return {name: value for name, value in sampling if value is not None}
