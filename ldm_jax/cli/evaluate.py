# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax evaluate`."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from ldm_jax.cli import nearest, stats, values
from ldm_jax.cli.guides import (
    add_classifier,
    add_database,
    classifier_flags,
    query_from_database,
)
from ldm_jax.cli.parser import CommandParser
from ldm_jax.cli.sample import add_sampling, condition_inputs, sampling_changes

# Flags of `evaluate` without a meaning for a denoiser that is evaluated on latents.
OF_IMAGES = (
    *("images", "split", "size", "pairs", "protocol", "paper_row", "metrics"),
    *(
        "reference",
        "feature_weights",
        "lpips_weights",
        "clip_model",
        "captions",
    ),
    *("standard_error", "masks", "mask_share"),
)
# Flags that have a meaning where samples are made.
OF_SAMPLES = ("step", "classifier", "database", "neighbours")
DETAILS = """
The flags determine what is evaluated:
  --model DIR of a diffusion model     samples of it, which the command draws first
  --model DIR of a first stage         its reconstructions
  --images DIR                         finished images
  --model DIR --latents DIR            how much a denoiser uses its condition
  --images DIR --nearest K --like DIR  the training images nearest to finished images

FID is computed with the published InceptionV3; `ldm-jax weights inception` converts its
weights. With another feature network, the result has another name, for example
FD(mobilenet).
"""
WRITES = """
  OUT/results.json and OUT/results.md, and OUT/images if samples are drawn. With several
  checkpoints or numbers of steps, OUT has a sub-folder with these files for each. If
  the command was stopped, run it again to draw the missing samples.
"""
EXAMPLES = """
  ldm-jax evaluate --model runs/churches --paper-row churches \\
      --reference churches.npz --num-steps 200 --out runs/churches/fid50k
  ldm-jax evaluate --model runs/digits --metrics fid,kid,precision,recall --num 1000 \\
      --reference digits.npz --out results
  ldm-jax evaluate --model runs/digits --step 500,1000 --num-steps 10,20,50 \\
      --num 1000 --reference digits.npz --out results
  ldm-jax evaluate --model runs/kl-f8 --paper-row kl-f8 --images ./imagenet_val \\
      --lpips-weights weights/lpips.safetensors --out results
  ldm-jax evaluate --images samples/ --reference ref.npz --out results
  ldm-jax evaluate --images enlarged/ --pairs originals/ \\
      --metrics psnr,ssim --out results
  ldm-jax evaluate --images samples/ --nearest 10 --like runs/churches \\
      --lpips-weights weights/lpips.safetensors --out nearest
  ldm-jax evaluate --model runs/text --latents runs/latents --out results
"""


def add(commands) -> None:
    """Adds the command."""
    command = stats.add_metric_command(
        commands,
        "evaluate",
        _run,
        "Evaluate a model or finished images by metrics, or by the paper's protocols.",
        details=DETAILS,
        writes=WRITES,
        examples=EXAMPLES,
    )
    command.add_argument("--out", required=True, help="directory of the results")
    _add_inputs(command)
    _add_metrics(command)
    nearest.add_flags(command)
    _add_samples(command)
    add_sampling(command, takes_several=["num_steps"])
    add_classifier(command)
    group = command.add_argument_group(
        "retrieval models (queries are drawn from the database)"
    )
    add_database(group)


def _add_inputs(command: CommandParser) -> None:
    """Adds the flags of what is evaluated."""
    group = command.add_argument_group("what is evaluated")
    group.add_argument("--model", help="a diffusion model, or a first stage")
    group.add_argument(
        "--images",
        help="folder or .npz of images to evaluate; with a first stage, to reconstruct",
    )
    group.add_argument("--split", help="split of --images, for a first stage")
    group.add_argument(
        "--size",
        type=values.size,
        help="HEIGHTxWIDTH of the images that a first stage reconstructs; "
        "default: as trained",
    )
    group.add_argument(
        "--latents",
        help="evaluate the denoiser on these latents: how much larger its error is "
        "with the condition of another image, or without one (of a model without a "
        "condition, the error alone)",
    )
    group.add_argument(
        "--pairs",
        help="folder or .npz to compare with, one by one: by name, or by position "
        "where no name is the same",
    )


