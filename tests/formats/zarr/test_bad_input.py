"""Zarr that is damaged, hostile or of an unsupported kind: refused in one line that names what is wrong, and nothing is left.

What `test_errors.py` beside this checks with a few examples is gone through here: in every store, at every place, in groups and archives.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
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
from leakycli.errors import CorruptError, LeakyError, SourceChangedError, StorageError, UnsupportedError, UsageError
from tests.conftest import Run

X: NDArray[Any] = np.random.default_rng(11).standard_normal((40, 30)).astype("f4")

Refused = Callable[..., str]

#: How a store is made: version, shards, compressors.
STORES: dict[str, tuple[int, tuple[int, int] | None, Any]] = {
    "raw": (3, None, ()),
    "zstd": (3, None, (zarr.codecs.ZstdCodec(checksum=True),)),
    "blosc": (3, None, (zarr.codecs.BloscCodec(cname="lz4"),)),
    "gzip": (3, None, (zarr.codecs.GzipCodec(),)),
    "crc32c": (3, None, (zarr.codecs.Crc32cCodec(),)),
    "sharded": (3, (20, 20), (zarr.codecs.ZstdCodec(checksum=True),)),
    "v2 raw": (2, None, None),
    "v2 zstd": (2, None, numcodecs.Zstd(3, checksum=True)),
    "v2 blosc": (2, None, numcodecs.Blosc()),
    "v2 gzip": (2, None, numcodecs.GZip()),
    "v2 zlib": (2, None, numcodecs.Zlib()),
}

#: Those in which every flipped bit of a chunk is found.
CHECKED = ("zstd", "gzip", "crc32c", "sharded", "v2 zstd", "v2 gzip", "v2 zlib")


def store(path: Path, kind: str = "zstd", x: NDArray[Any] = X, **options: Any) -> Path:
    version, shards, compressors = STORES[kind]
    given: dict[str, Any] = {"zarr_format": version, "shards": shards, "compressors": compressors, **options}
    made = zarr.create_array(path, shape=x.shape, dtype=x.dtype, chunks=(10, 10), fill_value=0, **given)
    made[...] = x
    return path


def chunk_name(kind: str, i: int, j: int) -> str:
    return f"{i}.{j}" if STORES[kind][0] == 2 else f"c/{i}/{j}"


def document_of(source: Path) -> Path:
    return source / "zarr.json" if (source / "zarr.json").exists() else source / ".zarray"


def edit(path: Path, **fields: Any) -> None:
    """Change a document; Ellipsis takes a key away."""
    document = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in (document | fields).items() if value is not ...}))


def state(path: Path) -> dict[str, Any]:
    """All that can be seen of what is at `path` without changing it."""
    found: dict[str, Any] = {}
    for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
        status = each.lstat()
        content = each.read_bytes() if each.is_file() and not each.is_symlink() else None
        found[str(each)] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    return found


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Check that the error comes, says all it should in one short line, and leaves the source as it was and nothing else; its text."""

    def check(
        source: Path, kind: type[LeakyError], *said: str, dest: str = "out.zarr", act: Callable[[Job], None] | None = None, **options: Any
    ) -> str:
        before, beside = state(source), sorted(os.listdir(tmp_path))
        with pytest.raises(LeakyError) as raised:
            if act is None:
                leakycli.apply(str(source), str(tmp_path / dest), Options(**options))
            else:
                with Job(str(source), str(tmp_path / dest), Options(**options)) as job:
                    act(job)
                    before = state(source)
                    job.run(lambda event: None)
        line = str(raised.value)
        assert isinstance(raised.value, kind), line
        assert raised.value.exit_code == (1 if isinstance(raised.value, StorageError) else 2 if isinstance(raised.value, UsageError) else 3)
        for text in said:
            assert text in line
        assert line.isprintable()
        assert len(line) < len(str(source)) + 500
        assert sorted(os.listdir(tmp_path)) == beside
        assert state(source) == before
        return line

    return check


# What is no Zarr.


@pytest.mark.parametrize("content", [{}, {"c/0/0": b"data"}, {"a/b/readme.txt": b"text"}, {".zattrs": b"{}"}, {".zmetadata": b"{}"}])
def test_a_folder_that_is_no_zarr(tmp_path: Path, refused: Refused, content: dict[str, bytes]) -> None:
    source = tmp_path / "in.zarr"
    source.mkdir()
    for name, data in content.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    refused(source, CorruptError, str(source), "no Zarr")


def test_a_file_named_as_a_folder_would_be(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "in.zarr").write_bytes(b"no store")
    refused(tmp_path / "in.zarr", CorruptError, "in.zarr")
    with pytest.raises(StorageError) as raised:
        leakycli.apply(str(tmp_path / "none.zarr"), str(tmp_path / "out.zarr"))
    assert raised.value.exit_code == 1
    assert "none.zarr" in str(raised.value)


