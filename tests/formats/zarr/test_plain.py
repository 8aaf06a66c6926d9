"""Zarr without codecs: each write unit is a file of its elements, and equals what zarr writes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
import zarr.codecs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import leakycli
from leakycli import Options, leaky_relu, system
from leakycli.engine.job import Job
from leakycli.errors import CorruptError, SourceChangedError, UsageError
from leakycli.formats import open_source
from leakycli.formats.zarr.place import FolderPlace
from leakycli.regions import Box
from leakycli.tuning import Tuning
from tests.conftest import Run
from tests.kit.observers import At

Array = NDArray[Any]


def made(path: Path, x: Array, chunks: tuple[int, ...], version: int, fill: Any) -> Path:
    """A store of `x` by zarr itself, with every chunk."""
    given: dict[str, Any] = {"zarr_format": version, "compressors": None if version == 2 else (), "config": {"write_empty_chunks": True}}
    array = zarr.create_array(path, shape=x.shape, dtype=x.dtype, chunks=chunks, fill_value=fill, **given)
    array[...] = x
    return path


def chunks_in(folder: Path) -> dict[str, bytes]:
    """What is under each chunk's key."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".z") and path.name != "zarr.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@st.composite
def stores(draw: st.DrawFn) -> tuple[Array, tuple[int, ...], int, Any, Any]:
    """Elements, chunks, version, fill value, and the dtype of the result."""
    shape = draw(st.lists(st.integers(1, 9), max_size=3).map(tuple))
    chunks = tuple(draw(st.integers(1, 10)) for _ in shape)
    dtype = draw(st.sampled_from(["f2", "f4", "f8", "i4", "i8", "u1"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    x = (rng.standard_normal(shape) * 20).astype(dtype)
    return x, chunks, draw(st.sampled_from([2, 3])), draw(st.sampled_from([0, 3])), draw(st.sampled_from([None, "float64", "int32"]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(store=stores(), data=st.data())
def test_files_are_those_that_zarr_writes(store: tuple[Array, tuple[int, ...], int, Any, Any], data: st.DataObject, tmp_path: Path) -> None:
    x, chunks, version, fill, dtype = store
    for folder in ("in.zarr", "out.zarr", "expected.zarr"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    source = made(tmp_path / "in.zarr", x, chunks, version, fill)
    gone = [key for key in sorted(chunks_in(source)) if data.draw(st.booleans())]
    for key in gone:
        (source / key).unlink()
    x = np.asarray(zarr.open_array(source, mode="r")[...])
    report = leakycli.apply(str(source), str(tmp_path / "out.zarr"), Options(overwrite=True, dtype=dtype, verify=True))
    y = leaky_relu(x, dtype=dtype)
    document = json.loads((tmp_path / "out.zarr" / ("zarr.json" if version == 3 else ".zarray")).read_text())
    expected = chunks_in(made(tmp_path / "expected.zarr", y, chunks, version, document["fill_value"]))
    assert chunks_in(tmp_path / "out.zarr") == {key: held for key, held in expected.items() if key not in gone}
    assert np.asarray(zarr.open_array(tmp_path / "out.zarr", mode="r")[...]).tobytes() == y.tobytes()
    assert report.arrays[0].codec_path == "leakycli"
    # To where missing chunks are elements like others.
    leakycli.apply(str(source), str(tmp_path / "out.npy"), Options(overwrite=True, dtype=dtype))
    assert np.load(tmp_path / "out.npy").tobytes() == y.tobytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(store=stores(), data=st.data())
def test_any_box_is_read(store: tuple[Array, tuple[int, ...], int, Any, Any], data: st.DataObject, tmp_path: Path) -> None:
    x, chunks, version, fill, _ = store
    shutil.rmtree(tmp_path / "in.zarr", ignore_errors=True)
    path = made(tmp_path / "in.zarr", x, chunks, version, fill)
    for key in sorted(chunks_in(path)):
        if data.draw(st.booleans()):
            (path / key).unlink()
    expected = np.asarray(zarr.open_array(path, mode="r")[...])
    ends = [sorted((data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, n)))) for n in x.shape]
    box = Box(tuple(a for a, _ in ends), tuple(max(b, a + 1) for a, b in ends))
    with contextlib.closing(open_source(str(path))) as source, contextlib.closing(source.reader(source.members[0])) as reader:
        found, _ = reader.read(box, np.full(box.size * x.itemsize, 0xAA, np.uint8))
    assert found.shape == box.shape
    assert found.tobytes() == expected[box.slices or ...].tobytes()


@pytest.mark.parametrize("region_bytes", [1, 1 << 20])
@pytest.mark.parametrize("chunks", list(itertools.product((1, 3, 7), (2, 5, 11))))
def test_other_chunks_are_cut_right(chunks: tuple[int, int], region_bytes: int, tmp_path: Path) -> None:
    tuning = Tuning(region_bytes=region_bytes)
    x = np.random.default_rng(1).standard_normal((7, 11)).astype("f4")
    source = made(tmp_path / "in.zarr", x, (3, 4), 3, 0)
    leakycli.apply(str(source), str(tmp_path / "out.zarr"), Options(chunks=chunks, tuning=tuning))
    made(tmp_path / "expected.zarr", leaky_relu(x), chunks, 3, 0)
    assert chunks_in(tmp_path / "out.zarr") == chunks_in(tmp_path / "expected.zarr")
    leakycli.apply(str(source), str(tmp_path / "out.npy"), Options(tuning=tuning))
    assert np.load(tmp_path / "out.npy").tobytes() == leaky_relu(x).tobytes()


def test_chunks_of_nothing_but_the_fill_value_are_left_out_where_they_are_it_to_the_bit(tmp_path: Path) -> None:
    x = np.zeros((4, 6), "f4")
    x[:2, 2:4] = -0.0
    x[2:, :2] = 1
    x[3, 5] = -0.0
    np.save(tmp_path / "in.npy", x)
    leakycli.apply(str(tmp_path / "in.npy"), str(tmp_path / "out.zarr"), Options(chunks=(2, 2), compressor="none"))
    assert sorted(chunks_in(tmp_path / "out.zarr")) == ["c/0/1", "c/1/0", "c/1/2"]
    assert np.asarray(zarr.open_array(tmp_path / "out.zarr", mode="r")[...]).tobytes() == leaky_relu(x).tobytes()


def test_folders_of_chunks_that_are_left_out_are_not_flushed(tmp_path: Path) -> None:
    x = np.ones((8, 4), "f4")
    x[4:] = 0
    np.save(tmp_path / "in.npy", x)
    for n, compressor in enumerate(("none", "zstd:1")):
        leakycli.apply(str(tmp_path / "in.npy"), str(tmp_path / f"{n}.zarr"), Options(chunks=(2, 2), compressor=compressor, fsync=True))
        assert sorted(chunks_in(tmp_path / f"{n}.zarr")) == ["c/0/0", "c/0/1", "c/1/0", "c/1/1"]


@pytest.mark.parametrize("workers", [1, 3])
def test_regions_of_which_all_some_or_no_chunks_are_stored(workers: int, tmp_path: Path) -> None:
    x = np.random.default_rng(5).standard_normal((512, 64)).astype("f4")
    source = made(tmp_path / "in.zarr", x, (1, 64), 3, 0)
    gone = [*range(300, 310), *range(400, 512)]
    for row in gone:
        shutil.rmtree(source / f"c/{row}")
    x[gone] = 0
    leakycli.apply(str(source), str(tmp_path / "out.zarr"), Options(workers=workers, verify=True))
    expected = chunks_in(made(tmp_path / "expected.zarr", leaky_relu(x), (1, 64), 3, 0))
    assert chunks_in(tmp_path / "out.zarr") == {key: held for key, held in expected.items() if int(key.split("/")[1]) not in gone}


@pytest.mark.parametrize("options", [(), ("--verify",), ("--chunks", "1024,2048")])
def test_memory_with_chunks_at_edges(leakycli: Run, tmp_path: Path, options: tuple[str, ...]) -> None:
    """They are put together in memory of their own."""
    made(tmp_path / "in.zarr", np.random.default_rng(6).standard_normal((3000, 3000)).astype("f4"), (2048, 2048), 3, 0)
    done = leakycli("apply", "in.zarr", "out.zarr", "--json", "--memory", "512M", *options)
    cost = json.loads(done.stdout)["cost"]
    assert cost["memory_measured"] <= cost["memory_projected"] <= cost["memory_bound"]


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": ()},
        {"compressors": None, "zarr_format": 2},
        {"compressors": None, "zarr_format": 2, "dtype": ">f4"},
        {"compressors": None, "zarr_format": 2, "dtype": "i1"},
        {},
        {"compressors": None, "zarr_format": 2, "order": "F"},
        {"compressors": (), "shards": (8, 8)},
        {"compressors": (), "serializer": zarr.codecs.BytesCodec(endian="big")},
        {"compressors": (), "filters": (zarr.codecs.TransposeCodec(order=(1, 0)),)},
        {"compressors": zarr.codecs.Crc32cCodec()},
    ],
)
def test_elements_in_every_order(options: dict[str, Any], tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((8, 8))
    array = zarr.create_array(tmp_path / "in.zarr", shape=x.shape, chunks=(4, 4), fill_value=0, **({"dtype": "f4"} | options))
    array[...] = x
    report = leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"), Options(verify=True))
    assert report.arrays[0].codec_path == "leakycli"
    x = np.asarray(array[...])
    for dest, dtype in (("out.zarr", None), ("double.zarr", "float64")):
        leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / dest), Options(dtype=dtype, overwrite=True))
        found = np.asarray(zarr.open_array(tmp_path / dest, mode="r")[...])
        expected = leaky_relu(x, dtype=dtype)
        assert found.astype(expected.dtype).tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [0, 63, 65, 640])
