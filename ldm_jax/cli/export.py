# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax export`."""

import pathlib

from ldm_jax.cli import values

FORMS = (
    *("all", "compact", "compvis", "diffusers", "npz", "onnx", "orbax"),
    *("safetensors", "stablehlo", "torch"),
)
DETAILS = """
If the target cannot compute what the model does, the export is refused with the reason
and nothing is written.

targets:
  all        a folder with an entry for each target that can express the model
  compact    a small model directory, in half precision: for sample, demo, import and
             ldm_jax.load
  compvis    .safetensors or .ckpt with the original's names, and a .yaml next to it
  diffusers  a folder for from_pretrained and the Hub, with a model card. If diffusers
             has no pipeline for the model, the folder contains a pipeline.py, which
             needs from_pretrained(folder, trust_remote_code=True)
  npz        one .npz file with the parameters and settings; import reads it
  onnx       a folder of ONNX files (encoder, decoder, denoiser, condition) for any
             batch size, with the noise schedule in manifest.json (extra: onnx)
  orbax      a folder with the parameters as a plain orbax checkpoint, and the settings
  safetensors
             a folder with model.safetensors (several files above 5 GB) and the
             settings; import reads it
  stablehlo  a folder of programs (encoder, decoder, denoiser, sampler) for CPU, CUDA
             and TPU that need only JAX; ldm_jax/interop/README.md has an example
  torch      a folder with one file of plain PyTorch (model.py) that samples, its
             weights and config; needs torch, numpy and safetensors
"""
WRITES = """
  OUT, a new file or folder; an existing one is never overwritten. The paths of all
  files are printed.
"""
EXAMPLES = """
  ldm-jax export runs/quickstart/diffusion --to compact --out digits
  ldm-jax export models/celeba --to compvis --out celeba.safetensors
  ldm-jax export models/celeba --to diffusers --out celeba_diffusers
  ldm-jax export models/celeba --to npz --out celeba.npz
  ldm-jax export models/celeba --to stablehlo --out celeba_programs
  ldm-jax export models/celeba --to torch --out celeba_torch --check
  ldm-jax export models/celeba --to all --out celeba_exports
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "export",
        _run,
        "Export a model directory to another framework.",
        details=DETAILS,
        writes=WRITES,
        examples=EXAMPLES,
    )
    command.add_argument("model", help="model directory, trained here or imported")
    command.add_argument(
        "--to", required=True, choices=FORMS, dest="form", metavar="|".join(FORMS)
    )
    command.add_argument("--out", required=True, help="new file or folder to write")
    command.add_argument(
        "--check",
        action="store_true",
        help="run the export with the library that it is for, if that is installed,"
        " and print the difference",
    )
    hub = command.add_argument_group("of --to diffusers")
    hub.add_argument(
        "--variant",
        default="",
        choices=("fp16",),
        help="also write the weights in half precision",
    )
    hub.add_argument(
        "--licence", default="", help="for the model card, e.g. apache-2.0"
    )
    hub.add_argument(
        "--results", help="results.json of ldm-jax evaluate, for the model card"
    )
    hub.add_argument(
        "--picture",
        help="picture for the model card; draw samples some now; default: the newest "
        "of training",
    )
    command.add_argument(
        "--raw",
        action="store_true",
        help="export the trained weights; default: their moving average (EMA), if any",
    )


def _run(args, overrides) -> None:
    from ldm_jax.commands import export
    from ldm_jax.files.paths import is_remote

    hub = export.HubOptions(args.variant, args.licence, args.results, args.picture)
    which = "raw" if args.raw else "ema"
    if args.check and is_remote(args.out):
        raise ValueError(
            f"--check runs files of a disk: got --out={args.out}; export to a disk, "
            "check, and copy, or leave --check out."
        )
    if args.form == "all":
        written = {}
        for form, path, reason in export.export_all(args.model, args.out, which, hub):
            values.echo(f"{form}: {path or f'refused: {reason}'}")
            written |= {} if path is None else {form: path}
        for form, path in written.items() if args.check else ():
            values.echo(f"{form}: {export.check(args.model, form, path, which)}")
        return
    paths = export.export_weights(args.model, args.out, args.form, which, hub)
    for path in paths:
        values.echo(path)
    if args.check:
        out = pathlib.Path(args.out).expanduser()
        values.echo(export.check(args.model, args.form, out, which))
