# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax quickstart` and `ldm-jax train`."""

import argparse

CONFIG_HELP = """
--config=FILE[:ARGUMENT]        a Python file with get_config(), see configs/
--config.SECTION.FIELD=VALUE    replaces one value of it; may be given often
"""


def add(commands) -> None:
    """Adds the commands that run an experiment."""
    command = _add(
        commands,
        "quickstart",
        _quickstart,
        "Train, sample and judge a small class-conditional model on real digits.",
        "Takes minutes on a CPU and downloads nothing. Run again after an "
        "interruption, it\ngoes on where it was.\n",
    )
    command.add_argument(
        "--config", default="configs/quickstart.py", help="default: %(default)s"
    )
    command.add_argument(
        "--workdir", default="runs/quickstart", help="default: %(default)s"
    )
    command = _add(
        commands,
        "train",
        _train,
        "Train a first stage or a latent diffusion model; resumes if begun before.",
        "example: a first stage on your own pictures (sub-folders are classes)\n"
        "  ldm-jax train --config=configs/quickstart.py:stage=first_stage \\\n"
        "      --config.images.dataset=./photos --config.images.split=all \\\n"
        "      --config.held_out= --config.transform.image_size=32 \\\n"
        "      --workdir=runs/photos\n",
    )
    command.add_argument("--config", required=True, help="the experiment, see below")
    command.add_argument(
        "--workdir", required=True, help="checkpoints, metrics and pictures go here"
    )


def _add(commands, name, run, summary, details) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=details + CONFIG_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _quickstart(args, overrides) -> None:
    from ldm_jax.commands import quickstart
    from ldm_jax.experiment import experiment

    quickstart.run(experiment.load_config(args.config, overrides), args.workdir)


def _train(args, overrides) -> None:
    from ldm_jax.commands.train import train
    from ldm_jax.experiment import experiment

    train(experiment.load_config(args.config, overrides), args.workdir)
