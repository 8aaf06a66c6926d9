"""Every reader, writer and executor against the conformance kit."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from leakycli.engine.executors import InlineExecutor, local_executor
from leakycli.formats import ArrayInfo, Layout, Member, Reader, Source, Writer, open_source
from leakycli.formats.flat import BoxReader, BoxWriter, SpoolingWriter, spooled
from leakycli.formats.npy import NpyStreamSource, NpyStreamTarget, NpyTarget
from leakycli.formats.npz import Compressor, NpzTarget
from leakycli.formats.zarr import ZarrTarget, result_array
from leakycli.regions import Grid
from tests.kit.conformance import check_box_reader, check_box_writer, check_executor, check_reader, check_writer

Array = NDArray[Any]

ARRAYS: dict[str, Array] = {
    "float32 2-D": np.arange(-300, 300, dtype="f4").reshape(20, 30) / 7,
    "float64 Fortran": np.asfortranarray(np.linspace(-1, 1, 60).reshape(3, 4, 5)),
    "float16 byte-swapped": np.arange(-50, 50, dtype=">f2"),
    "int64 0-d": np.array(-7, dtype="i8"),
    "int8 large": np.arange(100_000).astype("i1"),
    "empty": np.zeros((0, 4), "f4"),
}


class _Nowhere:
    """A source of nothing, for targets that need not know where an array is from."""


#: Source and member of an array that comes from nowhere in particular.
NOWHERE = cast("Source", _Nowhere()), Member("", "")


@pytest.fixture(params=ARRAYS, ids=str)
def array(request: pytest.FixtureRequest) -> Array:
    return ARRAYS[request.param]


@pytest.fixture
def pipes() -> Iterator[Callable[[bytes], int]]:
    """A pipe's reading end that gives the bytes asked for."""
    threads: list[threading.Thread] = []

    def feed(data: bytes) -> int:
        reading, writing = os.pipe()

        def write() -> None:
            with open(writing, "wb") as file:
                try:
                    file.write(data)
                except BrokenPipeError:
                    return

        threads.append(threading.Thread(target=write))
        threads[-1].start()
        return reading

    yield feed
    for thread in threads:
        thread.join(30)


def info_of(array: Array) -> ArrayInfo:
    return ArrayInfo("", array.shape, array.dtype, array.flags.f_contiguous and not array.flags.c_contiguous)


def test_npy_reader(array: Array, tmp_path: Path) -> None:
    path = str(tmp_path / "a.npy")
    np.save(path, array)
    source = open_source(path)

    def opened() -> Reader[Any]:
        return source.reader(source.members[0])

    check_reader(opened, array)


def test_npy_stream_reader(array: Array, tmp_path: Path, pipes: Callable[[bytes], int]) -> None:
    saved = io.BytesIO()
    np.save(saved, array)
    sources = []

    def opened() -> Reader[Any]:
        fd = pipes(saved.getvalue())
        source = NpyStreamSource(f"/dev/fd/{fd}")
        os.close(fd)
        sources.append(source)
        return source.reader(source.members[0])

    check_reader(opened, array)
    for source in sources:
        source.close()


