# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax train`."""

import textwrap

from ldm_jax import configs
from ldm_jax.cli import values

NAMES = textwrap.fill(f"NAME is one of {', '.join(configs.names())}.", 80)
CONFIG_HELP = f"""
--config=NAME[:ARGUMENT]        an experiment of this package
--config=FILE.py[:ARGUMENT]     a file of your own with a function get_config; it may
                                import from ldm_jax.configs
--config.SECTION.FIELD=VALUE    replaces one value (1e3 or 1_000, None, true, 1,2,4);
                                may be repeated

Config files are code that is executed: use only files that you trust.

{NAMES}
"""
WRITES = """
  WORKDIR becomes a model directory: config.json, checkpoints/, metrics.jsonl, images/
  and tensorboard/. The same command resumes a run that was stopped.
"""
EXAMPLES = """
  ldm-jax train --config=quickstart:stage=first_stage \\
      --workdir=runs/a
  ldm-jax train --config=photos:stage=first_stage \\
      --config.images.dataset=./photos --workdir=runs/photos
  ldm-jax train --config=imagenet:f=8 --workdir=runs/x --dry-run
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "train",
        _run,
        "Train a first stage, a denoiser or a classifier, or resume its run.",
        details=CONFIG_HELP,
        writes=WRITES,
        examples=EXAMPLES,
    )
    command.add_argument("--config", required=True, help="the experiment, see above")
    command.add_argument(
        "--workdir",
        help="directory of checkpoints, metrics and pictures; needed to train",
    )

    command.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved config and a summary; train and write nothing",
    )


def _run(args, overrides) -> None:
    from ldm_jax.commands.train import closing_summary, dry_run, train_config
    from ldm_jax.experiment.config import config_files
    from ldm_jax.parallel.hosts import is_main_process

    config = config_files.load_config(args.config, overrides)
    if args.dry_run:
        values.echo(dry_run(config))
        return
    if not args.workdir:
        raise ValueError(
            "ldm-jax train needs --workdir DIR, where the run is written; --dry-run "
            "needs none."
        )
    train_config(config, args.workdir)
    if is_main_process():
        values.echo(closing_summary(args.workdir))
