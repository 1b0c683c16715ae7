# SPDX-License-Identifier: Apache-2.0
"""Mutates binary files by their structure: pickles, zips, tars, NumPy, protobuf."""

import io
import pickle
import pickletools
import random
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable

from tests.fuzz.trees import mutated_json

# Mutates what is inside of a file, by its name; set by `mutate`.
INNER: list[Callable[[str, bytes, random.Random], bytes]] = []

# Names of members: twice, outside of the folder, not printable, empty, long.
NAMES = ("../x", "/x", "a/../../x", "\x1b[2J", "a\nb", "", ".", "x" * 300, "a.tar", "a")

GLOBALS = (
    *("os system", "builtins eval", "builtins getattr", "collections OrderedDict"),
    *("torch FloatStorage", "torch._utils _rebuild_tensor_v2", "torch Size"),
    *("torch._utils _rebuild_parameter", "numpy dtype", "numpy ndarray"),
    *("numpy.core.multiarray _reconstruct", "torch.nn.modules.linear Linear"),
    *("_codecs encode", "builtins set", "torch float8_e4m3fn", "torch._tensor _x"),
    *("torch._utils _rebuild_tensor_v3", "torch._tensor _rebuild_from_type_v2"),
    *("argparse Namespace", "copyreg _reconstructor", "\x1b[31m x"),
)
# Opcodes without arguments, and some with.
OPCODES = (
    *(b"N", b"(", b"0", b"1", b"2", b"t", b")", b"\x85", b"\x86", b"\x87", b"l", b"]"),
    *(b"e", b"a", b"d", b"}", b"s", b"u", b"R", b"b", b"Q", b"\x81", b"\x93", b"\x94"),
    *(
        b"\x8f",
        b"\x90",
        b"\x91",
        b"\x88",
        b"\x89",
        b".",
        b"K\x01",
        b"J\xff\xff\xff\xff",
    ),
    *(
        b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
        b"h\x00",
        b"q\x01",
        b"G\x7f\xf8" + b"\0" * 6,
    ),
    *(b"X\x01\x00\x00\x00a", b"C\x02ab", b"r\xff\xff\xff\x7f", b"\x95" + b"\xff" * 8),
    *(
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x00",
        b"\x97",
        b"\x98",
        b"\x82\x01",
        b"o",
        b"i",
    ),
)


def mutated_pickle(data: bytes, rng: random.Random) -> bytes:
    """Removes, repeats, swaps, inserts or changes opcodes."""
    starts = [at for _, _, at in pickletools.genops(data)]
    ends = [*starts[1:], len(data)]
    ops = [data[a:b] for a, b in zip(starts, ends, strict=True)]
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, other = rng.randrange(len(ops)), rng.randrange(len(ops))
        kind = rng.randrange(7)
        if kind == 0 and len(ops) > 1:
            del ops[at]
        elif kind == 1:
            ops.insert(at, ops[other])
        elif kind == 2:
            ops[at], ops[other] = ops[other], ops[at]
        elif kind == 3:
            ops.insert(at, rng.choice(OPCODES))
        elif kind == 4:
            ops.insert(
                at, b"c" + rng.choice(GLOBALS).replace(" ", "\n").encode() + b"\n"
            )
        elif kind == 5:  # a tuple that holds one tuple twice, and so on
            ops[at:at] = [b")"] + [b"2\x86"] * rng.choice((3, 40, 2000))
        else:
            value = rng.choice((-1, 2**31, 2**70, 1e308, "x" * 100, b"", [[]], {1: {}}))
            ops[at] = pickle.dumps(value, 2)[2:-1]
    return b"".join(ops)


def mutated_legacy(data: bytes, rng: random.Random) -> bytes:
    """Mutates one of the five pickles of a file of torch.save before 1.6."""
    file, parts = io.BytesIO(data), []
    for _ in range(5):
        start = file.tell()
        for _ in pickletools.genops(file):
            pass
        parts.append(data[start : file.tell()])
    at = rng.choice((0, 1, 2, 3, 3, 3, 4))
    parts[at] = mutated_pickle(parts[at], rng)
    return b"".join(parts) + data[file.tell() :]


