"""Codecs of our own against zarr, TensorStore and `zarrs`; and against damage."""

from __future__ import annotations

import bz2
import copy
import gzip
import lzma
import random
import re
import subprocess
import sys
import tracemalloc
import types
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest

from leakycli.formats.zarr.codecs import ChunkError, CodecChain, UnknownCodec
from tests.formats.zarr.layouts import (
    BIG,
    LAYOUTS,
    LITTLE,
    Array,
    Layout,
    read,
    read_ours,
    same,
    stored,
    those,
    write,
    write_documents,
    write_ours,
)


def test_enough_layouts_are_compared() -> None:
    assert len(LAYOUTS) >= 400
    assert len({layout.name for layout in LAYOUTS}) >= 250
    assert len(those("tensorstore")) >= 120
    assert len(those("zarrs")) >= 80


@pytest.mark.parametrize("layout", those())
def test_zarr_writes_and_reads_the_same(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip, "time", types.SimpleNamespace(time=lambda: 0))  # it is in the headers that zarr writes
    write(layout, tmp_path / "zarr", "zarr")
    write_ours(layout, tmp_path / "ours")
    assert same(read_ours(layout, tmp_path / "zarr"), layout.data())
    assert stored(tmp_path / "ours") == stored(tmp_path / "zarr")
    assert same(read(layout, tmp_path / "ours", "zarr"), layout.data())


@pytest.mark.parametrize("layout", those("tensorstore"))
def test_tensorstore_writes_and_reads_the_same(layout: Layout, tmp_path: Path) -> None:
    _exchange(layout, tmp_path, "tensorstore")


@pytest.mark.parametrize("layout", those("zarrs"))
def test_zarrs_writes_and_reads_the_same(layout: Layout, tmp_path: Path) -> None:
    _exchange(layout, tmp_path, "zarrs")


def _exchange(layout: Layout, tmp_path: Path, peer: str) -> None:
    write(layout, tmp_path / "theirs", peer)
    write_ours(layout, tmp_path / "ours")
    assert same(read_ours(layout, tmp_path / "theirs"), layout.data())
    assert same(read(layout, tmp_path / "ours", peer), layout.data())


# Damage


def _damaged(data: bytes, rng: random.Random) -> bytes:
    """`data` with something wrong: a bit, a byte, a run, its length, the order of its parts."""
    at, length = rng.randrange(len(data)), rng.randrange(1, 40)
    match rng.randrange(8):
        case 0 | 1:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 2:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 3:
            return data[:at]
        case 4:
            return data + rng.randbytes(length)
        case 5:
            return (data[:at] + bytes(length) + data[at + length :])[: len(data)]
        case 6:
            return data[:at] + data[at + length :]
        case _:
            return data[at:] + data[:at]


def _damage(layout: Layout, tmp_path: Path, times: int) -> None:
    """What is damaged is refused, or decodes to what zarr makes of it."""
    rng = random.Random(layout.seed)
    write_ours(layout, tmp_path)
    chain, files = layout.chain(), stored(tmp_path)
    boxes = {layout.key(index): box for index, box in layout.units()}
    data = layout.data()
    refused = 0
    for _ in range(times):
        key = rng.choice(sorted(files))
        bad = _damaged(files[key], rng)
        out = np.empty(data[boxes[key] or ...].shape, layout.dtype)
        try:
            chain.decode(bad, out, (0,) * out.ndim)
        except ChunkError as error:
            assert re.search(r"\(bytes \d+ to \d+\)$", str(error))
            refused += 1
            continue
        if bad != files[key] and not same(out, data[boxes[key] or ...]):
            # Not all codecs have checksums.
            (tmp_path / key).write_bytes(bad)
            assert same(out, read(layout, tmp_path, "zarr", boxes[key]))
            (tmp_path / key).write_bytes(files[key])
    assert refused


@pytest.mark.parametrize("layout", those()[::3])
def test_damage_is_refused_or_is_what_zarr_reads(layout: Layout, tmp_path: Path) -> None:
    _damage(layout, tmp_path, 12)


@pytest.mark.slow
@pytest.mark.parametrize("layout", those())
def test_damage_in_a_hundred_ways(layout: Layout, tmp_path: Path) -> None:
    _damage(layout, tmp_path, 100)


BOMBS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda data: bytes(numcodecs.Zstd(1).encode(data)),
    "gzip": lambda data: gzip.compress(data, 1),
    "zlib": lambda data: zlib.compress(data, 1),
    "bz2": lambda data: bz2.compress(data, 1),
    "lzma": lambda data: lzma.compress(data, preset=0),
    "lz4": lambda data: bytes(numcodecs.LZ4().encode(data)),
    "blosc": lambda data: bytes(numcodecs.Blosc("zstd", 1).encode(data)),
}


