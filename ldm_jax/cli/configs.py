# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax configs`."""

import textwrap

from ldm_jax.cli import values

DETAILS = """
An experiment is trained by its name: `ldm-jax train --config=NAME:ARGUMENT=VALUE,...`
The list shows the arguments with their defaults. Nothing is written.
"""
EXAMPLES = """
  ldm-jax configs
  ldm-jax configs imagenet_f           (its commands and expected results)
  ldm-jax train --config=imagenet_f:f=16 --dry-run
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "configs",
        _run,
        "List the experiments of this package, or describe one.",
        details=DETAILS,
        examples=EXAMPLES,
        uses_devices=False,
    )
    command.add_argument(
        "name", nargs="?", help="experiment to describe; default: list all"
    )


def _run(args, overrides) -> None:
    from ldm_jax.commands.configs import describe_config, list_configs

    if args.name:
        config = describe_config(args.name)
        values.echo(f"{config.note}\n\n--config={config.usage}")
        return
    for config in list_configs():
        values.echo(config.usage)
        values.echo(textwrap.indent(textwrap.fill(config.summary, 76), "    "))
