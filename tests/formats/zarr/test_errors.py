"""Zarr that is not what it should be: one clear line, the documented exit code, nothing published, the source as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import leakycli
from leakycli import leaky_relu, system
from leakycli.engine.job import Job
from leakycli.errors import CorruptError, LeakyError, StorageError, UnsupportedError
from leakycli.options import Options

X = np.random.default_rng(3).standard_normal((40, 30)).astype("f4")


def store(path: Path, version: int = 3, shards: tuple[int, ...] | None = None, **given: Any) -> Path:
    array = zarr.create_array(path, shape=X.shape, dtype="f4", chunks=(10, 10), shards=shards, zarr_format=version, fill_value=0, **given)  # type: ignore[arg-type]
    array[...] = X
    return path


def refused(source: Path, kind: type[LeakyError], *said: str) -> None:
    """Apply fails with that error, in one line that says all of `said`, and leaves nothing."""
    dest = source.parent / "dest.zarr"
    before = files(source)
    with pytest.raises(kind) as caught:
        leakycli.apply(str(source), str(dest))
    line = str(caught.value)
    assert "\n" not in line
    for text in said:
        assert text in line
    assert [name for name in os.listdir(source.parent) if name.startswith("dest")] == []
    assert files(source) == before


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (found.st_size, found.st_mtime_ns) for path in folder.rglob("*") if (found := path.lstat())}


def edit(path: Path, **fields: Any) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in (document | fields).items() if value is not Ellipsis}))


@pytest.mark.parametrize(
    ("fields", "kind", "said"),
    [
        ({"zarr_format": 4}, UnsupportedError, "zarr_format 4"),
        ({"zarr_format": "3"}, UnsupportedError, "zarr_format"),
        ({"node_type": "tree"}, CorruptError, "node_type"),
        ({"shape": [40]}, CorruptError, "dimensions"),
        ({"shape": [40, -1]}, CorruptError, "shape"),
        ({"shape": [40, True]}, CorruptError, "shape"),
        ({"shape": "40"}, CorruptError, "shape"),
        ({"shape": [1 << 40, 1 << 40]}, CorruptError, "shape"),
        ({"shape": ...}, CorruptError, "shape"),
        ({"chunk_grid": {"name": "rectilinear", "configuration": {}}}, UnsupportedError, "rectilinear"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 10]}}}, CorruptError, "chunk_shape"),
        ({"chunk_grid": []}, CorruptError, "chunk_grid"),
        ({"chunk_key_encoding": {"name": "odd"}}, UnsupportedError, "odd"),
        ({"data_type": "complex64", "fill_value": [0, 0]}, UnsupportedError, "complex64"),
        ({"data_type": "bool", "fill_value": False}, UnsupportedError, "bool"),
        ({"data_type": "bfloat16"}, UnsupportedError, "bfloat16"),
        ({"data_type": {"name": "fixed_length_utf32", "configuration": {}}}, UnsupportedError, "fixed_length_utf32"),
        ({"data_type": 5}, CorruptError, "data_type"),
        ({"fill_value": "zero"}, CorruptError, "fill_value"),
        ({"fill_value": ...}, CorruptError, "fill_value"),
        ({"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "secret"}]}, UnsupportedError, "secret"),
        ({"codecs": "bytes"}, CorruptError, "codecs"),
        ({"codecs": [{"name": "zstd", "configuration": {"level": 1}}]}, CorruptError, "cannot be opened"),
        ({"attributes": []}, CorruptError, "attributes"),
        ({"dimension_names": ["y"]}, CorruptError, "dimension_names"),
        ({"storage_transformers": [{"name": "t"}]}, UnsupportedError, "storage transformers"),
        ({"surprise": {"must_understand": True}}, UnsupportedError, "surprise"),
    ],
)
def test_documents_that_ask_for_what_is_not_there(fields: dict[str, Any], kind: type[LeakyError], said: str, tmp_path: Path) -> None:
    source = store(tmp_path / "in.zarr")
    edit(source / "zarr.json", **fields)
    refused(source, kind, "in.zarr", said)


@pytest.mark.parametrize(
    ("fields", "kind", "said"),
    [
        ({"dtype": "<c8"}, UnsupportedError, "complex"),
        ({"dtype": [["a", "<f4"]]}, UnsupportedError, "structured"),
        ({"dtype": "<q9"}, CorruptError, "dtype"),
        ({"dtype": 4}, CorruptError, "dtype"),
        ({"order": "K"}, CorruptError, "order"),
        ({"filters": "delta"}, CorruptError, "filters"),
        ({"compressor": {"level": 1}}, CorruptError, "codec"),
        ({"compressor": {"id": "secret"}}, UnsupportedError, "secret"),
        ({"dimension_separator": "-"}, CorruptError, "separator"),
        ({"chunks": [10]}, CorruptError, "chunks"),
        ({"fill_value": {}}, CorruptError, "fill_value"),
    ],
)
def test_documents_of_version_2_too(fields: dict[str, Any], kind: type[LeakyError], said: str, tmp_path: Path) -> None:
    source = store(tmp_path / "in.zarr", 2)
    edit(source / ".zarray", **fields)
    refused(source, kind, "in.zarr", said)


@pytest.mark.parametrize("text", ["", "{", "[]", "nul", '"a"', "[" * 100_000, '{"zarr_format": ' + "9" * 10_000 + "}", "\xff"])
def test_documents_that_are_no_documents(text: str, tmp_path: Path) -> None:
    source = store(tmp_path / "in.zarr")
    (source / "zarr.json").write_text(text, encoding="latin-1")
    refused(source, LeakyError, "zarr.json")


def test_folders_and_archives_that_hold_no_zarr(tmp_path: Path) -> None:
    (tmp_path / "in.zarr").mkdir()
    refused(tmp_path / "in.zarr", CorruptError, "no Zarr")
    (tmp_path / "plain").mkdir()
    refused(tmp_path / "plain", StorageError, "no Zarr")
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    refused(tmp_path / "empty.zarr", CorruptError, "no arrays")
    with zipfile.ZipFile(tmp_path / "a.zarr.zip", "w") as archive:
        archive.writestr("../x/zarr.json", "{}")
    refused(tmp_path / "a.zarr.zip", CorruptError, "../x/zarr.json")
    source = store(tmp_path / "b.zarr")
    shutil.make_archive(str(tmp_path / "b.zarr"), "zip", source)
    whole = (tmp_path / "b.zarr.zip").read_bytes()
    (tmp_path / "b.zarr.zip").write_bytes(whole[:-50])
    refused(tmp_path / "b.zarr.zip", CorruptError, "zip")
    (source / "zarr.json").unlink()
    (source / "zarr.json").mkdir()
    refused(source, CorruptError, "zarr.json")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for i in range(len(data)):
        data[i] ^= 0x5A
    path.write_bytes(data)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, halve, empty])
@pytest.mark.parametrize("kind", ["zstd", "blosc", "gzip", "sharded", "v2", "raw"])
def test_damaged_chunks_are_named(kind: str, damage: Callable[[Path], None], tmp_path: Path) -> None:
    if kind == "raw" and damage is flip:
        pytest.skip("bytes without a checksum are as good as any")
    codecs: dict[str, Any] = {
        "zstd": zarr.codecs.ZstdCodec(),
        "blosc": zarr.codecs.BloscCodec(),
        "gzip": zarr.codecs.GzipCodec(),
        "raw": (),
    }
    given = {"compressors": codecs[kind]} if kind in codecs else {}
    source = store(tmp_path / "in.zarr", 2 if kind == "v2" else 3, (20, 20) if kind == "sharded" else None, **given)
    key = "1.1" if kind == "v2" else "c/1/1"
    damage(source / key)
    refused(source, CorruptError, f"in.zarr/{key}")


def test_a_folder_or_a_dead_link_in_a_chunks_place(tmp_path: Path) -> None:
    source = store(tmp_path / "in.zarr")
    (source / "c/1/1").unlink()
    (source / "c/1/1").mkdir()
    refused(source, CorruptError, "c/1/1", "folder")
    (source / "c/1/1").rmdir()
    (source / "c/1/1").symlink_to("nowhere")
    refused(source, LeakyError, "c/1/1")


def test_a_loop_of_links(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "in.zarr", mode="w")
    group.create_array("a", data=X, chunks=(10, 10))
    (tmp_path / "in.zarr" / "again").symlink_to(tmp_path / "in.zarr")
    refused(tmp_path / "in.zarr", LeakyError, "in.zarr")


@pytest.mark.parametrize("dest", ["dest.zarr", "dest.npy", "dest.npz"])
@pytest.mark.parametrize("change", ["chunk", "metadata"])
def test_a_source_that_changes_during_the_run(change: str, dest: str, tmp_path: Path) -> None:
    source = store(tmp_path / "in.zarr")
    with Job(str(source), str(tmp_path / dest), Options()) as job:
        if change == "chunk":
            (source / "c/2/1").unlink()
        else:
            edit(source / "zarr.json", attributes={"new": 1})
        with pytest.raises(StorageError, match=r"c/2/1|changed"):
            job.run(lambda event: None)
    assert sorted(os.listdir(tmp_path)) == ["in.zarr"]


def test_lossy_filters_are_dropped_with_a_warning(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "in.zarr", shape=X.shape, dtype="f4", chunks=(10, 10), zarr_format=2, filters=[numcodecs.Quantize(1, "f4")]
    )
    array[...] = X
    stored = np.asarray(array[...])
    report = leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"), Options(verify=True))
    assert any("quantize" in warning for warning in report.warnings)
    found = np.asarray(zarr.open_array(tmp_path / "out.zarr", mode="r")[...])
    assert found.tobytes() == leaky_relu(stored).tobytes()


def test_a_grid_without_end_costs_no_memory(tmp_path: Path) -> None:
    source = store(tmp_path / "in.zarr")
    edit(source / "zarr.json", shape=[1 << 31, 1 << 31], chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1, 1]}})
    refused(source, UnsupportedError, "chunks")


def test_codecs_that_the_fast_pipeline_does_not_know_go_by_the_other(tmp_path: Path) -> None:
    for n, compressor in enumerate(({"id": "zlib", "level": 1}, {"id": "lz4", "acceleration": 1}, {"id": "bz2", "level": 1})):
        source = store(tmp_path / f"{n}.zarr", 2, compressors=numcodecs.get_codec(compressor))
        leakycli.apply(str(source), str(tmp_path / f"{n}-out.zarr"), Options(verify=True))


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    source = store(tmp_path / "in.zarr")
    halve(source / "c/0/2")
    command = [sys.executable, "-m", "leakycli", "apply", "in.zarr", "out.zarr"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1), done.stderr
    assert done.stderr.startswith("leakycli: in.zarr/c/0/2: ")


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 1 << 70, 0.5, "", "bytes", [], {}, [[]], {"name": "zstd"}, [0, 0], [1 << 62, 9]]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), version=st.sampled_from([2, 3, "sharded"]))
def test_any_one_file_may_be_anything(data: st.DataObject, version: Any, tmp_path: Path) -> None:
    """The result is that of what zarr reads, or there is none and an error of the tree."""
    source, dest = tmp_path / f"{version}.zarr", tmp_path / "dest.zarr"
    shutil.rmtree(source, ignore_errors=True)
    store(source, 2 if version == 2 else 3, (20, 20) if version == "sharded" else None)
    target = data.draw(st.sampled_from(sorted(path for path in source.rglob("*") if path.is_file())))
    how = data.draw(st.sampled_from(["flip", "cut", "delete", "json"]))
    content = bytearray(target.read_bytes())
    if how == "delete":
        target.unlink()
    elif (how == "json" and target.suffix == ".json") or target.name.startswith(".z"):
        document = json.loads(content)
        document[data.draw(st.sampled_from(sorted(document) or ["x"]))] = data.draw(ODD)
        target.write_text(json.dumps(document))
    elif how == "cut" or not content:
        target.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        target.write_bytes(content)
    said = None
    try:
        leakycli.apply(str(source), str(dest), Options(overwrite=True, memory=system.resident() + (1 << 30)))
    except LeakyError as error:
        said = str(error)
    if said is not None:
        assert "\n" not in said
        assert not dest.exists()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, given_ = (np.asarray(zarr.open_array(path, mode="r")[...]) for path in (dest, source))
        assert found.tobytes() == leaky_relu(given_).tobytes()
        shutil.rmtree(dest)
    assert [name for name in os.listdir(tmp_path) if "partial" in name] == []
