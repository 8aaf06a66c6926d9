"""The reader and the writer of chunks, in directories, in archives and behind URLs."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
import tracemalloc
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from leakycli.errors import CorruptError, LeakyError, SourceChangedError, StorageError
from leakycli.formats.base import ArrayInfo, Chunking
from leakycli.formats.zarr import metadata
from leakycli.formats.zarr.chunks import ChunkReader, ChunkWriter, chain_of
from leakycli.formats.zarr.tree import ZipTree
from leakycli.regions import Box, Grid, Presence
from leakycli.stores.base import Request, Room, Store
from leakycli.stores.directory import Directory
from leakycli.stores.objects import Members, Objects
from leakycli.stores.remote import Remote
from tests.formats.zarr.layouts import (
    LAYOUTS,
    LITTLE,
    Array,
    Layout,
    opened_by_zarr,
    read,
    read_ours,
    same,
    stored,
    write_documents,
    write_ours,
)
from tests.kit.conformance import check_box_reader, check_box_writer

#: One of each kind: raw, compressed, sharded, turned, byte-swapped, of version 2, without dimensions.
SOME = [layout for number, layout in enumerate(LAYOUTS) if number % 13 == 0 or not layout.shape]


def info_of(layout: Layout) -> tuple[ArrayInfo, metadata.ArrayDocument]:
    document = metadata.parse(layout.document, {}, "there")
    chunking = Chunking(document.chunks, document.shards, document.codecs, document.fill_value)
    return ArrayInfo("", layout.shape, layout.dtype, False, chunking), document


def in_directory(path: Path) -> Store:
    return Directory(str(path))


def in_archive(path: Path) -> Store:
    with zipfile.ZipFile(f"{path}.zip", "w") as archive:
        for key, data in stored(path).items():
            archive.writestr(key, data)
    return Members(ZipTree(f"{path}.zip"))


def behind_a_url(path: Path) -> Store:
    remote = Remote(f"memory://{uuid.uuid4().hex}", {})
    remote.write_all(stored(path))
    return Objects(remote)


STORES: list[Callable[[Path], Store]] = [in_directory, in_archive, behind_a_url]


@pytest.mark.parametrize("opened", STORES)
@pytest.mark.parametrize("layout", SOME, ids=lambda layout: layout.name)
def test_the_reader_keeps_its_contract(layout: Layout, opened: Callable[[Path], Store], tmp_path: Path) -> None:
    write_ours(layout, tmp_path / "a")
    info, document = info_of(layout)
    store = opened(tmp_path / "a")
    for unit in {layout.unit, tuple(n + 1 for n in layout.unit)}:
        check_box_reader(
            lambda: ChunkReader(pickle.loads(pickle.dumps(store)), "", info, document, None), layout.data(), Grid(layout.shape, unit)
        )


@pytest.mark.parametrize("layout", SOME, ids=lambda layout: layout.name)
def test_the_writer_keeps_its_contract(layout: Layout, tmp_path: Path) -> None:
    info, document = info_of(layout)
    paths = (tmp_path / str(number) for number in range(9))
    current: list[Path] = []

    def opened() -> ChunkWriter:
        current[:] = [next(paths)]
        write_documents(layout, current[0])
        return ChunkWriter(Directory(str(current[0])), "", info, document, write_empty=False)

    check_box_writer(opened, lambda: read(layout, current[0], "zarr"), layout.data(), Grid(layout.shape, layout.unit))
    assert all(key.rpartition(".")[2] != "partial" for key in stored(current[0]))


@pytest.mark.parametrize("layout", [layout for layout in SOME if layout.shape], ids=lambda layout: layout.name)
def test_any_box_is_read(layout: Layout, tmp_path: Path) -> None:
    """Also such as are parts of shards, of which inner chunks are read by themselves."""
    write_ours(layout, tmp_path)
    info, document = info_of(layout)
    reader, data = ChunkReader(Directory(str(tmp_path)), "", info, document, None), layout.data()
    rng = np.random.default_rng(0)
    for _ in range(20):
        start = [int(rng.integers(0, n)) for n in layout.shape]
        stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, layout.shape, strict=True)]
        box = Box(tuple(start), tuple(stop))
        found, _ = reader.read(box, np.full(box.size * layout.dtype.itemsize, 0xA5, np.uint8))
        assert same(np.ascontiguousarray(found), np.ascontiguousarray(data[box.slices]))


def test_a_writer_in_a_store_of_objects(tmp_path: Path) -> None:
    for layout in SOME[::4]:
        info, document = info_of(layout)
        remote = Remote(f"memory://{uuid.uuid4().hex}", {}, {})
        writer = ChunkWriter(Objects(remote), "a/b", info, document, write_empty=False)
        box = Box((0,) * len(layout.shape), layout.shape)
        writer.write(box, layout.data())
        reader = ChunkReader(Objects(remote), "a/b", info, document, None)
        found, _ = reader.read(box, np.empty(layout.data().nbytes, np.uint8))
        assert same(found, layout.data())


# What is stored and what is not


def _layout(codecs: list[Any], shape: tuple[int, ...] = (64,), unit: tuple[int, ...] = (16,)) -> Layout:
    document = {
        **LAYOUTS[0].document,
        "shape": list(shape),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(unit)}},
        "data_type": "float32",
        "fill_value": 1.5,
        "codecs": codecs,
    }
    return Layout("", document, shape, unit, np.dtype("float32"), 1.5, 3)


RAW = _layout([LITTLE])
ZSTD = _layout([LITTLE, {"name": "zstd", "configuration": {"level": 1, "checksum": False}}])
SHARDED = _layout(
    [
        {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [4],
                "codecs": [LITTLE, {"name": "zstd", "configuration": {"level": 1, "checksum": False}}],
                "index_codecs": [LITTLE, {"name": "crc32c"}],
                "index_location": "end",
            },
        }
    ]
)


@pytest.mark.parametrize("layout", [RAW, ZSTD])
@pytest.mark.parametrize("write_empty", [False, True])
def test_chunks_of_fill_value_are_written_where_asked_for(layout: Layout, write_empty: bool, tmp_path: Path) -> None:
    info, document = info_of(layout)
    y = np.full(64, 1.5, "f4")
    y[20] = 3
    ChunkWriter(Directory(str(tmp_path)), "", info, document, write_empty).write(Box((0,), (64,)), y)
    assert sorted(stored(tmp_path)) == (["c/0", "c/1", "c/2", "c/3"] if write_empty else ["c/1"])


@pytest.mark.parametrize("layout", [RAW, ZSTD, SHARDED])
@pytest.mark.parametrize("opened", STORES)
@pytest.mark.parametrize("box", [Box((0,), (64,)), Box((18,), (20,))])
def test_a_chunk_that_was_there_and_is_gone_is_missed(layout: Layout, opened: Callable[[Path], Store], box: Box, tmp_path: Path) -> None:
    write_ours(layout, tmp_path / "a")
    (tmp_path / "a/c/1").unlink(missing_ok=True)
    info, document = info_of(layout)
    presence = Presence(4)
    presence.add(1)
    store = opened(tmp_path / "a")
    with pytest.raises(SourceChangedError, match=r"c/1: was deleted while it was read"):
        ChunkReader(store, "", info, document, presence).read(box, np.empty(256, np.uint8))
    found, _ = ChunkReader(store, "", info, document, None).read(Box((16,), (32,)), np.empty(256, np.uint8))
    assert found.tolist() == [1.5] * 16


def test_chunks_that_were_not_there_are_not_asked_for(tmp_path: Path) -> None:
    info, document = info_of(ZSTD)

    class Refusing(Directory):
        def read(self, requests: Iterable[Request], room: Room) -> Iterator[memoryview | None]:
            assert not list(requests)
            return iter(())

    reader = ChunkReader(Refusing(str(tmp_path)), "", info, document, Presence(4))
    assert reader.read(Box((0,), (64,)), np.empty(256, np.uint8))[0].tolist() == [1.5] * 64


# Damage


@pytest.mark.parametrize("opened", STORES)
@pytest.mark.parametrize(
    ("layout", "damage", "message"),
    [
        (RAW, lambda data: data[:-1], r"c/0: cannot be decoded: it has 63 bytes, where 64 belong \(bytes 0 to 63\)"),
        (RAW, lambda data: data + b"x", r"c/0: cannot be decoded: .*65 bytes, where .*64 belong"),
        (ZSTD, lambda data: data[:-1], r"c/0: cannot be decoded: .*\(bytes 0 to \d+\)"),
        (ZSTD, lambda data: b"", r"c/0: cannot be decoded: .*\(bytes 0 to 0\)"),
        (ZSTD, lambda data: bytes(200_000), r"c/0: cannot be decoded: .*200000 bytes"),
        (SHARDED, lambda data: data[:30], r"c/0: cannot be decoded: .*"),
        (SHARDED, lambda data: b"\1\2\3" + data[3:], r"c/0: cannot be decoded: .*\(bytes 0 to \d+\)"),
        (SHARDED, lambda data: data[1:], r"c/0: cannot be decoded: .*"),
    ],
)
@pytest.mark.parametrize("stop", [16, 3], ids=["whole", "part"])
def test_a_damaged_chunk_is_named_with_its_bytes(
    layout: Layout, damage: Callable[[bytes], bytes], message: str, stop: int, opened: Callable[[Path], Store], tmp_path: Path
) -> None:
    write_ours(layout, tmp_path / "a")
    path = tmp_path / "a/c/0"
    path.write_bytes(damage(path.read_bytes()))
    info, document = info_of(layout)
    reader = ChunkReader(opened(tmp_path / "a"), "", info, document, None)
    with pytest.raises(CorruptError, match=message):
        reader.read(Box((0,), (stop,)), np.empty(64, np.uint8))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    info, document = info_of(ZSTD)
    (tmp_path / "c/0").mkdir(parents=True)
    os.mkfifo(tmp_path / "c/1")
    (tmp_path / "c/2").symlink_to("2")
    reader = ChunkReader(Directory(str(tmp_path)), "", info, document, None)
    with pytest.raises(CorruptError, match="c/0: is a folder where a file belongs"):
        reader.read(Box((0,), (16,)), np.empty(64, np.uint8))
    with pytest.raises(CorruptError, match="c/1: is no file"):
        reader.read(Box((16,), (32,)), np.empty(64, np.uint8))
    with pytest.raises(StorageError, match=r"cannot read .*c/2: Too many levels"):
        reader.read(Box((32,), (48,)), np.empty(64, np.uint8))


# System calls and requests


def test_short_reads_and_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readv, preadv, writev = os.readv, os.preadv, os.writev
    monkeypatch.setattr(os, "readv", lambda fd, views: readv(fd, [views[0][:7]]))
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: preadv(fd, [views[0][:3]], at))
    monkeypatch.setattr(os, "writev", lambda fd, views: writev(fd, [views[0][:5]]))
    for layout in (RAW, ZSTD, SHARDED):
        info, document = info_of(layout)
        path = tmp_path / uuid.uuid4().hex
        path.mkdir()
        box = Box((0,), (64,))
        ChunkWriter(Directory(str(path)), "", info, document, write_empty=False).write(box, layout.data())
        assert same(read_ours(layout, path), layout.data())
        reader = ChunkReader(Directory(str(path)), "", info, document, None)
        assert same(reader.read(box, np.empty(256, np.uint8))[0], layout.data())
        assert same(reader.read(Box((5,), (7,)), np.empty(256, np.uint8))[0], layout.data()[5:7])


def test_a_file_that_becomes_shorter_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ours(RAW, tmp_path)
    info, document = info_of(RAW)
    monkeypatch.setattr(os, "readv", lambda fd, views: 0)
    with pytest.raises(SourceChangedError, match=r"c/0: ended at byte 0: it became shorter while it was read"):
        ChunkReader(Directory(str(tmp_path)), "", info, document, None).read(Box((0,), (16,)), np.empty(64, np.uint8))


def test_inner_chunks_behind_a_url_are_asked_for_by_ranges() -> None:
    data = np.random.default_rng(0).normal(size=1 << 16).astype("f4")
    configuration = {**SHARDED.document["codecs"][0]["configuration"], "chunk_shape": [1 << 12]}
    layout = _layout([{"name": "sharding_indexed", "configuration": configuration}], data.shape, data.shape)
    info, document = info_of(layout)
    remote = Remote(f"memory://{uuid.uuid4().hex}", {})
    store = Objects(remote)
    ChunkWriter(store, "", info, document, write_empty=False).write(Box((0,), data.shape), data)
    asked: list[Request] = []

    class Counting(Objects):
        def read(self, requests: Iterable[Request], room: Room) -> Iterator[memoryview | None]:
            listed = list(requests)
            asked.extend(listed)
            return super().read(listed, room)

    reader = ChunkReader(Counting(remote), "", info, document, None)
    found, _ = reader.read(Box((5000,), (13000,)), np.empty(32000, np.uint8))
    assert found.tobytes() == data[5000:13000].tobytes()
    # The index, and what is wanted of the shard in one piece.
    assert len(asked) == 2
    assert sum((request.stop or 0) - request.start for request in asked) < data.nbytes // 4
    asked.clear()
    reader.read(Box((0,), data.shape), np.empty(data.nbytes, np.uint8))
    assert asked == [Request("c/0")]


# Writing


def test_a_root_that_was_taken_away_is_not_made_again(tmp_path: Path) -> None:
    info, document = info_of(RAW)
    (tmp_path / "a").mkdir()
    writer = ChunkWriter(Directory(str(tmp_path / "a")), "", info, document, write_empty=False)
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(StorageError, match=r"cannot write .*a/c/0: it was removed while it was written"):
        writer.write(Box((0,), (16,)), np.zeros(16, "f4"))
    assert not (tmp_path / "a").exists()


def test_nothing_half_written_is_left_under_a_chunk_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, document = info_of(ZSTD)
    writer = ChunkWriter(Directory(str(tmp_path)), "", info, document, write_empty=False)
    writer.write(Box((0,), (16,)), np.zeros(16, "f4"))
    before = stored(tmp_path)

    def full(fd: int, views: Any) -> int:
        os.write(fd, b"xx")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(StorageError, match=r"cannot write .*c/0: No space left on device"):
        writer.write(Box((0,), (16,)), np.ones(16, "f4"))
    assert stored(tmp_path) == before


def test_what_was_written_is_told_when_it_is_committed(tmp_path: Path) -> None:
    info, document = info_of(RAW)
    told: list[str] = []

    class Told:
        def wrote(self, keys: Iterable[str]) -> None:
            told.extend(keys)

    writer = ChunkWriter(Directory(str(tmp_path)), "x", info, document, False, Told())
    payload = writer.write(Box((16,), (48,)), np.zeros(32, "f4"))
    assert told == []
    writer.commit([payload])
    assert told == ["x/c/1", "x/c/2"]


def test_a_store_that_is_closed_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what lies in the current folder under the same name."""
    write_ours(RAW, tmp_path)
    monkeypatch.chdir(tmp_path)
    store = Directory(str(tmp_path))
    store.close()
    store.close()
    with pytest.raises(StorageError):
        list(store.read([Request("c/0")], lambda _, size: memoryview(bytearray(size))))


