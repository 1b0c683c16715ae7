# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax latents` and `ldm-jax reconstruct`: what a trained first stage is for."""

import argparse

from ldm_jax.cli import values


def add(commands) -> None:
    """Adds the commands that run images through a first stage."""
    command = _add(
        commands,
        "latents",
        _latents,
        "Encode an image set into a TFDS data set of latents, with their statistics.",
        "Goes on where it was interrupted. Open the result with\n"
        "  tfds.builder_from_directory(OUT).as_data_source('train')\n",
    )
    command.add_argument("--out", help="directory of the latents")
    command.add_argument(
        "--inspect",
        metavar="DIR",
        help="write nothing: print the facts of the latents in DIR and decode some of "
        "them beside their images, into DIR/inspect.png",
    )
    command.add_argument(
        "--num", type=values.count, default=16, help="latents to inspect, default: 16"
    )
    command.add_argument(
        "--buckets",
        default="",
        help="image sizes, height x width: 256x256,192x320,320x192; each image goes to "
        "that of its aspect ratio",
    )
    command.add_argument(
        "--batch-size",
        type=values.count,
        default=64,
        help="images at once, default: 64",
    )
    command.add_argument(
        "--dtype",
        default="float16",
        choices=("float16", "bfloat16", "float32"),
        help="of the stored latents, default: float16",
    )
    command.add_argument(
        "--records-per-shard",
        type=values.count,
        default=4096,
        help="default: %(default)s",
    )
    command.add_argument(
        "--mirror", action="store_true", help="store each mirrored image's latent too"
    )
    command.add_argument(
        "--num-crops",
        type=values.count,
        default=1,
        help="latents of each image, where the transform is random; default: 1",
    )
    command.add_argument(
        "--config",
        help="diffusion experiment whose images, transform and condition to write for",
    )
    command.add_argument(
        "--manual-dir",
        help="the files of a set that is not prepared yet (ffhq, imagenet, ...)",
    )
    command = _add(
        commands,
        "reconstruct",
        _reconstruct,
        "Encode and decode images, write them side by side, report the PSNR.",
    )
    command.add_argument("--out", required=True, help="PNG file to write")
    command.add_argument(
        "--num", type=values.count, default=16, help="images to show; all are measured"
    )
    command.add_argument(
        "--size", type=values.size, help="HEIGHTxWIDTH; default: as trained"
    )
    command.add_argument(
        "--batch-size", type=values.count, default=64, help="default: 64"
    )


def _add(commands, name, run, summary, details="") -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--model", required=name != "latents", help="directory of a first stage"
    )
    command.add_argument(
        "--images",
        help="a folder, or the name of a data set; default: what the model saw",
    )
    command.add_argument("--split", help="default: what the model was trained on")
    command.set_defaults(run=run)
    return command


def _latents(args, overrides) -> None:
    from ldm_jax.commands.encode import write_latents
    from ldm_jax.commands.inspect_latents import inspect_latents
    from ldm_jax.experiment.experiment import load_config

    if args.inspect:
        print(inspect_latents(args.inspect, args.num))
        return
    if not args.model or not args.out:
        raise ValueError(
            "ldm-jax latents needs --model and --out to write latents, or --inspect "
            "DIR to look at some."
        )
    if overrides and not args.config:
        raise ValueError(
            f"{overrides[0]} replaces a value of a config: got no --config; give it, "
            "or leave this out."
        )
    write_latents(
        args.model,
        args.out,
        images=args.images,
        split=args.split,
        batch_size=args.batch_size,
        records_per_shard=args.records_per_shard,
        mirror=args.mirror,
        num_crops=args.num_crops,
        buckets=args.buckets,
        dtype=args.dtype,
        manual_dir=args.manual_dir,
        config=load_config(args.config, overrides) if args.config else None,
    )


def _reconstruct(args, overrides) -> None:
    from ldm_jax.commands.encode import reconstruct

    psnr = reconstruct(
        args.model,
        args.out,
        images=args.images,
        split=args.split,
        num=args.num,
        batch_size=args.batch_size,
        image_size=args.size,
    )
    print(f"PSNR {psnr:.2f} dB; pictures in {args.out}")
