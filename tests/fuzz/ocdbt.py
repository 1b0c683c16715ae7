# SPDX-License-Identifier: Apache-2.0
"""Mutates files of OCDBT, where Orbax stores arrays; their checksums stay right.

A manifest or node is: 4 bytes of a magic number, 8 bytes of its length, the version,
the compression (0 none, 1 zstd), the content, and 4 bytes of CRC-32C.
"""

import random
from collections.abc import Callable

import pyarrow as pa

MAGIC, MANIFEST = b"\x0c\xdb", b"\x0c\xdb\x3a\x2a"


def mutated_ocdbt(
    data: bytes, rng: random.Random, inner: Callable[[bytes, random.Random], bytes]
) -> bytes:
    """Mutates the content of a file, and gives it the right length and checksum.

    Args:
      data: of a file, which may hold a node and, after it, other bytes.
      rng: of the mutation.
      inner: mutates the content: of a manifest, decompressed; of a node, as it is
        stored, since another file contains its length.
    """
    length = int.from_bytes(data[4:12], "little")
    header, content = data[12:14], data[14 : length - 4]
    if data.startswith(MANIFEST):
        if header[1] == 1:
            source = pa.BufferReader(content)
            content = pa.CompressedInputStream(source, "zstd").read()
        header, content = bytes([header[0], 0]), inner(content, rng)
    else:
        content = inner(content, rng)[: len(content)].ljust(len(content), b"\0")
    body = header + content
    head = data[:4] + (len(body) + 16).to_bytes(8, "little") + body
    return head + crc32c(head).to_bytes(4, "little") + data[length:]


def crc32c(data: bytes) -> int:
    """Computes CRC-32C (Castagnoli)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 * (value & 1))
    return value


TABLE = [_entry(value) for value in range(256)]