def test_npy_writer(array: Array, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"

    def opened() -> Writer[Any]:
        path.unlink(missing_ok=True)
        return NpyTarget(str(path)).writer(info_of(array), *NOWHERE)

    def written() -> Array:
        found: Array = np.load(path)
        return found

    check_writer(opened, written, array)


def test_npy_stream_writer(array: Array, tmp_path: Path) -> None:
    path = tmp_path / "stream"
    fds: list[int] = []

    def opened() -> Writer[Any]:
        fds.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        return NpyStreamTarget(fds[-1]).writer(info_of(array), *NOWHERE)

    def written() -> Array:
        found: Array = np.load(path)
        return found

    check_writer(opened, written, array)
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_reader(array: Array, method: int, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    saved = io.BytesIO()
    np.save(saved, array)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("note.txt", "no array")
        archive.writestr("x.npy", saved.getvalue())
    with contextlib.closing(open_source(str(path))) as source:
        check_reader(lambda: source.reader(source.members[1]), array)


@pytest.mark.parametrize("compressor", ["stored", "deflate", "deflate:9"])
@pytest.mark.parametrize("stream", [False, True])
def test_npz_writer(array: Array, compressor: str, stream: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    targets: list[NpzTarget] = []

    def opened() -> Writer[Any]:
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600) if stream else None
        targets.append(NpzTarget(str(path), Compressor.parse(compressor), fd))
        if fd is not None:
            os.close(fd)
        return targets[-1].writer(info_of(array), *NOWHERE)

    def written() -> Array:
        assert targets[-1].finish() == path.stat().st_size
        targets[-1].close()
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
        found: Array = np.load(path)["arr_0"]
        return found

    check_writer(opened, written, array)


LAYOUTS: dict[str, dict[str, Any]] = {"v2": {"zarr_format": 2}, "v3": {}, "sharded": {}, "raw": {"compressors": ()}, "zip": {}}


def unit_of(array: Array, factor: int = 1) -> tuple[int, ...]:
    return tuple(max(1, n * factor // 3) if n < 1000 else 40_000 for n in array.shape)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_zarr_reader(array: Array, layout: str, tmp_path: Path) -> None:
    if layout == "v3" and not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    chunks = unit_of(array)
    sharded = layout == "sharded" and array.ndim > 0
    shards = tuple(2 * n for n in chunks) if sharded else None
    path = tmp_path / ("a.zarr.zip" if layout == "zip" else "a.zarr")
    native = array if layout == "v2" else array.astype(array.dtype.newbyteorder("="))
    store: Any = zarr.storage.ZipStore(path, mode="w") if layout == "zip" else path
    zarr.create_array(store, data=native, chunks=chunks, shards=shards, **LAYOUTS[layout])
    if layout == "zip":
        store.close()
    with contextlib.closing(open_source(str(path))) as source:
        check_box_reader(lambda: source.reader(source.members[0]), native, Grid(array.shape, shards or chunks))


@pytest.mark.parametrize("layout", ["v2", "v3", "sharded", "raw"])
def test_zarr_writer(array: Array, layout: str, tmp_path: Path) -> None:
    native = array.astype(array.dtype.newbyteorder("="))
    path, chunks = tmp_path / "out.zarr", unit_of(array)
    shards = tuple(2 * n for n in chunks) if layout == "sharded" and array.ndim else None
    np.save(tmp_path / "a.npy", native)
    source = open_source(str(tmp_path / "a.npy"))
    given = Layout(chunks, shards, "none" if layout == "raw" else "zstd:1", 2 if layout == "v2" else 3)

    def opened() -> Writer[Any]:
        shutil.rmtree(path, ignore_errors=True)
        info = result_array(info_of(native), native.dtype, given, source, source.members[0])
        return ZarrTarget(str(path), given).writer(info, source, source.members[0])

    def written() -> Array:
        return np.asarray(zarr.open_array(path, mode="r")[...])

    check_box_writer(opened, written, native, Grid(array.shape, shards or chunks))


def test_boxes_of_a_flat_file(array: Array, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, array)
    source = open_source(str(path))
    grid = Grid(array.shape, unit_of(array))
    check_box_reader(lambda: BoxReader(source.reader(source.members[0])), array, grid)

    def opened() -> Writer[Any]:
        path.unlink(missing_ok=True)
        return BoxWriter(NpyTarget(str(path)).writer(info_of(array), *NOWHERE))

    check_box_writer(opened, lambda: cast("Array", np.load(path)), array, grid)


def flat_grid(array: Array) -> Grid:
    """As a plan has it for a flat side: units numbered in the order of the buffer."""
    return Grid(array.shape, unit_of(array), reverse=info_of(array).fortran)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("spool", [False, True])
def test_boxes_of_a_member_of_an_archive(array: Array, method: int, spool: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    saved = io.BytesIO()
    np.save(saved, array)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", saved.getvalue())
    with contextlib.closing(open_source(str(path))) as source:

        def opened() -> Reader[Any]:
            reader = source.reader(source.members[0])
            return BoxReader(spooled(reader, str(tmp_path / "spool")) if spool else reader)

        with contextlib.closing(opened()) as reader:
            assert reader.sequential == (method != zipfile.ZIP_STORED and not spool)
        # Also a stored member goes front to back: its CRC-32 is checked, or summed, in that order.
        check_box_reader(opened, array, flat_grid(array), ordered=not spool)


@pytest.mark.parametrize("compressor", ["stored", "deflate:1"])
@pytest.mark.parametrize("spool", [False, True])
def test_boxes_to_a_member_of_an_archive(array: Array, compressor: str, spool: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    targets: list[NpzTarget] = []

    def opened() -> Writer[Any]:
        path.unlink(missing_ok=True)
        targets.append(NpzTarget(str(path), Compressor.parse(compressor), None))
        writer = targets[-1].writer(info_of(array), *NOWHERE)
        return SpoolingWriter(writer, str(tmp_path / "spool")) if spool else BoxWriter(writer)

    def written() -> Array:
        assert targets[-1].finish() == path.stat().st_size
        targets[-1].close()
        with np.load(path) as archive:
            found: Array = archive["arr_0"]
        return found

    check_box_writer(opened, written, array, flat_grid(array), ordered=not spool)


@pytest.mark.parametrize(
    "made",
    [InlineExecutor, lambda: ThreadPoolExecutor(3), lambda: local_executor(2, 5), lambda: local_executor(1, 5)],
)
def test_executor(made: Callable[[], Executor]) -> None:
    check_executor(made)
