# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax import`."""

from ldm_jax.cli import values

DETAILS = """
The result can be used like a model that was trained with this package: by sample,
latents, reconstruct, train (--config.train.init_from) and export.

SOURCE is a CompVis checkpoint (first stages, latent diffusion, Stable Diffusion 1.x),
an export of this package, or a folder of diffusers: a pipeline, or one AutoencoderKL,
VQModel, UNet2DModel, UNet2DConditionModel, LDMBertModel, CLIPTextModel or CLIPModel
(its text tower), with weights of PyTorch, safetensors or Flax. A folder may be in the
Hub's cache, or be given as hf://USER/NAME. The weights are read from the checkpoint;
the config describes the model. A text encoder alone can be used by text models that do
not train one (--config.text_encoder.directory). If tensors are missing, left over or of
a wrong shape, they are listed by name and nothing is written. No code in a checkpoint
is run, and PyTorch is not needed.
"""
WRITES = """
  OUT, a new model directory.
"""
EXAMPLES = """
  ldm-jax import models/ldm/celeba256/model.ckpt --out models/celeba
      (reads config.yaml next to the checkpoint)
  ldm-jax import model.ckpt --config cin256-v2.yaml --out models/cin256
  ldm-jax import model.ckpt --config txt2img-1p4B-eval.yaml \\
      --vocab bert-base-uncased/vocab.txt --out models/txt2img
  ldm-jax import model.safetensors --config v1-inference.yaml \\
      --vocab vocab.json --merges merges.txt --out models/sd1
  ldm-jax import kl-f8.ckpt --config first_stage_kl:f=8 --out models/kl-f8
  ldm-jax import ldm-celebahq-256/ --out models/celeba       (a diffusers folder)
  ldm-jax import classifier.pt --config imagenet_classifier \\
      --config.diffusion.directory=models/cin256 --out models/classifier
  ldm-jax import hf://CompVis/ldm-celebahq-256 --out models/celeba   (extra: hub)
  ldm-jax import clip-vit-large-patch14/ --out models/clip   (a text encoder)
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "import",
        _run,
        "Import a CompVis checkpoint or a diffusers folder as a model directory.",
        details=DETAILS,
        writes=WRITES,
        examples=EXAMPLES,
    )
    command.add_argument(
        "source", help=".ckpt, .safetensors, diffusers folder or hf://USER/NAME"
    )
    command.add_argument("--out", required=True, help="new model directory to write")
    command.add_argument(
        "--config",
        help="the original's YAML, or one of our configs, NAME or FILE.py with "
        ":ARGUMENT; default: the .yaml next to the checkpoint",
    )
    command.add_argument(
        "--raw",
        action="store_true",
        help="import the trained weights; default: their moving average (EMA), where "
        "the checkpoint has one",
    )
    command.add_argument(
        "--key",
        help="where the tensors are in the checkpoint: an entry (model, state.ema), or "
        "a prefix of their names; default: state_dict",
    )
    command.add_argument(
        "--vocab",
        help="vocabulary of a text model, which no checkpoint contains: vocab.txt of "
        "bert-base-uncased, or vocab.json of CLIP; copied into the directory",
    )
    command.add_argument("--merges", help="merges.txt of CLIP; copied too")
    command.add_argument(
        "--image-size",
        type=values.count,
        help="side of the images that sample makes; default: that of the source",
    )


def _run(args, overrides) -> None:
    from ldm_jax.commands.import_ import import_weights

    report = import_weights(
        args.source,
        args.out,
        config=args.config,
        which="raw" if args.raw else "ema",
        key=args.key,
        vocab=args.vocab,
        merges=args.merges,
        image_size=args.image_size,
        overrides=overrides,
    )
    kinds = dict(
        first_stage="first stage",
        latent_diffusion="diffusion model",
        text_encoder="text encoder",
        classifier="classifier",
    )
    weights = {"ema": "averaged (EMA) weights", "raw": "raw weights"}[report.used]
    if report.used == "raw" and not args.raw:
        weights = "raw weights, there being no averages"
    values.echo(f"{kinds[report.task]} with the {weights} in {args.out}")
    for note in report.notes:
        values.echo(note)
