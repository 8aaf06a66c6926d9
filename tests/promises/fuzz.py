"""Sound inputs, damaged in thousands of ways: each gives the right result, or one of our errors and nothing else.

    python -m tests.promises.fuzz --inputs 20000 --seed 1 --workers 2
    python -m tests.promises.fuzz --seed 1 --only 4711

Every input follows from the seed and its number. They are run in processes of their own, batch by batch: one that crashes or hangs is
told by its number, and the run goes on after it.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import copy
import faulthandler
import functools
import gzip
import io
import json
import lzma
import os
import random
import resource
import selectors
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import zarr
import zarr.codecs
import zarr.storage
from isal import isal_zlib
from numpy.typing import NDArray

import leakycli
from leakycli import Options, leaky_relu
from leakycli.destination.base import KEPT
from leakycli.errors import DifferenceError, LeakyError, StorageError
from leakycli.report.model import Report

#: Seconds that an input may take.
LIMIT = 20.0

#: Bytes by which a .npy or .npz may raise the process's resident memory.
MOST_MEMORY = 300 << 20

#: Inputs that one process takes; it is ended then, so that what one leaves does not reach all others.
BATCH = 500

#: Resident memory of such a process, in bytes, at which it is ended: bombs leave some, and the bound that is given to leakycli includes it.
MOST_RESIDENT = 200 << 20

#: What absolute names in archives point at.
EVIL = "/tmp/leakycli-fuzz-evil"

DOCUMENTS = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


@dataclass(frozen=True)
class Odd:
    """What is neither file nor folder in a tree: a "link" to `target`, a "fifo"; or a "folder" where a file belongs."""

    kind: str
    target: str = ""


Tree = dict[str, "bytes | Odd"]


@dataclass
class Case:
    """An input and what is done with it. steps: what was done to make it, in words; without any it is sound and must give a result."""

    kind: str
    name: str
    content: bytes | Tree
    dest: str
    options: Options
    steps: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """How a case ended: "result" or an error's class; what it said, and whether it keeps what is done; and what should not have been."""

    kind: str
    ended: str
    said: str = ""
    findings: list[str] = field(default_factory=list)
    kept: bool = False


# Sound inputs.

TYPES = ("<f4", "<f4", "<f8", "<f2", ">f4", "|i1", "<u2", "<i8", ">f8", "|u1", "<i4", ">i2")


def some(r: random.Random, size: int) -> bytes:
    return r.getrandbits(8 * size).to_bytes(size, "little") if size else b""


