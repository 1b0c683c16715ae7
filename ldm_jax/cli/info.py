# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax info`."""

from ldm_jax.cli import values

DETAILS = """
PATH is a model directory (trained or imported), a set of latents, reference statistics
(.npz), a directory of samples, or a folder of any of these, such as that of a
quickstart. The command prints its kind, its origin, shapes, parameters, scale,
fingerprint and the commands that use it. Nothing is written.
"""
EXAMPLES = """
  ldm-jax info runs/quickstart
  ldm-jax info runs/quickstart/latents
  ldm-jax info churches.npz
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "info",
        _run,
        "Describe a model, a set of latents, statistics or a folder of them.",
        details=DETAILS,
        examples=EXAMPLES,
    )
    command.add_argument("path", help="a directory, or an .npz file")


def _run(args, overrides) -> None:
    from ldm_jax.commands.info import describe

    values.echo(describe(args.path))
