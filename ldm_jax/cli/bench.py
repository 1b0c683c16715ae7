# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax bench`."""

import argparse
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from ldm_jax.cli import values
from ldm_jax.cli.parser import CommandParser
from ldm_jax.cli.train import CONFIG_HELP

DETAILS = """
The implementations are run alternately, and the fastest run of each counts. Those of
other packages need the extra `torch`. The figures are printed, and with --json=FILE
also written to the end of a file.
"""
EXAMPLES = """
  ldm-jax bench train --config=quickstart:stage=diffusion
  ldm-jax bench sampler --repeats 3
  ldm-jax bench train --help
"""
DATA = """
Writes latents of random numbers to a temporary directory and reads them in random
order, in this process, without worker processes. The rates "per core" are of processor
time, which other programs do not disturb.
"""
ENCODE = """
Reads, decodes and resizes image files on all cores of the host; encodes batches that
the devices hold with the first stage of a config; then writes latents as `ldm-jax
latents` does, with weights of zeros.
"""
METRICS = """
Passes random images through InceptionV3 with random weights and compares two sets of
random features: ours and, if torch and torch-fidelity are installed, torch-fidelity's.
"""
SAMPLER = """
Samples with DDIM and classifier-free guidance from random weights: ours, compiled, and,
if torch and diffusers are installed, a diffusers UNet of the same shape with its
DDIMScheduler. With --config or --model it measures that model, with and without its
decoder.
"""
TRAIN = """
The step is that of `ldm-jax train` on a batch in the memory of the device: noise, loss,
gradient, AdamW, average. PyTorch does the same with the UNet of the config, eager and
compiled, but with a random condition instead of an encoded one.
"""


def add(commands: Any) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "bench",
        None,
        "Measure the speed of this package, and of others for comparison.",
        details=DETAILS,
        examples=EXAMPLES,
    )
    benchmarks = command.add_subparsers(
        dest="benchmark", required=True, metavar="BENCHMARK", title="benchmarks"
    )
    _add_train(benchmarks)
    _add_sampler(benchmarks)
    _add_data(benchmarks)
    _add_encode(benchmarks)
    _add_metrics(benchmarks)


def _add_train(benchmarks: Any) -> None:
    command = _add(
        benchmarks,
        "train",
        "Measure the training step of a config.",
        TRAIN + CONFIG_HELP,
        "--config.batch_size=8",
        run=_train,
    )
    command.add_argument(
        "--config",
        default="quickstart:stage=diffusion",
        help="the experiment; default: %(default)s",
    )
    command.add_argument(
        "--repeats",
        type=values.count,
        default=5,
        help="steps that are measured of each; default: 5",
    )
    _add_no_torch(command)


def _add_sampler(benchmarks: Any) -> None:
    command = _add(
        benchmarks,
        "sampler",
        "Measure guided DDIM sampling.",
        SAMPLER,
        "--config=ffhq --paper-row=ffhq",
        run=_with_config,
    )
    _add_counts(
        command,
        num_steps=(50, "steps of DDIM"),
        batch_size=(4, "latents at once"),
        latent_size=(32, "h = w"),
        channels=(64, "of the finest level"),
        context_dim=(64, "d"),
        repeats=(3, "runs of each"),
    )
    command.add_argument(
        "--model",
        help="directory of a diffusion model to measure instead, with its first stage, "
        "condition and guidance; the flags of the network are not read",
    )
    command.add_argument(
        "--config",
        help="config of a diffusion model to measure instead, NAME or FILE.py with "
        ":ARGUMENT, with weights of zeros and its own sampling",
    )
    command.add_argument(
        "--paper-row",
        help="row of the paper, for --config or --model: its steps and guidance are "
        "used, and its printed speed is shown; ffhq, imagenet-f8-g ...",
    )
    command.add_argument(
        "--channel-mult",
        type=values.count,
        nargs="+",
        default=(1, 2),
        help="factors of the channels, by level; default: 1 2",
    )
    _add_no_torch(command)


def _add_data(benchmarks: Any) -> None:
    command = _add(
        benchmarks, "data", "Measure writing and reading latents.", DATA, "--mirror"
    )
    _add_counts(
        command,
        records=(20_000, "latents"),
        latent_size=(32, "h = w"),
        latent_channels=(4, "c"),
        batch_size=(256, "latents at once"),
    )
    command.add_argument(
        "--mirror",
        action="store_true",
        help="also store the moments of mirrored images",
    )
    command.add_argument(
        "--needed",
        type=values.finite_number,
        default=1000.0,
        help="records per second that a training step reads on one host; default: 1000",
    )