def test_a_chunk_of_another_size_is_damaged(size: int, tmp_path: Path) -> None:
    source = made(tmp_path / "in.zarr", np.ones((10, 10), "f4"), (4, 4), 3, 0)
    (source / "c/2/1").write_bytes(bytes(size))
    with pytest.raises(
        CorruptError, match=rf"in\.zarr/c/2/1: cannot be decoded: it has {size} bytes, where 64 belong \(bytes 0 to {size}\)$"
    ):
        leakycli.apply(str(source), str(tmp_path / "out.zarr"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.zarr"]


@pytest.mark.parametrize("key", ["c", "c/1"])
@pytest.mark.parametrize("compressor", [(), zarr.codecs.ZstdCodec()])
def test_a_file_where_a_folder_of_chunks_belongs_is_damage(compressor: Any, key: str, tmp_path: Path) -> None:
    source = tmp_path / "in.zarr"
    zarr.create_array(source, data=np.ones((8, 8), "f4"), chunks=(4, 4), compressors=compressor)
    shutil.rmtree(source / key)
    (source / key).write_bytes(b"")
    (source / "c.txt").write_text("a note")
    with pytest.raises(CorruptError, match=rf"in\.zarr/{key}: is a file where a folder of chunks belongs$"):
        leakycli.apply(str(source), str(tmp_path / "out.zarr"))
    (source / key).unlink()
    leakycli.apply(str(source), str(tmp_path / "out.zarr"))


@pytest.mark.parametrize("dest", ["out.zarr", "out.npy"])
def test_a_chunk_that_goes_while_it_is_read_is_missed(small_regions: Path, dest: str) -> None:
    source = made(small_regions / "in.zarr", np.ones((64, 512), "f4"), (2, 512), 3, 0)
    with pytest.raises(SourceChangedError, match=r"in\.zarr/c/31/0: was deleted while it was read"):
        leakycli.apply("in.zarr", dest, Options(workers=1), observe=At(1, (source / "c/31/0").unlink))


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 512)}, {"chunks": (4, 512)}, {"compressor": "zstd:1"}])
def test_what_an_earlier_run_left_of_a_chunk_is_replaced(small_regions: Path, options: dict[str, Any]) -> None:
    x = np.random.default_rng(2).standard_normal((64, 512)).astype("f4")
    made(small_regions / "in.zarr", x, (2, 512), 3, 0)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leakycli.apply("in.zarr", "out.zarr", Options(workers=1, **options), observe=At(3, stop))
    # As a kill in the middle of a write leaves it.
    torn = small_regions / "out.zarr.partial/c/15/0"
    torn.parent.mkdir(parents=True, exist_ok=True)
    torn.write_bytes(b"torn")
    assert leakycli.apply("in.zarr", "out.zarr", Options(resume=True, verify=True, **options)).resumed
    assert np.asarray(zarr.open_array("out.zarr", mode="r")[...]).tobytes() == leaky_relu(x).tobytes()


