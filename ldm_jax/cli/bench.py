# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax bench`."""

import argparse

from ldm_jax.cli import values

BENCHMARKS = {
    "sampler": "guided DDIM sampling, beside a diffusers pipeline",
    "train": "the training step of a config, beside the same network in PyTorch",
    "data": "writing and reading latents",
    "metrics": "features of InceptionV3, and the metrics computed from them",
}
EXAMPLES = """  ldm-jax bench train --help
  ldm-jax bench sampler --repeats 3
"""


def add(commands) -> None:
    """Adds the command."""
    lines = [f"  {name:<9}{text}" for name, text in BENCHMARKS.items()]
    command = values.add_command(
        commands,
        "bench",
        _run,
        "Measure the speed of a part, beside its peer where that is installed.",
        details="\n".join(
            ["\nThe peers need the extra `torch`.\n", "benchmarks:", *lines]
        ),
        examples=EXAMPLES,
    )
    command.add_argument(
        "name", choices=BENCHMARKS, metavar="NAME", help="one of the benchmarks above"
    )
    command.add_argument(
        "rest",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="its options: ldm-jax bench NAME --help",
    )


def _run(args, overrides) -> None:
    import importlib

    importlib.import_module(f"ldm_jax.commands.bench.{args.name}").main(args.rest)
