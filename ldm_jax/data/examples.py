# SPDX-License-Identifier: Apache-2.0
"""Writes and reads serialized tf.Examples, which TFDS stores, ten times as fast.

    Example   { 1: Features }           Features { 1: repeated map entry }
    map entry { 1: name, 2: Feature }
    Feature   { 1: BytesList | 2: FloatList | 3: Int64List }
    BytesList { 1: repeated bytes }     FloatList, Int64List { 1: packed values }

Every field above is of wire type 2 (a varint length, then that many bytes), except that
the values of a list may come unpacked, one tag each.

Source: tensorflow/core/example/feature.proto; protobuf's encoding document.
"""

from collections.abc import Mapping

import numpy as np

# A feature as it is stored: bytes values, or numbers float32 or int64 [N].
Feature = list[bytes] | np.ndarray

BYTES, FLOATS, INTS = 1, 2, 3  # field numbers in Feature
MAX_LAYOUTS = 256  # captions make the lengths differ; bounds the memory

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types


def write_example(features: Mapping[str, bytes]) -> bytes:
    """Writes a tf.Example of bytes features, one value each.

    Args:
      features: value by name.

    Returns:
      The serialised message; equal features give equal bytes, whatever their order.
    """
    entries = []
    for name in sorted(features):
        value = _field(2, _field(BYTES, _field(1, features[name])))
        entries.append(_field(1, _field(1, name.encode()) + value))
    return _field(1, b"".join(entries))


def read_example(data: bytes) -> dict[str, Feature]:
    """Reads a tf.Example.

    Args:
      data: the serialised message.

    Returns:
      Features by name; one without values is an empty list.

    Raises:
      ValueError: not a tf.Example.
    """
    features: dict[str, Feature] = {}
    for name, kind, spans in _features(data):
        if kind == FLOATS:
            packed = b"".join(data[low:high] for low, high in spans)
            features[name] = np.frombuffer(packed, "<f4")
        elif kind == INTS:
            features[name] = _int64s(data, spans)
        else:
            features[name] = [data[low:high] for low, high in spans]
    return features


class SameLayout:
    """Reads tf.Examples of equal byte layout, which those of one data set mostly have.

    Where every feature is one bytes value of fixed size, messages of one length differ
    in the values only. The positions in the first are used for the others, after
    a check that all bytes between the values are the same.
    """

    def __init__(self):
        self._layouts: dict[int, tuple] = {}

    def read(self, data: bytes) -> dict[str, memoryview]:
        """Reads a tf.Example of bytes features, one value each.

        Args:
          data: the serialised message.

        Returns:
          Value by name, as views of `data`.

        Raises:
          ValueError: not such a tf.Example.
        """
        places, between = self._layouts.get(len(data)) or self._learn(data)
        for start, stop, expected in between:
            if data[start:stop] != expected:
                places, _ = self._learn(data)
                break
        view = memoryview(data)
        return {name: view[start:stop] for name, start, stop in places}

    def _learn(self, data: bytes) -> tuple[tuple, tuple]:
        """Finds the positions of a message's values: (places, bytes between them)."""
        places, between, end = [], [], 0
        for name, kind, spans in _features(data):
            if kind != BYTES or len(spans) != 1:
                raise ValueError(f"feature {name} is not one bytes value")
            ((start, stop),) = spans
            places.append((name, start, stop))
            between.append((end, start, data[end:start]))
            end = stop
        between.append((end, len(data), data[end:]))
        layout = (tuple(places), tuple(between))
        if len(self._layouts) >= MAX_LAYOUTS:
            self._layouts.clear()
        self._layouts[len(data)] = layout
        return layout


def _features(data: bytes) -> list[tuple[str, int, list[tuple[int, int]]]]:
    """Finds (name, kind, spans of the values or packed values) of every feature."""
    try:
        entries = []
        for _, low, high in _fields(data, 0, len(data)):
            for _, first, last in _fields(data, low, high):
                (_, *name), (_, *value) = _fields(data, first, last)
                kind, spans = BYTES, []
                for kind, start, stop in _fields(data, *value):  # noqa: B007
                    spans = [(a, b) for _, a, b in _fields(data, start, stop)]
                entries.append((data[slice(*name)].decode(), kind, spans))
        return entries
    except (IndexError, ValueError) as error:
        raise ValueError(f"not a tf.Example: {error}") from error


def _int64s(data: bytes, spans: list[tuple[int, int]]) -> np.ndarray:
    values = []
    for position, stop in spans:
        while position < stop:
            value, position = _varint(data, position)
            values.append(value - (1 << 64) if value >> 63 else value)
    return np.array(values, np.int64)


def _fields(data: bytes, position: int, stop: int):
    """Yields (field number, start, stop) of every field between two positions."""
    while position < stop:
        tag, position = _varint(data, position)
        kind, low = tag & 7, position
        if kind == LENGTH:
            size, low = _varint(data, position)
            position = low + size
        elif kind == VARINT:
            _, position = _varint(data, position)
        elif kind in (FIXED32, FIXED64):
            position += 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind} at byte {low}")
        if position > stop:
            raise ValueError(f"a field at byte {low} runs past the end")
        yield tag >> 3, low, position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    byte = data[position]
    if byte < 128:
        return byte, position + 1
    value, shift = byte & 127, 7
    while True:
        position += 1
        byte = data[position]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position + 1
        shift += 7
        if shift > 63:
            raise ValueError(f"a number at byte {position} has no end")


def _field(number: int, value: bytes) -> bytes:
    """Writes one field of wire type 2; `number` is below 16."""
    size, length = len(value), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | LENGTH]) + bytes(length) + value