def test_arrays_of_any_order_are_written(tmp_path: Path) -> None:
    layout = next(layout for layout in LAYOUTS if layout.name.startswith("v2-zlib-F"))
    info, document = info_of(layout)
    data: Array = np.asfortranarray(layout.data())
    ChunkWriter(Directory(str(tmp_path)), "", info, document, False).write(Box((0,) * data.ndim, data.shape), data)
    assert same(read_ours(layout, tmp_path), layout.data())


def _with_gap(gap: int) -> bytes:
    """A shard of `SHARDED` whose second half of chunks lies far from the first, as after chunks were written anew."""
    data = np.arange(16, dtype="f4")
    chain = SHARDED.chain()
    encoded = b"".join(chain.encode(data) or ())
    size, _ = chain.index_span
    spans = np.frombuffer(encoded[-size:-4], "<u8").reshape(4, 2).copy()
    cut = int(spans[2, 0])
    spans[2:, 0] += gap
    index = spans.tobytes()
    return b"".join((encoded[:cut], bytes(gap), encoded[cut:-size], index, google_crc32c.value(index).to_bytes(4, "little")))


def test_a_shard_with_a_large_gap_is_read_by_parts(tmp_path: Path) -> None:
    info, document = info_of(SHARDED)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/0").write_bytes(_with_gap(9 << 20))
    (tmp_path / "c/1").write_bytes(_with_gap(9))
    reader = ChunkReader(Directory(str(tmp_path)), "", info, document, None)
    reader.read(Box((0,), (32,)), np.empty(128, np.uint8))
    tracemalloc.start()
    try:
        found, _ = reader.read(Box((0,), (32,)), np.empty(128, np.uint8))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.tolist() == [*range(16), *range(16)]
    assert peak < 1 << 20