def array(r: random.Random, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Any bit patterns, NaN of any payload among them, or ordinary numbers."""
    own = np.random.default_rng(r.getrandbits(32))
    if r.random() < 0.5:
        return np.frombuffer(own.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape)
    with np.errstate(all="ignore"):
        return np.asarray(own.standard_normal(shape) * 50).astype(dtype)


def npy(r: random.Random, dtype: str | None = None) -> bytes:
    shape = r.choice([(), (0,), (5,), (3, 4), (2, 3, 2), (1, 0, 3), (40,), (300,)])
    x = array(r, shape, dtype or r.choice(TYPES))
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.lib.format.write_array(stream, np.asfortranarray(x) if r.random() < 0.3 else x, version=(r.choice([1, 1, 2, 3]), 0))
    return stream.getvalue()


def no_numbers(r: random.Random) -> bytes:
    """A member that is no array, or an array of a type that has no leaky ReLU."""
    stream = io.BytesIO()
    kind = r.choice(["object", "str", "bool", "complex", "structured", "text", "empty"])
    if kind == "text":
        return b"no array\n"
    if kind == "empty":
        return b""
    made: Any = {
        "object": np.array([{"a": 1}, None], object),
        "str": np.array(["a", "bc"]),
        "bool": np.array([True, False]),
        "complex": np.array([1j]),
        "structured": np.zeros(2, [("a", "f4")]),
    }[kind]
    np.save(stream, made, allow_pickle=True)
    return stream.getvalue()


@dataclass
class Part:
    """A member of a zip archive. claims: (CRC-32, size) where they are not those of the data; raw: compressed already."""

    name: bytes
    data: bytes
    method: int = 0
    raw: bytes | None = None
    claims: tuple[int, int] | None = None


def compressed(data: bytes, method: int) -> bytes:
    if method == 8:
        made = zlib.compressobj(6, zlib.DEFLATED, -15)
        return made.compress(data) + made.flush()
    if method == 12:
        return bz2.compress(data)
    if method == 14:
        coder = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16}])
        return b"\x09\x14\x05\x00\x5d" + (1 << 16).to_bytes(4, "little") + coder.compress(data) + coder.flush()
    return data


#: A number in a file: what it is, where, how many bytes.
Field = tuple[str, int, int]

_LOCAL = (("version", 2), ("flags", 2), ("method", 2), ("time", 4), ("crc", 4), ("packed", 4), ("size", 4), ("name", 2), ("extra", 2))
_CENTRAL = (("made", 2), *_LOCAL, ("comment", 2), ("disk", 2), ("internal", 2), ("external", 4), ("offset", 4))
_END = (("disk", 2), ("disk", 2), ("count", 2), ("count", 2), ("length", 4), ("offset", 4), ("comment", 2))


def _fields(kind: str, at: int, names: tuple[tuple[str, int], ...]) -> Iterator[Field]:
    for name, width in names:
        yield f"{kind} {name}", at, width
        at += width


def zipped(r: random.Random, parts: list[Part]) -> tuple[bytes, list[Field]]:
    """An archive, and where its numbers are. Our own writer: zipfile's takes neither hostile names nor lies."""
    out, central, found = bytearray(), bytearray(), list[Field]()
    entries: list[tuple[int, list[Field]]] = []
    for part in parts:
        raw = compressed(part.data, part.method) if part.raw is None else part.raw
        crc, size = part.claims or (zlib.crc32(part.data), len(part.data))
        flags = (0x800 if any(byte > 127 for byte in part.name) and r.random() < 0.7 else 0) | (8 if r.random() < 0.1 else 0)
        extra = struct.pack("<2H2Q", 1, 16, size, len(raw)) if r.random() < 0.1 else b""
        sizes = (0xFFFFFFFF, 0xFFFFFFFF) if extra else (len(raw), size)
        common = struct.pack("<5H", 45, flags, part.method, 0, 33)
        at = len(out)
        follow = bool(flags & 8)
        local = (0, *sizes) if follow and extra else (0, 0, 0) if follow else (crc, *sizes)
        out += b"PK\3\4" + common + struct.pack("<3L2H", *local, len(part.name), len(extra)) + part.name + extra
        out += raw
        out += (struct.pack("<4sL2Q" if extra else "<4s3L", b"PK\7\10", crc, len(raw), size)) if follow else b""
        found += _fields("local", at + 4, _LOCAL)
        entries.append((len(central), list(_fields("directory", 4, _CENTRAL))))
        central += b"PK\1\2" + struct.pack("<H", 45) + common + struct.pack("<3L", crc, *sizes)
        central += struct.pack("<5H2L", len(part.name), len(extra), 0, 0, 0, 0o600 << 16, at) + part.name + extra
    start = len(out)
    found += [(label, start + at + inner, width) for at, labels in entries for label, inner, width in labels]
    out += central
    found += _fields("end", len(out) + 4, _END)
    comment = b"comment" if r.random() < 0.1 else b""
    count = len(parts) & 0xFFFF
    out += b"PK\5\6" + struct.pack("<4H2LH", 0, 0, count, count, len(central), start, len(comment)) + comment
    return bytes(out), found


SHARDS = {"shape": (4, 6), "index_location": "end"}

#: How Zarr arrays are made: version, and what create_array is told.
STORES: dict[str, tuple[int, dict[str, Any]]] = {
    "v3 raw": (3, {"compressors": ()}),
    "v3 zstd": (3, {"compressors": (zarr.codecs.ZstdCodec(checksum=True),)}),
    "v3 zstd bare": (3, {"compressors": (zarr.codecs.ZstdCodec(),)}),
    "v3 blosc": (3, {"compressors": (zarr.codecs.BloscCodec(cname="lz4"),)}),
    "v3 blosc zstd": (3, {"compressors": (zarr.codecs.BloscCodec(cname="zstd", shuffle="bitshuffle"),)}),
    "v3 gzip": (3, {"compressors": (zarr.codecs.GzipCodec(),)}),
    "v3 crc32c": (3, {"compressors": (zarr.codecs.Crc32cCodec(),)}),
    "v3 transposed": (3, {"filters": (zarr.codecs.TransposeCodec(order=(1, 0)),), "compressors": ()}),
    "v3 big-endian": (3, {"serializer": zarr.codecs.BytesCodec(endian="big")}),
    "v3 sharded raw": (3, {"shards": SHARDS, "compressors": ()}),
    "v3 sharded zstd": (3, {"shards": SHARDS, "compressors": (zarr.codecs.ZstdCodec(),)}),
    "v3 sharded blosc": (3, {"shards": SHARDS, "compressors": (zarr.codecs.BloscCodec(),)}),
    "v3 sharded gzip": (3, {"shards": {**SHARDS, "index_location": "start"}, "compressors": (zarr.codecs.GzipCodec(),)}),
    "v3 sharded crc32c": (3, {"shards": SHARDS, "compressors": (zarr.codecs.Crc32cCodec(),)}),
    "v2 raw": (2, {"compressors": None}),
    "v2 zstd": (2, {"compressors": numcodecs.Zstd(3)}),
    "v2 blosc": (2, {"compressors": numcodecs.Blosc()}),
    "v2 gzip": (2, {"compressors": numcodecs.GZip()}),
    "v2 zlib": (2, {"compressors": numcodecs.Zlib()}),
    "v2 lz4": (2, {"compressors": numcodecs.LZ4()}),
    "v2 bz2": (2, {"compressors": numcodecs.BZ2()}),
    "v2 F": (2, {"order": "F"}),
    "v2 shuffle": (2, {"filters": [numcodecs.Shuffle(4)], "compressors": numcodecs.Zlib()}),
}

GROUPS = ("v3 group", "v2 group", "v3 consolidated", "v2 consolidated")


def _made(path: str, store: Any, kind: str, dtype: str, fill: float, seed: int) -> None:
    version, given = STORES[kind]
    x = array(random.Random(seed), (7, 6), dtype)
    if version == 3:
        x = x.astype(x.dtype.newbyteorder("="))
    options: dict[str, Any] = {"chunks": (2, 3), "zarr_format": version, "fill_value": fill, "attributes": {"a": [1, {"b": None}]}, **given}
    made = zarr.create_array(store, name=path or None, shape=x.shape, dtype=x.dtype, **options)
    made[: 7 if seed % 2 else 4] = x[: 7 if seed % 2 else 4]


@functools.cache
def _stored(kind: str, dtype: str, fill: float, seed: int) -> dict[str, bytes]:
    folder = tempfile.mkdtemp()
    try:
        store = zarr.storage.LocalStore(folder)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if kind in STORES:
                _made("", store, kind, dtype, fill, seed)
            else:
                version = 2 if kind.startswith("v2") else 3
                zarr.create_group(store, zarr_format=2 if version == 2 else 3, attributes={"of": "group"})
                inner = ("v2 raw", "v2 blosc", "v2 zstd") if version == 2 else ("v3 zstd", "v3 sharded raw", "v3 blosc")
                zarr.create_group(store, path="g/h", zarr_format=2 if version == 2 else 3)
                for path, own, of in zip(("a", "g/b", "g/h/c"), inner, (dtype, "<f4", "<i2"), strict=True):
                    _made(path, store, own, of, fill, seed)
                if seed % 3 == 0:
                    zarr.create_array(store, name="s", data=np.array(["a", "bc"]), zarr_format=2 if version == 2 else 3)
                if "consolidated" in kind:
                    zarr.consolidate_metadata(store)
        root = Path(folder)
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    finally:
        shutil.rmtree(folder)


def stored(r: random.Random) -> tuple[str, Tree]:
    kind = r.choice((*STORES, *GROUPS))
    dtype = "<f4" if "shuffle" in kind else r.choice(("<f4", "<f8", "<f2", "<i2", ">f4", "|u1"))
    return kind, dict(_stored(kind, dtype, r.choice([0, 1, 3]), r.choice([3, 4])))


# Damage to bytes.


def lie(r: random.Random, now: int, width: int, size: int) -> int:
    """Another number for one of `width` bytes that is `now`, in a file of `size` bytes."""
    most = (1 << 8 * width) - 1
    near = (now + 1, now - 1, now * 2, now // 2, now ^ 1 << r.randrange(8 * width), now + size, size - now)
    far = (0, 1, most, most - 1, most // 2 + 1, most // 2, size, size + 1, 400 << 20, r.getrandbits(8 * width), 1 << r.randrange(8 * width))
    return r.choice((*near, *far)) & most


def lied(r: random.Random, data: bytes, fields: list[Field], steps: list[str]) -> bytes:
    out = bytearray(data)
    for label, at, width in r.sample(fields, min(len(fields), r.choice([1, 1, 1, 2, 3]))):
        if at < 0 or at + width > len(out):
            continue
        now = int.from_bytes(out[at : at + width], "little")
        then = lie(r, now, width, len(data))
        out[at : at + width] = then.to_bytes(width, "little")
        steps.append(f"{label}: {now} -> {then}")
    return bytes(out)


def battered(r: random.Random, data: bytes, steps: list[str]) -> bytes:
    """Damage that knows nothing of what it damages."""
    at = r.randrange(len(data) + 1) if r.random() < 0.5 else min(r.randrange(150), len(data))
    if r.random() < 0.2:
        at = max(len(data) - r.randrange(80), 0)
    size = r.choice([1, 1, 2, 4, 8, 30, 200])
    how = r.choice(
        ["flip", "flip", "flip", "random", "zero", "ff", "cut", "cut", "extend", "insert", "remove", "repeat", "number", "empty"]
    )
    steps.append(f"{how} at {at} of {len(data)} ({size})")
    if how == "flip" and data:
        out = bytearray(data)
        for _ in range(r.choice([1, 1, 2, 9])):
            out[r.randrange(len(out)) if r.random() < 0.5 else min(at, len(out) - 1)] ^= 1 << r.randrange(8)
        return bytes(out)
    if how in ("random", "zero", "ff"):
        run = some(r, size) if how == "random" else bytes(size) if how == "zero" else b"\xff" * size
        return data[:at] + run[: len(data) - at] + data[at + size :]
    if how == "cut":
        return data[:at]
    if how == "extend":
        return data + some(r, size)
    if how == "insert":
        return data[:at] + some(r, size) + data[at:]
    if how == "remove":
        return data[:at] + data[at + size :]
    if how == "repeat":
        return data[:at] + data[at : at + size] * r.choice([2, 2, 50]) + data[at + size :]
    if how == "number":
        width = r.choice([1, 2, 4, 8])
        return lied(r, data, [("number", min(at, max(len(data) - width, 0)), width)], steps)
    return b"" if how == "empty" else data


DESCRS = (
    "'<f4'", "'>f8'", "'|O'", "'<f2'", "'f'", "'?'", "'<c8'", "'<U3'", "'|S0'", "'<M8[s]'", "'V2'", "'<f16'", "'<i16'", "''", "'a4'",
    "None", "4", "1.5", "b'<f4'", "()", "[]", "{}", "...", "('<f4', (2,))", "[('a', '<f4')]", "[('a', '<f4'), ('a', '<f4')]", "[('a',)]",
    "[('', '<f4')]", "('<f4', {'metadata': 1})", "'(2,)<f4'", "'f4,f4'", "'1f4'", "','", "'(((((('", r"'<f4\x00'", r"'\ud800'",
    "'\\x1b[2J\\n'", "'|V2147483648'", "'|V0'", "'<f4' '<f4'", "'" + "f4," * 3000 + "'", "(" * 60 + "'<f4'" + ",)" * 60,
    "[('a', [('b', '<f4')])]", "'=f4'", "'|i1'", "'B'", "'b'", "'<u8'", "'float32'", "'int'", "'l'", "'g'", "'e'",
    "{'names': ['a'], 'formats': ['<f4']}", "lambda: 1", "'<f4", "9" * 5000,
)  # fmt: skip

SHAPES = (
    "(4,)", "(4, 1)", "()", "(0,)", "(-4,)", "(-2, -2)", "[4]", "4", "None", "(4.0,)", "(True,)", "('4',)", "((4,),)", "(4j,)", "(4L,)",
    "(1_0,)", "(0x4,)", "(1152921504606846976,)", "(1152921504606846976, 1152921504606846976)", "(9223372036854775807,)",
    "(9223372036854775808,)", "(0, 9223372036854775807)", "(0, 9223372036854775807, 9223372036854775807)", "(1" + "0" * 400 + ",)",
    "(1" + "0" * 5000 + ",)", "(1,) * 4", repr((1,) * 33), repr((1,) * 64), repr((1,) * 65), repr((1,) * 5000), "(4" * 9000,
    "(" * 200 + ")" * 200, "(100000000,)", "(5,)", "(3, 4)", "(- 4,)", "(+4,)", "(2+2,)", "(1+1j,)", "(4,)#", "(4,), 'more': 1",
    "(4,), 'shape': (5,)", "(4,)\0", "(4,)\n", "[]", "{4}", "(0,) , ",
)  # fmt: skip

SNIPPETS = (
    b"'", b'"', b"(", b")", b",", b"\0", b"\n", b"#", b"-", b"0x", b"True", b"None", b"{", b"}", b"|O", b"<f2", b"\\", b"L", b"\xff",
    b" " * 40,
)  # fmt: skip


def npy_damaged(r: random.Random, data: bytes, steps: list[str]) -> bytes:
    """A `.npy` whose header says something else."""
    how = r.choice(["battered", "descr", "shape", "order", "length", "nested", "snippet", "header", "version", "padded"])
    if how == "battered" or len(data) < 12 or data[:6] != b"\x93NUMPY":
        return battered(r, data, steps)
    width = 2 if data[6] == 1 else 4
    length = int.from_bytes(data[8 : 8 + width], "little")
    header, rest = data[8 + width : 8 + width + length], data[8 + width + length :]
    if how == "length":
        return lied(r, data, [("header length", 8, width)], steps)
    if how == "version":
        steps.append("version")
        return data[:6] + bytes([r.choice([0, 1, 2, 3, 4, 255]), r.choice([0, 0, 1])]) + data[8:]
    try:
        fields = eval(header, {"__builtins__": {}})  # our own
        said = {"descr": repr(fields["descr"]), "fortran_order": repr(fields["fortran_order"]), "shape": repr(fields["shape"])}
    except Exception:
        return battered(r, data, steps)
    if how == "snippet":
        at, snippet = r.randrange(len(header)), r.choice(SNIPPETS)
        header = header[:at] + snippet + header[at + r.choice([0, len(snippet)]) :]
        steps.append(f"{snippet!r} at {at} of the header")
    elif how == "nested":
        opening, closing, inner = r.choice(
            [("(", ")", ""), ("[", "]", ""), ("{1:", "}", "1"), ("-", "", "1"), ("1+", "", "1"), ("~", "", "1")]
        )
        depth = r.choice([20, 90, 200, 1000, 4000, 9000, 20000])
        said[r.choice(list(said))] = opening * depth + inner + closing * r.choice([0, depth])
        steps.append(f"{depth} times {opening}")
    elif how == "padded":
        header = header.rstrip() + b" " * r.choice([0, 1, 100, 9000, 65000, 70000]) + r.choice([b"\n", b""])
        steps.append(f"header of {len(header)}")
    elif how == "header":
        header = r.choice(
            [b"", b"\n", b"1", b"[]", b"{}", b"{[]: 1}", b"\0" * 60, b"dict()", b"{'descr': '<f4'}", b"\xef\xbb\xbf{}", some(r, 40)]
        )
        steps.append(f"header {header[:20]!r}")
    else:
        key = {"descr": "descr", "shape": "shape"}.get(how, "fortran_order")
        pool = {"descr": DESCRS, "shape": SHAPES}.get(how, ("True", "False", "1", "0", "None", "'yes'", "not 1", "()", "True "))
        said[key] = r.choice(pool)
        steps.append(f"{key}: {said[key][:60]}")
    if how in ("descr", "shape", "order", "nested"):
        header = ("{" + ", ".join(f"'{key}': {value}" for key, value in said.items()) + ", }\n").encode("latin-1")
    if len(header) >= 1 << 8 * width:
        data, width = data[:6] + b"\2\0" + data[8:], 4
    return data[:8] + len(header).to_bytes(width, "little") + header + rest


HOSTILE = (
    "", "/", "//", ".", "..", "../evil", "../../evil.npy", "a/../../evil", f"{EVIL}", f"{EVIL}.npy", f"{EVIL}/zarr.json", "C:\\evil",
    "a\\..\\b.npy", "x" * 255, "x" * 300, "x/" * 300 + "x.npy", "x" * 5000, "y" * 65535, "a\nb", "\x1b[2J.npy", "\r\x08", "\x7f.npy",
    "a\0b.npy", "\0", ".npy", "x.npy/", "x/", "zarr.json", ".zarray", "c", "c/0", "c/0/0/0", "c/9/9", "c/00/1", "c/-1/0", "c/0", "0.0",
    "0", "9.9", "a/b/c", "ü.npy", "\u202e.npy", "\udcff.npy", "\ud800.npy", "__init__", "a//b.npy", "./x.npy", " ", "~", "*", "[x].npy",
    "x.npy.npy", "x", "-", "--only", "con", "a/zarr.json", "g/.zgroup", "g/zarr.json", "%s", "{}",
)  # fmt: skip


def hostile(r: random.Random) -> bytes:
    name = r.choice(HOSTILE)
    return name.encode("utf-8", "surrogateescape" if "\udcff" in name else "surrogatepass")


@functools.cache
def zeros(method: int, megabytes: int) -> tuple[bytes, int]:
    """That many MiB of zeros, compressed into little, and their CRC-32."""
    block = bytes(1 << 20)
    crc, one = 0, zlib.crc32(block)
    for n in range(megabytes):
        crc = isal_zlib.crc32_combine(crc, one, 1 << 20) if n else one
    if method != 8:
        return compressed(bytes(megabytes << 20), method), crc
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = made.compress(block) + made.flush(zlib.Z_FULL_FLUSH)
    return piece * megabytes + b"\3\0", crc


def bomb(r: random.Random, name: bytes, steps: list[str]) -> Part:
    """A member that yields, or declares, far more than it should."""
    method = r.choice([8, 8, 8, 12, 14])
    megabytes = 400 if method == 8 else 16
    raw, crc = zeros(method, megabytes)
    header = io.BytesIO()
    size = r.choice([64, 1 << 20, megabytes << 20, 1 << 40])
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (size // 4,)})
    declared = r.choice([200, len(header.getvalue()) + 64, len(header.getvalue()) + (1 << 20), 1 << 30, 0xFFFFFFFE])
    steps.append(f"bomb: {megabytes} MiB by {method}, {declared} declared, header for {size}")
    if method == 8:
        # The header as a stored block before the zeros.
        text = header.getvalue()
        raw = b"\0" + struct.pack("<2H", len(text), len(text) ^ 0xFFFF) + text + raw
    return Part(name, b"", method, raw, (crc, declared))


def archive_damaged(r: random.Random, parts: list[Part], steps: list[str]) -> bytes:
    """An archive of `parts` with something wrong with its names, numbers or bytes."""
    how = r.choice(
        ["name", "name", "twice", "swap", "method", "bomb", "many", "flags", "numbers", "numbers", "numbers", "bytes", "bytes", "end"]
    )
    parts = list(parts)
    at = r.randrange(len(parts))
    if how == "name":
        name = hostile(r)
        if r.random() < 0.5:
            parts[at] = Part(name, parts[at].data, parts[at].method)
        else:
            parts.insert(r.randrange(len(parts) + 1), Part(name, r.choice([parts[at].data, b"", b"evil"]), r.choice([0, 8])))
        steps.append(f"member {name[:60]!r}")
    elif how == "twice":
        other = r.choice(parts)
        parts.insert(
            r.randrange(len(parts) + 1), Part(parts[at].name, r.choice([other.data, b"", battered(r, other.data, steps)]), r.choice([0, 8]))
        )
        steps.append(f"{parts[at].name[:60]!r} twice")
    elif how == "swap":
        other = r.choice(parts)
        parts[at] = Part(parts[at].name, other.data, parts[at].method)
        steps.append(f"{parts[at].name[:60]!r} has the data of {other.name[:60]!r}")
    elif how == "method":
        raw = compressed(parts[at].data, r.choice([0, 8, 12, 14]))
        parts[at] = Part(parts[at].name, parts[at].data, r.choice([0, 8, 12, 14, 93, 99]), raw)
        steps.append(f"{parts[at].name[:60]!r}: method {parts[at].method}, data otherwise")
    elif how == "bomb":
        parts[at] = bomb(r, parts[at].name, steps)
    elif how == "many":
        count = r.choice([300, 3000])
        parts += [Part(b"m%d.npy" % n, b"") for n in range(count)]
        steps.append(f"{count} empty members")
    data, fields = zipped(r, parts)
    if how == "numbers":
        return lied(r, data, fields, steps)
    if how == "flags":
        return lied(r, data, [each for each in fields if "flags" in each[0] or "method" in each[0]], steps)
    if how == "end":
        fake = b"PK\6\6" + struct.pack(
            "<Q2H2L4Q", 44, 45, 45, 0, 0, r.getrandbits(8), len(parts), r.getrandbits(r.choice([8, 63])), r.getrandbits(40)
        )
        fake += b"PK\6\7" + struct.pack("<LQL", 0, r.choice([len(data) - 22, 0, 1 << 60]), 1)
        steps.append("a ZIP64 end record")
        return data[:-22] + fake + data[-22:]
    return battered(r, data, steps) if how == "bytes" else data


# Damage to Zarr.

ATOMS: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 4, 6, 7, 100, 1 << 31, 1 << 62, 1 << 63, 1 << 70, 10**400, 0.5, -0.0, 3.0, 1e308, float("inf"),
    float("nan"), "", "C", "F", ".", "/", "-", "NaN", "Infinity", "0x7fc00000", "0x", "0xzz", "AAAA", "float32", "float64", "int16",
    "bool", "string", "r16", "|O", "<f8", ">f4", "<f4", "|V3", "<M8[s]", "<U4", "big", "little", "end", "start", "bytes", "zstd", "gzip",
    "blosc", "crc32c", "transpose", "sharding_indexed", "array", "group", "regular", "v2", "default", "x" * 900, "\ud800\n\x1b[2J",
    "../../evil", "(2,)f4", "f4,f4", "numcodecs.zlib", "numcodecs.delta", "zlib", "delta", "quantize", "shuffle", "vlen-utf8", "pickle",
    [], {}, [[]], [None], [0, 0], [1, 1], [7, 6], [2, 3], [4, 6], [1 << 62, 9], [1 << 31, 1 << 31], [7], [7, 6, 1], [1] * 70, [1.0, 2],
    [True, True], [1, 0], [-1, 2], {"name": "zstd"}, {"name": "crc32c"}, {"name": "bytes"}, {"name": 3}, {"id": "zlib", "level": 1},
    {"id": "pickle"}, {"id": "blosc"}, {"name": "gzip", "configuration": 1}, {"name": "transpose", "configuration": {"order": [1, 0]}},
    {"name": "numcodecs.zlib", "configuration": {"level": 1}}, {"name": "x", "must_understand": False},
    {"name": "bytes", "configuration": {"endian": "big"}}, {"name": "gzip", "configuration": {"level": 5}}, {"name": "vlen-utf8"},
    {"id": "delta", "dtype": "<f4"}, [{"id": "delta", "dtype": "<f4"}], [{"id": "shuffle", "elementsize": 0}],
    {"id": "zstd", "level": 1}, [{"name": "bytes"}], [{"name": "bytes"}, {"name": "zstd"}],
)  # fmt: skip

KEYS = (
    "shape", "chunks", "dtype", "fill_value", "order", "filters", "compressor", "dimension_separator", "zarr_format", "node_type",
    "data_type", "codecs", "chunk_grid", "chunk_key_encoding", "attributes", "dimension_names", "storage_transformers",
    "consolidated_metadata", "metadata", "name", "configuration", "level", "typesize", "blocksize", "cname", "shuffle", "endian",
    "separator", "chunk_shape", "index_codecs", "index_location", "extension", "", "\ud800", "id",
)  # fmt: skip


def anything(r: random.Random, depth: int = 0) -> Any:
    """Any JSON value."""
    if depth > 2 or r.random() < 0.8:
        return copy.deepcopy(r.choice(ATOMS))
    if r.random() < 0.5:
        return [anything(r, depth + 1) for _ in range(r.randrange(4))]
    return {r.choice(KEYS): anything(r, depth + 1) for _ in range(r.randrange(4))}


def slots(value: Any) -> Iterator[tuple[Any, Any]]:
    """All places in a document: (what it is in, its key there)."""
    for key, inner in list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else ():
        yield value, key
        yield from slots(inner)


_TEXTS = (
    b"",
    b"null",
    b"3",
    b"[]",
    b"{",
    b"{}{}",
    b'"zarr"',
    b"9" * 5000,
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"\xff\xfe",
    b"\0" * 50,
    b"\xef\xbb\xbf{}",
    b"NaN",
)


def document_damaged(r: random.Random, text: bytes, steps: list[str]) -> bytes:
    how = r.choice(["value"] * 6 + ["remove", "add", "exchange", "bytes", "nested", "text", "twice", "digits"])
    try:
        document = json.loads(text)
        places = list(slots(document))
    except (ValueError, RecursionError):
        return battered(r, text, steps)
    if how == "bytes" or not places:
        return battered(r, text, steps)
    if how == "text":
        steps.append("another document")
        return r.choice(_TEXTS)
    if how == "twice":
        key = r.choice(KEYS)
        steps.append(f"a second {key}")
        return text.rstrip()[:-1] + b"," + json.dumps(key).encode() + b":" + json.dumps(anything(r)).encode() + b"}"
    for _ in range(r.choice([1, 1, 1, 2, 3])):
        inside, key = r.choice(places)
        if isinstance(inside, list) and key >= len(inside):
            continue
        if how == "value":
            inside[key] = anything(r)
            steps.append(f"{key}: {str(inside[key])[:70]!r}")
        elif how == "remove":
            if not isinstance(inside, dict) or key in inside:
                del inside[key]
            steps.append(f"no {key}")
        elif how == "add":
            if isinstance(inside, dict):
                inside[r.choice(KEYS)] = anything(r)
            else:
                inside.insert(key, anything(r))
            steps.append(f"something beside {key}")
        elif how == "exchange":
            other, there = r.choice(places)
            if isinstance(inside, dict) == (key in inside if isinstance(inside, dict) else False) or isinstance(inside, list):
                with contextlib.suppress(KeyError, IndexError):
                    inside[key] = copy.deepcopy(other[there])
            steps.append(f"{key} has the value of {there}")
        else:
            inside[key] = "@@"
    try:
        made = json.dumps(document).encode()
    except (ValueError, RecursionError):
        return text
    depth = r.choice([50, 300, 900, 1500, 50_000])
    filler = b"9" * 5000 if how == "digits" else b"[" * depth + b"]" * depth
    if how in ("nested", "digits"):
        steps.append(f"{depth} levels" if how == "nested" else "5000 digits")
    return made.replace(b'"@@"', filler)


def crc32c(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(4, "little")


def header_fields(data: bytes) -> list[Field]:
    """Numbers of the frame that a chunk is, as far as its first bytes tell."""
    end = len(data)
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return [("zstd flags", 4, 1), ("zstd", 5, 1), ("zstd", 5, 2), ("zstd", 6, 4), ("zstd block", 6, 3), ("zstd checksum", end - 4, 4)]
    if data[:2] == b"\x1f\x8b":
        return [("gzip method", 2, 1), ("gzip flags", 3, 1), ("gzip crc", end - 8, 4), ("gzip size", end - 4, 4), ("gzip extra", 10, 2)]
    if data[:1] == b"\x02" and end >= 16:
        names = (
            ("version", 0, 1),
            ("codec", 1, 1),
            ("flags", 2, 1),
            ("typesize", 3, 1),
            ("nbytes", 4, 4),
            ("blocksize", 8, 4),
            ("cbytes", 12, 4),
            ("start", 16, 4),
        )
        return [(f"blosc {name}", at, width) for name, at, width in names]
    return [("lz4", 0, 4), ("zlib", 0, 2), ("zlib", end - 4, 4)]


def chunk_damaged(r: random.Random, data: bytes, kind: str, steps: list[str]) -> bytes:
    how = r.choice(["bytes", "header", "header", "inner", "index", "index", "bomb", "crc"])
    if how == "bomb":
        megabytes = r.choice([1, 64])
        raw, crc = zeros(8, megabytes)
        gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + raw + struct.pack("<2L", crc, r.choice([megabytes << 20, 24, 12]))
        plain = bytes(megabytes << 20)
        steps.append(f"a chunk of {megabytes} MiB")
        if "gzip" in kind:
            return gzip
        codec: Any = numcodecs.Blosc() if "blosc" in kind else numcodecs.Zlib() if "zlib" in kind or "shuffle" in kind else numcodecs.Zstd()
        return bytes(codec.encode(plain)) if "raw" not in kind else plain[: 1 << 20]
    if "sharded" in kind or ("group" in kind and len(data) > 68):
        first = "gzip" in kind
        index = data[:64] if first else data[-68:-4]
        entries = list(struct.unpack("<8Q", index)) if len(index) == 64 else []
        if how == "index" and entries:
            for _ in range(r.choice([1, 1, 2])):
                n = r.randrange(8)
                entries[n] = r.choice([lie(r, entries[n], 8, len(data)), entries[r.randrange(8)]])
            steps.append(f"shard index {entries}")
            index = struct.pack("<8Q", *entries)
            end = crc32c(index) if r.random() < 0.8 else bytes(4)
            return index + end + data[68:] if first else data[:-68] + index + end
        if how in ("inner", "header") and entries and entries[0] + entries[1] <= len(data):
            at, size = entries[0], entries[1]
            inner = data[at : at + size]
            made = lied(r, inner, header_fields(inner), steps) if how == "header" else battered(r, inner, steps)
            # Of the same length, so that the index stays right.
            return data[:at] + made.ljust(size, b"\0")[:size] + data[at + size :]
    if how == "crc" and len(data) > 4:
        made = battered(r, data[:-4], steps)
        steps.append("and its CRC-32C")
        return made + crc32c(made)
    return lied(r, data, header_fields(data), steps) if how == "header" else battered(r, data, steps)


def tree_damaged(r: random.Random, tree: Tree, kind: str, packed: bool, steps: list[str]) -> None:
    documents = [key for key in tree if key.rpartition("/")[2] in DOCUMENTS] or list(tree)
    chunks = [key for key in tree if key not in documents] or documents
    how = r.choice(["document"] * 7 + ["chunk"] * 7 + ["swap", "foreign", "delete", "name", "second", "odd", "odd", "links"])
    if packed and how in ("odd", "links"):
        how = "name"
    key = r.choice(documents) if how == "document" else r.choice(chunks) if how == "chunk" else r.choice(list(tree))
    content = tree[key]
    steps.append(f"{how} {key}")
    if not isinstance(content, bytes):
        return
    if how == "document":
        tree[key] = document_damaged(r, content, steps)
    elif how == "chunk":
        tree[key] = chunk_damaged(r, content, kind, steps)
    elif how == "swap":
        other = r.choice(list(tree))
        tree[key], tree[other] = tree[other], tree[key]
        steps.append(f"with {other}")
    elif how == "foreign":
        _, theirs = stored(r)
        tree[key] = theirs[r.choice(list(theirs))]
    elif how == "delete":
        del tree[key]
    elif how == "name":
        # What a file system takes for a name, and no more.
        name = "/".join(
            part[:200] for part in hostile(r).replace(b"\0", b"").decode("utf-8", "surrogateescape").split("/") if part.strip(".")
        )[:900]
        if name and not any(had == name or had.startswith(f"{name}/") or name.startswith(f"{had}/") for had in tree):
            tree[name] = r.choice([content, b"", b"evil"])
            steps.append(f"also as {name[:60]!r}")
    elif how == "second":
        _, theirs = stored(r)
        for there, data in theirs.items():
            if there.rpartition("/")[2] in DOCUMENTS and not any(
                had.startswith(f"{there}/") or there.startswith(f"{had}/") for had in tree
            ):
                tree.setdefault(there, data)
    elif how == "odd":
        tree[key] = r.choice(
            [Odd("fifo"), Odd("folder"), Odd("link", "nowhere"), Odd("link", key.rpartition("/")[2]), Odd("link", "."), Odd("link", "..")]
        )
        if r.random() < 0.3:
            del tree[key]
            tree["odd"] = r.choice(
                [Odd("fifo"), Odd("link", "."), Odd("link", "nowhere"), Odd("link", "/proc/self"), Odd("link", ".."), Odd("folder")]
            )
        steps.append(str(tree.get(key, tree.get("odd"))))
    elif r.random() < 0.97:
        folders = sorted({had.rpartition("/")[0] for had in tree} - {""}) or ["c"]
        tree[f"{r.choice(folders)}/loop"] = Odd("link", r.choice(["..", "../..", "../../..", "loop", "../a", "../g"]))
    else:
        # Each folder has the next one twice: few links, paths without number.
        for n in range(24):
            for side in "lr":
                tree[f"d{n}/{side}"] = Odd("link", f"../d{n + 1}")
        tree["d24/x"] = b""


# Inputs.


def make(r: random.Random) -> Case:
    """A case, from what `r` gives."""
    options = Options(
        memory=256 << 20,
        workers=r.choice([1, 1, 2]),
        dtype=r.choice([None] * 12 + ["float16", "float32", "float64", "int32"]),
        only=r.choice([("*",), ("*",), ()]),
        verify=r.random() < 0.1,
        reports=() if r.random() < 0.2 else ("none",),
    )
    dest = r.choice([".npy", ".npz", ".zarr", ".zarr.zip"])
    steps: list[str] = []
    times = 0 if r.random() < 0.02 else r.choice([1, 1, 1, 2, 3])
    family = r.choice(["npy", "npz", "npz", "zarr", "zarr", "zarr.zip"])
    if family == "npy":
        data = npy(r)
        for _ in range(times):
            data = npy_damaged(r, data, steps)
        return Case("npy", "in.npy", data, dest, options, steps)
    if family == "npz":
        method = r.choice([0, 8, 8, 12, 14])
        names = r.sample([b"x.npy", b"y.npy", b"layers/conv.npy", "ü.npy".encode(), b"z", b"arr_0.npy"], r.choice([1, 1, 2, 3]))
        parts = [Part(name, npy(r), method if r.random() < 0.8 else r.choice([0, 8])) for name in names]
        if times and r.random() < 0.15:
            parts.append(Part(b"other.npy", no_numbers(r), method))
            steps.append("an array of no numbers")
        for _ in range(times - 1):
            part = r.choice(parts)
            part.data = npy_damaged(r, part.data, steps)
        if times and r.random() < 0.25:
            parts[0].data = npy_damaged(r, parts[0].data, steps)
            data, _ = zipped(r, parts)
        else:
            data = archive_damaged(r, parts, steps) if times else zipped(r, parts)[0]
        return Case(f"npz {('stored', 'deflated', 'bzip2', 'lzma')[(0, 8, 12, 14).index(method)]}", "in.npz", data, dest, options, steps)
    kind, tree = stored(r)
    if any(key.startswith("s/") for key in tree):
        steps.append("an array of strings")
    if family == "zarr":
        for _ in range(times):
            if tree:
                tree_damaged(r, tree, kind, False, steps)
        return Case(f"zarr {kind}", "in.zarr", tree, dest, options, steps)
    method = r.choice([0, 0, 8])
    if outer := r.random() < 0.5 and times > 0:
        times -= 1
    for _ in range(times):
        if tree:
            tree_damaged(r, tree, kind, True, steps)
    parts = [Part(os.fsencode(key), data, method) for key, data in tree.items() if isinstance(data, bytes)] or [Part(b"x", b"")]
    data = archive_damaged(r, parts, steps) if outer else zipped(r, parts)[0]
    return Case(f"zarr.zip {'stored' if method == 0 else 'deflated'}", "in.zarr.zip", data, dest, options, steps)


def numbered(seed: int, number: int) -> Case:
    return make(random.Random(f"{seed}/{number}"))


def write(case: Case, path: Path) -> None:
    if isinstance(case.content, bytes):
        path.write_bytes(case.content)
        return
    path.mkdir()
    for key, content in case.content.items():
        at = path / key
        # Damage upon damage may put a file where a folder is.
        with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
            at.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                at.write_bytes(content)
            elif content.kind == "link":
                at.symlink_to(content.target)
            elif content.kind == "fifo":
                os.mkfifo(at)
            else:
                at.mkdir()


# What is right: read by numpy, zipfile and zarr, or by hand where they are stricter than they need be.


class UnreadError(Exception):
    """What there is cannot be read by others, either."""


def npy_read(data: bytes) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False, max_header_size=1 << 20))


def member_read(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except Exception as error:
        # zipfile compares names and flags of the two headers, which say nothing of the data: its CRC-32 does.
        data = path.read_bytes()
        lengths = struct.unpack_from("<2H", data, info.header_offset + 26)
        at = info.header_offset + 30 + sum(lengths)
        raw = data[at : at + info.compress_size]
        if info.compress_type == 8:
            raw = zlib.decompressobj(-15).decompress(raw, info.file_size + 1)
        elif info.compress_type == 12:
            raw = bz2.BZ2Decompressor().decompress(raw, info.file_size + 1)
        elif info.compress_type == 14:
            properties: Any = lzma._decode_filter_properties(lzma.FILTER_LZMA1, raw[4:9])  # type: ignore[attr-defined]
            raw = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[properties]).decompress(raw[9:])
        if len(raw) != info.file_size or zlib.crc32(raw) != info.CRC:
            raise UnreadError(f"zipfile does not read {info.filename!r}: {error!r}") from None
        return raw


class Found:
    """The arrays at a path by their names in reports, and its files that are no arrays by their names."""

    def __init__(self, path: Path, format: str) -> None:
        self.format, self._path = format, path
        self.keys: dict[str, list[str]] = {"": [""]}
        self._zip: zipfile.ZipFile | None = None
        if format == "npz":
            self._zip = zipfile.ZipFile(path)
            self.keys = {}
            for key in dict.fromkeys(self._zip.namelist()):
                self.keys.setdefault(key.removesuffix(".npy"), []).append(key)
        elif format.startswith("zarr"):
            self._store: Any = zarr.storage.LocalStore(path, read_only=True) if format == "zarr" else zarr.storage.ZipStore(path, mode="r")

    def close(self) -> None:
        if self._zip:
            self._zip.close()
        if self.format.startswith("zarr"):
            self._store.close()

    def raw(self, key: str) -> bytes:
        assert self._zip
        return member_read(self._path, self._zip, self._zip.getinfo(key))

    def array(self, name: str, key: str | None = None) -> NDArray[Any]:
        """Raises whatever it is that the reader raises."""
        if self.format == "npy":
            return npy_read(self._path.read_bytes())
        if self.format == "npz":
            return npy_read(self.raw(self.keys[name][0] if key is None else key))
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return np.asarray(zarr.open_array(self._store, path=name, mode="r")[...])

    def files(self, name: str) -> dict[str, bytes]:
        """All that belongs to an array of a Zarr hierarchy."""
        if self.format == "zarr":
            folder = self._path / name
            paths = [Path(top) / file for top, _, files in os.walk(folder, followlinks=True) for file in files]
            return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
        with zipfile.ZipFile(self._path) as archive:
            entries = {info.filename: info for info in archive.infolist() if info.filename.startswith(f"{name}/")}
            return {key[len(name) + 1 :]: member_read(self._path, archive, info) for key, info in entries.items()}

    def names(self) -> set[str] | None:
        """Of all arrays; None where the reader does not list them."""
        try:
            if self.format == "npz":
                return {name for name, keys in self.keys.items() for key in keys if self.raw(key)[:6] == b"\x93NUMPY"}
            if self.format == "npy":
                return {""}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                opened = zarr.open(self._store, mode="r", use_consolidated=False)
                return (
                    {""}
                    if isinstance(opened, zarr.Array)
                    else {name for name, node in opened.members(max_depth=None) if isinstance(node, zarr.Array)}
                )
        except Exception:
            return None


def same(found: NDArray[Any], expected: NDArray[Any], payloads: bool) -> bool:
    """Bit for bit, byte order aside; payloads: of NaN, too."""
    a, b = (np.ascontiguousarray(x.astype(x.dtype.newbyteorder("="), copy=False)) for x in (found, expected))
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    bits = a.reshape(-1).view(f"u{a.itemsize}") == b.reshape(-1).view(f"u{b.itemsize}")
    if not payloads and a.dtype.kind == "f":
        bits |= np.isnan(a.reshape(-1)) & np.isnan(b.reshape(-1))
    return bool(bits.all())


def wrong(case: Case, source: Path, dest: Path, report: Report) -> list[str]:
    """What is wrong with a result."""
    findings = []
    before = Found(source, report.source.format)
    after = Found(dest, report.destination.format)
    try:
        reported = {each.name: each for each in report.arrays}
        listed = before.names()
        if listed is not None and case.options.only and case.dest != ".npy" and not listed <= set(reported):
            findings.append(f"arrays {sorted(listed - set(reported))} are in the source, and not in the report")
        results = after.names()
        renamed = {"arr_0"} if set(reported) == {""} and after.format == "npz" else set(reported)
        # A group's own documents are copied as they are: where zarr does not list the source, it need not list the result.
        told = case.options.only and case.dest != ".npy" and not before.format == after.format == "npz"
        if told and results != renamed and (not before.format.startswith("zarr") or listed == set(reported)):
            findings.append(f"the result holds the arrays {results}, its report {set(reported)}")
        for name, each in reported.items():
            if each.action == "copied" and before.format.startswith("zarr") and after.format.startswith("zarr"):
                # What it decodes to, or whether it does, is none of ours.
                if before.files(name) != after.files(name):
                    findings.append(f"{name!r}: is no copy")
                continue
            keys = before.keys[name] if before.format == "npz" else [None]
            # Of members that differ by ".npy" alone, one may be the report's.
            tried = []
            for key in keys:
                try:
                    x = before.array(name, key)
                except Exception as error:
                    if isinstance(error, gzip.BadGzipFile) and "Not a gzipped file" in str(error):
                        break  # zarrs leaves out what follows a member that is whole, as its checksum says
                    tried.append(f"{name!r}: others do not read it: {type(error).__name__}: {str(error)[:200]}")
                    continue
                try:
                    there = "" if after.format == "npy" else name or ("arr_0" if after.format == "npz" else "")
                    y = after.array(there, key if before.format == after.format == "npz" else None)
                except Exception as error:
                    tried.append(f"{name!r}: its result cannot be read: {type(error).__name__}: {str(error)[:200]}")
                    continue
                if each.action == "transformed":
                    expected = leaky_relu(x, case.options.alpha, case.options.dtype)
                    if not same(y, expected, payloads=expected.dtype == x.dtype.newbyteorder("=")):
                        tried.append(f"{name!r}: wrong: {x.dtype} {x.shape} -> {y.dtype} {y.shape}: {differing(x, y, expected)}")
                        continue
                elif not same(y, x, payloads=True):
                    tried.append(f"{name!r}: is no copy")
                    continue
                break
            else:
                findings += tried
    finally:
        before.close()
        after.close()
    return findings


def differing(x: NDArray[Any], y: NDArray[Any], expected: NDArray[Any]) -> str:
    if y.shape != expected.shape or not y.size:
        return f"{expected.dtype} {expected.shape} expected"
    with np.errstate(all="ignore"):
        at = int(np.argmax(~((y == expected) | ((y != y) & (expected != expected))).reshape(-1)))
    return f"element {at}: of {x.reshape(-1)[at]!r} came {y.reshape(-1)[at]!r}, not {expected.reshape(-1)[at]!r}"


# Running one.


def state(path: Path) -> dict[str, Any]:
    """All that can be seen of a tree without changing it."""
    found: dict[str, Any] = {}
    for top, folders, files in os.walk(path):
        for name in (*folders, *files):
            at = os.path.join(top, name)
            status = os.lstat(at)
            mode = status.st_mode
            content = Path(at).read_bytes() if stat.S_ISREG(mode) else os.readlink(at) if stat.S_ISLNK(mode) else None
            found[at] = mode, status.st_size, None if stat.S_ISDIR(mode) else status.st_mtime_ns, content
    return found


def check_line(error: LeakyError, limit: int) -> list[str]:
    text, findings = str(error), []
    if not text or not text.isprintable():
        findings.append(f"its text is not one printable line: {text[:300]!r}")
    if len(text) > limit:
        findings.append(f"its text has {len(text)} characters, more than {limit}: {text[:200]!r}")
    if error.exit_code not in range(1, 6):
        findings.append(f"its exit code is {error.exit_code}")
    return findings


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    return 0


def _forget_peak() -> None:
    """Let the kernel measure the peak of resident memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def judge(case: Case, root: Path, remember: Callable[[str], None] = lambda text: None) -> Outcome:
    """Run the case in a folder of its own under `root`, and say how it ended."""
    here = root / "case"
    (here / "in").mkdir(parents=True)
    (here / "out").mkdir()
    try:
        return _judged(case, here, remember)
    finally:
        shutil.rmtree(here, ignore_errors=True)


def _judged(case: Case, here: Path, remember: Callable[[str], None]) -> Outcome:
    source, dest = here / "in" / case.name, here / "out" / f"out{case.dest}"
    write(case, source)
    before, beside = state(here / "in"), (sorted(os.listdir(here)), sorted(os.listdir(here.parent)))
    limit = len(str(source)) + len(str(dest)) + 700
    outcome = Outcome(case.kind, "result")
    flat = case.name in ("in.npy", "in.npz")
    if flat:
        _forget_peak()
    resident, report = _status("VmRSS:"), None
    try:
        remember("apply")
        report = leakycli.apply(str(source), str(dest), case.options)
    except LeakyError as error:
        outcome.ended, outcome.said = type(error).__name__, str(error)
        outcome.findings += check_line(error, limit)
        outcome.kept = isinstance(error, StorageError) and str(error).endswith(KEPT)
        if isinstance(error, DifferenceError):
            outcome.findings.append(f"--verify found a difference: {error}")
        if not case.steps and case.dest != ".npy" and case.options.dtype is None:
            outcome.findings.append(f"a sound input is refused: {error}")
    except BaseException as error:  # panics of native code are no Exception
        outcome.ended = type(error).__name__
        outcome.findings.append(f"{type(error).__name__}: {str(error)[:200]}\n{''.join(traceback.format_exception(error)[-8:])}")
    if flat and (grown := _status("VmHWM:") - resident) > MOST_MEMORY:
        outcome.findings.append(f"resident memory grew by {grown >> 20} MiB")
    left = set(os.listdir(here / "out"))
    if outcome.kept:
        # A broken link, say, that may be mended: it says so.
        left = {name for name in left if not name.startswith(f"{dest.name}.partial")}
    if left - ({dest.name, f"{dest.name}.report.json"} if report else set()):
        outcome.findings.append(f"left beside DEST: {sorted(left)}")
    if outcome.ended == "SourceChangedError":
        outcome.findings.append(f"nobody changed the source: {outcome.said}")
    if report and dest.name not in left:
        outcome.findings.append("no result, and no error")
    remember("info")
    try:
        leakycli.info(str(source))
    except LeakyError as error:
        outcome.findings += [f"info: {text}" for text in check_line(error, limit)]
        # It lists the chunks of all arrays, apply those of the chosen ones.
        if report and case.options.only:
            outcome.findings.append(f"info refuses what apply takes: {error}")
    except BaseException as error:
        outcome.findings.append(f"info: {type(error).__name__}: {str(error)[:200]}\n{''.join(traceback.format_exception(error)[-8:])}")
    if state(here / "in") != before:
        outcome.findings.append("the source was changed")
    if (sorted(os.listdir(here)), sorted(os.listdir(here.parent))) != beside or os.path.lexists(EVIL) or os.path.lexists(f"{EVIL}.npy"):
        outcome.findings.append("something was written elsewhere")
    if report and dest.name in left:
        remember("check")
        try:
            outcome.findings += wrong(case, source, dest, report)
        except BaseException as error:
            outcome.findings.append(f"the check failed: {''.join(traceback.format_exception(error)[-8:])}")
    return outcome


# Running many.


def work(seed: int, numbers: range, channel: int) -> None:
    """Judge inputs, and write a line before each, at each step and after each to the descriptor `channel`."""

    def say(**record: Any) -> None:
        os.write(channel, json.dumps(record).encode() + b"\n")

    faulthandler.enable()
    # An allocation that the machine cannot serve is to fail here, not to have another process killed.
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        # What is left in the folder for temporary files shows there, too.
        tempfile.tempdir = name
        for number in numbers:
            say(number=number, doing="make")
            faulthandler.dump_traceback_later(LIMIT - 2)
            outcome = judge(numbered(seed, number), Path(name), lambda text, number=number: say(number=number, doing=text))  # type: ignore[misc]
            faulthandler.cancel_dump_traceback_later()
            descriptors = len(os.listdir("/proc/self/fd"))
            said = {"ended": outcome.ended, "said": outcome.said, "findings": outcome.findings}
            say(number=number, kind=outcome.kind, descriptors=descriptors, **said)
            if _status("VmRSS:") > MOST_RESIDENT:
                break


class Fuzzer:
    """Batches of inputs in processes, and what came of them."""

    def __init__(self, seed: int, inputs: int, batch: int = BATCH) -> None:
        self.seed = seed
        self.outcomes: list[tuple[int, Outcome]] = []
        self.descriptors = 0
        self._todo = [range(first, min(first + batch, inputs)) for first in range(0, inputs, batch)][::-1]
        self._lock = threading.Lock()
        self._inputs = inputs
        self._started = time.monotonic()

    def run(self, workers: int) -> None:
        threads = [threading.Thread(target=self._slot) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.outcomes.sort(key=lambda each: each[0])

    def _slot(self) -> None:
        while True:
            with self._lock:
                if not self._todo:
                    return
                numbers = self._todo.pop()
            while numbers:
                done = self._batch(numbers)
                numbers = numbers[numbers.index(done) + 1 :] if done in numbers else numbers[:0]

    def _batch(self, numbers: range) -> int:
        """Run `numbers` until the end, or until one ends the process; returns the last."""
        ours, theirs = os.pipe()
        with tempfile.TemporaryFile() as errors:
            command = [
                sys.executable,
                "-m",
                "tests.promises.fuzz",
                "--seed",
                str(self.seed),
                "--batch",
                f"{numbers.start}:{numbers.stop}:{theirs}",
            ]
            process = subprocess.Popen(command, pass_fds=[theirs], stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
            os.close(theirs)
            at, doing, why = numbers.start, "start", ""
            with open(ours, "rb", buffering=0) as channel, selectors.DefaultSelector() as selector:
                selector.register(channel, selectors.EVENT_READ)
                rest, until = b"", time.monotonic() + 60 + LIMIT
                while True:
                    if not selector.select(max(until - time.monotonic(), 0)):
                        why = f"hangs: more than {LIMIT:.0f} s"
                        break
                    if not (data := channel.read(1 << 16)):
                        break
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        record = json.loads(line)
                        at = record["number"]
                        if "doing" in record:
                            if record["doing"] == "make":
                                until = time.monotonic() + LIMIT
                            doing = record["doing"]
                        else:
                            doing = ""
                            self._note(at, Outcome(record["kind"], record["ended"], record["said"], record["findings"]))
                            self.descriptors = max(self.descriptors, record["descriptors"])
            if why:
                process.kill()
            code = process.wait()
            if doing or (code and at != numbers[-1]):
                errors.seek(0)
                text = errors.read().decode(errors="replace")
                why = why or f"ends the process ({code})"
                kind = numbered(self.seed, at).kind if doing != "make" else "?"
                self._note(
                    at, Outcome(kind, "hang" if "hangs" in why else "crash", findings=[f"{why} at {doing or 'the end'}\n{text[-3000:]}"])
                )
            return at

    def _note(self, number: int, outcome: Outcome) -> None:
        with self._lock:
            self.outcomes.append((number, outcome))
            for finding in outcome.findings:
                print(f"{number}: {outcome.kind}: {finding.partition(chr(10))[0][:300]}", flush=True)
            if len(self.outcomes) % 1000 == 0:
                print(f"{len(self.outcomes)} of {self._inputs} in {time.monotonic() - self._started:.0f} s", file=sys.stderr, flush=True)


def table(outcomes: list[tuple[int, Outcome]]) -> str:
    """Kind of input by outcome."""
    counts = Counter((each.kind, each.ended) for _, each in outcomes)
    columns = [ended for ended, _ in Counter(each.ended for _, each in outcomes).most_common()]
    wide = [max(len(column), 6) for column in columns]
    lines = [" ".join([f"{'':22}", *(f"{column:>{width}}" for column, width in zip(columns, wide, strict=True))])]
    for kind in [*sorted({kind for kind, _ in counts}), "all"]:
        row = [sum(n for (k, e), n in counts.items() if e == column and kind in (k, "all")) for column in columns]
        lines.append(" ".join([f"{kind:22}", *(f"{n or '.':>{width}}" for n, width in zip(row, wide, strict=True))]))
    return "\n".join(lines)


def show(seed: int, number: int) -> bool:
    """Run one input here and tell all; whether it is as it should be."""
    case = numbered(seed, number)
    print(f"{case.kind}: {case.name} -> {case.dest}, {case.options}")
    print("\n".join(case.steps) or "sound")
    if isinstance(case.content, bytes):
        print(f"{len(case.content)} bytes: {case.content[:300]!r}")
    else:
        for key, content in case.content.items():
            shown = content if isinstance(content, Odd) else content[: 1500 if key.endswith(DOCUMENTS) else 200]
            print(f"  {key!r}: {'' if isinstance(content, Odd) else f'{len(content)} bytes: '}{shown!r}")
    sys.stdout.flush()
    faulthandler.enable()
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        outcome = judge(case, Path(name), lambda text: print(f"- {text}", flush=True))
    faulthandler.cancel_dump_traceback_later()
    print(f"{outcome.ended}: {outcome.said}")
    print("\n".join(f"FINDING {finding}" for finding in outcome.findings) or "as it should be")
    return not outcome.findings


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.promises.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, help="run the input of this number alone")
    parser.add_argument("--keep", type=Path, help="with --only: write the input to this folder, and do not run it")
    parser.add_argument("--batch", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.batch:
        first, end, channel = map(int, given.batch.split(":"))
        work(given.seed, range(first, end), channel)
        return 0
    if given.only is not None:
        if given.keep:
            case = numbered(given.seed, given.only)
            write(case, given.keep / case.name)
            return 0
        return 0 if show(given.seed, given.only) else 1
    fuzzer = Fuzzer(given.seed, given.inputs)
    fuzzer.run(given.workers)
    print(table(fuzzer.outcomes))
    print(f"at most {fuzzer.descriptors} descriptors were open")
    bad = [(number, each) for number, each in fuzzer.outcomes if each.findings]
    for number, each in bad:
        print(f"\n{number}: {each.kind}, {each.ended}: " + "\n".join(each.findings))
    print(f"\n{len(fuzzer.outcomes)} inputs, {len(bad)} with findings" + ": " * bool(bad) + " ".join(str(number) for number, _ in bad))
    return 1 if bad or len(fuzzer.outcomes) < given.inputs else 0


if __name__ == "__main__":
    sys.exit(main())