# Documents.

NO_DOCUMENT = {
    "empty": b"",
    "cut off": b'{"zarr_format": 3, "node_',
    "list": b"[3]",
    "string": b'"zarr"',
    "null": b"null",
    "number": b"3",
    "huge number": b"9" * 5000,
    "nested": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "not UTF-8": b'{"zarr_format": "\xff\xfe\xc3"}',
    "UTF-16": '{"zarr_format": 3}'.encode("utf-16"),
    "binary": bytes(range(256)),
    "NUL": bytes(100),
    "two": b"{}{}",
}


@pytest.mark.parametrize("inner", ["", "a"])
@pytest.mark.parametrize("kind", ["zstd", "v2 zstd"])
@pytest.mark.parametrize("what", NO_DOCUMENT)
def test_a_document_that_is_none(tmp_path: Path, refused: Refused, what: str, kind: str, inner: str) -> None:
    source = tmp_path / "in.zarr"
    if inner:
        zarr.open_group(source, mode="w", zarr_format=3 if STORES[kind][0] == 3 else 2)
    store(source / inner, kind)
    document = document_of(source / inner)
    document.write_bytes(NO_DOCUMENT[what])
    refused(source, CorruptError, str(document))


@pytest.mark.parametrize("name", [".zattrs", ".zmetadata", ".zgroup", "zarr.json"])
def test_a_groups_document_that_is_none(tmp_path: Path, refused: Refused, name: str) -> None:
    source = tmp_path / "in.zarr"
    version = 3 if name == "zarr.json" else 2
    group = zarr.open_group(source, mode="w", zarr_format=version)  # type: ignore[arg-type]
    store(source / "a", "zstd" if version == 3 else "v2 zstd")
    group.attrs["a"] = 1
    (source / name).write_bytes(b"[1")
    refused(source, CorruptError, str(source / name))


@pytest.mark.parametrize("name", ["zarr.json", ".zarray", ".zattrs"])
def test_a_document_that_is_a_folder(tmp_path: Path, refused: Refused, name: str) -> None:
    source = store(tmp_path / "in.zarr", "zstd" if name == "zarr.json" else "v2 zstd")
    (source / name).unlink(missing_ok=True)
    (source / name).mkdir()
    refused(source, CorruptError, str(source / name), "folder")


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


ODD: list[Any] = [
    None,
    True,
    -1,
    2**63,
    10**400,
    1e400,
    0.5,
    "",
    "x",
    "\ud800\n\x1b[2J",
    [],
    {},
    [[]],
    [None],
    {"name": 3},
    {"name": "x" * 900},
]
ODD.append(deep(400))

NEEDED = ("zarr_format", "node_type", "shape", "chunk_grid", "chunk_key_encoding", "data_type", "codecs")


@pytest.mark.parametrize("key", NEEDED)
def test_values_of_any_wrong_type(tmp_path: Path, refused: Refused, key: str) -> None:
    source = store(tmp_path / "in.zarr")
    whole = document_of(source).read_bytes()
    for value in (*ODD, ...):
        document_of(source).write_bytes(whole)
        edit(document_of(source), **{key: value})
        refused(source, LeakyError, str(source / "zarr.json"))


@pytest.mark.parametrize("key", ["zarr_format", "shape", "chunks", "dtype", "order", "compressor", "filters"])
def test_values_of_any_wrong_type_in_version_2(tmp_path: Path, refused: Refused, key: str) -> None:
    source = store(tmp_path / "in.zarr", "v2 zstd")
    whole = document_of(source).read_bytes()
    for value in ODD:
        if key in ("compressor", "filters") and value in (None, []):
            continue
        document_of(source).write_bytes(whole)
        edit(document_of(source), **{key: value})
        refused(source, LeakyError, str(source / ".zarray"))


BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


def sharding(**changed: Any) -> dict[str, Any]:
    sound = {"chunk_shape": [5, 5], "codecs": [BYTES], "index_codecs": [BYTES, {"name": "crc32c"}], "index_location": "end"}
    return {"name": "sharding_indexed", "configuration": sound | changed}


