# SPDX-License-Identifier: Apache-2.0
"""The command line: `ldm-jax COMMAND ...`, one file per group of commands.

Commands parse and print; the work is done below. Each file has `add(commands)`; what
needs JAX is imported when a command runs, so that `--help` answers at once. Anything
wrong with the user's input arrives here as ValueError, TypeError, OSError or Unusable,
and leaves as one message and exit code 2; LDM_JAX_TRACEBACK=1 shows where it arose.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from ldm_jax.cli import (
    bench,
    evaluate,
    first_stage,
    frozen,
    plan,
    sample,
    train,
    weights,
)

GROUPS = (train, first_stage, sample, evaluate, frozen, weights, plan, bench)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code.

    0 done, or asked to stop (SIGTERM) and saved; 2 bad input; 3 the training diverged;
    75 it hung (start it again); 130 interrupted by Ctrl-C.
    """
    parser = make_parser()
    args, overrides = parser.parse_known_args(argv)
    unknown = [flag for flag in overrides if not flag.startswith("--config.")]
    if unknown or (overrides and "config" not in args):
        parser.error(
            f"unrecognized arguments: {' '.join(unknown or overrides)} "
            f"(see ldm-jax {args.command} --help)"
        )
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ldm_jax").setLevel(logging.INFO)
    from ldm_jax.parallel.hosts import initialize_hosts
    from ldm_jax.training.checkpoints.lock import Unusable
    from ldm_jax.training.monitoring.divergence import Diverged

    try:
        initialize_hosts()  # before JAX is used
        args.run(args, overrides)
    except (ValueError, TypeError, OSError, Unusable) as error:
        if os.environ.get("LDM_JAX_TRACEBACK"):
            raise
        print(f"ldm-jax {args.command}: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"ldm-jax {args.command}: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(
            f"\nldm-jax {args.command}: interrupted; the same command goes on from "
            "what is on disk.",
            file=sys.stderr,
        )
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of every command."""
    parser = argparse.ArgumentParser(
        prog="ldm-jax",
        description="Latent diffusion models in JAX: train a first stage, encode a "
        "data set into latents, train a denoiser on them, sample.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=18),
        epilog="Set LDM_JAX_TRACEBACK=1 to see where in the code an error was raised.",
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )
    for group in GROUPS:
        group.add(commands)
    return parser