def _add_metrics(command: CommandParser) -> None:
    """Adds the flags of the metrics and of the files that they need."""
    group = command.add_argument_group("metrics")
    group.add_argument(
        "--protocol",
        help="number of images and metrics, as in the paper: paper-uncond ...",
    )
    group.add_argument(
        "--paper-row",
        help="row of the paper's tables: use its protocol, and print it next to the "
        "results: ffhq, kl-f8 ...",
    )
    group.add_argument(
        "--metrics",
        type=lambda text: tuple(text.split(",")),
        help="fid, sfid, kid, is, precision, recall, density, coverage, psnr, ssim, "
        "ms_ssim, lpips, codebook, clip_score; comma-separated",
    )
    group.add_argument(
        "--num", type=values.count, help="number of images; default: the protocol's"
    )
    group.add_argument(
        "--reference",
        action="append",
        help=".npz of ldm-jax stats, ADM, pytorch-fid; repeat the flag to compare with "
        "several",
    )
    group.add_argument(
        "--standard-error",
        action="store_true",
        help="also compute the standard error of Frechet distances",
    )
    group.add_argument("--lpips-weights", help="file of ldm-jax weights lpips")
    group.add_argument(
        "--lpips-trunk", default="vgg", help="trunk of LPIPS; default: vgg"
    )
    group.add_argument("--clip-model", help="folder of a CLIPModel, for clip_score")
    group.add_argument(
        "--captions", help="for clip_score: .txt file, one caption per line"
    )
    group.add_argument(
        "--masks",
        help="folder of the masks of inpainted images, one for each image",
    )
    group.add_argument(
        "--mask-share",
        type=values.share,
        metavar="LOW,HIGH",
        help="evaluate only images whose mask covers a share of the image in this "
        "range; the paper: 0.4,0.5",
    )


def _add_samples(command: CommandParser) -> None:
    """Adds the flags of the samples of a diffusion model."""
    group = command.add_argument_group("samples of a diffusion model")
    group.add_argument(
        "--classes",
        default="balanced",
        help="classes of the samples: balanced (default) or random",
    )
    group.add_argument(
        "--seed", type=values.seed, default=0, help="seed of image 0; default: 0"
    )
    group.add_argument(
        "--raw", action="store_true", help="use the trained parameters, not their EMA"
    )
    group.add_argument(
        "--step",
        type=values.counts,
        default=(),
        help="checkpoint to sample from, or several, comma-separated; default: the "
        "newest",
    )


def _run(args, overrides) -> None:
    from ldm_jax.commands import evaluate
    from ldm_jax.commands.evaluation.condition_gap import evaluate_condition
    from ldm_jax.experiment import stored_config
    from ldm_jax.metrics.tables import markdown

    request = _request_of(args)
    inputs, options = condition_inputs(args), sampling_changes(args)
    if args.nearest is not None:
        nearest.show_nearest(args)
        return
    _refuse(_given(args, ["like", "held_out"]), "an evaluation without --nearest")
    if args.model is None:
        if args.images is None:
            raise ValueError(
                "there must be --model or --images to evaluate: got neither."
            )
        latents = _given(args, ["latents", *OF_SAMPLES])
        _refuse({**inputs, **options, **latents}, "finished images")
        result = evaluate.evaluate_images(args.images, args.out, request, args.pairs)
    elif stored_config.read_config(args.model).task == "first_stage":
        _refuse(
            {**inputs, **options, **_given(args, ["pairs", "latents", *OF_SAMPLES])},
            "a first stage",
        )
        result = evaluate.evaluate_reconstructions(
            args.model, args.out, request, args.images, args.split, args.size
        )
    elif args.latents is not None:
        given = _given(args, (*OF_IMAGES, *OF_SAMPLES))
        _refuse({**inputs, **options, **given}, "a denoiser on latents")
        result = evaluate_condition(
            args.model,
            args.latents,
            args.out,
            num=args.num,
            batch_size=args.batch_size,
            seed=args.seed,
            which="raw" if args.raw else "ema",
        )
    else:
        given = _given(args, ["images", "split", "size"])
        _refuse(given, "a diffusion model, whose samples are evaluated,")
        _evaluate_samples(args, request, inputs, options)
        return
    values.echo(markdown(result))


def _request_of(args):
    """Returns the `Request` of the flags."""
    from ldm_jax.commands.evaluation.request import Request

    first, *more = args.reference or [None]
    flags = {**vars(args), "reference": first, "more_references": more}
    names = [field.name for field in dataclasses.fields(Request)]
    return Request(**{name: flags[name] for name in names})


def _evaluate_samples(args, request, inputs, options) -> None:
    """Evaluates a diffusion model: checkpoints, with numbers of steps for each."""
    from ldm_jax.commands import evaluate
    from ldm_jax.commands.evaluation.points import points_of
    from ldm_jax.commands.sampling.drawing import Guidance
    from ldm_jax.metrics.tables import markdown

    points = points_of(args.out, args.step, options.pop("num_steps", ()))
    results = evaluate.evaluate_samples(
        args.model,
        points,
        request,
        inputs,
        options,
        classes=args.classes,
        seed=args.seed,
        which="raw" if args.raw else "ema",
        pairs=args.pairs,
        guidance=Guidance(**classifier_flags(args), **query_from_database(args)),
    )
    for point, result in zip(points, results, strict=True):
        if len(points) > 1:
            values.echo(f"{point.out}\n")
        values.echo(markdown(result))


def _given(args, names: Iterable[str]) -> dict[str, Any]:
    """Returns those of some flags that were given."""
    return {n: vars(args)[n] for n in names if vars(args)[n] not in (None, False, ())}


def _refuse(given, what: str) -> None:
    """Raises ValueError for flags that would be ignored."""
    if given:
        raise ValueError(
            f"{what} takes no {', '.join(sorted(given))}: leave it out, or "
            "evaluate something else (ldm-jax evaluate --help)."
        )
