# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax import` and `ldm-jax export`: models from and to other frameworks."""

import argparse

from ldm_jax.cli import values

FORMS = ("compvis", "diffusers", "npz", "stablehlo")

IMPORT_DESCRIPTION = """
Import a published model as a model directory, which sample, latents, reconstruct,
train (--config.train.init_from) and export take like one of our own.

SOURCE is a CompVis checkpoint (first stages, latent diffusion, Stable Diffusion 1.x)
or a folder of diffusers: a pipeline, or one AutoencoderKL, VQModel, UNet2DModel,
UNet2DConditionModel, LDMBertModel, CLIPTextModel or CLIPModel (its text tower). The
file says which weights it holds; the config says what they make. A text encoder alone
is for text models that read it and never train it (--config.text_encoder.directory).
Whatever is missing, left over or of another shape is listed by name, and then nothing
is written. Nothing in a .ckpt is run; PyTorch is not needed.
"""
IMPORT_EPILOG = """
examples:
  ldm-jax import models/ldm/celeba256/model.ckpt --out models/celeba
      takes config.yaml beside the checkpoint
  ldm-jax import model.ckpt --config cin256-v2.yaml --out models/cin256
  ldm-jax import model.ckpt --config txt2img-1p4B-eval.yaml \\
      --vocab bert-base-uncased/vocab.txt --out models/txt2img
  ldm-jax import model.safetensors --config v1-inference.yaml \\
      --vocab vocab.json --merges merges.txt --out models/sd1
  ldm-jax import kl-f8.ckpt --config configs/first_stage_kl.py:f=8 --out models/kl-f8
  ldm-jax import ldm-celebahq-256/ --out models/celeba       a diffusers folder
  ldm-jax import clip-vit-large-patch14/ --out models/clip   a text encoder
"""
EXPORT_DESCRIPTION = """
Export a model directory, trained here or imported, to another framework. What the
target cannot compute is refused with the reason, and then nothing is written.
"""
EXPORT_EPILOG = """
forms:
  compvis    .safetensors or .ckpt under the original's names, its .yaml beside it
  diffusers  a folder that from_pretrained reads; with a model_index.json where
             diffusers has a pipeline for the model. A class embedding, for which it
             has no class, lies in conditioner/
  npz        one .npz file under our own names
  stablehlo  a folder of programs (encoder, decoder, denoiser, sampler) for CPU, CUDA
             and TPU that run with JAX alone; see README.md

examples:
  ldm-jax export models/celeba --to compvis --out celeba.safetensors
  ldm-jax export models/celeba --to diffusers --out celeba_diffusers
  ldm-jax export models/celeba --to npz --out celeba.npz
  ldm-jax export models/celeba --to stablehlo --out celeba_programs
"""


def add(commands) -> None:
    """Adds the commands that carry weights."""
    _add_import(commands)
    _add_export(commands)


def _add_import(commands) -> None:
    command = _add(
        commands,
        "import",
        _import,
        "Import a CompVis checkpoint or a diffusers folder as a model directory.",
        IMPORT_DESCRIPTION,
        IMPORT_EPILOG,
    )
    command.add_argument("source", help=".ckpt, .safetensors, or diffusers folder")
    command.add_argument("--out", required=True, help="model directory to write, new")
    command.add_argument(
        "--config",
        help="the original's YAML, or one of our configs, FILE.py or FILE.py:ARGUMENT; "
        "default: the .yaml beside the checkpoint",
    )
    command.add_argument(
        "--raw",
        action="store_true",
        help="take the weights as trained; default: their moving average (EMA), where "
        "the checkpoint has one",
    )
    command.add_argument(
        "--vocab",
        help="vocabulary of a text model, which no checkpoint holds: vocab.txt of "
        "bert-base-uncased, or vocab.json of CLIP; copied into the directory",
    )
    command.add_argument("--merges", help="merges.txt of CLIP, likewise")
    command.add_argument(
        "--image-size",
        type=values.count,
        help="side of the images that sample makes; default: as the source says",
    )


def _add_export(commands) -> None:
    command = _add(
        commands,
        "export",
        _export,
        "Export a model directory to another framework.",
        EXPORT_DESCRIPTION,
        EXPORT_EPILOG,
    )
    command.add_argument("model", help="model directory")
    command.add_argument(
        "--to", required=True, choices=FORMS, dest="form", metavar="|".join(FORMS)
    )
    command.add_argument("--out", required=True, help="file or folder to write")
    command.add_argument(
        "--raw",
        action="store_true",
        help="the weights as trained; default: their moving average (EMA), if kept",
    )


def _add(commands, name, run, summary, description, epilog) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _import(args, overrides) -> None:
    from ldm_jax.commands.carry import import_weights

    report = import_weights(
        args.source,
        args.out,
        config=args.config,
        which="raw" if args.raw else "ema",
        vocab=args.vocab,
        merges=args.merges,
        image_size=args.image_size,
        overrides=overrides,
    )
    kinds = dict(
        first_stage="first stage",
        latent_diffusion="diffusion model",
        text_encoder="text encoder",
    )
    weights = {"ema": "averaged (EMA) weights", "raw": "raw weights"}[report.used]
    if report.used == "raw" and not args.raw:
        weights = "raw weights, there being no averages"
    print(f"{kinds[report.task]} with the {weights} in {args.out}")
    for note in report.notes:
        print(note)


def _export(args, overrides) -> None:
    from ldm_jax.commands.carry import export_weights

    which = "raw" if args.raw else "ema"
    for path in export_weights(args.model, args.out, args.form, which):
        print(path)
