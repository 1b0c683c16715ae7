# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax stats`."""

import argparse

from ldm_jax.cli import values

STATS_EPILOG = """
examples:
  ldm-jax stats ./lsun_churches --size 256 --out churches.npz
  ldm-jax stats --like runs/churches --out churches.npz      (its own training set)

The file says how it was made; `evaluate` refuses it for images of another size or
another network, and warns where crop or resize differ.
"""


def add(commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "stats",
        _run,
        "Make reference statistics of an image set, through the loader of training.",
        STATS_EPILOG,
    )
    command.add_argument(
        "dataset", nargs="?", help="a name, a folder (./...), or an .npz of images"
    )
    command.add_argument("--out", required=True, help=".npz file to write")
    command.add_argument("--like", help="model directory: its crop, size and data set")
    command.add_argument(
        "--size", type=values.size, help="HEIGHTxWIDTH, without --like"
    )
    command.add_argument("--split", help="default: as trained on, or train")
    command.add_argument("--data-dir", help="where TFDS sets lie")
    command.add_argument(
        "--keep",
        type=values.count,
        default=10_000,
        help="features kept for KID, precision and recall; default: 10000",
    )


def add_command(commands, name: str, run, summary: str, epilog: str):
    """Adds a command with the feature network that `stats` and `evaluate` share."""
    command = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument(
        "--feature-network",
        default="inception",
        help="inception (default) or mobilenet",
    )
    command.add_argument(
        "--feature-weights",
        help="its file of weights; default: weights/FEATURE_NETWORK.safetensors",
    )
    command.add_argument(
        "--batch-size", type=values.count, default=64, help="default: 64"
    )
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
    print(f"statistics of {reference.pool.count} images in {args.out}")
    for text in reference.facts["warnings"]:
        print(f"warning: {text}")
