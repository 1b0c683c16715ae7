# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax quickstart`."""

from ldm_jax.cli import train, values

WRITES = """
  WORKDIR/samples.png, reconstructions.png, loss.png and results.json, and the model
  directories WORKDIR/first_stage and WORKDIR/diffusion.
"""
EXAMPLES = """
  ldm-jax quickstart
  ldm-jax quickstart --workdir runs/longer --config.diffusion.train.num_steps=2000
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "quickstart",
        _run,
        "Train, sample and evaluate a small class-conditional model on real digits.",
        details="Takes minutes on a CPU and downloads nothing. Run it again after an "
        "interruption\nand it resumes.\n" + train.CONFIG_HELP,
        writes=WRITES,
        examples=EXAMPLES,
    )
    command.add_argument("--config", default="quickstart", help="default: %(default)s")
    command.add_argument(
        "--workdir", default="runs/quickstart", help="default: %(default)s"
    )


def _run(args, overrides) -> None:
    from ldm_jax.commands import quickstart
    from ldm_jax.experiment.config import schema

    quickstart.run_quickstart(schema.load_config(args.config, overrides), args.workdir)
