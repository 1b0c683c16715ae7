# SPDX-License-Identifier: Apache-2.0
"""Reads untrusted JSON, JSON lines, YAML and CSV, bounded in size and depth."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

import yaml

from ldm_jax.files.errors import UnreadableFile, reading, shown
from ldm_jax.files.paths import PathLike, printable
from ldm_jax.files.reading import (
    MAX_TEXT_BYTES,
    decoded,
    opened,
    read_bytes,
    read_text,
    text_stream,
)

# Of containers within containers; no honest file of this package's kinds has ten.
MAX_DEPTH = 64
# Published configs have 10 kB and some hundred values.
MAX_YAML_BYTES, MAX_YAML_VALUES = 2**20, 100_000


def read_json(
    path: PathLike,
    max_bytes: int = MAX_TEXT_BYTES,
    kind: type = dict,
    *,
    rule: str = "must be readable JSON",
) -> Any:
    """Reads a JSON file; arguments, result and errors as `parse_json`."""
    return parse_json(read_bytes(path, max_bytes), path, kind, rule=rule)


def read_json_object(
    path: PathLike,
    fields: Mapping[str, type],
    advice: str = "Delete it: the same command makes it again.",
) -> dict[str, Any]:
    """Reads an object of JSON that has some fields.

    Args:
      path: of the file.
      fields: name -> type of its value.
      advice: what to do about a damaged file.

    Raises:
      UnreadableFile: as `read_json`, or a field is missing or of another type.
    """
    content = read_json(path)
    check_json_object(content, fields, path, advice)
    return content


def check_json_object(
    content: Any, fields: Mapping[str, type], where: PathLike, advice: str
) -> None:
    """Raises UnreadableFile unless a value is an object that has some fields."""
    for name, kind in fields.items():
        value = content.get(name) if isinstance(content, dict) else None
        if not isinstance(value, (int, float) if kind is float else kind):
            raise UnreadableFile(
                f"{printable(where)} must have {name} of type {kind.__name__}: got "
                f"{shown(value)}; it is damaged. {advice}"
            )


def parse_json(
    data: bytes,
    path: PathLike,
    kind: type = dict,
    *,
    rule: str = "must be readable JSON",
) -> Any:
    """Parses JSON.

    Args:
      data: of the file, UTF-8.
      path: its name, for the error.
      kind: of the whole: dict, list, or object for any.
      rule: what holds for such files, for the error.

    Returns:
      The value, of type `kind`.

    Raises:
      UnreadableFile: no JSON, nested deeper than MAX_DEPTH, of another kind, or an
        object has a name twice.
    """
    text = decoded(data, path)
    with reading(path, data=data, rule=rule):
        value = json.loads(text, object_pairs_hook=_unique)
        check_depth(value, path)
        if (
            "\\ud" in text.lower()
        ):  # half a surrogate pair can be neither written nor shown
            json.dumps(value, ensure_ascii=False).encode()
    if not isinstance(value, kind):
        raise UnreadableFile(
            f"{printable(path)}: not {_NAMES[kind]} of JSON: got {shown(value)}."
        )
    return value


_NAMES = {dict: "an object", list: "a list"}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of JSON, refusing a name given twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        _refuse_repeated([name for name, _ in pairs])
    return result


def _refuse_repeated(names: Sequence[Any]) -> None:
    """Raises ValueError if a name is given twice: readers differ in which they take."""
    seen = set()
    for name in names:
        if name in seen:
            raise ValueError(f"it has {shown(name)} twice; keep one")
        seen.add(name)


def check_depth(value: Any, path: PathLike, max_depth: int = MAX_DEPTH) -> None:
    """Raises UnreadableFile for containers nested deeper than `max_depth`."""
    level = [value]
    for _ in range(max_depth + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise UnreadableFile(
        f"{printable(path)} must not be nested more than {max_depth} levels deep: it "
        "is not a file of the expected kind."
    )


def read_json_lines(path: PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (number, object) of the lines of a JSONL file that are not empty.

    Raises:
      UnreadableFile: a line holds no object; names file and line.
    """
    with opened(path) as file:
        for number, line in enumerate(text_stream(file, path), start=1):
            if line.strip():
                yield number, parse_json(line.encode(), f"{path}, line {number}")


def read_csv(path: PathLike) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (line, row) of a CSV file, as `parse_csv`."""
    with opened(path) as file:
        yield from parse_csv(text_stream(file, path, newline=""), path)


def parse_csv(text: TextIO, path: PathLike) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (line, row) of a CSV with a header; a row is {column: text}.

    Of a row that is short, the missing values are "".

    Args:
      text: opened with newline="".
      path: its name, for the error.

    Raises:
      UnreadableFile: no header, a header with a name twice, no UTF-8, or a row that
        has more values than the header; names file and line.
    """
    reader = csv.DictReader(text, restval="")
    with reading(path, advice="It must be CSV in UTF-8."):
        header = reader.fieldnames
    if not header:
        raise UnreadableFile(
            f"{printable(path)} must begin with the names of its columns: it is empty."
        )
    with reading(path, "line 1", "The names of the columns must differ."):
        _refuse_repeated([name for name in header if name])
    with reading(path, advice="It must be CSV in UTF-8."):
        try:
            for row in reader:
                if None in row:
                    raise csv.Error("more values than columns: quote texts with commas")
                yield reader.reader.line_num, row
        except csv.Error as error:
            raise ValueError(f"line {reader.reader.line_num}: {error}") from error


def read_yaml(path: PathLike, kind: type = dict) -> Any:
    """Reads YAML of plain values: no objects are made, aliases are bounded.

    Returns:
      The value, of type `kind`.

    Raises:
      UnreadableFile: no YAML, of another kind, nested deeper than MAX_DEPTH, of more
        than MAX_YAML_VALUES values with all aliases written out, or a mapping has a
        name twice.
    """
    text = read_text(path, MAX_YAML_BYTES)
    with reading(path, rule="must be readable YAML"):
        _check_events(text)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None and _count(node, {}) > MAX_YAML_VALUES:
            raise ValueError(f"it has more than {MAX_YAML_VALUES:,} values")
        value = None if node is None else loader.construct_document(node)
        check_depth(value, path)
    if not isinstance(value, kind):
        raise UnreadableFile(
            f"{printable(path)} must hold YAML of "
            f"{'a mapping' if kind is dict else kind.__name__}: got {shown(value)}."
        )
    return value


def _check_events(text: str) -> None:
    """Bounds size and depth by YAML's events, before anything recurses."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or number > MAX_YAML_VALUES:
            raise ValueError(
                f"it is nested more than {MAX_DEPTH} deep, or has more than "
                f"{MAX_YAML_VALUES:,} values"
            )


def _count(node: yaml.Node, counts: dict[int, int | None]) -> int:
    """Counts the values below a node with its aliases written out, in linear time."""
    known = counts.get(id(node), 0)
    if known is None:
        raise ValueError("a value holds itself")
    if not known:
        counts[id(node)] = None  # being counted
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            _refuse_repeated([key.value for key in keys])
            children = [entry for pair in children for entry in pair]
        known = 1 + sum(_count(child, counts) for child in children)
        counts[id(node)] = known
    return known
