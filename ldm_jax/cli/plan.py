# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax plan`."""

from ldm_jax.cli import values
from ldm_jax.cli.train import CONFIG_HELP

DETAILS = """
The command compiles the training step or the sampler with the TPU compiler, libtpu
(extra: tpu), which runs on any Linux machine. This takes minutes, for large models
almost an hour. --no-compile computes only what needs no compiler, for TPUs and GPUs.
Nothing is trained and nothing is written.
"""
EXAMPLES = """
  ldm-jax plan --config=celebahq --topology v5e:4x4
  ldm-jax plan --config=text --topology v5p:4x4x4 --slices 2 \\
      --config.mesh.fsdp=8 --config.batch_size=2048
  ldm-jax plan --config=imagenet:f=8 --topology v6e:2x4 --what sample
  ldm-jax plan --config=imagenet:f=8 --topology h100:8 --no-compile
"""
NOTHING_FITS = "nothing fits; use remat, mesh.tensor, or more or larger chips"


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "plan",
        _run,
        "Compute memory, FLOPs and communication of a config on TPUs; needs no TPU.",
        details=DETAILS + CONFIG_HELP,
        examples=EXAMPLES,
        uses_devices=False,
    )
    command.add_argument("--config", required=True, help="the experiment, see above")
    command.add_argument(
        "--topology",
        required=True,
        help="GENERATION:SHAPE of a slice, e.g. v5e:4x4; with --no-compile also "
        "KIND:NUMBER of GPUs, e.g. h100:8",
    )
    command.add_argument(
        "--slices", type=values.count, default=1, help="number of slices; default: 1"
    )
    command.add_argument(
        "--what",
        choices=("train", "sample"),
        default="train",
        help="the program to plan; default: train",
    )
    command.add_argument(
        "--quick",
        action="store_true",
        help="compile with less optimization: faster, but overestimates the memory",
    )
    command.add_argument(
        "--sweep",
        action="store_true",
        help="compile several meshes (mesh.fsdp 1, 4, 16, ... and all of a slice) with "
        "batches doubled until they do not fit, and print the mesh and batch with the "
        "highest upper bound of the speed; this takes long, so use --quick",
    )
    command.add_argument(
        "--no-compile",
        action="store_true",
        help="print only what can be computed from shapes (state, FLOPs, minimum "
        "traffic); takes a minute",
    )


def _run(args, overrides) -> None:
    from ldm_jax.experiment.config import config_files
    from ldm_jax.planning import plan
    from ldm_jax.planning.plan_rows import plan_rows

    config = config_files.load_config(args.config, overrides)
    if args.sweep:
        _sweep(config, args)
        return
    result = plan.plan(
        config,
        args.topology,
        args.slices,
        args.what,
        quick=args.quick,
        compiles=not args.no_compile,
    )
    slices = f" x {args.slices}" if args.slices > 1 else ""
    values.echo(f"{args.config} on {args.topology}{slices}, batch {result.batch_size}")
    for name, value in plan_rows(result):
        values.echo(f"{name:22s}{value}")


def _sweep(config, args) -> None:
    from ldm_jax.planning import sweep

    if args.no_compile or args.what != "train":
        raise ValueError(
            "--sweep compiles training steps: got --no-compile or --what=sample; "
            "leave them out."
        )
    trials = []
    for trial in sweep.sweep(config, args.topology, args.slices, args.quick):
        values.echo(trial.describe())
        trials.append(trial)
    chosen = sweep.best(trials)
    values.echo(f"best: {NOTHING_FITS if chosen is None else chosen.describe()}")
