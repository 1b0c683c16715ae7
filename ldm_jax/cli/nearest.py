# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax evaluate --nearest`: the training images nearest to finished images."""

import argparse

from ldm_jax.cli import values
from ldm_jax.cli.parser import CommandParser


def add_flags(command: CommandParser) -> None:
    """Adds the flags; --images, --num and those of LPIPS are of `evaluate`."""
    group = command.add_argument_group("nearest training images")
    group.add_argument(
        "--nearest",
        type=values.count,
        metavar="K",
        help="show the K training images nearest to each of --images, by LPIPS, and "
        "the distances of held-out images for comparison",
    )
    group.add_argument(
        "--like", help="for --nearest: model whose training images are searched"
    )
    group.add_argument(
        "--held-out", metavar="FOLDER", help="for --nearest: images not trained on"
    )


def show_nearest(args: argparse.Namespace) -> None:
    """Writes the sheet of nearest images and prints the distances."""
    from ldm_jax.commands.evaluation.nearest_sheet import write_nearest

    if args.images is None or args.like is None:
        raise ValueError(
            "nearest images are those of finished samples among a model's training "
            f"images: got --images {args.images} and --like {args.like}; give both."
        )
    result = write_nearest(
        args.images,
        args.like,
        args.out,
        k=args.nearest,
        num=args.num,
        lpips_weights=args.lpips_weights,
        trunk=args.lpips_trunk,
        split=args.split,
        held_out=args.held_out,
    )
    for name, value in result.items():
        if name != "samples":
            values.echo(f"{name}: {value:.4f}")
    values.echo(f"nearest.png and nearest.json in {args.out}")