def mutated_zip(data: bytes, rng: random.Random) -> bytes:
    """Rewrites a zip with a member mutated, twice, missing, renamed or compressed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    at = rng.randrange(len(members))
    # What describes the rest is worth most.
    likely = [i for i, (m, _) in enumerate(members) if m.filename.endswith((".pkl",))]
    if likely and rng.random() < 0.6:
        at = likely[0]
    info, content = members[at]
    kind = rng.randrange(12)
    if kind == 0:
        del members[at]
    elif kind == 1:
        members.append((info, content))
    elif kind == 2:
        info.filename = rng.choice(NAMES) or "empty"
    elif kind == 3:
        info.compress_type = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    elif kind == 4:  # a bomb
        info.compress_type = zipfile.ZIP_DEFLATED
        content = b"\0" * rng.choice((2**20, 2**24))
        members[at] = info, content
    elif kind == 5:
        info.external_attr = 0o120777 << 16  # a link
    else:
        members[at] = info, INNER[0](info.filename, content, rng)
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")  # of names that occur twice
        for member, value in members:
            archive.writestr(member, value)
    return out.getvalue()


def mutated_tar(data: bytes, rng: random.Random) -> bytes:
    """Rewrites a tar with a member mutated, or of another type, name or size."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = [
            (info, file.read() if (file := archive.extractfile(info)) else b"")
            for info in archive.getmembers()
        ]
    out = io.BytesIO()
    at = rng.randrange(len(members))
    info, content = members[at]
    kind = rng.randrange(8)
    if kind == 0:
        del members[at]
    elif kind == 1:
        members += [members[at]] * rng.choice((1, 1000))
    elif kind == 2:
        info.name = rng.choice(NAMES) or "empty"
    elif kind == 3:
        info.type = rng.choice((b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S", b"x"))
        info.linkname = rng.choice(NAMES)
    elif kind == 4:
        info.pax_headers = {
            rng.choice(
                ("size", "path", "GNU.sparse.size", "GNU.sparse.map")
            ): rng.choice(("-1", "1" * 30, "0,1,5", "x"))
        }
    elif kind == 5:  # a tar in itself
        info.name, content = "inner.tar", data
        members[at] = info, content
    else:
        members[at] = info, INNER[0](info.name, content, rng)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, value in members:
            member.size = len(value)
            archive.addfile(member, io.BytesIO(value))
    packed = bytearray(out.getvalue())
    if rng.random() < 0.2:  # a size that is not true
        packed[124:136] = rng.choice(
            (b"77777777777\0", b"\x80" + b"\xff" * 11, b"-1" * 6)
        )
    return bytes(packed)


def mutated_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Mutates the header, and keeps its length true."""
    (length,) = struct.unpack("<Q", data[:8])
    header = mutated_json(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


HEADERS = (
    "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (1000000, 1000000), }",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (), }",
    "{'descr': '<U1000000', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 18446744073709551616), }",
    "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<c16', 'fortran_order': False, 'shape': (" + "1," * 80 + "), }",
    "(" * 5000,
    "{" + "'a': [" * 400,
    "__import__('os').system('x')",
)


def mutated_npy(data: bytes, rng: random.Random) -> bytes:
    """Replaces the header of an .npy, or a piece of it."""
    (length,) = struct.unpack("<H", data[8:10])
    text = data[10 : 10 + length].decode("latin1")
    kind = rng.randrange(4)
    if kind == 0:
        text = rng.choice(HEADERS)
    elif kind == 1:
        digits = [i for i, c in enumerate(text) if c.isdigit()] or [0]
        at = rng.choice(digits)
        text = (
            text[:at] + rng.choice(("9", "0", "-1", "1" * 30, "None")) + text[at + 1 :]
        )
    elif kind == 2:
        dtype = rng.choice(
            ("<f8", "|b1", "<U2", "|S9", "<c16", "|O", ">f4", "V8", "<i8")
        )
        text = text.replace("<f4", dtype).replace("<f8", dtype)
    else:
        text = text.replace("False", rng.choice(("True", "None", "1")))
    header = text.encode("latin1")[:60_000]
    return data[:8] + struct.pack("<H", len(header)) + header + data[10 + length :]


def mutated_protobuf(data: bytes, rng: random.Random) -> bytes:
    """Mutates a field of a message, or of a message in it; lengths stay true."""
    fields = list(_fields(data))
    at = rng.randrange(len(fields))
    tag, value = fields[at]
    kind = rng.randrange(8)
    if kind == 0:
        del fields[at]
    elif kind == 1:
        fields.append(fields[at])
    elif kind == 2:
        fields[at] = tag ^ 1 << rng.randrange(6), value
    elif kind == 3:
        fields[at] = tag, rng.randbytes(rng.choice((0, 1, 100)))
    elif tag & 7 == 2 and value:
        try:
            fields[at] = tag, mutated_protobuf(value, rng)
        except (IndexError, ValueError):  # no message
            fields[at] = tag, INNER[0]("", value, rng)
    packed = b"".join(_packed(tag, value) for tag, value in fields)
    if kind == 7:  # a length that is not true
        packed += b"\x0a" + b"\xff" * rng.choice((1, 5, 9, 20)) + b"\x01"
    return packed


def _fields(data: bytes):
    """Yields (tag, bytes of the value) of the fields of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        start = at
        if tag & 7 == 2:
            size, start = _varint(data, at)
            at = start + size
        elif tag & 7 == 0:
            _, at = _varint(data, at)
        elif tag & 7 in (1, 5):
            at += 8 if tag & 7 == 1 else 4
        else:
            raise ValueError("no message")
        if at > len(data) or tag < 8:
            raise ValueError("no message")
        yield tag, data[start:at]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def _packed(tag: int, value: bytes) -> bytes:
    length = _number(len(value)) if tag & 7 == 2 else b""
    return _number(tag) + length + value


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
