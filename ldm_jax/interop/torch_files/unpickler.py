# SPDX-License-Identifier: Apache-2.0
"""Reads untrusted pickles: plain containers and values, without any of their calls.

Unpickling calls functions by name. A subclass returns substitutes for the few names
that it knows; all others are refused. Python's own implementation is used instead of
the one in C, because its handling of dict keys can be replaced: hashing a tuple that
holds one tuple twice, 40 levels deep, takes hours.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, ClassVar

from ldm_jax.files.errors import UnreadableFile, reading, shown
from ldm_jax.files.paths import PathLike, printable

FORBIDDEN = ("BYTEARRAY8", "NEXT_BUFFER", "EXT1", "EXT2", "EXT4")
# Rebuilding a tensor takes 30; each takes microseconds.
MAX_INSTRUCTIONS = 2_000_000
PLAIN = (str, int, float, bool, bytes, type(None))


class Inert:
    """An object that is not read: accepts any call and any state, does nothing.

    Two of them are never equal.
    """

    __slots__ = ()

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def _ignore(self, *args):
        pass

    __setstate__ = append = extend = add = __setitem__ = _ignore


class Dict(dict):
    """Substitute for an OrderedDict, without attributes."""

    __slots__ = ()

    def __init__(self, items: Any = ()):
        super().__init__()
        for key, value in items.items() if isinstance(items, dict) else items:
            check_keys([key])
            self[key] = value

    def __setstate__(self, state: Any) -> None:
        """Ignores attributes, such as `_metadata` of a state dict."""


class Function:
    """Substitute for a function, without attributes."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("the pickle changes a function")

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError("the pickle changes a function")


def check_keys(keys: Iterable[Any]) -> None:
    """Raises ValueError for keys that are not plain values, or flat tuples of them."""
    for key in keys:
        entries = key if type(key) is tuple else (key,)
        # Types, functions and stand-ins are hashed by their identity.
        by_identity = (Inert, Function, type)
        if not all(type(e) in PLAIN or isinstance(e, by_identity) for e in entries):
            raise ValueError(f"the pickle has a dict with the key {shown(key)}")


class SafeUnpickler(pickle._Unpickler):
    """Unpickler that resolves no names; subclasses resolve some in `find_class`."""

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def __init__(self, pickled: bytes, encoding: str = "utf-8"):
        super().__init__(io.BytesIO(pickled), encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        """Refuses a name."""
        raise UnreadableFile(
            f"the file asks for {printable(module)}.{printable(name)}, which files of "
            "its kind have no use for; nothing was run."
        )

    def load_setitem(self: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        check_keys([key])
        self.stack[-1][key] = value

    def load_setitems(self: Any) -> None:
        items = self.pop_mark()
        check_keys(items[::2])
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key] = value

    def load_dict(self: Any) -> None:
        items = self.pop_mark()
        check_keys(items[::2])
        self.append(dict(zip(items[::2], items[1::2], strict=True)))

    def load_additems(self: Any) -> None:
        items = self.pop_mark()
        check_keys(items)
        for item in items:
            self.stack[-1].add(item)

    def load_frozenset(self: Any) -> None:
        items = self.pop_mark()
        check_keys(items)
        self.append(frozenset(items))

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset


def instructions(
    path: PathLike, pickled: bytes | IO[bytes]
) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """Yields (instruction, its argument) of a pickle, for use within `reading`.

    Raises:
      UnreadableFile: there are more than MAX_INSTRUCTIONS.
    """
    for count, (op, argument, _) in enumerate(pickletools.genops(pickled)):
        if count == MAX_INSTRUCTIONS:
            raise UnreadableFile(
                f"{printable(path)} must be a pickle of at most {MAX_INSTRUCTIONS:,} "
                "instructions: it has more; it is of another kind, or made to take "
                "time. Save the parameters of one model alone."
            )
        yield op, argument


def run_pickle(path, pickled: bytes, make: Callable[[], SafeUnpickler]) -> Any:
    """Runs a pickle of the file `path`.

    Raises:
      UnreadableFile: it is damaged, or asks for what its unpickler refuses.
    """
    with reading(path, rule="has a damaged pickle", data=b"-"):
        for op, argument in instructions(path, pickled):
            # A huge memo index makes an unpickler take memory for all below it.
            if op.name.endswith("PUT") and int(argument or 0) > len(pickled):
                raise UnreadableFile(f"{path}: the pickle is made to exhaust memory.")
            if op.name in FORBIDDEN:
                raise UnreadableFile(f"{path}: the pickle uses {op.name}.")
        return make().load()
