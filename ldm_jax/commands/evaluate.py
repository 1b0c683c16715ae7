# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model, or finished images, by a named protocol or chosen metrics."""

import contextlib
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from ldm_jax.commands import sample, stats
from ldm_jax.commands.evaluation.class_labels import choose_classes, count_classes
from ldm_jax.commands.evaluation.feature_networks import Evaluator
from ldm_jax.commands.evaluation.points import Point
from ldm_jax.commands.evaluation.request import Request
from ldm_jax.commands.sampling.drawing import Guidance
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.loader import iterate_once
from ldm_jax.experiment import model_directory
from ldm_jax.experiment.model_directory import first_stage_of
from ldm_jax.experiment.model_settings import read_settings
from ldm_jax.experiment.models import training_images
from ldm_jax.files.formats import png
from ldm_jax.files.formats.structured import read_json_object
from ldm_jax.files.paths import resolve
from ldm_jax.files.writing import write_json, write_text
from ldm_jax.metrics.paper import find_protocol
from ldm_jax.metrics.tables import markdown
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import agreed, fetch, is_main_process
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
        yield from _evaluate_samples(
            model_dir,
            dict(zip(points, places, strict=True)),
            request,
            dict(inputs),
            options,
            classes,
            seed,
            which,
            pairs,
            guidance,
        )


def _evaluate_samples(
    model_dir: str,
    places: Mapping[Point, contextlib.AbstractContextManager[pathlib.Path]],
    request: Request,
    inputs: dict[str, Any],
    options: Mapping[str, Any],
    classes: str,
    seed: int,
    which: str,
    pairs: str | None,
    guidance: Guidance,
) -> Iterator[dict[str, Any]]:
    """Does the work of `evaluate_samples`; `places` are the reserved directories."""
    trained = read_settings(model_dir, "latent_diffusion")
    evaluator = Evaluator(request, _transform_of(model_dir))
    num_classes = count_classes(trained, guidance)
    if num_classes and not inputs:
        inputs["class_label"] = choose_classes(num_classes, classes, request.num, seed)
    settings = {
        "model": model_dir,
        "weights": which,
        "classes": classes if "class_label" in inputs else "",
        "seed of image 0": seed,
        "bytes": QUANTIZATION,
        **{name.replace("_", " "): value for name, value in guidance.to_dict().items()},
    }
    model = None
    for step, group in itertools.groupby(places, key=lambda point: point.step):
        fresh, params = model_directory.load(
            model_dir, which, step, task="latent_diffusion"
        )
        model = model or fresh  # another one would be compiled again
        for point in group:
            number = point.num_steps
            changes = {} if number is None else {"num_steps": number}
            with places[point] as out:
                images = f"{out}/images"
                throughput = sample.write_samples(
                    model_dir,
                    images,
                    inputs,
                    {**options, **changes},
                    num=request.num,
                    seed=seed,
                    batch_size=request.batch_size,
                    which=which,
                    admit=lambda n, size: evaluator.check(n, size, pairs),
                    step=step,
                    loaded=(model, params),
                    measures_speed=True,
                    guidance=guidance,
                )
                agreed(True)  # the main process has written its last picture
                measured = evaluator.images(images, pairs, by_name=False)
                measured["throughput"] = throughput
                made = settings | {"sampling": _sampling_of(images)}
                made |= {} if step is None else {"step": step}
                result = _finish(measured, str(out), request, made)
            # Not before: on a store, the directory is copied at its end.
            yield result


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
    return _finish(evaluator.images(images, pairs), out, request, settings)


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
    config = model_directory.read_config(model_dir)
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
    return _finish(
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
            codes = model.autoencoder.regularizer.to_decoder(moments, codebook)[1]
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


def _finish(measured, out: str, request: Request, settings) -> dict[str, Any]:
    """Adds how it was done, warns, and writes the results."""
    settings = {
        **settings,
        "protocol": request.protocol or "chosen metrics",
        "reference": request.reference or "",
    }
    protocol = find_protocol(request.protocol) if request.protocol else None
    warnings = list(measured["warnings"])
    if protocol and protocol.num_images and request.num != protocol.num_images:
        warnings.append(
            f"{request.protocol} takes {protocol.num_images} images: these figures are "
            f"of {measured['num_images']}, so the paper's are not their measure."
        )
    if protocol:
        settings["the protocol's reference"] = protocol.reference
    result = {
        **measured,
        "row": request.paper_row,
        "settings": settings,
        "warnings": warnings,
    }
    return write_results(result, out)


def write_results(result: dict[str, Any], out: str) -> dict[str, Any]:
    """Writes results.json and results.md into a directory; returns the result."""
    if is_main_process():
        folder = pathlib.Path(out)
        write_json(folder / "results.json", result)
        write_text(folder / "results.md", markdown(result))
    return result
