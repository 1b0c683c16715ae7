# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax train`."""

from ldm_jax.cli import values

CONFIG_HELP = """
--config=FILE[:ARGUMENT]        a Python file with get_config(), see configs/; it is
                                run, so use only files that you trust
--config.SECTION.FIELD=VALUE    replaces one value of it; may be given often
"""
EXAMPLES = """  ldm-jax train --config=configs/quickstart.py:stage=first_stage \\
      --workdir=runs/a
  ldm-jax train --config=configs/quickstart.py:stage=first_stage \\
      --config.images.dataset=./photos --config.images.split=all \\
      --config.held_out= --config.transform.image_size=32 --workdir=runs/photos
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "train",
        _run,
        "Train a first stage or a latent diffusion model, or resume its run.",
        details=CONFIG_HELP,
        examples=EXAMPLES,
    )
    command.add_argument("--config", required=True, help="the experiment, see above")
    command.add_argument(
        "--workdir",
        required=True,
        help="directory of checkpoints, metrics and pictures",
    )


def _run(args, overrides) -> None:
    from ldm_jax.commands.train import train
    from ldm_jax.experiment import schema

    train(schema.load_config(args.config, overrides), args.workdir)