@pytest.mark.parametrize(
    ("fields", "kind", "said"),
    [
        ({"zarr_format": 1}, UnsupportedError, "zarr_format 1"),
        ({"zarr_format": 3.0}, UnsupportedError, "zarr_format 3.0"),
        ({"node_type": "tree"}, CorruptError, "node_type"),
        ({"chunk_grid": {"name": "rectangular", "configuration": {}}}, UnsupportedError, "rectangular"),
        ({"chunk_grid": {"name": "regular"}}, CorruptError, "chunk_shape"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10, 10, 10]}}}, CorruptError, "dimensions"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10, 1 << 63]}}}, CorruptError, "chunk_shape"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1 << 40, 1 << 40]}}}, CorruptError, "chunk_shape"),
        ({"shape": [40] * 65}, UnsupportedError, "65 dimensions"),
        ({"shape": [1 << 62, 1 << 62]}, CorruptError, "shape"),
        ({"codecs": [BYTES, {"name": "acme.magic"}]}, UnsupportedError, "acme.magic"),
        ({"codecs": [BYTES, {"name": "numcodecs.acme"}]}, UnsupportedError, "acme"),
        ({"codecs": [{"name": "acme\n.magic"}, BYTES]}, UnsupportedError, "acme"),
        ({"codecs": [sharding(codecs=[BYTES, {"name": "acme"}])]}, UnsupportedError, "acme"),
        ({"codecs": [sharding(chunk_shape=[3, 5])]}, CorruptError, "shards"),
        ({"codecs": [sharding(chunk_shape=[5])]}, CorruptError, "shards"),
        ({"codecs": [sharding(chunk_shape=[0, 5])]}, CorruptError, "chunk_shape"),
        ({"codecs": [sharding(codecs=[])]}, CorruptError, "codecs"),
        ({"codecs": [sharding(codecs=5)]}, CorruptError, "codecs"),
        ({"codecs": [sharding(index_codecs="x")]}, CorruptError, ""),
        ({"codecs": [sharding(index_codecs=[{"name": "acme"}])]}, LeakyError, ""),
        ({"codecs": [sharding(index_location="middle")]}, CorruptError, ""),
        ({"codecs": [{"name": "sharding_indexed"}]}, CorruptError, ""),
        ({"codecs": [{"name": "zstd", "configuration": {}}]}, CorruptError, ""),
        ({"codecs": [BYTES, BYTES]}, CorruptError, ""),
        ({"codecs": [{"name": "transpose", "configuration": {"order": [0, 0]}}, BYTES]}, CorruptError, ""),
        ({"codecs": [{"name": "bytes", "configuration": {"endian": "middle"}}]}, CorruptError, ""),
        ({"codecs": [BYTES, {"name": "blosc", "configuration": {"cname": "acme", "clevel": 1, "shuffle": "noshuffle"}}]}, CorruptError, ""),
        ({"codecs": [BYTES, {"name": "zstd", "configuration": {"level": "high"}}]}, CorruptError, ""),
        ({"codecs": [BYTES, {"name": "gzip", "configuration": {"level": 99}}]}, CorruptError, ""),
    ],
)  # fmt: skip
def test_what_is_asked_for_and_is_not_there(
    tmp_path: Path, refused: Refused, fields: dict[str, Any], kind: type[LeakyError], said: str
) -> None:
    source = store(tmp_path / "in.zarr")
    edit(source / "zarr.json", **fields)
    refused(source, kind, str(source), said)


def test_an_array_of_more_chunks_than_memory_has_bits_for(tmp_path: Path, refused: Refused) -> None:
    for kind in ("zstd", "v2 zstd"):
        source = store(tmp_path / f"{kind}.zarr", kind)
        edit(document_of(source), shape=[1 << 50, 30])
        refused(source, LeakyError, str(source))


def test_a_chunk_that_no_memory_holds(tmp_path: Path, refused: Refused) -> None:
    source = store(tmp_path / "in.zarr")
    grid = {"name": "regular", "configuration": {"chunk_shape": [1 << 40, 10]}}
    edit(source / "zarr.json", shape=[1 << 40, 10], chunk_grid=grid)
    refused(source, LeakyError)


# Types.

V3_TYPES: dict[str, tuple[Any, Any]] = {
    "bool": ("bool", False),
    "complex64": ("complex64", [0, 0]),
    "string": ("string", ""),
    "bytes": ("variable_length_bytes", ""),
    "bfloat16": ("bfloat16", 0),
    "float8_e4m3": ("float8_e4m3", 0),
    "int4": ("int4", 0),
    "r16": ("r16", [0, 0]),
    "fixed_length_utf32": ({"name": "fixed_length_utf32", "configuration": {"length_bytes": 8}}, ""),
    "numpy.datetime64": ({"name": "numpy.datetime64", "configuration": {"unit": "s", "scale_factor": 1}}, 0),
    "structured": ({"name": "structured", "configuration": {"fields": [["a", "float32"]]}}, ""),
    "acme.real": ("acme.real", "what"),
}

V2_TYPES: dict[str, tuple[Any, Any]] = {
    "bool": ("|b1", False),
    "complex": ("<c8", [0, 0]),
    "<U4": ("<U4", ""),
    "S4": ("|S4", ""),
    "object": ("|O", ""),
    "datetime": ("<M8[s]", 0),
    "void": ("|V4", None),
    "structured": ([["a", "<f4"]], None),
}


