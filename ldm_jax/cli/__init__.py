# SPDX-License-Identifier: Apache-2.0
"""The command line: `ldm-jax COMMAND ...`, one file per command.

Commands parse and print; the work is done below. Each file has `add(commands)`; what
needs JAX is imported when a command runs, so that `--help` answers at once. Anything
wrong with the user's input arrives here as ValueError, TypeError, OSError or Unusable,
and leaves as one message and exit code 2; LDM_JAX_TRACEBACK=1 shows where it arose.
"""

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import ldm_jax
from ldm_jax.cli import (
    bench,
    evaluate,
    export,
    import_,
    latents,
    plan,
    quickstart,
    reconstruct,
    sample,
    stats,
    train,
    weights,
)

COMMANDS = (
    *(quickstart, train, latents, reconstruct, sample, stats, evaluate),
    *(weights, import_, export, plan, bench),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code.

    0 done, or asked to stop (SIGTERM) and saved; 2 bad input; 3 the training diverged;
    75 it hung (start it again); 130 interrupted by Ctrl-C.
    """
    parser = make_parser()
    arguments = list(sys.argv[1:] if argv is None else argv)
    _check_command(parser, arguments)
    args, overrides = parser.parse_known_args(arguments)
    unknown = [flag for flag in overrides if not flag.startswith("--config.")]
    if unknown or (overrides and "config" not in args):
        _refuse_flags(parser, args.command, unknown or overrides)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ldm_jax").setLevel(logging.INFO)
    from ldm_jax.files.lock import Unusable
    from ldm_jax.parallel.hosts import initialize_hosts
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


def _check_command(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Answers a misspelt command with the nearest one."""
    name = next(iter(arguments), "")
    known = _commands_of(parser)
    if name and not name.startswith("-") and name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f'; did you mean "{near[0]}"?' if near else "."
        parser.error(f'no command "{name}"{hint} The commands: {", ".join(known)}.')


def _refuse_flags(parser, command: str, flags: Sequence[str]) -> None:
    """Answers unknown flags with the nearest that the command has."""
    known = [
        flag
        for action in _commands_of(parser)[command]._actions
        for flag in action.option_strings
    ]
    near = difflib.get_close_matches(flags[0].partition("=")[0], known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    parser.error(
        f"unrecognized arguments: {' '.join(flags)}{hint} "
        f"(see ldm-jax {command} --help)"
    )


def _commands_of(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Returns the parser of every command, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("the parser has no commands")


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of every command."""
    parser = argparse.ArgumentParser(
        prog="ldm-jax",
        description="Latent diffusion models in JAX: train a first stage, encode a "
        "data set into latents, train a denoiser on them, sample.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=18),
        epilog="Set LDM_JAX_TRACEBACK=1 to see where in the code an error was raised.",
    )
    parser.add_argument(
        "--version", action="version", version=f"ldm_jax {ldm_jax.__version__}"
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )
    for command in COMMANDS:
        command.add(commands)
    return parser
