# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax sample`."""

import argparse
import typing
from collections.abc import Sequence
from typing import Any

from ldm_jax.cli import values
from ldm_jax.cli.guides import (
    add_classifier,
    add_image_guide,
    add_query,
    classifier_flags,
    image_guide,
    query_of,
)
from ldm_jax.cli.parser import CommandParser

# Type of an option -> what reads it; of several types the first here.
READERS = {
    tuple[int, int]: values.interval,
    int: values.whole,
    float: values.finite_number,
    str: str,
}
DETAILS = """
Image i is drawn with seed SEED + i and the i-th condition. If there are more images
than conditions, the conditions are repeated in the same order. The images do not depend
on the batch size or on the devices.
"""
WRITES = """
  OUT/000000.png and so on, OUT/grid.png and OUT/settings.json; OUT/samples.npz and
  OUT/previews.png on request. If the command was stopped, run it again to draw the
  missing images.
"""
EXAMPLES = """
  ldm-jax sample --model runs/quickstart/diffusion --out threes --label 3 --num 16
  ldm-jax sample --model DIR --out all --label 0,1,2,3,4,5,6,7,8,9 --num 50000 --npz
  ldm-jax sample --model DIR --out varied --start photo.png --strength 0.5
  ldm-jax sample --model DIR --out threes --classifier runs/classifier --label 3
  ldm-jax sample --model DIR --out large --guide small.png --guide-transform down4
  ldm-jax sample --model DIR --out large --double --guide-scale 20 --num 4
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "sample",
        _run,
        "Sample images from a latent diffusion model.",
        details=DETAILS,
        writes=WRITES,
        examples=EXAMPLES,
    )
    command.add_argument(
        "--model", required=True, help="directory of a diffusion model"
    )
    command.add_argument("--out", required=True, help="directory for the images")
    command.add_argument(
        "--num", type=values.count, help="number of images; default: one per condition"
    )
    command.add_argument(
        "--seed", type=values.seed, default=0, help="seed of image 0; default: 0"
    )
    values.add_batch_size(command, may_fit=True)
    command.add_argument(
        "--size", type=values.size, help="HEIGHTxWIDTH; default: as trained"
    )
    command.add_argument(
        "--raw", action="store_true", help="use the trained parameters, not their EMA"
    )
    command.add_argument("--npz", action="store_true", help="also write samples.npz")
    command.add_argument(
        "--previews",
        type=values.count,
        default=0,
        help="also write previews.png: the first 8 images at N points of the sampling",
    )
    add_sampling(command)
    given = command.add_argument_group("input images, for models of any condition")
    given.add_argument("--start", help="image to vary; see --strength")
    given.add_argument("--known", help="image of which the part outside --hole is kept")
    given.add_argument("--hole", help="PNG, white where --known is replaced by samples")
    add_classifier(command)
    add_image_guide(command)
    add_query(command)


def add_sampling(command: CommandParser, takes_several: Sequence[str] = ()) -> None:
    """Adds the flags of every condition, of `Sampling` and of every sampler.

    Args:
      command: gets the flags.
      takes_several: names of whole numbers of which the flag takes several.
    """
    condition = command.add_argument_group("condition (as the model was trained)")
    sampler = command.add_argument_group("sampler (default: the model's config)")
    command.add_later(lambda: _add_condition_flags(condition))
    command.add_later(lambda: _add_sampling_flags(sampler, takes_several))


def _add_condition_flags(group: argparse._ArgumentGroup) -> None:
    from ldm_jax.conditions.registry import condition_flags

    for name, flag in condition_flags().items():
        text = f"{flag.doc} ({', '.join(flag.kinds)})"
        group.add_argument(f"--{name}", help=_escape(text))


def _add_sampling_flags(
    group: argparse._ArgumentGroup, takes_several: Sequence[str]
) -> None:
    from ldm_jax.diffusion.samplers import options_by_name
    from ldm_jax.tasks.sampling import sampling_fields

    for name, field in sampling_fields().items():
        if name in takes_several:
            text = f"{field.doc}; several, comma-separated, are evaluated in turn"
            flag = f"--{name.replace('_', '-')}"
            group.add_argument(flag, type=values.counts, help=_escape(text))
        else:
            _add_flag(group, name, field.kind, field.doc)
    for name, (option, samplers) in options_by_name().items():
        _add_flag(group, name, option.kind, f"{option.doc} ({', '.join(samplers)})")


def _add_flag(group, name: str, kind: Any, text: str) -> None:
    """Adds a flag that reads a value of a type; None where it is not given."""
    flag, text = f"--{name.replace('_', '-')}", _escape(text)
    if kind is bool:
        group.add_argument(flag, action="store_true", default=None, help=text)
        return
    kinds = {kind, *typing.get_args(kind)}
    reader = next(read for known, read in READERS.items() if known in kinds)
    group.add_argument(flag, type=reader, help=text)


def _escape(text: str) -> str:
    """Escapes a text for argparse, which formats help with %."""
    return text.replace("%", "%%")


def condition_inputs(args: argparse.Namespace) -> dict[str, str]:
    """Returns the given flags of conditions, as arguments of `from_user`."""
    from ldm_jax.conditions.registry import condition_flags

    values = {
        flag.argument: getattr(args, name.replace("-", "_"))
        for name, flag in condition_flags().items()
    }
    return {name: value for name, value in values.items() if value is not None}


def sampling_changes(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the given flags of sampling, by the names of `make_sampling`."""
    from ldm_jax.diffusion.samplers import options_by_name
    from ldm_jax.tasks.sampling import sampling_fields

    names = [*sampling_fields(), *options_by_name()]
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _run(args, overrides) -> None:
    from ldm_jax.commands.double import write_doubled
    from ldm_jax.commands.sample import write_samples
    from ldm_jax.commands.sampling.drawing import Guidance

    inputs = condition_inputs(args)
    query = query_of(args, inputs)
    given = dict(start=args.start, known=args.known, hole=args.hole)
    write = write_doubled if args.double else write_samples
    write(
        args.model,
        args.out,
        inputs,
        sampling_changes(args),
        num=args.num,
        seed=args.seed,
        batch_size=args.batch_size,
        image_size=args.size,
        which="raw" if args.raw else "ema",
        images={name: path for name, path in given.items() if path is not None},
        write_npz=args.npz,
        num_previews=args.previews,
        guidance=Guidance(
            **classifier_flags(args), images=image_guide(args), query=query
        ),
    )
    values.echo(f"images and grid.png in {args.out}")