@pytest.mark.parametrize(("version", "name"), [(3, name) for name in V3_TYPES] + [(2, name) for name in V2_TYPES])
def test_types_without_a_leaky_relu_are_refused_when_chosen_and_else_copied(
    tmp_path: Path, refused: Refused, version: int, name: str
) -> None:
    source, kind = tmp_path / "in.zarr", "zstd" if version == 3 else "v2 zstd"
    zarr.open_group(source, mode="w", zarr_format=3 if version == 3 else 2)
    store(source / "x", kind)
    store(source / "odd", kind)
    (data_type, fill) = (V3_TYPES if version == 3 else V2_TYPES)[name]
    key = "data_type" if version == 3 else "dtype"
    edit(document_of(source / "odd"), **{key: data_type, "fill_value": fill})
    said = {"<U4": "string", "S4": "byte string"}.get(name, name)
    for arguments in ({"only": ("odd",)}, {"only": ("*",)}):
        refused(source, UnsupportedError, str(document_of(source / "odd")), said, **arguments)
    refused(source / "odd", UnsupportedError, said)
    skip: tuple[str, ...] = ()
    if "float" in str(data_type) and isinstance(data_type, str):
        # It would be transformed if it could.
        refused(source, UnsupportedError, str(document_of(source / "odd")), said, "--skip odd")
        skip = ("odd",)
    report = leakycli.apply(str(source), str(tmp_path / "out.zarr"), Options(skip=skip))
    assert [(array.name, array.action) for array in report.arrays] == [("odd", "copied"), ("x", "transformed")]
    for path in (source / "odd").rglob("*"):
        if path.is_file():
            assert (tmp_path / "out.zarr" / path.relative_to(source)).read_bytes() == path.read_bytes()
    assert np.array_equal(read(tmp_path / "out.zarr" / "x"), leaky_relu(X))


def test_a_codec_that_is_not_known_is_copied_when_not_chosen(tmp_path: Path, refused: Refused) -> None:
    source = tmp_path / "in.zarr"
    zarr.open_group(source, mode="w")
    store(source / "x")
    store(source / "odd")
    edit(source / "odd/zarr.json", codecs=[BYTES, {"name": "acme.magic"}], data_type="int32")
    refused(source, UnsupportedError, "acme.magic", only=("odd",))
    leakycli.apply(str(source), str(tmp_path / "out.zarr"))
    assert (tmp_path / "out.zarr/odd/c/0/0").read_bytes() == (source / "odd/c/0/0").read_bytes()


# Chunks.


