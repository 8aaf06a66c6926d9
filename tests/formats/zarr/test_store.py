"""Zarr through the front door: conversions, metadata, hierarchies, what is not stored."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numcodecs
import numpy as np
import pytest
import tensorstore
import zarr
import zarr.codecs
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

import leakycli
from leakycli import Options, leaky_relu, system
from leakycli.errors import LossError, UnsupportedError, UsageError
from leakycli.formats.zarr.store import _part
from leakycli.formats.zarr.tree import ZipTree
from leakycli.formats.zipfile import pack

Array = NDArray[Any]

RNG = np.random.default_rng(7)

ARRAYS: dict[str, Array] = {
    "C": RNG.standard_normal((41, 23)).astype("f4"),
    "Fortran": np.asfortranarray(RNG.standard_normal((41, 23)).astype("f4")),
    "0-d": np.array(-3.5, "f4"),
    "empty": np.zeros((0, 5), "f4"),
    "3-D double": RNG.standard_normal((7, 13, 9)),
    "half": RNG.standard_normal(4001).astype("f2"),
    "int16": RNG.integers(-300, 300, (30, 7)).astype("i2"),
}

SOURCES = ("x.npy", "stored.npz", "deflated.npz", "v2.zarr", "v3.zarr", "sharded.zarr", "x.zarr.zip")

COMPRESSORS: dict[str, tuple[Any, Any]] = {
    "raw": ((), ()),
    "zstd": ((zarr.codecs.ZstdCodec(level=3),), ({"id": "zstd", "level": 3},)),
    "blosc": ((zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle"),), ({"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1},)),
    "gzip": ((zarr.codecs.GzipCodec(level=2),), ({"id": "gzip", "level": 2},)),
}


def save(x: Array, path: Path) -> Path:
    """`x` in the way that the name says, by other means than ours."""
    # A long array in small chunks would be hundreds of files, which test nothing more.
    chunks = tuple(max(1, min(n, max(5 + 4 * i, n // 8))) for i, n in enumerate(x.shape))
    if path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".npz":
        (np.savez if path.stem == "stored" else np.savez_compressed)(path, x)
    elif path.suffix == ".zip":
        with zarr.storage.ZipStore(path, mode="w") as store:
            zarr.create_array(store, data=x, chunks=chunks)
    else:
        sharded = path.stem == "sharded" and x.ndim > 0
        shards = tuple(3 * n for n in chunks) if sharded else None
        zarr.create_array(path, data=x, chunks=chunks, shards=shards, zarr_format=2 if path.stem == "v2" else 3)
    return path


def load(path: Path) -> Array:
    """The one array at `path`."""
    if path.suffix == ".npy":
        found: Array = np.load(path)
        return found
    if path.suffix == ".npz":
        with np.load(path) as archive:
            (name,) = archive.files
            found = archive[name]
        return found
    store: Any = zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else path
    node = zarr.open(store, mode="r")
    if isinstance(node, zarr.Group):
        ((_, node),) = node.arrays()
    return np.asarray(cast("Any", node)[...])


def same(found: Array, expected: Array) -> bool:
    return found.dtype == expected.dtype and found.shape == expected.shape and np.array_equal(found, expected, equal_nan=True)


def left_over(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if "partial" in name or "replaced" in name]


@pytest.mark.parametrize("dest", ["out.npy", "out.npz", "out.zarr", "out.zarr.zip"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ARRAYS)
def test_every_format_goes_to_every_other(name: str, source: str, dest: str, tmp_path: Path) -> None:
    x = ARRAYS[name]
    path, out = save(x, tmp_path / source), tmp_path / dest
    for dtype in (None, "float64" if name != "half" else "int32"):
        options = Options(dtype=dtype, overwrite=True, verify=True)
        report = leakycli.apply(str(path), str(out), options)
        assert same(load(out), leaky_relu(x, dtype=dtype))
        assert leakycli.verify(str(path), str(out), Options(dtype=dtype)).equal
        (array,) = report.arrays
        assert array.before is not None
        assert (array.before.count, array.before.negative) == (x.size, int((x < 0).sum()))
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("dtype", [None, "float64", "int32"])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("codec", COMPRESSORS)
@pytest.mark.parametrize("version", [2, 3])
def test_the_layout_is_kept_and_others_read_it(version: int, codec: str, sharded: bool, dtype: str | None, tmp_path: Path) -> None:
    if version == 2 and sharded:
        pytest.skip("version 2 has no shards")
    x = ARRAYS["C"]
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    if version == 2:
        store = zarr.create_array(
            source,
            shape=x.shape,
            dtype=x.dtype,
            chunks=(10, 7),
            compressors=None if codec == "raw" else numcodecs.get_codec(COMPRESSORS[codec][1][0]),
            zarr_format=2,
            fill_value=-1.0,
            attributes={"unit": "mV", "deep": {"a": [1]}},
        )
    else:
        store = zarr.create_array(
            source,
            shape=x.shape,
            dtype=x.dtype,
            chunks=(10, 7),
            shards=(20, 21) if sharded else None,
            compressors=COMPRESSORS[codec][0],
            fill_value=-1.0,
            attributes={"unit": "mV", "deep": {"a": [1]}},
            dimension_names=("y", "x"),
        )
    store[...] = x
    leakycli.apply(str(source), str(out), Options(dtype=dtype, verify=True))
    name = "zarr.json" if version == 3 else ".zarray"
    before, after = (json.loads((folder / name).read_text()) for folder in (source, out))
    expected = "float32" if dtype is None else dtype
    if version == 3:
        assert after.pop("data_type") == expected
        assert json.loads(after["attributes"].pop("leakycli"))["alpha"] == 0.2
        before.pop("data_type")
    else:
        assert np.dtype(after.pop("dtype")) == expected
        before.pop("dtype")
        attributes = [json.loads((folder / ".zattrs").read_text()) for folder in (source, out)]
        assert json.loads(attributes[1].pop("leakycli"))["dtype_after"] == expected
        assert attributes[0] == attributes[1]
    assert before.pop("fill_value") == -1.0
    assert after.pop("fill_value") == {None: float(np.float32(-0.2)), "float64": -0.2, "int32": 0}[dtype]
    text = [json.dumps(document, sort_keys=True) for document in (before, after)]
    if dtype == "float64":
        text[0] = text[0].replace('"typesize": 4', '"typesize": 8')
    assert text[0] == text[1]
    assert sorted(keys(source)) == sorted(keys(out))
    driver = {"driver": f"zarr{'' if version == 2 else 3}", "kvstore": {"driver": "file", "path": str(out)}}
    assert same(np.asarray(tensorstore.open(driver).result().read().result()), leaky_relu(x, dtype=dtype))


def keys(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(params=[2, 3])
def hierarchy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "h.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=request.param, attributes={"title": "all"})
    group.create_array("a", data=ARRAYS["C"], chunks=(10, 10))
    inner = group.create_group("deep/er", attributes={"n": 1})
    inner.create_array("b", data=ARRAYS["half"], chunks=(1000,))
    inner.create_array("labels", data=np.arange(10), chunks=(4,))
    group.create_array("flags", data=np.array([True, False]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that consolidated metadata are not part of version 3
        zarr.consolidate_metadata(path, zarr_format=request.param)
    return path


def test_a_hierarchy_keeps_everything_else_byte_for_byte(hierarchy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    report = leakycli.apply(str(hierarchy), str(out), Options(verify=True))
    actions = {array.name: array.action for array in report.arrays}
    assert actions == {"a": "transformed", "deep/er/b": "transformed", "deep/er/labels": "copied", "flags": "copied"}
    assert sorted(keys(out)) == sorted(keys(hierarchy))
    changed = {key for key in keys(out) if (out / key).read_bytes() != (hierarchy / key).read_bytes()}
    assert not any(key.startswith(("deep/er/labels", "flags")) for key in changed)
    opened = zarr.open_consolidated(out)
    assert opened.attrs["title"] == "all"
    for name, x in (("a", ARRAYS["C"]), ("deep/er/b", ARRAYS["half"])):
        array = opened[name]
        assert isinstance(array, zarr.Array)
        assert same(np.asarray(array[...]), leaky_relu(x))
        assert "leakycli" in array.attrs  # in the consolidated metadata, too
    assert leakycli.verify(str(hierarchy), str(out)).equal
    chunk = next((out / "deep/er/labels").rglob("0" if (out / ".zgroup").exists() else "c/0"))
    chunk.write_bytes(b"\0" + chunk.read_bytes()[1:])
    assert not leakycli.verify(str(hierarchy), str(out)).equal


def test_only_and_skip_and_a_node_of_a_store(hierarchy: Path, tmp_path: Path) -> None:
    actions = {}
    for options in (Options(only=("deep/er/*",)), Options(skip=("a",))):
        report = leakycli.apply(str(hierarchy), str(tmp_path / "out.zarr"), Options(only=options.only, skip=options.skip, overwrite=True))
        actions[options] = sorted(array.name for array in report.arrays if array.action == "transformed")
    assert list(actions.values()) == [["deep/er/b", "deep/er/labels"], ["deep/er/b"]]
    leakycli.apply(str(hierarchy / "a"), str(tmp_path / "a.npy"))
    assert same(np.load(tmp_path / "a.npy"), leaky_relu(ARRAYS["C"]))
    with pytest.raises(UsageError, match="several arrays"):
        leakycli.apply(str(hierarchy), str(tmp_path / "all.npy"))
    with pytest.raises(UnsupportedError, match="bool"):
        leakycli.apply(str(hierarchy), str(tmp_path / "all.npz"))


def test_groups_and_archives_have_the_same_names(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"a/b": ARRAYS["C"], "c": ARRAYS["half"], "n": np.arange(3)}
    np.savez(tmp_path / "in.npz", **arrays)
    leakycli.apply(str(tmp_path / "in.npz"), str(tmp_path / "x.zarr"), Options(skip=("n",), verify=True))
    group = zarr.open_group(tmp_path / "x.zarr", mode="r")
    assert same(np.asarray(cast("Any", group["a/b"])[...]), leaky_relu(ARRAYS["C"]))
    assert same(np.asarray(cast("Any", group["n"])[...]), np.arange(3))
    leakycli.apply(str(tmp_path / "x.zarr"), str(tmp_path / "out.npz"), Options(alpha=1, verify=True))
    with np.load(tmp_path / "out.npz") as out:
        assert sorted(out.files) == ["a/b", "c", "n"]
        assert same(out["c"], leaky_relu(ARRAYS["half"]))


def sparse(path: Path, fill: float, shards: tuple[int, ...] | None = None, version: int = 3) -> Array:
    array = zarr.create_array(path, shape=(200, 30), dtype="f4", chunks=(10, 10), shards=shards, fill_value=fill, zarr_format=version)  # type: ignore[arg-type]
    array[40:50, 10:20] = np.float32(-2)
    array[199, 29] = 5
    return np.asarray(array[...])


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("fill", [0.0, -1.5, np.inf])
def test_what_is_not_stored_is_not_written_but_counted(fill: float, version: int, tmp_path: Path) -> None:
    x = sparse(tmp_path / "in.zarr", fill, version=version)
    reports = []
    for workers, memory in ((1, system.resident() + (80 << 20)), (4, 8 << 30)):
        out = tmp_path / "out.zarr"
        options = Options(workers=workers, memory=memory, overwrite=True, verify=True)
        reports.append(leakycli.apply(str(tmp_path / "in.zarr"), str(out), options).arrays)
        assert same(load(out), leaky_relu(x))
        assert sorted(keys(out)) == sorted(keys(tmp_path / "in.zarr"))
    assert reports[0] == reports[1]
    (array,) = reports[0]
    assert array.before is not None
    assert array.after is not None
    assert array.before.count == x.size
    assert array.after.negative == int((leaky_relu(x) < 0).sum())
    assert array.before.posinf == int(np.isposinf(x).sum())
    assert array.before.mean == pytest.approx(float(np.mean(x[np.isfinite(x)], dtype=float)))


def test_a_sparse_shard_stays_small(tmp_path: Path) -> None:
    x = sparse(tmp_path / "in.zarr", 0.0, shards=(100, 30))
    leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"))
    assert same(load(tmp_path / "out.zarr"), leaky_relu(x))
    sizes = [sum(path.stat().st_size for path in (tmp_path / name / "c").rglob("*") if path.is_file()) for name in ("in.zarr", "out.zarr")]
    assert sizes[1] <= sizes[0] * 1.1


@pytest.mark.parametrize("shards", [None, (8,)])
def test_negative_zeros_are_not_taken_for_the_fill_value(shards: tuple[int] | None, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "in.zarr", data=np.full(16, -3, "f4"), chunks=(4,), shards=shards, fill_value=0)
    leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"), Options(alpha=0, verify=True))
    assert np.signbit(load(tmp_path / "out.zarr")).all()


def test_a_nan_fill_needs_an_integer_only_where_it_stands_for_elements(tmp_path: Path) -> None:
    whole = zarr.create_array(tmp_path / "whole.zarr", data=np.ones(8, "f4"), chunks=(4,), fill_value=np.nan)
    assert np.isnan(float(cast("Any", whole.fill_value)))
    leakycli.apply(str(tmp_path / "whole.zarr"), str(tmp_path / "a.zarr"), Options(dtype="int32"))
    part = zarr.create_array(tmp_path / "part.zarr", shape=(8,), dtype="f4", chunks=(4,), fill_value=np.nan)
    part[:4] = 1
    with pytest.raises(LossError, match="--nan"):
        leakycli.apply(str(tmp_path / "part.zarr"), str(tmp_path / "b.zarr"), Options(dtype="int32"))
    assert not (tmp_path / "b.zarr").exists()
    report = leakycli.apply(str(tmp_path / "part.zarr"), str(tmp_path / "b.zarr"), Options(dtype="int32", nan=-9))
    assert load(tmp_path / "b.zarr").tolist() == [1] * 4 + [-9] * 4
    assert report.losses.nan_replaced == 4


def test_overwrite_replaces_a_store_by_a_store_and_nothing_else(tmp_path: Path) -> None:
    source, out = save(ARRAYS["C"], tmp_path / "v3.zarr"), tmp_path / "out.zarr"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="folder"):
        leakycli.apply(str(source), str(out), Options(overwrite=True))
    assert (out / "precious.txt").read_text() == "mine"
    (out / "precious.txt").unlink()
    out.rmdir()
    save(ARRAYS["half"], out)
    with pytest.raises(UsageError, match="--overwrite"):
        leakycli.apply(str(source), str(out))
    leakycli.apply(str(source), f"{out}/", Options(overwrite=True))
    assert same(load(out), leaky_relu(ARRAYS["C"]))
    for inside in (source / "inner.zarr", tmp_path / "v3.zarr"):
        with pytest.raises(UsageError, match="source"):
            leakycli.apply(str(source), str(inside), Options(overwrite=True))
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("pair", [("deflated.npz", "out.zarr"), ("stored.npz", "out.zarr"), ("v3.zarr", "out.npz")])
def test_a_slab_that_does_not_fit_is_spooled(pair: tuple[str, str], tmp_path: Path) -> None:
    x = RNG.standard_normal((300, 60_000)).astype("f4")
    source, out = tmp_path / pair[0], tmp_path / pair[1]
    if source.suffix == ".npz":
        save(x, source)
    else:
        zarr.create_array(source, data=x, chunks=(300, 1000))
    code = """