@pytest.mark.parametrize("codec", BOMBS)
def test_what_a_hostile_chunk_decodes_to_is_bounded(codec: str) -> None:
    bomb = BOMBS[codec](bytes(32 << 20))
    name = codec if codec in ("zstd", "gzip", "blosc") else f"numcodecs.{codec}"
    chain = CodecChain.v3([LITTLE, {"name": name, "configuration": {}}], (1000,), np.dtype("f4"), bytes(4))
    out = np.empty(1000, "f4")
    chain.decode(b"".join(chain.encode(out) or ()), out)  # libraries are imported
    tracemalloc.start()
    try:
        with pytest.raises(ChunkError):
            chain.decode(bomb[: chain.encoded_limit], out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("codec", BOMBS)
@pytest.mark.parametrize("size", [3996, 4004], ids=["less", "more"])
def test_a_chunk_of_another_size_is_refused(codec: str, size: int) -> None:
    name = codec if codec in ("zstd", "gzip", "blosc") else f"numcodecs.{codec}"
    chain = CodecChain.v3([LITTLE, {"name": name, "configuration": {}}], (1000,), np.dtype("f4"), bytes(4))
    encoded = BOMBS[codec](np.random.default_rng(0).bytes(size))
    with pytest.raises(ChunkError, match=rf"\(bytes 70 to {70 + len(encoded)}\)"):
        chain.decode(encoded, np.empty(1000, "f4"), at=70)


def test_several_frames_are_one_chunk() -> None:
    data = np.random.default_rng(0).normal(size=1000).astype("f4")
    raw, out = data.tobytes(), np.empty(1000, "f4")
    zstd = numcodecs.Zstd(1)
    skipped = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    frames = {
        "zstd": (zstd.encode(raw[:600]) + skipped + zstd.encode(raw[600:])),
        "gzip": gzip.compress(raw[:600]) + gzip.compress(raw[600:]),
    }
    for name, encoded in frames.items():
        chain = CodecChain.v3([LITTLE, {"name": name, "configuration": {"level": 1}}], (1000,), np.dtype("f4"), bytes(4))
        chain.decode(encoded, out)
        assert out.tobytes() == raw
        with pytest.raises(ChunkError, match="4000 belong"):
            chain.decode(BOMBS[name](raw[:600]) + BOMBS[name](raw[:600]), out)


def test_a_zstd_frame_that_does_not_tell_its_size() -> None:
    """As encoders of streams write it."""
    raw = np.random.default_rng(0).normal(size=1000).astype("f4").tobytes()
    # One raw block, no content size, a window of 1 MiB (RFC 8878).
    frame = b"\x28\xb5\x2f\xfd\x00\x50" + (len(raw) << 3 | 1).to_bytes(3, "little") + raw
    chain = CodecChain.v3([LITTLE, {"name": "zstd", "configuration": {"level": 1}}], (1000,), np.dtype("f4"), bytes(4))
    out = np.empty(1000, "f4")
    chain.decode(frame, out)
    assert out.tobytes() == raw
    for size in (996, 1004):
        other = CodecChain.v3([LITTLE, {"name": "zstd", "configuration": {"level": 1}}], (size,), np.dtype("f4"), bytes(4))
        with pytest.raises(ChunkError):
            other.decode(frame, np.empty(size, "f4"))


# Shards

SHARD: list[Any] = [
    {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [4, 4],
            "codecs": [LITTLE, {"name": "zstd", "configuration": {"level": 1, "checksum": False}}],
            "index_codecs": [LITTLE],
            "index_location": "end",
        },
    }
]


def _shard() -> tuple[CodecChain, Array, bytes]:
    chain = CodecChain.v3(SHARD, (8, 12), np.dtype("f4"), bytes(4))
    data = np.random.default_rng(1).normal(size=(8, 12)).astype("f4")
    data[4:, 4:8] = 0
    return chain, data, b"".join(chain.encode(data) or ())


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ((0, 0, 0), 1 << 40, "points past its end"),
        ((0, 0, 1), 1 << 40, "points past its end"),
        ((0, 0, 0), (1 << 64) - 1, "points past its end"),
        ((0, 0, 1), (1 << 64) - 1, "points past its end"),
        ((0, 1, 0), 3, "overlap"),
        ((0, 0, 1), 200, "overlap"),
    ],
)
def test_a_shard_whose_index_is_wrong_is_refused(entry: tuple[int, ...], value: int, message: str) -> None:
    chain, data, encoded = _shard()
    size, _ = chain.index_span
    index = np.frombuffer(encoded[-size:], "<u8").reshape(2, 3, 2).copy()
    index[entry] = value
    bad = encoded[:-size] + index.tobytes()
    with pytest.raises(ChunkError, match=message):
        chain.decode(bad, np.empty_like(data))
    with pytest.raises(ChunkError, match=message):
        list(chain.parts(index.tobytes(), len(bad), (0, 0), (8, 12)))


