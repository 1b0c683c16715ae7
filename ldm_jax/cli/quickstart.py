# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax quickstart`."""

from ldm_jax.cli import train, values

DETAILS = """
Without --images it trains on real handwritten digits, in minutes on a CPU and without
a download. With --images it surveys a folder of your pictures, chooses settings that
suit them and this machine, trains a first stage and a denoiser, samples, and writes a
report. The settings are stored in WORKDIR/config.py; edit them and run it again.
Sub-folders are classes; captions are read from captions.csv, captions.jsonl or a .txt
next to each picture.

If the command was interrupted, run it again: it resumes.
"""
WRITES = """
  WORKDIR/samples.png, reconstructions.png and results.json, the model directories
  WORKDIR/first_stage and WORKDIR/diffusion, each with a report.html, and
  WORKDIR/latents; with --images also WORKDIR/report.html and WORKDIR/config.py.
"""
EXAMPLES = """
  ldm-jax quickstart
  ldm-jax quickstart --images ./photos
  ldm-jax quickstart --images ./photos --size 32 --workdir runs/small
  ldm-jax quickstart --workdir runs/longer --config.diffusion.train.num_steps=2000
  ldm-jax quickstart --images ./photos --workdir runs/trial \
      --config.first_stage.train.num_steps=200 --config.diffusion.train.num_steps=200
                      (a trial of all steps in some minutes; its samples are a blur)
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "quickstart",
        _run,
        "Train, sample and evaluate a small model of digits, or of your own pictures.",
        details=DETAILS + train.CONFIG_HELP,
        writes=WRITES,
        examples=EXAMPLES,
    )
    command.add_argument("--images", help="folder of your pictures; default: digits")
    command.add_argument(
        "--size",
        type=values.count,
        help="side of the training images, with --images; default: chosen to suit them",
    )
    command.add_argument(
        "--config", help="experiment, without --images; default: quickstart"
    )
    command.add_argument(
        "--workdir",
        help="directory of the results; default: runs/quickstart, or runs/ and the "
        "name of the folder of --images",
    )


def _run(args, overrides) -> None:
    import pathlib

    from ldm_jax.experiment.config import config_files

    if args.images:
        from ldm_jax.commands.photos.run import model_pictures

        if args.config:
            raise ValueError(
                f"--images chooses its own config: got --config={args.config}; "
                "edit config.py in --workdir, or leave --images out."
            )
        workdir = args.workdir or f"runs/{pathlib.Path(args.images).resolve().name}"
        model_pictures(args.images, workdir, args.size, tuple(overrides))
        return
    from ldm_jax.commands import quickstart

    if args.size:
        raise ValueError("--size is for pictures of your own: give --images too.")
    config = config_files.load_config(args.config or "quickstart", overrides)
    quickstart.run_quickstart(config, args.workdir or "runs/quickstart")
