# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax reconstruct`."""

import argparse

from ldm_jax.cli import values

WRITES = """
  OUT, one PNG file: each image next to its reconstruction. The PSNR of all images is
  printed.
"""
EXAMPLES = """
  ldm-jax reconstruct --model runs/a --out pairs.png
  ldm-jax reconstruct --model models/kl-f8 --images ./photos --split all \\
      --size 512x768 --out pairs.png
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "reconstruct",
        _run,
        "Encode and decode images, write them side by side, print the PSNR.",
        writes=WRITES,
        examples=EXAMPLES,
    )
    add_images(command, split="those held out from training, if there are some")
    command.add_argument("--out", required=True, help="PNG file to write")
    command.add_argument(
        "--num",
        type=values.count,
        default=16,
        help="images to show; the PSNR is of all; default: 16",
    )
    command.add_argument(
        "--size", type=values.size, help="HEIGHTxWIDTH; default: as trained"
    )
    values.add_batch_size(command)


def add_images(
    command: argparse.ArgumentParser,
    is_required: bool = True,
    split: str = "the split that was trained on",
) -> None:
    """Adds the first stage and the images that it encodes; `split` is the default."""
    command.add_argument(
        "--model", required=is_required, help="directory of a first stage"
    )
    command.add_argument(
        "--images",
        help="folder, or name of a data set; default: the images of the training",
    )
    command.add_argument("--split", help=f"default: {split}")


def _run(args, overrides) -> None:
    from ldm_jax.commands.reconstruct import write_reconstructions

    psnr = write_reconstructions(
        args.model,
        args.out,
        images=args.images,
        split=args.split,
        num=args.num,
        batch_size=args.batch_size,
        image_size=args.size,
    )
    values.echo(f"PSNR {psnr:.2f} dB; pictures in {args.out}")
