# SPDX-License-Identifier: Apache-2.0
"""Runs config files: those of `ldm_jax.configs` by name, others by their path.

A config file is Python code with a function `get_config`. It is called with the text
after the colon of --config=FILE:ARGUMENT, and returns a ConfigDict. An error in it is
reported in one line with its file and line.
"""

import contextlib
import importlib.machinery
import inspect
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from ldm_jax import configs
from ldm_jax.experiment.config.overrides import apply_overrides
from ldm_jax.files.errors import nearest_name
from ldm_jax.files.paths import expand_in, local, printable


def is_config(config: str) -> bool:
    """Returns whether a text is FILE.py or NAME, not the path of another file."""
    head, _ = _split(config)
    return head.endswith(".py") or (
        head.isidentifier() and not pathlib.Path(head).exists()
    )


def read(config: str) -> ConfigDict:
    """Runs the get_config of a config file; see `run_file`.

    Returns:
      What it returned, locked: only fields that exist can be set.
    """
    made = run_file(config, "get_config", (ConfigDict, FrozenConfigDict))
    return (made.as_configdict() if isinstance(made, FrozenConfigDict) else made).lock()


def run_file(config: str, function: str, kinds: type | tuple[type, ...]) -> Any:
    """Runs a function of a config file.

    Args:
      config: NAME or FILE.py, with :ARGUMENT where the function takes one.
      function: its name.
      kinds: of what it must return.

    Returns:
      What the function returned.

    Raises:
      ValueError: there is no such file or name, or the file has no such function,
        raises an error (given with its line), or returns something else.
    """
    head, argument = _split(config)
    path = _find(head)
    with _errors_in_one_line(config, path), _neighbours_importable(path):
        get = getattr(_run(path), function, None)
        if not callable(get):
            raise configs.ArgumentError(
                f"a config file must have a function {function}: got "
                f"{type(get).__name__ if get else 'none'}."
            )
        made = _call(get, argument)
        if not isinstance(made, kinds):
            kind = kinds if isinstance(kinds, type) else kinds[0]
            raise configs.ArgumentError(
                f"{function} must return a {kind.__name__}: got a "
                f"{type(made).__name__}."
            )
    return made


def load_config(config: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Runs the config NAME or FILE.py, then applies `overrides` to its result.

    `~` is expanded in every path, because other users may read the paths that are
    stored with a model.

    Args:
      config: see `read`.
      overrides: see `overrides.apply_overrides`.

    Raises:
      ValueError: there is no such config, it fails, or has no such field.
    """
    loaded = apply_overrides(read(config), overrides)
    _expand_paths(loaded)
    return loaded


def _expand_paths(config: ConfigDict) -> None:
    """Expands `~` in every text of a config."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            _expand_paths(value)
        elif isinstance(value, str) and "~" in value:
            config[name] = expand_in(value)


def _split(config: str) -> tuple[str, str | None]:
    """Splits FILE.py:ARGUMENT, or NAME:ARGUMENT; None where there is no colon."""
    match = re.fullmatch(r"(.*?\.py)(?::(.*))?", config, re.DOTALL)
    if match:
        return match[1], match[2]
    head, colon, argument = config.partition(":")
    return head, argument if colon else None


def _find(head: str) -> pathlib.Path:
    """Returns the path of a config file, or of a config of the package by name."""
    known = configs.names()
    if head in known:
        return pathlib.Path(configs.__path__[0]) / f"{head}.py"
    hint = nearest_name(pathlib.Path(head).stem, known)
    if not head.endswith(".py"):
        raise ValueError(
            f'no config has the name "{printable(head)}"{hint} There are: '
            f"{', '.join(known)}; a file of your own is given by its path, FILE.py."
        )
    path = local(head, "a config file")
    if not path.is_file():
        raise ValueError(
            f"there is no config file {printable(path)} (from {pathlib.Path.cwd()})"
            f"{hint} A config of the package is given by its name: {', '.join(known)}."
        )
    return path


@contextlib.contextmanager
def _neighbours_importable(path: pathlib.Path) -> Iterator[None]:
    """Lets a config file import files of its folder; installed modules come first."""
    folder = str(path.parent)
    if folder in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _run(path: pathlib.Path) -> types.ModuleType:
    """Runs a file as a module that import statements do not find."""
    module = types.ModuleType(f"{path.stem} (config file)")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look up their types
    # Always from source: bytecode is not renewed for two changes within a second.
    loader = importlib.machinery.SourceFileLoader(module.__name__, str(path))
    code = loader.source_to_code(loader.get_data(str(path)), str(path))
    exec(code, module.__dict__)
    return module


def _call(get: Callable, argument: str | None):
    """Calls a function with the argument, or without one if there is none."""
    signature = inspect.signature(get)
    arguments = [] if argument is None else [argument]
    if argument == "" and not signature.parameters:
        arguments = []
    try:
        signature.bind(*arguments)
    except TypeError:
        raise configs.ArgumentError(
            f"{get.__name__}{signature} does not take what follows the colon: got "
            f"{argument!r}."
            if arguments
            else f"{get.__name__}{signature} needs an argument: "
            "--config=CONFIG:ARGUMENT."
        ) from None
    return get(*arguments)


@contextlib.contextmanager
def _errors_in_one_line(config: str, path: pathlib.Path) -> Iterator[None]:
    """Turns every error of a config file into a ValueError with its file and line."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except configs.ArgumentError as error:
        raise ValueError(f"--config={printable(config)}: {error}") from error
    except BaseException as error:  # SystemExit and whatever else a file may raise
        raise ValueError(f"{_place(error, path)}: {_message(error)}") from error


def _place(error: BaseException, path: pathlib.Path) -> str:
    """Returns FILE:LINE, the last line of the config file that was running."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{printable(error.filename)}:{error.lineno}"
    lines = [
        line
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == str(path)
    ]
    return ":".join([printable(path), *map(str, lines[-1:])])


def _message(error: BaseException) -> str:
    """Returns the type of an error and its message, in one line."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    text = " ".join(message.split())
    if type(error) is ValueError and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
