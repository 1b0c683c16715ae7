# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax sample`."""

import argparse
import dataclasses

from ldm_jax.cli import values

# Flag -> what a condition's `from_user` calls it; the model's kind decides which serve.
CONDITION_FLAGS = {
    "label": ("class_label", "classes by number or name, comma-separated (class)"),
    "prompt": ("text", "a text, or a .txt file with one per line (text)"),
    "boxes": ("boxes", "JSON file of boxes (layout)"),
    "segmentation": ("segmentation", "PNG of classes, or a folder (semantic)"),
    "low-res": ("low_res", "small image to enlarge, or a folder (superres)"),
    "image": ("image", "image with a hole, or a folder (inpaint)"),
    "mask": ("mask", "PNG, white where the hole is, or a folder (inpaint)"),
}
EPILOG = """
examples:
  ldm-jax sample --model runs/quickstart/diffusion --out threes --label 3 --num 16
  ldm-jax sample --model DIR --out all --label 0,1,2,3,4,5,6,7,8,9 --num 50000 --npz
  ldm-jax sample --model DIR --out varied --start photo.png --strength 0.5

Image i has seed SEED + i and the i-th condition, in turn; it does not depend on the
batch size or the devices. Stopped and run again, the command makes what is missing.
"""


def add(commands) -> None:
    """Adds the command that samples images."""
    command = commands.add_parser(
        "sample",
        help="Sample images from a latent diffusion model.",
        description="Sample images from a latent diffusion model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=_run)
    command.add_argument("--model", required=True, help="directory of the model")
    command.add_argument("--out", required=True, help="directory of the images")
    command.add_argument(
        "--num", type=values.count, help="images; default: one a condition"
    )
    command.add_argument("--seed", type=int, default=0, help="of image 0; default: 0")
    command.add_argument(
        "--batch-size", type=values.count, default=64, help="default: 64"
    )
    command.add_argument(
        "--size", type=values.size, help="HEIGHTxWIDTH; default: as trained"
    )
    command.add_argument("--raw", action="store_true", help="parameters, not their EMA")
    command.add_argument("--npz", action="store_true", help="write samples.npz too")
    command.add_argument(
        "--previews",
        type=int,
        default=0,
        help="also draw previews.png: how the first 8 images came about, in N pictures",
    )
    add_sampling(command)
    given = command.add_argument_group("images given")
    given.add_argument("--start", help="image to vary; see --strength")
    given.add_argument("--known", help="image of which a region is kept")
    given.add_argument("--known-mask", help="PNG file, white where --known is kept")


def add_sampling(command) -> None:
    """Adds flags for every condition, and every field of `tasks.generate.Sampling`."""
    condition = command.add_argument_group("condition (as the model was trained)")
    for flag, (_, text) in CONDITION_FLAGS.items():
        condition.add_argument(f"--{flag}", help=text)
    group = command.add_argument_group("sampler (default: the model's config)")
    group.add_argument(
        "--sampler", help="ddim, ddpm, plms, dpm_solver, unipc, heun ..."
    )
    group.add_argument(
        "--num-steps", type=values.count, help="calls of the sampler's rule"
    )
    group.add_argument(
        "--grid",
        help='"original": the released code\'s steps, which exist for some numbers '
        'only; "even": any number',
    )
    group.add_argument("--eta", type=float, help="DDIM's noise, 0 to 1")
    group.add_argument("--variance", type=float, help="DDPM's, 0 to 1")
    group.add_argument("--temperature", type=float, help="factor of the noise added")
    group.add_argument("--guidance-scale", type=float, help="1 is off")
    group.add_argument(
        "--guidance-rescale",
        type=float,
        help="how far the guided prediction is drawn "
        "back to its usual deviation, 0 to 1",
    )
    group.add_argument(
        "--guidance-interval", type=values.interval, help="FIRST,LAST step t"
    )
    group.add_argument("--clip", type=float, help="bound of x0, for models of pixels")
    group.add_argument(
        "--threshold",
        type=float,
        help="bound x0 by this share of its values, e.g. 0.995 (dynamic thresholding)",
    )
    group.add_argument(
        "--snap-to-codebook",
        action="store_true",
        default=None,
        help="move every estimate of the image to its nearest codes (VQ)",
    )
    group.add_argument(
        "--strength",
        type=float,
        help="share of the steps that --start is taken "
        "through, 0 to 1; more changes more",
    )
    group.add_argument(
        "--tile",
        type=values.count,
        help="side, in latents, of the tiles in which a "
        "picture larger than trained is seen",
    )
    group.add_argument("--overlap", type=int, help="least overlap of tiles, in latents")


def what_was_said(args) -> tuple[dict, dict]:
    """Returns what the user said of the condition, and of the sampler."""
    from ldm_jax.tasks.generate import Sampling

    flags = vars(args)
    names = [field.name for field in dataclasses.fields(Sampling)]
    said = {
        name: flags[flag.replace("-", "_")]
        for flag, (name, _) in CONDITION_FLAGS.items()
        if flags[flag.replace("-", "_")] is not None
    }
    return said, {name: flags[name] for name in names if flags[name] is not None}


def _run(args, overrides) -> None:
    from ldm_jax.commands import sample

    said, options = what_was_said(args)
    given = dict(start=args.start, known=args.known, mask=args.known_mask)
    sample.sample(
        args.model,
        args.out,
        said,
        options,
        num=args.num,
        seed=args.seed,
        batch_size=args.batch_size,
        image_size=args.size,
        which="raw" if args.raw else "ema",
        images={name: path for name, path in given.items() if path is not None},
        write_npz=args.npz,
        num_previews=args.previews,
    )
    print(f"images and grid.png in {args.out}")
