# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax plan`."""

import argparse

from ldm_jax.cli import values
from ldm_jax.cli.train import CONFIG_HELP

EPILOG = """
Nothing is trained and no TPU is needed: libtpu, the compiler (extra: tpu), runs on any
Linux machine. Compiling takes minutes to most of an hour.

examples:
  ldm-jax plan --config=celebahq --topology v5e:4x4
  ldm-jax plan --config=text --topology v5p:4x4x4 --slices 2 \\
      --config.mesh.fsdp=8 --config.batch_size=2048
  ldm-jax plan --config=imagenet:f=8 --topology v6e:2x4 --what sample
"""

NOTHING_FITS = "nothing fits; take remat, mesh.tensor, or more or larger chips"


def add(commands) -> None:
    """Adds the command that plans a run."""
    summary = "Compile a config for a TPU slice, and print what it needs and takes."
    command = commands.add_parser(
        "plan",
        help=summary,
        description=summary,
        epilog=EPILOG + CONFIG_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=_run)
    command.add_argument("--config", required=True, help="the experiment, see below")
    command.add_argument(
        "--topology", required=True, help="GENERATION:SHAPE of a slice, e.g. v5e:4x4"
    )
    command.add_argument("--slices", type=values.count, default=1, help="default: 1")
    command.add_argument(
        "--what", choices=("train", "sample"), default="train", help="default: train"
    )
    command.add_argument(
        "--quick",
        action="store_true",
        help="compile with the least effort: sooner, and memory comes out higher",
    )
    command.add_argument(
        "--sweep",
        action="store_true",
        help="compile several meshes (mesh.fsdp 1, 4, 16, ... and all of a slice) with "
        "batches doubled until they do not fit, and name the fastest at the roof; take "
        "--quick, and time",
    )
    command.add_argument(
        "--no-compile",
        action="store_true",
        help="what the shapes tell alone, in a minute",
    )


def _run(args, overrides) -> None:
    from ldm_jax.experiment import schema
    from ldm_jax.planning import plan

    config = schema.load_config(args.config, overrides)
    if args.sweep:
        _sweep(config, args)
        return
    found = plan.plan(
        config,
        args.topology,
        args.slices,
        args.what,
        quick=args.quick,
        compiles=not args.no_compile,
    )
    slices = f" x {args.slices}" if args.slices > 1 else ""
    print(f"{args.config} on {args.topology}{slices}, batch {config.batch_size}")
    for name, value in plan.describe(found):
        print(f"{name:22s}{value}")


def _sweep(config, args) -> None:
    from ldm_jax.planning import sweep

    if args.no_compile or args.what != "train":
        raise ValueError("--sweep compiles training steps: leave --no-compile, --what.")
    trials = []
    for trial in sweep.sweep(config, args.topology, args.slices, args.quick):
        print(trial.describe(), flush=True)
        trials.append(trial)
    chosen = sweep.best(trials)
    print("best:", NOTHING_FITS if chosen is None else chosen.describe())