def test_a_damaged_inner_chunk_is_told_by_its_bytes() -> None:
    chain, data, encoded = _shard()
    size, _ = chain.index_span
    offset, length = np.frombuffer(encoded[-size:], "<u8").reshape(2, 3, 2)[0, 1].tolist()
    bad = encoded[:offset] + b"\0" + encoded[offset + 1 :]
    with pytest.raises(ChunkError, match=rf"\(bytes {offset + 1000} to {offset + length + 1000}\)"):
        chain.decode(bad, np.empty_like(data), at=1000)
    # What is not wanted is not decoded.
    out = np.empty((4, 4), "f4")
    chain.decode(bad, out, (0, 0))
    assert out.tobytes() == data[:4, :4].tobytes()


@pytest.mark.parametrize("layout", [case for case in those() if case.values[0].chain().divisible])
def test_parts_of_a_shard_are_read_by_themselves(layout: Layout, tmp_path: Path) -> None:
    write_ours(layout, tmp_path)
    chain, data = layout.chain(), layout.data()
    for index, box in layout.units():
        path, whole = tmp_path / layout.key(index), data[box]
        start = tuple(n // 3 for n in whole.shape)
        shape = tuple(n - n // 4 - s for n, s in zip(whole.shape, start, strict=True))
        if not path.exists() or 0 in shape:
            continue
        encoded, out = path.read_bytes(), np.empty(shape, layout.dtype)
        size, first = chain.index_span
        for part in chain.parts(encoded[:size] if first else encoded[-size:], len(encoded), start, shape):
            chain.decode_part(b"" if part.span is None else encoded[part.span[0] : sum(part.span)], part, out)
        assert same(out, whole[tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))])
        again = np.empty(shape, layout.dtype)
        chain.decode(encoded, again, start)
        assert same(again, out)


# Arrays


def test_arrays_of_any_strides_are_decoded_to_and_encoded_from() -> None:
    for layout in LAYOUTS[::7]:
        chain = layout.chain()
        data = np.resize(layout.data(), layout.unit).astype(layout.dtype)
        encoded = b"".join(chain.encode(data) or ())
        if not encoded:
            continue
        wide = np.empty(tuple(2 * n for n in layout.unit), layout.dtype)
        strided = wide[tuple(slice(None, None, 2) for _ in layout.unit)]
        for out in (np.empty(layout.unit, layout.dtype, "F"), strided):
            chain.decode(encoded, out)
            assert same(out, data)
            assert b"".join(chain.encode(out) or ()) == encoded


def test_threads_share_a_chain() -> None:
    chain, _, _ = _shard()
    arrays = [np.random.default_rng(seed).normal(size=(8, 12)).astype("f4") for seed in range(40)]

    def there_and_back(array: Array) -> bool:
        out = np.empty_like(array)
        chain.decode(b"".join(chain.encode(array) or ()), out)
        return same(out, array)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, arrays * 5))


def test_bfloat16_passes_as_patterns(tmp_path: Path) -> None:
    patterns = np.random.default_rng(0).integers(0, 1 << 16, 40, dtype="u2")
    document = {
        **LAYOUTS[0].document,
        "shape": [40],
        "data_type": "bfloat16",
        "fill_value": 0.0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [40]}},
        "codecs": [BIG, {"name": "zstd", "configuration": {"level": 1}}],
    }
    layout = Layout("bfloat16", document, (40,), (40,), np.dtype("u2"), 0, 0)
    write_documents(layout, tmp_path)
    chain = layout.chain()
    (tmp_path / "c").mkdir()
    (tmp_path / "c/0").write_bytes(b"".join(chain.encode(patterns) or ()))
    assert read(layout, tmp_path, "tensorstore").view("u2").tobytes() == patterns.tobytes()


# What is not known


def _sharded(**settings: Any) -> dict[str, Any]:
    return {"name": "sharding_indexed", "configuration": {**SHARD[0]["configuration"], **settings}}