def places(size: int) -> Iterator[int]:
    yield from sorted({0, 1, 4, 8, 12, size // 3, size // 2, size - 5, size - 1} & set(range(size)))


@pytest.mark.parametrize("kind", CHECKED)
def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path: Path, kind: str) -> None:
    source, dest = store(tmp_path / "in.zarr", kind), tmp_path / "out.zarr"
    chunk = source / chunk_name(kind, 1, 1)
    whole, found = chunk.read_bytes(), 0
    for at in places(len(whole)):
        for bit in (0, 6):
            chunk.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            try:
                leakycli.apply(str(source), str(dest), Options(overwrite=True, reports=("none",)))
            except LeakyError as error:
                found += 1
                assert isinstance(error, CorruptError), error
                assert str(chunk) in str(error)
                assert sorted(os.listdir(tmp_path)) == ["in.zarr"]
            else:  # a field of gzip's header that nothing depends on
                assert np.array_equal(read(dest), leaky_relu(X))
                shutil.rmtree(dest)
    assert found >= 5


@pytest.mark.parametrize("dest", ["out.zarr", "out.npy", "out.npz", "out.zarr.zip"])
@pytest.mark.parametrize("kind", STORES)
def test_a_chunk_that_is_cut_off_or_empty(tmp_path: Path, refused: Refused, kind: str, dest: str) -> None:
    source = store(tmp_path / "in.zarr", kind)
    chunk = source / chunk_name(kind, 1, 1)
    whole = chunk.read_bytes()
    for size in {0, 1, 3, len(whole) // 2, len(whole) - 1}:
        chunk.write_bytes(whole[:size])
        refused(source, CorruptError, str(chunk), dest=dest)


@pytest.mark.parametrize("other_type", ["f2", "f8"])
@pytest.mark.parametrize("kind", STORES)
def test_a_chunk_of_another_size(tmp_path: Path, refused: Refused, kind: str, other_type: str) -> None:
    source, other = store(tmp_path / "in.zarr", kind), store(tmp_path / "other.zarr", kind, X.astype(other_type))
    chunk = source / chunk_name(kind, 0, 1)
    chunk.write_bytes((other / chunk_name(kind, 0, 1)).read_bytes())
    refused(source, CorruptError, str(chunk))


@pytest.mark.parametrize("checksum", [True, False])
def test_a_chunk_of_a_shard_that_another_is_taken_with(tmp_path: Path, refused: Refused, checksum: bool) -> None:
    x = np.random.default_rng(0).standard_normal(X.shape).astype(X.dtype)
    source = store(tmp_path / "in.zarr", "sharded", x, compressors=(zarr.codecs.ZstdCodec(checksum=checksum),))
    shard = source / "c/0/0"
    data = shard.read_bytes()
    index = np.frombuffer(data[-68:-4], "<u8").reshape(4, 2).copy()
    first, second = np.argsort(index[:, 0])[:2]
    assert index[first].sum() == index[second, 0]
    index[first, 1] += index[second, 1]
    shard.write_bytes(data[:-68] + index.tobytes() + struct.pack("<I", google_crc32c.value(index.tobytes())))
    refused(source, CorruptError, str(shard), "chunks in its index overlap")


def test_a_damaged_chunk_of_an_array_in_a_group_is_named_with_its_path(tmp_path: Path, refused: Refused) -> None:
    source = tmp_path / "in.zarr"
    zarr.open_group(source, mode="w")
    store(source / "a/b", "zstd")
    store(source / "z", "zstd")
    (source / "a/b/c/3/2").write_bytes(b"no frame")
    zarr.open_group(source / "a", mode="a")
    refused(source, CorruptError, str(source / "a/b/c/3/2"))


@pytest.mark.parametrize("kind", ["zstd", "sharded", "v2 zstd"])
def test_what_is_in_a_chunks_place_is_no_file(tmp_path: Path, refused: Refused, kind: str) -> None:
    source = store(tmp_path / "in.zarr", kind)
    chunk = source / chunk_name(kind, 1, 1)
    chunk.unlink()
    chunk.mkdir()
    refused(source, CorruptError, str(chunk), "folder")
    chunk.rmdir()
    chunk.symlink_to("nowhere")
    refused(source, StorageError, str(chunk))
    chunk.unlink()
    chunk.symlink_to(chunk.name)
    refused(source, StorageError, str(chunk))


def test_a_pipe_in_the_place_of_a_chunk_or_a_document_is_no_reason_to_wait(tmp_path: Path, leakycli: Run) -> None:
    for kind, name in (("zstd", "c/1/1"), ("zstd", "zarr.json"), ("v2 raw", "1.1")):
        source = store(tmp_path / "in.zarr", kind)
        (source / name).unlink()
        os.mkfifo(source / name)
        done = leakycli("apply", "in.zarr", "out.zarr", timeout=20)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) in ((3, b"", 1), (1, b"", 1)), done
        assert f"in.zarr/{name}".encode() in done.stderr
        assert sorted(os.listdir(tmp_path)) == ["in.zarr"]
        shutil.rmtree(source)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["c/1/1", "zarr.json", "c/1"])
def test_what_may_not_be_read(tmp_path: Path, name: str) -> None:
    source = store(tmp_path / "in.zarr")
    (source / name).chmod(0)
    try:
        with pytest.raises(StorageError, match="Permission denied") as raised:
            leakycli.apply(str(source), str(tmp_path / "out.zarr"))
        assert str(source / name) in str(raised.value)
        assert sorted(os.listdir(tmp_path)) == ["in.zarr"]
    finally:
        (source / name).chmod(0o755)


@pytest.mark.parametrize("to", ["in.zarr", "in.zarr/g"])
def test_a_link_that_leads_back(tmp_path: Path, refused: Refused, to: str) -> None:
    source = tmp_path / "in.zarr"
    zarr.open_group(source, mode="w").create_group("g")
    store(source / "g/x")
    (source / "g/again").symlink_to(tmp_path / to)
    refused(source, LeakyError, "again")


def test_a_link_that_leads_back_from_among_the_chunks(tmp_path: Path, refused: Refused) -> None:
    source = store(tmp_path / "in.zarr")
    (source / "c/0/again").symlink_to(source)
    refused(source, CorruptError, "again", "link")