def _add_metrics(benchmarks: Any) -> None:
    command = _add(
        benchmarks,
        "metrics",
        "Measure the features of InceptionV3 and the metrics computed from them.",
        METRICS,
        "--images 200 --batch-size 8",
    )
    _add_counts(
        command,
        images=(10_000, "images for the features"),
        size=(256, "height and width"),
        batch_size=(64, "images per batch"),
        features=(10_000, "features in each of the sets compared"),
    )
    _add_no_torch(command)


def _add_encode(benchmarks: Any) -> None:
    command = _add(
        benchmarks,
        "encode",
        "Measure how fast images become latents.",
        ENCODE + CONFIG_HELP,
        "--config=first_stage_kl:f=8 --images=./photos",
        run=_with_config,
    )
    command.add_argument(
        "--config",
        default="first_stage_kl:f=8",
        help="config of a first stage, NAME or FILE.py with :ARGUMENT; default: "
        "%(default)s",
    )
    command.add_argument(
        "--images",
        help="a folder of images, or another set; without it, JPEG files are made",
    )
    _add_counts(
        command,
        source_size=(512, "height and width of the files that are made"),
        records=(64, "files that are made"),
        batch_size=(8, "images per call of the encoder"),
    )


def _add(
    benchmarks: Any,
    name: str,
    summary: str,
    details: str,
    example: str,
    run: Callable | None = None,
) -> CommandParser:
    """Adds a benchmark, with one example."""
    command = values.add_command(
        benchmarks,
        name,
        run or _run,
        summary,
        details=details,
        examples=f"  ldm-jax bench {name} {example}\n",
    )
    command.add_argument(
        "--json",
        metavar="FILE",
        help="append the figures to FILE, one line per run, and print a warning if a "
        "ratio to another package is more than 10 %% worse than in the last run of the "
        "same command in FILE",
    )
    return command


def _add_counts(command: CommandParser, **flags: tuple[int, str]) -> None:
    """Adds flags of numbers from 1 on: default and meaning by name."""
    for name, (default, text) in flags.items():
        command.add_argument(
            f"--{name.replace('_', '-')}",
            type=values.count,
            default=default,
            help=f"{text}; default: {default}",
        )


def _add_no_torch(command: CommandParser) -> None:
    command.add_argument(
        "--no-torch",
        action="store_false",
        dest="has_torch",
        help="measure only this package",
    )


def _run(
    args: argparse.Namespace, overrides: list[str], changes: Mapping[str, Any] = {}
) -> None:
    import dataclasses

    module = importlib.import_module(f"ldm_jax.commands.bench.{args.benchmark}")
    names = [field.name for field in dataclasses.fields(module.Options)]
    flags = {name: getattr(args, name) for name in names}
    options = module.Options(**{**flags, **changes})
    _measure(args, overrides, lambda: module.run(options))


def _with_config(args: argparse.Namespace, overrides: list[str]) -> None:
    from ldm_jax.experiment.config.config_files import load_config

    if overrides and args.config is None:
        raise ValueError(
            f"{overrides[0]} replaces a value of a config: got no --config; give it, "
            "or leave this out."
        )
    config = load_config(args.config, overrides) if args.config else None
    _run(args, overrides, {"config": config})


def _train(args: argparse.Namespace, overrides: list[str]) -> None:
    from ldm_jax.commands.bench.train import run
    from ldm_jax.experiment.config.config_files import load_config

    config = load_config(args.config, overrides)
    _measure(args, overrides, lambda: run(config, args.repeats, args.has_torch))


def _measure(
    args: argparse.Namespace, overrides: list[str], run: Callable[[], dict[str, float]]
) -> None:
    """Runs a benchmark; adds its figures to the file of --json, if there is one."""
    if args.json is None:
        run()
        return
    from ldm_jax.commands.bench.history import History

    history = History(args.json)
    left_out = ("json", "command", "benchmark", "run", "parser", "uses_devices")
    flags = {name: x for name, x in vars(args).items() if name not in left_out}
    given = [f"{name}={x}" for name, x in sorted(flags.items()) if x is not None]
    for line in history.add([args.benchmark, *given, *overrides], run()):
        print(line)
