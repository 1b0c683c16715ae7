# SPDX-License-Identifier: Apache-2.0
"""The argument parser, which suggests the nearest known word for a misspelt one."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

_NUMBER = re.compile(r"-\.?\d")
# With more arguments than this, the first line of a help page lists the required ones.
MANY_ARGUMENTS = 12
# Characters of a value, or of an unknown flag, that an error repeats.
MAX_REPEATED = 80


class CommandParser(argparse.ArgumentParser):
    """Parses the flags of one command.

    Unlike its base class it refuses an unknown flag before it asks for missing ones,
    and suggests the nearest flag, command or choice.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.set_defaults(parser=self)  # of the innermost command, after parsing
        self._later: list[Callable[[], None]] = []

    def add_later(self, add: Callable[[], None]) -> None:
        """Calls `add`, which adds flags, when this command is parsed.

        For flags that need JAX: other commands and their help pages do not wait for it.
        """
        self._later.append(add)

    def parse_known_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses as `argparse.ArgumentParser` does, with all flags added."""
        self._add_postponed()
        for word in args or ():
            if word == "--" or (self._subparsers and not word.startswith("-")):
                break  # what follows is not a flag, or is of another command
            if _is_flag(word) and not self._knows(word.partition("=")[0]):
                self.refuse([word])
        return super().parse_known_args(args, namespace or argparse.Namespace())

    def all_commands(self) -> Iterator["CommandParser"]:
        """Yields the parsers of its commands and sub-commands, with all flags added."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for command in dict.fromkeys(action.choices.values()):
                    command._add_postponed()
                    yield command
                    yield from command.all_commands()

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Ends the program with an error that lists arguments which are unknown."""
        hint = nearest(words[0].partition("=")[0], self._option_string_actions)
        self.error(
            f"unrecognized arguments: {' '.join(map(brief, words))}{hint} "
            f"(see {self.prog} --help)"
        )

    def _add_postponed(self) -> None:
        """Adds the flags that `add_later` postponed."""
        while self._later:
            self._later.pop(0)()
        if self.usage is None and len(self._actions) > MANY_ARGUMENTS:
            required = [_in_usage(a) for a in self._actions if a.required]
            self.usage = " ".join(["%(prog)s", *required, "[FLAG ...]"])

    def _knows(self, flag: str) -> bool:
        """Returns whether a flag, or a flag that it abbreviates, exists."""
        names = self._option_string_actions
        return any(name.startswith(flag) for name in names)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Checks that a value is one of an argument's choices; called by argparse."""
        if action.choices is None or value in action.choices:
            return
        names = [str(choice) for choice in action.choices]
        hint, given = nearest(str(value), names, quote=True), brief(str(value))
        if action.option_strings:
            rule = f"must be one of {', '.join(names)}: got {given}{hint or '.'}"
            raise argparse.ArgumentError(action, rule)
        kind = f"{action.dest}s: {', '.join(names)}."
        self.error(f'no {action.dest} "{given}"{hint or "."} The {kind}')

    def _print_message(self, message: str, file: Any = None) -> None:
        """Prints a help page; argparse would pass over an error in standard output."""
        stream = file or sys.stderr
        if message and stream is not None:
            stream.write(message)
            stream.flush()

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2 and an error, in one line."""
        from ldm_jax.files.errors import MAX_MESSAGE, cut
        from ldm_jax.files.paths import printable

        super().error(cut(printable(message), MAX_MESSAGE))


def brief(text: str) -> str:
    """Shortens what a user typed, for an error."""
    from ldm_jax.files.errors import cut

    return cut(text, MAX_REPEATED)


def nearest(word: str, known: Iterable[str], quote: bool = False) -> str:
    """Returns '; did you mean ...?' with the known word nearest to one, or ''."""
    # Comparing takes the product of the lengths.
    matches = difflib.get_close_matches(word[:MAX_REPEATED], list(known), 1)
    if not matches:
        return ""
    return (
        f'; did you mean "{matches[0]}"?' if quote else f"; did you mean {matches[0]}?"
    )


def _in_usage(action: argparse.Action) -> str:
    """Returns a required argument as it is typed: `--out OUT`, or a position's name."""
    name = str(action.metavar or action.dest)
    if action.option_strings:
        return f"{action.option_strings[0]} {name.upper()}"
    return name


def _is_flag(word: str) -> bool:
    """Returns whether a word is a flag that does not replace a config value."""
    return (
        len(word) > 1
        and word[0] == "-"
        and not word.startswith("--config.")
        and not _NUMBER.match(word)
        and " " not in word
    )
