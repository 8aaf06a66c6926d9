"""The path that the elements of an array take: codecs of our own, or zarr's pipeline where they are not known; and what that costs."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs

import leakycli
from leakycli import Options, leaky_relu
from leakycli.errors import UsageError
from leakycli.formats.base import ArrayInfo, Chunking
from leakycli.formats.zarr import new
from tests.conftest import Run
from tests.formats.zarr.layouts import LITTLE

X = np.random.default_rng(0).standard_normal((100, 70)).astype("f4")

#: What a process says of itself after a command: its code, and the modules of zarr in it.
_TOLD = """
import sys
from leakycli.cli import main
try:
    main()
except SystemExit as ended:
    code = ended.code
print(code or 0, [name for name in sys.modules if name.split(".")[0] in ("zarr", "fsspec", "asyncio")])
"""


@pytest.mark.parametrize(
    ("compressors", "arguments"),
    [
        ("auto", ("apply", "in.zarr", "out.zarr", "--verify")),
        ((), ("apply", "in.zarr", "out.zarr", "--chunks", "64,64", "--shards", "128,128")),
        (zarr.codecs.BloscCodec(), ("apply", "in.zarr", "out.npy")),
        ((), ("apply", "in.npy", "out.zarr.zip")),
        ("auto", ("info", "in.zarr")),
    ],
    ids=["zstd to itself", "raw to shards", "blosc to npy", "npy to archive", "info"],
)
def test_a_known_layout_does_not_import_zarr(tmp_path: Path, compressors: Any, arguments: tuple[str, ...]) -> None:
    zarr.create_array(tmp_path / "in.zarr", data=X, chunks=(30, 70), compressors=compressors)
    np.save(tmp_path / "in.npy", X)
    done = subprocess.run([sys.executable, "-c", _TOLD, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_the_report_says_which_path_each_array_took_and_why(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "in.zarr", zarr_format=2)
    group.create_array("known", data=X, chunks=(30, 70))
    group.create_array("two", data=X, chunks=(30, 70), filters=[numcodecs.Zlib(1)], compressors=numcodecs.GZip(1))
    report = leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"), Options(verify=True))
    assert {array.name: array.codec_path for array in report.arrays} == {
        "known": "leakycli",
        "two": "zarr (gzip after a codec whose output has no fixed size)",
    }
    for name in ("known", "two"):
        assert np.array_equal(zarr.open_array(tmp_path / "out.zarr", path=name, mode="r")[...], leaky_relu(X))


def test_only_the_lossy_side_goes_through_zarr(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "in.zarr", shape=X.shape, dtype="f4", chunks=(30, 70), zarr_format=2, filters=[numcodecs.Quantize(3, "f4")]
    )
    array[...] = X
    report = leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"))
    assert report.arrays[0].codec_path == "leakycli and zarr (codec quantize)"
    assert np.array_equal(zarr.open_array(tmp_path / "out.zarr", mode="r")[...], leaky_relu(np.asarray(array[...])))


@pytest.mark.parametrize("fill", ["NaN", 1.0])
def test_nan_keeps_its_payload_in_shards_that_go_through_zarr(tmp_path: Path, fill: Any) -> None:
    payloads = np.array([0x7FC00001] * 4 + [0x7FC00002] * 4 + [0x7FC00000] * 4 + [0x3F800000] * 4, "u4")
    bloscs = [{"name": "gzip", "configuration": {"level": 1}}] * 2
    settings = {"chunk_shape": [4], "codecs": [LITTLE, *bloscs], "index_codecs": [LITTLE], "index_location": "end"}
    array = zarr.create_array(tmp_path / "in.zarr", shape=(16,), dtype="f4", chunks=(16,), fill_value=float(fill))
    document = tmp_path / "in.zarr/zarr.json"
    fields = json.loads(document.read_text()) | {"codecs": [{"name": "sharding_indexed", "configuration": settings}]}
    document.write_text(json.dumps(fields))
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.open_array(tmp_path / "in.zarr", mode="r+")
        array[...] = payloads.view("f4")
    report = leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"))
    assert str(report.arrays[0].codec_path).startswith("zarr (")
    found = np.asarray(zarr.open_array(tmp_path / "out.zarr", mode="r")[...]).view("u4")
    assert found.tolist() == payloads.tolist()


@pytest.mark.parametrize(
    "codecs", ["none", "zstd:1", "zstd:0", "gzip", "blosc-lz4:5:shuffle", "blosc-zstd:1:bitshuffle", "blosc-zlib:9:noshuffle"]
)
@pytest.mark.parametrize("dtype", ["f4", "i1", "u8"])
@pytest.mark.parametrize("layout", ["2", "3", "shards"])
def test_documents_of_new_arrays_are_those_that_zarr_makes(codecs: str, dtype: str, layout: str) -> None:
    shards = (8, 12) if layout == "shards" else None
    info = ArrayInfo("", (10, 11), np.dtype(dtype), False, Chunking((4, 6), shards, codecs))
    zarr_format: Any = 2 if layout == "2" else 3
    names = ["a", None] if layout == "shards" else None
    name, level, shuffle = (*codecs.split(":"), "", "")[:3]
    compressors: Any = ()
    if name == "gzip":
        compressors = zarr.codecs.GzipCodec(level=6) if zarr_format == 3 else numcodecs.GZip(6)
    elif name == "zstd":
        compressors = zarr.codecs.ZstdCodec(level=int(level)) if zarr_format == 3 else numcodecs.Zstd(int(level))
    elif name != "none":
        settings: dict[str, Any] = {"cname": name.removeprefix("blosc-"), "clevel": int(level)}
        if zarr_format == 3:
            compressors = zarr.codecs.BloscCodec(**settings, shuffle=shuffle)  # type: ignore[arg-type]
        else:
            compressors = numcodecs.Blosc(**settings, shuffle=("noshuffle", "shuffle", "bitshuffle").index(shuffle))
    memory = zarr.storage.MemoryStore()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.create_array(
            memory, shape=(10, 11), dtype=dtype, chunks=(4, 6), shards=shards, filters=(), compressors=compressors, fill_value=0,
            zarr_format=zarr_format, dimension_names=names, order="C" if zarr_format == 2 else None,
        )  # fmt: skip
    made = json.loads(memory._store_dict["zarr.json" if zarr_format == 3 else ".zarray"].to_bytes())
    assert json.dumps(new.document(info, zarr_format, names)) == json.dumps(made)


@pytest.mark.parametrize("text", ["zstd:23", "zstd:x", "zstd:1:2", "gzip:10", "blosc", "blosc-x", "blosc-lz4:5:auto", "none:1", "lz4", ""])
def test_other_compressors_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not known for Zarr; choose none, zstd:1"):
        new.check_compressor(text)


@pytest.mark.parametrize(
    "layout",
    [
        {"compressors": ()},
        {},
        {"compressors": zarr.codecs.GzipCodec(level=1)},
        {"compressors": zarr.codecs.BloscCodec()},
        {"shards": (2048, 1024), "chunks": (256, 256)},
        {"compressors": numcodecs.LZMA(preset=0), "zarr_format": 2},
        {"compressors": None, "zarr_format": 2, "order": "F"},
    ],
    ids=["raw", "zstd", "gzip", "blosc", "shards", "lzma", "turned"],
)
def test_the_peak_is_below_the_projection(leakycli: Run, tmp_path: Path, layout: dict[str, Any]) -> None:
    x = np.random.default_rng(3).standard_normal((4096, 1024)).astype("f4")
    array = zarr.create_array(tmp_path / "in.zarr", **({"shape": x.shape, "dtype": "f4", "chunks": (2048, 1024)} | layout))
    array[...] = x
    done = leakycli("apply", "in.zarr", "out.zarr", "--json", "--workers", "2")
    cost = json.loads(done.stdout)["cost"]
    assert 0.5 * cost["memory_projected"] < cost["memory_measured"] <= cost["memory_projected"]
