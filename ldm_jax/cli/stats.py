# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax stats`."""

from collections.abc import Callable
from typing import Any

from ldm_jax.cli import values
from ldm_jax.cli.parser import CommandParser

DETAILS = """
`ldm-jax evaluate` compares samples with these statistics to compute FID, KID, precision
and recall. Give a data set and --size, or --like MODEL, which takes data set, crop and
size from the training of a model.
"""
WRITES = """
  OUT, an .npz file with the statistics and how they were made. `evaluate` refuses it
  for images of another size or another feature network, and warns where crop or resize
  differ.
"""
EXAMPLES = """
  ldm-jax stats ./lsun_churches --size 256 --out churches.npz
  ldm-jax stats --like runs/churches --out churches.npz   (the images of its training)
"""


def add(commands) -> None:
    """Adds the command."""
    command = add_metric_command(
        commands,
        "stats",
        _run,
        "Compute reference statistics of an image set, for FID and other metrics.",
        details=DETAILS,
        writes=WRITES,
        examples=EXAMPLES,
    )
    command.add_argument(
        "dataset",
        nargs="?",
        help="name of a data set, a folder (./...), or an .npz of images",
    )
    command.add_argument("--out", required=True, help=".npz file to write")
    command.add_argument(
        "--like", help="model directory whose data set, crop and size are used"
    )
    command.add_argument(
        "--size",
        type=values.size,
        help="HEIGHTxWIDTH to crop and resize to, without --like",
    )
    command.add_argument("--split", help="default: that of --like, or train")
    command.add_argument("--data-dir", help="folder of the TFDS data sets")
    command.add_argument(
        "--keep",
        type=values.count,
        default=10_000,
        help="features kept for KID, precision and recall; default: 10000",
    )


def add_metric_command(
    commands: Any, name: str, run: Callable, summary: str, **pages: Any
) -> CommandParser:
    """Adds a command with the feature network that `stats` and `evaluate` share."""
    command = values.add_command(commands, name, run, summary, **pages)
    command.add_argument(
        "--feature-network",
        default="inception",
        help="inception (default), mobilenet, or random, which needs no weights",
    )
    command.add_argument(
        "--feature-weights",
        help="file of its weights; default: weights/FEATURE_NETWORK.safetensors",
    )
    values.add_batch_size(command)
    return command


def _run(args, overrides) -> None:
    from ldm_jax.commands.stats import write_stats

    reference = write_stats(
        args.out,
        args.dataset,
        like=args.like,
        image_size=args.size,
        split=args.split,
        data_dir=args.data_dir,
        network=args.feature_network,
        weights=args.feature_weights,
        keep=args.keep,
        batch_size=args.batch_size,
    )
    values.echo(f"statistics of {reference.pool.count} images in {args.out}")
    for text in reference.metadata["warnings"]:
        values.echo(f"warning: {text}")
