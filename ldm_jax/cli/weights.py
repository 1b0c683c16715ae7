# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax import` and `ldm-jax export`: models from and to other frameworks."""

import argparse

FORMS = ("compvis", "diffusers", "npz", "stablehlo")

IMPORT_EPILOG = """
examples:
  ldm-jax import ldm/celeba256/model.ckpt --out models/celeba
      (the original's config.yaml is looked for beside the checkpoint)
  ldm-jax import model.ckpt --config configs/celebahq.py --out models/celeba
  ldm-jax import CompVis-ldm-celebahq-256/ --out models/celeba     a diffusers folder

The result is a model directory that sample, latents, reconstruct and train take.
Nothing in a .ckpt is run; files with unknown contents are refused.
"""
EXPORT_EPILOG = """
examples:
  ldm-jax export models/celeba --to compvis --out celeba.safetensors   (and .yaml)
  ldm-jax export models/celeba --to diffusers --out celeba_diffusers
  ldm-jax export models/celeba --to npz --out celeba.npz
  ldm-jax export models/celeba --to stablehlo --out celeba_programs
      (encoder, decoder, denoiser and sampler for CPU, CUDA and TPU; README.md)
"""


def add(commands) -> None:
    """Adds the commands that carry weights."""
    command = _add(
        commands,
        "import",
        _import,
        "Import a CompVis checkpoint or a diffusers folder as a model directory.",
        IMPORT_EPILOG,
    )
    command.add_argument("source", help=".ckpt, .safetensors, or diffusers folder")
    command.add_argument("--out", required=True, help="model directory to write")
    command.add_argument(
        "--config", help="the original's YAML, or one of our configs (.py)"
    )
    command.add_argument("--raw", action="store_true", help="weights, not their EMA")
    command.add_argument("--vocab", help="vocabulary file of a text model's tokenizer")
    command.add_argument(
        "--image-size", type=int, default=256, help="of samples; default: 256"
    )
    command = _add(
        commands,
        "export",
        _export,
        "Export a model directory to another framework.",
        EXPORT_EPILOG,
    )
    command.add_argument("model", help="model directory")
    command.add_argument(
        "--to", required=True, choices=FORMS, dest="form", metavar="|".join(FORMS)
    )
    command.add_argument("--out", required=True, help="file or folder to write")
    command.add_argument("--raw", action="store_true", help="weights, not their EMA")


def _add(commands, name, run, summary, epilog) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _import(args, overrides) -> None:
    from ldm_jax.jobs.carry import import_weights

    used = import_weights(
        args.source,
        args.out,
        config=args.config,
        which="raw" if args.raw else "ema",
        vocab=args.vocab,
        image_size=args.image_size,
    )
    what = {"ema": "averaged (EMA)", "raw": "raw"}[used]
    print(f"imported the {what} weights into {args.out}")


def _export(args, overrides) -> None:
    from ldm_jax.jobs.carry import export_weights

    which = "raw" if args.raw else "ema"
    for path in export_weights(args.model, args.out, args.form, which):
        print(path)
