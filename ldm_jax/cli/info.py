# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax info`."""

from ldm_jax.cli import values

DETAILS = """
PATH is a model directory (trained or imported), a set of latents, reference statistics
(.npz), a directory of samples, or a folder of these, such as runs/quickstart. The
command prints what it is and how it was made, its shapes, number of parameters, scale
and fingerprint, and the commands that use it. Nothing is written.
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
        "Describe a model, a set of latents, statistics, samples or a folder of these.",
        details=DETAILS,
        examples=EXAMPLES,
    )
    command.add_argument("path", help="a directory, or an .npz file")


def _run(args, overrides) -> None:
    from ldm_jax.commands.info import describe

    values.echo(describe(args.path))