def test_a_very_deep_hierarchy(tmp_path: Path) -> None:
    source = tmp_path / "in.zarr"
    folder = source
    for _ in range(400):
        folder.mkdir()
        (folder / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
        folder = folder / "g"
    store(folder)
    try:
        leakycli.apply(str(source), str(tmp_path / "out.zarr"))
    except LeakyError as error:
        assert str(error).isprintable()
        assert sorted(os.listdir(tmp_path)) == ["in.zarr"]
    else:
        assert np.array_equal(read(tmp_path / "out.zarr" / "/".join(["g"] * 400)), leaky_relu(X))


# What changes while it is read.


@pytest.mark.parametrize("dest", ["out.zarr", "out.npy"])
@pytest.mark.parametrize("kind", ["raw", "zstd", "sharded", "v2 blosc"])
def test_a_chunk_that_is_deleted_during_the_run(tmp_path: Path, refused: Refused, kind: str, dest: str) -> None:
    source = store(tmp_path / "in.zarr", kind)
    chunk = source / chunk_name(kind, 1, 1)
    refused(source, StorageError, str(chunk), dest=dest, act=lambda job: chunk.unlink())


def test_a_source_that_goes_away_during_the_run(tmp_path: Path) -> None:
    source = store(tmp_path / "in.zarr")
    with Job(str(source), str(tmp_path / "out.zarr"), Options()) as job:
        source.rename(tmp_path / "elsewhere")
        with pytest.raises(LeakyError) as raised:
            job.run(lambda event: None)
    assert str(source) in str(raised.value)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere"]


CHANGES: dict[str, Callable[[Path], Any]] = {
    "attributes": lambda source: edit(source / "x/zarr.json", attributes={"a": 1}),
    "shape": lambda source: edit(source / "x/zarr.json", shape=[50, 50]),
    "no JSON": lambda source: (source / "x/zarr.json").write_bytes(b"{"),
    "gone": lambda source: (source / "x/zarr.json").unlink(),
    "group": lambda source: edit(source / "zarr.json", attributes={"a": 1}),
    "group gone": lambda source: (source / "zarr.json").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_documents_that_change_during_the_run(tmp_path: Path, refused: Refused, change: str) -> None:
    source = tmp_path / "in.zarr"
    zarr.open_group(source, mode="w")
    store(source / "x")
    refused(source, LeakyError, str(source), act=lambda job: CHANGES[change](source))


def test_an_archive_that_changes_during_the_run(tmp_path: Path, refused: Refused) -> None:
    source = zipped(tmp_path)
    refused(source, SourceChangedError, str(source), act=lambda job: os.utime(source, ns=(1, 1)))


# Archives.


def zipped(tmp_path: Path, kind: str = "raw", method: int = zipfile.ZIP_STORED, names: Callable[[str], str] = str) -> Path:
    """A `.zarr.zip` of a store that is gone after."""
    folder = store(tmp_path / "folder", kind)
    with zipfile.ZipFile(tmp_path / "in.zarr.zip", "w", method) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.writestr(names(path.relative_to(folder).as_posix()), path.read_bytes())
    shutil.rmtree(folder)
    return tmp_path / "in.zarr.zip"


def test_an_archive_that_is_cut_off(tmp_path: Path, refused: Refused) -> None:
    source = zipped(tmp_path)
    whole = source.read_bytes()
    for size in {0, 3, 4, 30, 100, len(whole) // 2, *range(len(whole) - 30, len(whole))}:
        source.write_bytes(whole[:size])
        refused(source, CorruptError, str(source))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", ["c/1/1", "zarr.json"])
@pytest.mark.parametrize(
    "claim", [{"CRC": 77}, {"file_size": 5}, {"file_size": 1 << 40}, {"header_offset": 1 << 30}, {"compress_type": 77}, {"flag_bits": 1}]
)
def test_an_archive_that_lies(tmp_path: Path, refused: Refused, method: int, name: str, claim: dict[str, int]) -> None:
    source = zipped(tmp_path, method=method)
    with zipfile.ZipFile(source, "a") as archive:
        for field, value in claim.items():
            setattr(archive.getinfo(name), field, value)
        archive.comment = b"written again"
    # A document is not read before its size is looked at.
    if claim == {"file_size": 1 << 40} and name != "zarr.json":
        # More than there is: what is there is whole, as its checksum says.
        leakycli.apply(str(source), str(tmp_path / "out.zarr"))
        assert np.array_equal(read(tmp_path / "out.zarr"), leaky_relu(X))
        return
    refused(source, CorruptError, f"in.zarr.zip/{name}" if "header_offset" not in claim else "in.zarr.zip")


@pytest.mark.parametrize("size", [1 << 31, 1 << 62])
def test_an_archive_whose_stored_member_claims_to_be_large(tmp_path: Path, refused: Refused, size: int) -> None:
    source = zipped(tmp_path)
    with zipfile.ZipFile(source, "a") as archive:
        archive.getinfo("c/1/1").file_size = archive.getinfo("c/1/1").compress_size = size
        archive.comment = b"written again"
    refused(source, CorruptError, "in.zarr.zip")


def test_a_damaged_chunk_in_an_archive(tmp_path: Path, refused: Refused) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        source = zipped(tmp_path, method=method)
        whole = bytearray(source.read_bytes())
        with zipfile.ZipFile(source) as archive:
            found = archive.getinfo("c/2/1")
        whole[found.header_offset + 30 + len("c/2/1") + found.compress_size // 2] ^= 4
        source.write_bytes(whole)
        refused(source, CorruptError, "in.zarr.zip/c/2/1")
    source = zipped(tmp_path, "zstd", names=lambda name: name)
    with zipfile.ZipFile(source, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("c/1/1", b"no frame")
    refused(source, CorruptError, "in.zarr.zip/c/1/1")


@pytest.mark.parametrize("prefix", ["../x/", "/x/", "a/../../x/", "//", "./", "C:/", "x\\..\\"])
def test_names_in_an_archive_lead_nowhere_else(tmp_path: Path, prefix: str) -> None:
    """An array of an odd path is none, or is copied to where DEST is."""
    source = zipped(tmp_path, names=lambda name: prefix + name)
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("zarr.json", '{"zarr_format": 3, "node_type": "group"}')
        archive.writestr("x.txt", b"beside")
    (tmp_path / "in").mkdir()
    source = source.rename(tmp_path / "in" / source.name)
    (tmp_path / "in" / "out").mkdir()
    for dest in ("out.zarr", "out.npz", "out.zarr.zip"):
        for only in ((), ("*",)):
            try:
                leakycli.apply(str(source), str(tmp_path / "in" / "out" / dest), Options(only=only, reports=("none",), overwrite=True))
            except LeakyError as error:
                assert str(error).isprintable()
                assert os.listdir(tmp_path / "in" / "out") == []
            assert os.listdir(tmp_path) == ["in"]
            assert sorted(os.listdir(tmp_path / "in")) == ["in.zarr.zip", "out"]
            assert not Path("/x").exists()
            shutil.rmtree(tmp_path / "in" / "out")
            (tmp_path / "in" / "out").mkdir()


def test_names_in_an_archive_of_what_is_copied_lead_nowhere_else(tmp_path: Path) -> None:
    """Beside the array that is transformed, files and an integer array with names that climb."""
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    source = zipped(inside)
    with zipfile.ZipFile(source) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    document = json.loads(content["zarr.json"]) | {"data_type": "int32"}
    with zipfile.ZipFile(source, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"x/{name}", data)
        archive.writestr("zarr.json", '{"zarr_format": 3, "node_type": "group"}')
        for name in ("../evil", "x/../../evil", "i/../../../evil", "/tmp/leakycli-evil", "i/c/../../../../evil", ".."):
            archive.writestr(name, b"evil")
        archive.writestr("../y/zarr.json", json.dumps(document))
        archive.writestr("i/zarr.json", json.dumps(document))
        archive.writestr("i/c/0/0", content["c/0/0"])
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    try:
        leakycli.apply(str(source), str(inside / "out.zarr"), Options(reports=("none",)))
    except LeakyError as error:
        assert str(error).isprintable()
    made = set(map(str, tmp_path.rglob("*"))) - set(before)
    assert all(name.startswith(str(inside / "out.zarr")) for name in made)
    assert not Path("/tmp/leakycli-evil").exists()


def test_a_member_that_is_a_file_and_a_folder(tmp_path: Path) -> None:
    source = zipped(tmp_path, names=lambda name: f"x/{name}")
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("zarr.json", '{"zarr_format": 3, "node_type": "group"}')
        archive.writestr("x/c", b"a file")
        archive.writestr("x/c/1", b"a file")
    try:
        leakycli.apply(str(source), str(tmp_path / "out.zarr"))
    except LeakyError as error:
        assert str(error).isprintable()
        assert sorted(os.listdir(tmp_path)) == ["in.zarr.zip"]
    else:
        assert np.array_equal(read(tmp_path / "out.zarr/x"), leaky_relu(X))


# The command line.


@pytest.mark.parametrize(
    ("damage", "code", "said"),
    [
        (lambda source: (source / "c/1/1").write_bytes(b""), 3, "in.zarr/c/1/1: "),
        (lambda source: (source / "zarr.json").write_bytes(b"[" * 100_000), 3, "in.zarr/zarr.json: "),
        (lambda source: edit(source / "zarr.json", data_type="bfloat16"), 3, "bfloat16"),
        (lambda source: edit(source / "zarr.json", zarr_format=10**5000), 3, "zarr.json"),
        (lambda source: ((source / "c/1/1").unlink(), (source / "c/1/1").symlink_to("none")), 1, "in.zarr/c/1/1: "),
        (lambda source: shutil.rmtree(source), 1, "in.zarr"),
        (lambda source: (source / "zarr.json").unlink(), 3, "in.zarr: "),
    ],
    ids=["chunk", "nested", "type", "number", "link", "nothing", "no document"],
)
def test_the_command_line_says_it_in_one_line(tmp_path: Path, leakycli: Run, damage: Callable[[Path], Any], code: int, said: str) -> None:
    source = store(tmp_path / "in.zarr")
    try:
        damage(source)
    except ValueError:  # Python does not print a number of so many digits
        (source / "zarr.json").write_text('{"node_type": "array", "zarr_format": 1' + "0" * 4000 + "}")
    done = leakycli("apply", "in.zarr", "out.zarr")
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (code, b"", 1), done.stderr
    assert done.stderr.startswith(b"leakycli: ")
    assert said in done.stderr.decode()
    assert [name for name in os.listdir(tmp_path) if name.startswith("out")] == []


# Anything.

VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        False,
        -1,
        0,
        1,
        3,
        7,
        1 << 31,
        1 << 62,
        1 << 70,
        -0.5,
        1e308,
        "",
        "C",
        "F",
        ".",
        "NaN",
        "0x7fc00000",
        "float64",
        ">f4",
        "<f8",
        "big",
        "end",
        "start",
        "bytes",
        "array",
        "group",
        [],
        {},
        [[]],
        {"name": "zstd"},
        {"name": "crc32c"},
        [0, 0],
        [20, 30],
        [1, 1],
        [40, 30, 1],
        [1 << 62, 9],
    ]
)


def slots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a document."""
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from slots(inner, (*path, key))


def mutated(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The document with another value at `path`; Ellipsis takes it away."""
    document = copy.deepcopy(document)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return document


def read(path: Path | str) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = zarr.open_array(path, mode="r")
        # All that is stored: a shape that was changed may be larger than memory.
        return np.asarray(array[tuple(slice(0, 1000) for _ in array.shape)])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sound")
    return {kind: store(folder / kind, kind, attributes={"a": [1, {"b": 2}]}) for kind in ("zstd", "sharded", "v2 zstd", "blosc", "raw")}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["zstd", "sharded", "v2 zstd", "blosc", "raw"]))
def test_one_file_of_a_store_may_be_anything(sound: dict[str, Path], data: st.DataObject, kind: str) -> None:
    """The result is that of what zarr reads, or there is none and an error of the tree."""
    with tempfile.TemporaryDirectory() as name:
        source, dest = Path(name) / "in.zarr", Path(name) / "out.zarr"
        shutil.copytree(sound[kind], source)
        target = data.draw(st.sampled_from(sorted(path for path in source.rglob("*") if path.is_file())))
        content = target.read_bytes()
        how = data.draw(st.sampled_from(["value", "value", "flip", "cut", "delete", "longer"]))
        if how == "value":
            target = document_of(source)
            document = json.loads(target.read_bytes())
            path = data.draw(st.sampled_from(list(slots(document))))
            target.write_text(json.dumps(mutated(document, path, data.draw(VALUES | st.just(...)))))
        elif how == "delete":
            target.unlink()
        elif how == "cut":
            target.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        elif how == "longer":
            target.write_bytes(content + data.draw(st.binary(min_size=1, max_size=9)))
        else:
            at = data.draw(st.integers(0, len(content) - 1))
            target.write_bytes(content[:at] + bytes([content[at] ^ 1 << data.draw(st.integers(0, 7))]) + content[at + 1 :])
        before = state(source)
        try:
            leakycli.apply(str(source), str(dest), Options(memory=system.resident() + (1 << 30), reports=("none",)))
        except LeakyError as error:
            assert str(error).isprintable()
            assert os.listdir(name) == ["in.zarr"]
        else:
            assert np.array_equal(read(dest), leaky_relu(read(source)), equal_nan=True)
        assert state(source) == before


def test_a_shard_whose_index_lies(tmp_path: Path) -> None:
    """An index without a checksum that points past its shard, or at other chunks."""
    source = store(tmp_path / "in.zarr", "sharded")
    codecs = json.loads((source / "zarr.json").read_text())["codecs"]
    codecs[0]["configuration"]["index_codecs"] = [BYTES]
    edit(source / "zarr.json", codecs=codecs)
    for path in (source / "c").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-4])
    shard = source / "c/0/0"
    whole = shard.read_bytes()
    for offset, length in ((1 << 40, 10), (0, 1 << 62), (2**64 - 2, 10), (0, 2**64 - 1), (len(whole), 400), (3, 7), (0, 0)):
        shard.write_bytes(whole[:-64] + struct.pack("<2Q", offset, length) + whole[-48:])
        with pytest.raises(CorruptError) as raised:
            leakycli.apply(str(source), str(tmp_path / "out.zarr"))
        assert str(shard) in str(raised.value), (offset, length)
        assert sorted(os.listdir(tmp_path)) == ["in.zarr"]
