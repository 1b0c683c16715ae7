# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax bench`."""

import argparse

BENCHMARKS = ("sampler", "train", "data", "metrics")


def add(commands) -> None:
    """Adds the command that measures."""
    command = commands.add_parser(
        "bench",
        help="Measure the speed of a part, beside its peer where that is installed.",
        description="Measure the speed of a part, beside its peer where that is "
        "installed (extra: torch).",
        epilog="Each has options of its own: ldm-jax bench sampler --help",
        add_help=False,
    )
    command.add_argument("name", choices=BENCHMARKS, help="what to measure")
    command.add_argument("rest", nargs=argparse.REMAINDER, help="its options")
    command.set_defaults(run=_run)


def _run(args, overrides) -> None:
    import importlib

    importlib.import_module(f"ldm_jax.commands.bench.{args.name}").main(args.rest)