@pytest.mark.parametrize(
    "codecs",
    [
        [],
        [LITTLE, {"name": "zfpy"}],
        [LITTLE, {"name": "lz4"}],
        [{"name": "bytes"}],
        [LITTLE, {"name": "zstd", "configuration": {"level": 23, "checksum": False}}],
        [LITTLE, {"name": "zstd", "configuration": {"level": 1, "dictionary": "x"}}],
        [LITTLE, {"name": "gzip", "configuration": {"level": 1}}, {"name": "zstd", "configuration": {"level": 1}}],
        [LITTLE, {"name": "blosc", "configuration": {"cname": "snappy"}}],
        [LITTLE, {"name": "numcodecs.lzma", "configuration": {"filters": [{"id": 3}]}}],
        [LITTLE, {"name": "transpose", "configuration": {"order": [1, 0]}}],
        [{"name": "transpose", "configuration": {"order": [1, 1]}}, LITTLE],
        [{"name": "transpose", "configuration": {"order": "F"}}, LITTLE],
        [*SHARD, {"name": "zstd", "configuration": {"level": 1}}],
        [_sharded(chunk_shape=[3, 4])],
        [_sharded(index_codecs=[LITTLE, {"name": "zstd", "configuration": {}}])],
        [{"name": "transpose", "configuration": {"order": [1, 0]}}, _sharded(chunk_shape=[3, 4])],
        ["bytes", 5],
    ],
    ids=str,
)
def test_what_is_not_known_is_left_to_zarr(codecs: list[Any]) -> None:
    with pytest.raises(UnknownCodec):
        CodecChain.v3(codecs, (8, 12), np.dtype("f4"), bytes(4))


@pytest.mark.parametrize(
    "codec",
    [
        {"id": "quantize", "digits": 3, "dtype": "<f4"},
        {"id": "delta", "dtype": "<f4"},
        {"id": "delta", "dtype": "<i4", "astype": "<i2"},
        {"id": "lzma", "format": 3, "filters": [{"id": 3}]},
        {"id": "vlen-utf8"},
        {"id": "lzma", "format": 2, "check": 1},
        {"id": "zlib", "level": 10},
        {},
    ],
    ids=str,
)
def test_filters_that_are_not_known_are_left_to_zarr(codec: dict[str, Any]) -> None:
    with pytest.raises(UnknownCodec):
        CodecChain.v2(None, [codec], "C", (8, 12), np.dtype("<f4"), bytes(4))


def test_zarr_is_not_imported() -> None:
    # What else its packages import is not its concern.
    code = """
import importlib.util, sys, types
import numpy as np
for name in ("leakycli.formats", "leakycli.formats.zarr"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [importlib.util.find_spec("leakycli").submodule_search_locations[0] + name[8:].replace(".", "/")]
from leakycli.formats.zarr.codecs import CodecChain
codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "gzip", "configuration": {}}, {"name": "crc32c"}]
chain = CodecChain.v3(codecs, (9,), np.dtype("f4"), bytes(4))
out = np.empty(9, "f4")
chain.decode(b"".join(chain.encode(np.arange(9, dtype="f4"))), out)
assert out.tolist() == list(range(9))
print([name for name in ("zarr", "numcodecs") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is something in a JSON value: the keys and positions that lead to it."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from _places(inner, (*path, key))


#: What a document may say instead of what it should.
_WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2,
    3,
    10,
    23,
    1.5,
    "",
    "zstd",
    "big",
    "start",
    "F",
    [],
    [0],
    {},
    {"id": "zlib"},
    {"name": "crc32c"},
)


def _mutated(codecs: Any, rng: random.Random) -> Any:
    """`codecs` with something in them replaced, left out, doubled, renamed or swapped."""
    found = copy.deepcopy(codecs)
    *path, last = rng.choice(list(_places(found)))
    around = found
    for key in path:
        around = around[key]
    match rng.randrange(6):
        case 0 | 1:
            around[last] = rng.choice(_WRONG)
        case 2:
            del around[last]
        case 3:
            if isinstance(around, list):
                around.insert(last, around[last])
            elif path:
                around["extra"] = 1
        case 4:
            around[last] = around[last] + 1 if isinstance(around[last], int) else rng.choice(_WRONG)
        case _:
            if isinstance(around, list):
                rng.shuffle(around)
            else:
                around[last] = copy.deepcopy(rng.choice(list(around.values())))
    return found


@pytest.mark.parametrize("layout", those()[::4])
def test_codecs_that_are_accepted_are_those_that_zarr_accepts(layout: Layout, tmp_path: Path) -> None:
    """Whatever the documents say: what is taken here is read by zarr to the same values."""
    rng = random.Random(layout.seed)
    accepted = 0
    for number in range(12):
        names = ("codecs",) if layout.version == 3 else ("compressor", "filters")
        fields = _mutated({name: layout.document[name] for name in names}, rng)
        changed = replace(layout, document={**layout.document, **fields})
        try:
            if layout.version == 3 and not isinstance(fields.get("codecs"), list):
                continue
            changed.chain()
        except (UnknownCodec, KeyError):
            continue
        accepted += 1
        path = tmp_path / str(number)
        try:
            write_ours(changed, path)
        except ValueError as error:
            # Elements of another size than the chunk is made of; zarr fails, too.
            assert "reshape" in str(error)
            continue
        assert same(read(changed, path, "zarr"), layout.data()), fields
    assert accepted or layout.version == 3