import sys, leakycli
a, b, compressor, *chunks = sys.argv[1:]
options = leakycli.Options(memory=140 << 20, compressor=compressor, chunks=tuple(map(int, chunks)) or None, verify=True)
cost = leakycli.apply(a, b, options).cost
print(cost.memory_measured <= cost.memory_projected <= cost.memory_bound)
"""
    layout = ["none", "300", "1000"] if source.suffix == ".npz" else ["deflate"]
    done = subprocess.run([sys.executable, "-c", code, str(source), str(out), *layout], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
    assert same(load(out), leaky_relu(x))
    assert left_over(tmp_path) == []


def cli(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "leakycli", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_layout_options(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ARRAYS["C"])
    layout = ("--chunks", "10,5", "--shards", "20,10", "--compressor", "blosc-zstd:7:bitshuffle", "--no-provenance")
    done = cli("apply", "x.npy", "a.zarr", *layout, "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    array = zarr.open_array(tmp_path / "a.zarr", mode="r")
    assert (array.chunks, array.shards, dict(array.attrs)) == ((10, 5), (20, 10), {})
    done = cli("info", "a.zarr", "--json", cwd=tmp_path)
    (found,) = json.loads(done.stdout)["arrays"]
    assert (found["codecs"], found["units_stored"], found["units"]) == ("blosc-zstd:7:bitshuffle", 9, 9)
    assert cli("apply", "a.zarr", "b.zarr", "--zarr-format", "2", "--chunks", "7,7", "--compressor", "gzip:3", cwd=tmp_path).returncode == 0
    array = zarr.open_array(tmp_path / "b.zarr", mode="r", zarr_format=2)
    assert (array.chunks, array.metadata.zarr_format) == ((7, 7), 2)
    assert same(np.asarray(array[...]), leaky_relu(leaky_relu(ARRAYS["C"])))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x.npy", "o.zarr", "--chunks", "5"), "--chunks"),
        (("x.npy", "o.zarr", "--chunks", "5,5", "--shards", "7,5"), "whole chunks"),
        (("x.npy", "o.zarr", "--shards", "10,10", "--chunks", "5,5", "--zarr-format", "2"), "--shards"),
        (("x.npy", "o.zarr", "--compressor", "zip:3"), "compressor"),
        (("x.npy", "o.zarr", "--chunks", "0,5"), "shape"),
        (("x.npy", "o.npy", "--chunks", "5,5"), "--chunks"),
        (("x.npy", "-", "--to", "zarr"), "standard output"),
        (("x.npy", "x.npy", "o.zarr"), "Zarr store"),
    ],
)
def test_layouts_that_cannot_be_are_usage_errors(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ARRAYS["C"])
    done = cli("apply", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.slow
@pytest.mark.parametrize("dest", ["out.zarr", "out.npy", "out.npz"])
def test_3_gib_in_256_mib(dest: str, tmp_path: Path) -> None:
    source = zarr.create_array(tmp_path / "in.zarr", shape=(24576, 32768), dtype="f4", chunks=(512, 2048), compressors=(), fill_value=0)
    for i in range(0, 24576, 512):
        source[i : i + 512] = np.float32(i - 9999)
    code = """