def test_an_inner_chunk_that_claims_too_much_is_not_read(tmp_path: Path) -> None:
    info, document = info_of(SHARDED)
    chain, big = SHARDED.chain(), 1 << 30
    encoded = b"".join(chain.encode(np.arange(16, dtype="f4")) or ())
    spans = np.array([[0, big], *[[2**64 - 1] * 2] * 3], "<u8").tobytes()
    (tmp_path / "c").mkdir()
    with open(tmp_path / "c/0", "wb") as file:
        file.write(encoded)
        file.truncate(big)
        file.seek(big)
        file.write(spans + google_crc32c.value(spans).to_bytes(4, "little"))
    reader = ChunkReader(Directory(str(tmp_path)), "", info, document, None)
    for stop in (16, 3):
        with pytest.raises(CorruptError, match=rf"has {big} bytes, where at most \d+ belong \(bytes 0 to {big}\)"):
            reader.read(Box((0,), (stop,)), np.empty(64, np.uint8))


class _NoRanges(BaseHTTPRequestHandler):
    """Gives a file as a whole, whatever part was asked for."""

    def do_GET(self) -> None:
        data = (self.server.folder / self.path.strip("/")).read_bytes()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def test_a_web_server_that_knows_no_ranges(tmp_path: Path) -> None:
    write_ours(SHARDED, tmp_path)
    info, document = info_of(SHARDED)
    with ThreadingHTTPServer(("127.0.0.1", 0), _NoRanges) as server:
        server.folder = tmp_path  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        remote = Remote(f"http://127.0.0.1:{server.server_address[1]}", {})
        found, _ = ChunkReader(Objects(remote), "", info, document, None).read(Box((33,), (37,)), np.empty(64, np.uint8))
        server.shutdown()
    assert found.tolist() == SHARDED.data()[33:37].tolist()


# Memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are those of Linux")
@pytest.mark.parametrize("codec", ["raw", "zstd-checked", "gzip-fast", "blosc-zstd"])
def test_what_coding_takes_is_what_was_projected(codec: str) -> None:
    tail = next(layout for layout in LAYOUTS if layout.name.startswith(f"v3-{codec}-chunks")).document["codecs"]
    tail = [each for each in tail if each["name"] not in ("transpose", "bytes")]
    code = f"""
import sys
import numpy as np
from leakycli.formats.zarr.codecs import CodecChain
def chain(n):
    return CodecChain.v3([{LITTLE!r}, *{tail!r}], (n,), np.dtype("f4"), bytes(4))
def memory(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1]) << 10
def peak(work):
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS")
    found = work()
    return memory("VmHWM") - before, found
def there_and_back(n):
    big, x, out = chain(n), np.random.default_rng(0).normal(size=n).astype("f4"), np.ones(n, "f4")
    encoding, pieces = peak(lambda: big.encode(x))
    data = b"".join(pieces)
    del pieces
    decoding, _ = peak(lambda: big.decode(data, out))
    assert out.tobytes() == x.tobytes()
    return encoding, big.encode_memory(True), decoding, big.decode_memory(True)
there_and_back(1000)
print(*there_and_back(1 << 20))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    encoding, projected, decoding, projected_decoding = map(int, ran.stdout.split())
    assert encoding <= projected + (1 << 19)
    assert decoding <= projected_decoding + (1 << 19)


# Documents

#: What a document may say instead of what it should.
WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 1.5, "", "C", ".", "/", "NaN", "0x7fc00000", "<f4", "float32", [], [0], [1, 2], ["a"], {}, [{"name": "x"}]),
    *({"name": "default", "configuration": {"separator": "/"}}, {"name": "default", "configuration": None}, {"name": "v2"}),
    *(
        {"name": "default", "configuration": {"separator": ".", "more": 1}},
        {"name": "regular", "configuration": {"chunk_shape": [4], "x": 1}},
    ),
)


@pytest.mark.parametrize("layout", LAYOUTS[::9], ids=lambda layout: layout.name)
def test_documents_that_are_accepted_are_those_that_zarr_accepts(layout: Layout, tmp_path: Path) -> None:
    rng = random.Random(layout.seed)
    # Who reads documents looks at the type of the node first; codecs have tests of their own.
    fields = sorted({*layout.document, "storage_transformers", "extra"} - {"node_type", "codecs", "compressor", "filters"})
    for number in range(20):
        changed = replace(layout, document={**layout.document, rng.choice(fields): rng.choice(WRONG)})
        try:
            document = metadata.parse(changed.document, {}, "there")
            metadata.check_transformable(document, "there")
            chain_of(document)
        except LeakyError:
            continue
        write_documents(changed, tmp_path / str(number))
        with opened_by_zarr(tmp_path / str(number), "r") as array:
            assert array.shape == document.shape
