# SPDX-License-Identifier: Apache-2.0
"""Mutates texts with a structure: JSON, YAML, and lines of CSV, JSONL and lists."""

import copy
import json
import random
from typing import Any

import yaml


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 1000, 10**7, 2**31, 2**63, 2**64, 10**30),
    *(0.0, -0.5, 1.5, 1e-300, 1e308, float("nan"), float("inf")),
    *("", "a", "0", "none", "\x1b[31mred", "a\nb", "../../x", "/etc/passwd", "~", "."),
    *("x" * 10_000, "\ud800", "a/b.png", "é" * 300, "os.system", "__import__"),
    *([], {}, [None], [[]], {"": None}, [0] * 100, [1e9] * 4, ["a"], [{}], {"a": {}}),
    *(_nested(40), _nested(500), {"kind": "class"}, {"__class__": "x"}),
)


def mutated_tree(tree: Any, rng: random.Random) -> Any:
    """Replaces, removes, repeats or moves a value of a tree of dicts and lists."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places:
        return rng.choice(VALUES)
    parent, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        other, other_key = rng.choice(places)
        parent[key] = copy.deepcopy(other[other_key])
    elif kind == 2 and isinstance(parent, list):
        parent[key:key] = [copy.deepcopy(parent[key])] * rng.choice((1, 3, 100))
    elif kind == 2:
        parent[rng.choice(("", "x", "\x1b]0;x\x07", "a" * 500))] = parent.pop(key)
    elif kind == 3 and type(parent[key]) in (int, float):
        parent[key] = parent[key] * rng.choice(
            (-1, 0, 0.5, 2, 1000, 10**9)
        ) + rng.choice((0, 0, 1, 0.5))
    elif kind == 4 and isinstance(parent[key], str):
        parent[key] += rng.choice(("x", "\n", "\x00", "/..", "\x1b[2J"))
    else:
        parent[key] = copy.deepcopy(rng.choice(VALUES))
    return tree


def _places(tree: Any):
    """Yields (container, key) of every value in a tree."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(pairs):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    """Mutates JSON as a tree or, seldom, as a text."""
    text = json.dumps(mutated_tree(json.loads(data), rng))
    kind = rng.randrange(12)
    if kind == 0:  # names given twice
        text = text.replace("{", '{"a": 1, "a": 2, ', 1)
    elif kind == 1:
        text = "[" * 100_000 + text
    elif kind == 2:
        text = text.replace(":", ": 1" + "0" * 5000 + " , ", 1)
    elif kind == 3:
        return b"\xef\xbb\xbf" + text.encode()
    return text.encode()


def mutated_yaml(data: bytes, rng: random.Random) -> bytes:
    """Mutates YAML as a tree or, seldom, as a text: aliases, tags, depth."""
    if b"&a" in data:
        raise ValueError("aliases, which would be written out here")
    tree = yaml.safe_load(data)
    kind = rng.randrange(12)
    try:
        text = yaml.safe_dump(mutated_tree(tree, rng))
    except yaml.YAMLError:
        text = data.decode()
    lines = text.splitlines()
    at = rng.randrange(len(lines) + 1)
    if kind == 0:
        bomb = ["a0: &a0 [x, x]"]
        bomb += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 30)]
        lines = [*bomb, *lines]
    elif kind == 1:
        tags = ("!!python/object/apply:os.system [x]", "!!binary x", "!!set {a, b}")
        lines.insert(
            at, f"b: {rng.choice((*tags, '!!timestamp 1', '!x y', '&a [*a]'))}"
        )
    elif kind == 2:
        lines.insert(at, "c: " + rng.choice("[{") * rng.choice((100, 50_000)))
    elif kind == 3:
        lines.insert(
            at, rng.choice(("<<: *x", "? [a, b]", "---", "%YAML 9.9", "\t- a"))
        )
    elif kind == 4:
        lines.insert(
            at, rng.choice(("d: 0x1" + "f" * 5000, "e: 190:20:30", "f: 1e999"))
        )
    return "\n".join(lines).encode()


def mutated_lines(data: bytes, rng: random.Random) -> bytes:
    """Mutates a line: as JSON where it is some, else the text of a cell."""
    lines = data.decode().split("\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(8)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines[at:at] = [lines[at]] * rng.choice((1, 50))
    elif kind == 2:
        lines[at] = ""
    elif lines[at].startswith("{"):
        lines[at] = json.dumps(mutated_tree(json.loads(lines[at]), rng))
    else:
        cells = lines[at].split(",")
        cell = rng.randrange(len(cells))
        odd = ("", '"', "nan", "-1", "1e999", "x" * 200_000, "\x00", "\r", "\x1b[1m")
        cells[cell] = rng.choice((*odd, "a,b,c", "../x.png", "./" + cells[cell], "٣"))
        lines[at] = ",".join(cells)
    return "\n".join(lines).encode("utf-8", "replace")