import sys, leakycli
a, b = sys.argv[1:]
cost = leakycli.apply(a, b, leakycli.Options(memory=256 << 20, compressor="deflate" if b.endswith("z") else None)).cost
print(cost.memory_measured <= cost.memory_projected <= cost.memory_bound)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "in.zarr"), str(tmp_path / dest)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("dest", ["out.zarr", "out.zarr.zip"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_leaves_nothing_under_its_name(how: signal.Signals, dest: str, tmp_path: Path) -> None:
    x = RNG.standard_normal((6000, 1000)).astype("f4")
    zarr.create_array(tmp_path / "in.zarr", data=x, chunks=(100, 1000), compressors=zarr.codecs.GzipCodec(level=9))
    out = tmp_path / dest
    command = [sys.executable, "-m", "leakycli", "apply", "in.zarr", dest]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    # Once it is at work: the journal is there, and a chunk or more.
    deadline = time.monotonic() + 60
    while not any("partial" in str(path) and path.is_file() for path in tmp_path.glob(f"{dest}.partial*/c/*/*")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -how
    assert not out.exists()
    if how == signal.SIGTERM:
        assert said.count("\n") == 1
    if left_over(tmp_path):
        with pytest.raises(UsageError, match="continue with --resume"):
            leakycli.apply(str(tmp_path / "in.zarr"), str(out))
    leakycli.apply(str(tmp_path / "in.zarr"), str(out), Options(resume=True))
    assert same(load(out), leaky_relu(x))
    assert left_over(tmp_path) == []


def test_an_archive_is_read_by_several_threads_at_once(tmp_path: Path) -> None:
    """Its members have an extra field, which some Pythons skip from wherever another thread left the file."""
    (tmp_path / "store").mkdir()
    for number in range(20):
        (tmp_path / "store" / str(number)).write_bytes(bytes([number]) * 5000)
    pack(str(tmp_path / "store"), str(tmp_path / "a.zarr.zip"))
    tree = ZipTree(str(tmp_path / "a.zarr.zip"))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            for number, data in threads.map(lambda n: (n % 20, tree.read(str(n % 20))), range(800)):
                assert data == bytes([number]) * 5000
    finally:
        sys.setswitchinterval(before)
        tree.close()


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        (RangeByteRequest(2, 5), b"234"),
        (RangeByteRequest(0, 3), b"012"),
        (SuffixByteRequest(4), b"6789"),
        (RangeByteRequest(0, 12), b"0123456789"),
        (None, b"0123456789"),
    ],
)
def test_a_part_that_comes_as_all_is_cut_out_and_holds_no_more(asked: ByteRequest | None, part: bytes) -> None:
    found = default_buffer_prototype().buffer.from_bytes(b"0123456789")
    cut = _part(found, asked)
    assert cut is not None
    assert cut.to_bytes() == part
    assert len(part) == len(found) or not np.shares_memory(cut.as_numpy_array(), found.as_numpy_array())
