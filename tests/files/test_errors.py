# SPDX-License-Identifier: Apache-2.0
"""Every error of a parser becomes one type of error, with a bounded message."""

import collections
import csv
import errno
import struct
import zipfile
import zlib

import numpy as np
import pytest

from ldm_jax.files.errors import (
    MissingFile,
    UnreadableFile,
    lined,
    naming,
    reading,
    shown,
)


@pytest.mark.parametrize(
    "error",
    [
        zlib.error("bad"),
        zipfile.BadZipFile("bad"),
        struct.error("bad"),
        csv.Error("bad"),
        RecursionError("bad"),
        OverflowError("bad"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        RuntimeError("bad"),
        Exception("bad"),
        KeyError("bad"),
        OSError("bad"),  # as Pillow and Arrow raise it, without a number
        OSError(errno.EINVAL, "bad"),  # a seek to before the start
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_parsers_raise_becomes_an_unreadable_file_that_is_named(error):
    match = r"a/b\.bin, line 3.*bad"
    with (
        pytest.raises(UnreadableFile, match=match) as caught,
        reading("a/b.bin", "line 3"),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_a_failure_of_the_machine_is_not_damage(number):
    with pytest.raises(OSError) as caught, reading("a"):
        raise OSError(number, "failed")
    assert not isinstance(caught.value, UnreadableFile)


def test_lack_of_memory_is_not_damage():
    with pytest.raises(MemoryError), reading("a"):
        raise MemoryError


def test_a_missing_file_is_both_kinds_of_error():
    assert issubclass(MissingFile, ValueError) and issubclass(MissingFile, OSError)
    assert str(MissingFile("no file at a")) == "no file at a"


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"\xef\xbb\xbf \n<HTML lang=en>", "HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "object store"),
        (b"", "empty"),
    ],
)
def test_what_a_failed_download_leaves_is_named(tmp_path, start, words):
    path = tmp_path / "model.ckpt"
    path.write_bytes(start)
    with pytest.raises(UnreadableFile, match=words), reading(path):
        raise ValueError("bad")


def test_messages_are_bounded_and_on_one_line():
    with pytest.raises(UnreadableFile) as caught, reading("a\nb"):
        raise ValueError("x\x1b[31m\n" * 10_000)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def _doubled(make, inner=(), times=60):
    for _ in range(times):
        inner = make(inner)
    return inner


@pytest.mark.parametrize(
    "value",
    [
        _doubled(lambda t: (t, t)),
        _doubled(lambda t: [t, t]),
        _doubled(lambda t: {"a": t, "b": t}),
        _doubled(lambda t: collections.OrderedDict(a=[t, t])),
        collections.deque([_doubled(lambda t: (t, t))] * 3),
        10**100_000,
        "x" * 10**6,
        [list(range(100))] * 100,
        np.zeros((1000, 1000)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_is_shown_in_bounded_time_and_length(value):
    assert len(shown(value)) <= 200


def test_small_values_are_shown_as_they_are():
    value = {"a": [1, 2.5, None], "b": ("x", b"y", True)}
    assert shown(value) == "{'a': [1, 2.5, None], 'b': ('x', b'y', True)}"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            KeyError("unet"),
            "a.json has values that cannot be used: got KeyError: 'unet'",
        ),
        (TypeError("no"), "a.json has values that cannot be used: got TypeError: no"),
        (ValueError("f must be 4: got 5."), "a.json: f must be 4: got 5."),
        (ValueError("a.json is odd."), "a.json is odd."),
        (UnreadableFile("b is odd."), "a.json: b is odd."),
    ],
    ids=str,
)
def test_what_values_provoke_names_their_file(error, message):
    """A sentence of ours stays; anything else is described."""
    with pytest.raises(UnreadableFile) as caught, naming("a.json"):
        raise error
    assert str(caught.value).startswith(message)


def test_a_kind_of_unreadable_file_stays_that_kind():
    class NamesDiffer(UnreadableFile):
        pass

    with pytest.raises(NamesDiffer, match=r"a\.json: b lacks c"), naming("a.json"):
        raise NamesDiffer("b lacks c")


def test_messages_are_bounded_and_printable():
    message = str(UnreadableFile("a\x1b[2J\nb" + "c" * 10**6))
    assert len(message) == 3000 and message.startswith("a\\x1b[2J\nbccc")


def test_each_entry_of_a_list_is_a_line_whatever_its_name():
    names = ["a\nb.png is cut off", "x" * 10**6 + " (3,)", *"cdefg"]
    first, second, third, last = lined(names, 3).split("\n")[1:]
    assert first == r"  a\nb.png is cut off" and third == "  c"
    assert second.endswith("x (3,)") and len(second) < 310
    assert last == "  ... and 4 more"
    assert lined([]) == ""
