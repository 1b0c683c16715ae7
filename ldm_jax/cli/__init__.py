# SPDX-License-Identifier: Apache-2.0
"""The command line: `ldm-jax COMMAND ...`, one file per command.

Commands parse and print; the work is done in `ldm_jax.commands`, in files of the same
names. Each file here has `add(commands)`. What needs JAX is imported when a command
runs, so that `--help` is fast. Errors in the user's input arrive here as ValueError,
TypeError, OSError or Unusable and are printed as one message, with exit code 2, as is
memory that is not enough; LDM_JAX_TRACEBACK=1 shows where they were raised.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence

import ldm_jax
from ldm_jax.cli import (
    bench,
    completion,
    configs,
    database,
    demo,
    evaluate,
    export,
    import_,
    info,
    latents,
    plan,
    quickstart,
    reconstruct,
    sample,
    stats,
    study,
    train,
    weights,
)
from ldm_jax.cli.inputs import copy_inputs
from ldm_jax.cli.parser import CommandParser
from ldm_jax.cli.terminal import (
    OutputLost,
    checked_streams,
    escape,
    set_up_output,
    shows_tracebacks,
)

COMMANDS = (
    *(quickstart, train, latents, reconstruct, sample, stats, evaluate),
    *(study, demo, info, configs, database, weights, import_, export, plan, bench),
    completion,
)
INTERRUPTED = "interrupted; the same command resumes from what was written."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      argv: the arguments; None takes those of the process.

    Returns:
      The exit code: 0 done, or stopped by SIGTERM and saved; 2 wrong input; 3 the
      training diverged; 75 it hung (start it again); 130 stopped by Ctrl-C; 141 what
      reads its output ended, as `head` does.
    """
    try:
        with checked_streams():
            return _main(argv)
    except OutputLost as error:
        if isinstance(error.__cause__, BrokenPipeError):
            return 141
        with contextlib.suppress(OSError):
            print(f"ldm-jax: {error}", file=sys.stderr)
        return 2


def _main(argv: Sequence[str] | None) -> int:
    """Runs a command; arguments and exit code of `main`."""
    set_up_output()
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = next(iter(arguments), "")
    try:
        args, overrides = parse(arguments)
        if args.uses_devices:
            from ldm_jax.parallel.compile_cache import keep_programs
            from ldm_jax.parallel.hosts import initialize_hosts

            initialize_hosts()  # before JAX is used
            keep_programs()
        copy_inputs(args)
        args.run(args, overrides)
    except KeyboardInterrupt:
        print(f"\nldm-jax {name}: {INTERRUPTED}", file=sys.stderr)
        return 130
    except OutputLost:
        raise
    except Exception as error:
        code = _exit_code(error)
        if code is None or shows_tracebacks():
            raise
        print(f"ldm-jax {name}: {escape(_message(error, arguments))}", file=sys.stderr)
        return code
    return 0


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses a command line; argparse ends the program where that fails.

    Returns:
      The flags, with `~` expanded, and the overrides "--config.SECTION.FIELD=VALUE"
      of a config.
    """
    from ldm_jax.files.paths import expand_in

    args, rest = make_parser().parse_known_args(arguments)
    for name, value in vars(args).items():
        if isinstance(value, str):
            setattr(args, name, expand_in(value))
        elif isinstance(value, list):
            setattr(args, name, [expand_in(word) for word in value])
    overrides = [flag for flag in rest if flag.startswith("--config.")]
    unknown = [word for word in rest if word not in overrides]
    if unknown or (overrides and "config" not in args):
        args.parser.refuse(unknown or overrides)
    return args, overrides


def make_parser() -> CommandParser:
    """Makes the parser of every command."""
    parser = CommandParser(
        prog="ldm-jax",
        description="Latent diffusion models in JAX: train a first stage, encode a "
        "data set into latents, train a denoiser on them, sample and evaluate.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=18),
        epilog="ldm-jax COMMAND --help shows the flags of a command, with examples. "
        "LDM_JAX_TRACEBACK=1 shows where an error was raised.",
    )
    parser.add_argument(
        "--version", action="version", version=f"ldm_jax {ldm_jax.__version__}"
    )
    parser.set_defaults(uses_devices=True)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )
    for command in COMMANDS:
        command.add(commands)
    return parser


def _exit_code(error: Exception) -> int | None:
    """Returns the exit code of an error; None if the error is not the user's fault."""
    from ldm_jax.files.errors import is_out_of_memory

    if isinstance(error, ValueError | TypeError | OSError) or is_out_of_memory(error):
        return 2
    from ldm_jax.files.lock import Unusable
    from ldm_jax.files.stores.store_errors import is_of_a_store
    from ldm_jax.training.monitoring.divergence import Diverged

    if isinstance(error, Unusable) or is_of_a_store(error):
        return 2
    return 3 if isinstance(error, Diverged) else None


def _too_large(error: Exception, arguments: Sequence[str]) -> str:
    """Describes an error of memory, and what takes less of it in this command."""
    first = str(error).split("\n")[0] or "no more memory"
    args, _ = parse(arguments)
    if hasattr(args, "batch_size"):
        advice = "take fewer images at once with --batch-size"
    else:
        advice = (
            "set a smaller config.batch_size, or train.accumulate (parts of a batch "
            "one after the other), or unet.remat=full; ldm-jax plan computes what a "
            "run needs"
        )
    return f"memory is not enough: {first}; {advice}."


def _message(error: Exception, arguments: Sequence[str]) -> str:
    """Returns the line to print, with the URLs of the command instead of copies."""
    from ldm_jax.files.errors import is_out_of_memory

    if is_out_of_memory(error):
        return _too_large(error, arguments)
    from ldm_jax.files.stores.copies import with_urls
    from ldm_jax.files.stores.store_errors import explained, is_of_a_store

    if not is_of_a_store(error):
        return with_urls(str(error))
    urls = [word.rpartition("=")[2] for word in arguments if "://" in word]
    return str(explained(" or ".join(urls), error, "reached"))