@pytest.mark.parametrize("key", ["c/1/0", "c/31/0"])
def test_a_source_that_has_other_chunks_meanwhile_is_another(small_regions: Path, key: str) -> None:
    source = made(small_regions / "in.zarr", np.ones((64, 512), "f4"), (2, 512), 3, 0)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leakycli.apply("in.zarr", "out.zarr", Options(workers=1), observe=At(3, stop))
    (source / key).unlink()
    with pytest.raises(UsageError, match=r"the unfinished run was another: chunks_stored.* was None, and is 31 of 32 \("):
        leakycli.apply("in.zarr", "out.zarr", Options(resume=True))


def test_a_folder_that_is_cleared_is_still_the_same(tmp_path: Path) -> None:
    path = tmp_path / "out.zarr"
    place = FolderPlace(str(path), begun=False)
    place.put("c/0/0", b"1")
    place.put("zarr.json", b"{}")
    # Held open, so that no new folder gets its inode.
    held = os.open(path, os.O_RDONLY)
    try:
        place.clear("")
        place.clear("a/b")
        place.ensure()
    finally:
        os.close(held)
    assert [str(found.relative_to(path)) for found in sorted(path.rglob("*"))] == ["a", "a/b"]


def test_what_a_link_leads_to_is_not_cleared(tmp_path: Path) -> None:
    place = FolderPlace(str(tmp_path / "out.zarr"), begun=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "kept").write_bytes(b"1")
    (tmp_path / "out.zarr" / "a").symlink_to(tmp_path / "other")
    place.clear("a")
    assert (tmp_path / "other" / "kept").read_bytes() == b"1"
    assert not (tmp_path / "out.zarr" / "a").is_symlink()


def test_a_run_of_many_chunks_keeps_to_its_units(tmp_path: Path) -> None:
    """Memory is that of a chunk and its result for each worker, however many are joined to a region."""
    memory = system.resident() + (1 << 30)
    source = made(tmp_path / "in.zarr", np.ones((64, 4096), "f4"), (1, 4096), 3, 0)
    with Job(str(source), str(tmp_path / "out.zarr"), Options(workers=1, memory=memory)) as job:
        (array,) = job.plan.arrays
        assert array.largest_part == 4096
    with Job(str(source), str(tmp_path / "out.zarr"), Options(workers=1, memory=memory, chunks=(2, 2048))) as job:
        assert job.plan.arrays[0].largest_part > 4096
