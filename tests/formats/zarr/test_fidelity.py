"""What Zarr's users bring: documents kept key by key, stores of others' making, datasets of xarray, images of OME-Zarr, sparse grids."""

from __future__ import annotations

import base64
import contextlib
import copy
import functools
import json
import math
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import xarray
import zarr
import zarr.storage
from numpy.typing import NDArray

import leakycli
from leakycli import Options, leaky_relu
from leakycli.errors import LossError, UnsupportedError
from leakycli.formats.zarr.masks import Mask, adapted_attributes
from leakycli.function.rule import Rule
from tests.formats.test_npy import defined

Array = NDArray[Any]
Json = dict[str, Any]

RNG = np.random.default_rng(11)

#: In the place of a key that goes.
GONE: Any = object()

LITTLE: Json = {"name": "bytes", "configuration": {"endian": "little"}}
BIG: Json = {"name": "bytes", "configuration": {"endian": "big"}}
CRC: Json = {"name": "crc32c"}
ZSTD: Json = {"name": "zstd", "configuration": {"level": 3, "checksum": True}}
GZIP: Json = {"name": "gzip", "configuration": {"level": 2}}


def blosc(cname: str, shuffle: str, typesize: int) -> Json:
    return {"name": "blosc", "configuration": {"cname": cname, "clevel": 4, "shuffle": shuffle, "typesize": typesize, "blocksize": 0}}


def transpose(*order: int) -> Json:
    return {"name": "transpose", "configuration": {"order": list(order)}}


def shards(*codecs: Any, chunk: tuple[int, ...] = (4, 5), location: str = "end", index: tuple[Json, ...] = (LITTLE, CRC)) -> Json:
    configuration = {"chunk_shape": list(chunk), "codecs": list(codecs), "index_codecs": list(index), "index_location": location}
    return {"name": "sharding_indexed", "configuration": configuration}


def keys(encoding: str, separator: str | None = None) -> Json:
    return {"name": encoding} | ({} if separator is None else {"configuration": {"separator": separator}})


def v3(dtype: str = "float32", *codecs: Any, **fields: Any) -> Json:
    """A document of version 3; the grid is of shards of (8, 10) where there are some."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [21, 20],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8, 10]}},
        "chunk_key_encoding": keys("default"),
        "fill_value": 0,
        "codecs": list(codecs) or [LITTLE, ZSTD],
    } | fields


def v2(dtype: str = "<f4", compressor: Json | None = None, **fields: Any) -> Json:
    """A document of version 2."""
    return {
        "zarr_format": 2,
        "shape": [21, 20],
        "chunks": [8, 10],
        "dtype": dtype,
        "compressor": compressor,
        "fill_value": 0,
        "order": "C",
        "filters": None,
    } | fields


@dataclass(frozen=True)
class Case:
    """An array's document and what of it must change: new values by path, in the document or in `.zattrs`. reader, writer: of the data."""

    document: Json
    changes: Json = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    attributes: Json = field(default_factory=dict)
    changed_attributes: Json = field(default_factory=dict)
    writer: str = "tensorstore"
    reader: str = "tensorstore"


def to(dtype: str, **more: Any) -> Json:
    return {"dtype": dtype, **more}


F4 = float(np.float32(0.2) * np.float32(-1.5))
F2 = float(np.float16(np.float32(np.float16(0.2)) * np.float32(-1.5)))
V3_F8 = {"data_type": "float64"}
INNER = "codecs.0.configuration.codecs"

CASES: dict[str, Case] = {
    # Codecs, each at its place.
    "raw": Case(v3("float32", LITTLE)),
    "zstd": Case(v3("float32", LITTLE, ZSTD)),
    "gzip": Case(v3("float64", LITTLE, GZIP)),
    "crc32c": Case(v3("float32", LITTLE, CRC)),
    "several codecs": Case(v3("float32", LITTLE, GZIP, ZSTD, CRC)),
    "blosc": Case(v3("float32", LITTLE, blosc("lz4", "shuffle", 4))),
    "blosc, to double": Case(
        v3("float32", LITTLE, blosc("zstd", "shuffle", 4)), V3_F8 | {"codecs.1.configuration.typesize": 8}, to("float64")
    ),
    "blosc, to half": Case(
        v3("float64", LITTLE, blosc("lz4hc", "bitshuffle", 8)),
        {"data_type": "float16", "codecs.1.configuration.typesize": 2},
        to("float16"),
    ),
    "blosc without shuffle": Case(v3("float16", LITTLE, blosc("zlib", "noshuffle", 2))),
    "blosc and checksum, written by zarrs": Case(v3("float32", LITTLE, blosc("blosclz", "bitshuffle", 4), CRC), writer="zarrs"),
    "zstd, written by zarrs": Case(v3("float64", LITTLE, ZSTD, fill_value="NaN"), writer="zarrs"),
    "numcodecs": Case(
        v3("float32", {"name": "numcodecs.shuffle", "configuration": {"elementsize": 4}}, LITTLE)
        | {"codecs": [LITTLE, {"name": "numcodecs.shuffle", "configuration": {"elementsize": 4}}, ZSTD]},
        V3_F8 | {"codecs.1.configuration.elementsize": 8},
        to("float64"),
        writer="zarr",
        reader="zarrs",
    ),
    "numcodecs.bz2": Case(v3("float32", LITTLE, {"name": "numcodecs.bz2", "configuration": {"level": 1}}), writer="zarr", reader="zarrs"),
    "a lossy filter": Case(
        v3("float32", {"name": "numcodecs.bitround", "configuration": {"keepbits": 10}}, LITTLE, ZSTD),
        {"codecs": [LITTLE, ZSTD]},
        writer="zarr",
    ),
    "a lossy filter in shards": Case(
        v3("float32", shards({"name": "numcodecs.bitround", "configuration": {"keepbits": 10}}, LITTLE, ZSTD)),
        {INNER: [LITTLE, ZSTD]},
        writer="zarr",
    ),
    # Shards.
    "shards": Case(v3("float32", shards(LITTLE, ZSTD))),
    "shards, index first": Case(v3("float32", shards(LITTLE, ZSTD, location="start"))),
    "shards, plain index": Case(v3("float32", shards(LITTLE, GZIP, index=(LITTLE,)))),
    "shards, big-endian index": Case(v3("float32", shards(LITTLE, ZSTD, index=(BIG, CRC), location="start"))),
    "shards, big-endian": Case(v3("float64", shards(BIG, ZSTD))),
    "shards of blosc, to double": Case(
        v3("float32", shards(LITTLE, blosc("lz4", "shuffle", 4), CRC)), V3_F8 | {f"{INNER}.1.configuration.typesize": 8}, to("float64")
    ),
    "shards, transposed within": Case(v3("float32", shards(transpose(1, 0), LITTLE, ZSTD))),
    "shards, transposed around": Case(v3("float32", transpose(1, 0), shards(LITTLE, ZSTD, chunk=(2, 2)))),
    "shards and a checksum around": Case(v3("float32", shards(LITTLE, ZSTD), CRC), writer="zarr", reader="zarrs"),
    "shards in shards": Case(v3("float32", shards(shards(LITTLE, chunk=(2, 5)), chunk=(4, 10)))),
    "shards in shards of blosc, to half": Case(
        v3("float32", shards(shards(LITTLE, blosc("lz4", "shuffle", 4), chunk=(2, 5), location="start"), chunk=(4, 10))),
        {"data_type": "float16", f"{INNER}.0.configuration.codecs.1.configuration.typesize": 2},
        to("float16"),
    ),
    "shards, NaN, keys with dots": Case(
        v3("float16", shards(LITTLE, ZSTD), fill_value="NaN", chunk_key_encoding=keys("default", ".")), writer="zarrs"
    ),
    "shards, of integers": Case(
        v3("uint8", shards({"name": "bytes"}, ZSTD), fill_value=7),
        {"data_type": "float32", f"{INNER}.0": LITTLE},
    ),
    # Order and endianness.
    "transposed": Case(v3("float32", transpose(1, 0), LITTLE, ZSTD)),
    "transposed, big-endian": Case(v3("float64", transpose(1, 0), BIG, GZIP, fill_value="-Infinity")),
    "big-endian": Case(v3("float32", BIG, ZSTD)),
    "big-endian half, to int64": Case(v3("float16", BIG, ZSTD, fill_value=-1.5), {"data_type": "int64", "fill_value": 0}, to("int64")),
    "no endianness, as none was needed": Case(
        v3("int8", {"name": "bytes"}, ZSTD, fill_value=-5), {"data_type": "float32", "fill_value": -1.0, "codecs.0": LITTLE}
    ),
    "no endianness, to double": Case(
        v3("uint8", {"name": "bytes"}, blosc("lz4", "shuffle", 1)),
        {"data_type": "float64", "codecs.0": LITTLE, "codecs.1.configuration.typesize": 8},
        to("float64"),
    ),
    # Keys of chunks.
    "keys of version 2": Case(v3(chunk_key_encoding=keys("v2"))),
    "keys of version 2, slashes": Case(v3(chunk_key_encoding=keys("v2", "/"))),
    "keys of version 2, dots said": Case(v3(chunk_key_encoding=keys("v2", "."))),
    "keys with dots": Case(v3(chunk_key_encoding=keys("default", "."))),
    "keys with slashes said": Case(v3(chunk_key_encoding=keys("default", "/"))),
    "keys with dots, shards, index first": Case(
        v3("float64", shards(LITTLE, CRC, location="start"), chunk_key_encoding=keys("v2", "/"), fill_value=2.5)
    ),
    # Fill values.
    "fill NaN": Case(v3(fill_value="NaN")),
    "fill NaN, to double": Case(v3(fill_value="NaN"), V3_F8, to("float64")),
    "fill NaN, to int32": Case(v3(fill_value="NaN"), {"data_type": "int32", "fill_value": -7}, to("int32", nan=-7)),
    "fill NaN in bits": Case(v3(fill_value="0x7fc00000")),
    "fill NaN with a payload": Case(v3(fill_value="0x7fc00123")),
    "fill NaN with a payload and a sign": Case(v3("float64", fill_value="0xfff8000000000123")),
    "fill NaN with a payload, half": Case(v3("float16", fill_value="0x7e01")),
    "fill NaN with a payload, to double": Case(v3(fill_value="0x7fc00123"), V3_F8 | {"fill_value": "0x7ff8002460000000"}, to("float64")),
    "fill infinite": Case(v3(fill_value="Infinity")),
    "fill infinite, below": Case(v3(fill_value="-Infinity")),
    "fill infinite, to int32": Case(v3(fill_value="-Infinity"), {"data_type": "int32", "fill_value": -(2**31)}, to("int32", nan=0)),
    "fill overflows": Case(v3("float64", fill_value=1e300), {"data_type": "float32", "fill_value": "Infinity"}, to("float32")),
    "fill -0": Case(v3(fill_value=-0.0)),
    "fill above 0, rounded": Case(v3(fill_value=0.1)),
    "fill below 0": Case(v3(fill_value=-1.5), {"fill_value": F4}),
    "fill below 0, half": Case(v3("float16", fill_value=-1.5), {"fill_value": F2}),
    "fill below 0, to double": Case(v3(fill_value=-1.5), V3_F8 | {"fill_value": 0.2 * -1.5}, to("float64")),
    "fill 0, alpha below 0": Case(v3("float64", fill_value=0.0), {"fill_value": -0.0}, {"alpha": -1}),
    "fill -inf, alpha 0": Case(v3("float64", fill_value="-Infinity"), {"fill_value": "0xfff8000000000000"}, {"alpha": 0}),
    "fill of integers": Case(v3("int16", fill_value=-100), {"data_type": "float32", "fill_value": float(np.float32(-20))}),
    "fill of integers, to int32": Case(v3("int64", fill_value=-100), {"data_type": "int32", "fill_value": -20}, to("int32")),
    # Names, attributes, extensions.
    "dimension names": Case(v3(dimension_names=["y", None])),
    "attributes": Case(v3(attributes={"units": "mV", "odd": {"deep": [1, None, "é", 1e300, 2**70]}, "": [], "dtype": "float32"})),
    "attributes, to double": Case(v3(attributes={"typesize": 4, "fill_value": 1}, dimension_names=["", "x"]), V3_F8, to("float64")),
    "without provenance": Case(v3(), {}, {"provenance": False}),
    "empty attributes, without provenance": Case(v3(attributes={}), {}, {"provenance": False}),
    "an extension that need not be understood": Case(v3(extra={"must_understand": False, "a": [1]}, storage_transformers=[])),
    "a _FillValue of xarray's": Case(v3(attributes={"_FillValue": "AAAAAAAA+L8="}), {"attributes._FillValue": "AAAAQDMz078="}),
    # Version 2.
    "v2 raw": Case(v2()),
    "v2 zstd": Case(v2("<f4", {"id": "zstd", "level": 3})),
    "v2 zlib": Case(v2("<f4", {"id": "zlib", "level": 1})),
    "v2 gzip": Case(v2("<f8", {"id": "gzip", "level": 1})),
    "v2 bz2": Case(v2("<f4", {"id": "bz2", "level": 1})),
    "v2 blosc": Case(v2("<f4", {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0})),
    "v2 blosc, to double": Case(
        v2("<f4", {"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 2, "blocksize": 0}), {"dtype": "<f8"}, to("float64")
    ),
    "v2 filters": Case(
        v2("<f4", {"id": "zlib", "level": 1}, filters=[{"id": "shuffle", "elementsize": 4}]),
        {"dtype": "<f8", "filters.0.elementsize": 8},
        to("float64"),
        writer="zarr",
        reader="zarrs",
    ),
    "v2 lossy filters": Case(
        v2("<f4", {"id": "zlib", "level": 1}, filters=[{"id": "quantize", "digits": 2, "dtype": "<f4", "astype": "<f4"}]),
        {"filters": None},
        writer="zarr",
    ),
    "v2 Fortran": Case(v2(order="F")),
    "v2 Fortran, big-endian": Case(v2(">f4", {"id": "zstd", "level": 1}, order="F", dimension_separator="/")),
    "v2 big-endian": Case(v2(">f8", {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0})),
    "v2 big-endian, to int32": Case(v2(">f4"), {"dtype": ">i4"}, to("int32")),
    "v2 big-endian integers": Case(v2(">i2", fill_value=-5), {"dtype": ">f4", "fill_value": -1.0}),
    "v2 bytes": Case(v2("|u1", fill_value=3), {"dtype": "<f4"}),
    "v2 slashes": Case(v2(dimension_separator="/")),
    "v2 dots said": Case(v2("<f2", dimension_separator=".")),
    "v2 fill null": Case(v2(fill_value=None)),
    "v2 fill null, big-endian, to double": Case(v2(">f4", fill_value=None), {"dtype": ">f8"}, to("float64")),
    "v2 fill NaN": Case(v2(fill_value="NaN")),
    "v2 fill infinite": Case(v2("<f8", fill_value="Infinity")),
    "v2 fill infinite, below": Case(v2("<f4", fill_value="-Infinity")),
    "v2 fill below 0": Case(v2(fill_value=-1.5), {"fill_value": F4}),
    "v2 fill below 0, to half": Case(v2(fill_value=-1.5), {"dtype": "<f2", "fill_value": float(np.float16(F4))}, to("float16")),
    "v2 attributes": Case(
        v2("<f4", {"id": "zstd", "level": 3}),
        attributes={"_ARRAY_DIMENSIONS": ["y", "x"], "missing_value": -1.5, "odd": {"deep": [1, None]}, "": 0},
        changed_attributes={"missing_value": F4},
    ),
    "v2 empty attributes, without provenance": Case(v2(fill_value=0.0), options={"provenance": False}),
    "v2 written by zarrs": Case(v2("<f4", {"id": "gzip", "level": 2}, fill_value=2.0), writer="zarrs"),
}


def patched(document: Json, changes: Json) -> Json:
    """`document` with the values of `changes` at their paths."""
    document = copy.deepcopy(document)
    for path, value in changes.items():
        *way, last = path.split(".")
        at: Any = document
        for key in way:
            at = at[int(key)] if isinstance(at, list) else at[key]
        at[int(last) if isinstance(at, list) else last] = value
        if value is GONE:
            del at[last]
    return document


def written(value: Json) -> str:
    """JSON, so that 0, 0.0, -0.0 and false differ; whatever the order of the keys."""
    return json.dumps(value, sort_keys=True, indent=1)


def documents(store: Path) -> dict[str, Json]:
    """All metadata documents, by key."""
    names = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}
    return {str(path.relative_to(store)): json.loads(path.read_text()) for path in store.rglob("*") if path.name in names}


def stored(store: Path) -> set[str]:
    return {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()}


def by_tensorstore(path: Path, rows: slice | None = None) -> Array:
    driver = "zarr3" if (path / "zarr.json").exists() else "zarr"
    array = tensorstore.open({"driver": driver, "kvstore": {"driver": "file", "path": str(path)}}).result()
    return np.asarray((array if rows is None else array[rows]).read().result())


def by_zarr(path: Path, pipeline: str = "") -> Array:
    """By zarr, with its own codec pipeline or that of `zarrs`, which then may not leave anything to zarr's."""
    config = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True} if pipeline else {}
    with zarr.config.set(config):
        return np.asarray(zarr.open_array(path, mode="r")[...])


READERS: dict[str, Callable[[Path], Array]] = {
    "tensorstore": by_tensorstore,
    "zarr": by_zarr,
    "zarrs": lambda path: by_zarr(path, "zarrs"),
}


def values(dtype: np.dtype[Any], nan: bool) -> Array:
    """What is stored of an array of (21, 20) in chunks of (8, 10): the upper two rows of chunks."""
    if dtype.kind == "f":
        x = RNG.standard_normal((16, 20)) * 100
        x[0, :6] = 0.0, -0.0, np.inf, -np.inf, 1e-3, np.nan if nan else 1
        return x.astype(dtype)
    limits = np.iinfo(dtype)
    return RNG.integers(max(limits.min, -300), min(limits.max, 300), (16, 20)).astype(dtype)


def expected_values(x: Array, options: Options) -> Array:
    """By the definition; NaN becomes what the options say."""
    if options.nan is None:
        return defined(x, options.alpha, options.dtype)
    nan = np.isnan(x)
    return np.where(nan, options.nan, defined(np.where(nan, 0, x), options.alpha, options.dtype))


def write(path: Path, case: Case) -> None:
    """The store of `case`: its document, and values by its writer."""
    document = case.document
    name, driver = ("zarr.json", "zarr3") if document["zarr_format"] == 3 else (".zarray", "zarr")
    dtype = np.dtype(document["data_type"] if document["zarr_format"] == 3 else document["dtype"])
    x = values(dtype, nan=np.dtype(case.options.get("dtype", "f4")).kind == "f" or "nan" in case.options)
    path.mkdir()
    (path / name).write_text(json.dumps(document))
    if case.attributes or (document["zarr_format"] == 2 and case.options.get("provenance") is False):
        (path / ".zattrs").write_text(json.dumps(case.attributes))
    if case.writer == "tensorstore":
        array = tensorstore.open({"driver": driver, "kvstore": {"driver": "file", "path": str(path)}}).result()
        array[:16].write(x).result()
        return
    config = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True} if case.writer == "zarrs" else {}
    with zarr.config.set(config):
        zarr.open_array(path, mode="r+")[:16] = x


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_document_changes_where_it_must_and_nowhere_else(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    write(source, case)
    options = Options(**case.options)
    report = leakycli.apply(str(source), str(out), options)
    (array,) = report.arrays
    said = provenance(array.dtype_before, array.dtype_after, alpha=options.alpha, **({} if options.nan is None else {"nan": options.nan}))
    before, after = documents(source), documents(out)
    if case.document["zarr_format"] == 3:
        expected = {"zarr.json": patched(before["zarr.json"], case.changes)}
        attributes = expected["zarr.json"].setdefault("attributes", {})
        if not options.provenance and "attributes" not in before["zarr.json"]:
            del expected["zarr.json"]["attributes"]
    else:
        expected = {".zarray": patched(before[".zarray"], case.changes)}
        attributes = patched(before.get(".zattrs", {}), case.changed_attributes)
        expected[".zattrs"] = attributes
    if options.provenance:
        attributes["leakycli"] = said
    assert after.keys() == expected.keys()
    for key in expected:
        assert written(after[key]) == written(expected[key])
    assert stored(out) - {".zattrs"} == stored(source) - {".zattrs"}
    x = READERS[case.writer](source)
    y = READERS[case.reader](out)
    assert y.dtype.newbyteorder("=") == np.dtype(array.dtype_after)
    y_expected = expected_values(x, options)
    np.testing.assert_array_equal(y, y_expected)
    assert (np.signbit(y) == np.signbit(y_expected))[~np.isnan(y)].all()


def test_there_are_enough_documents() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"storage_transformers": [{"name": "acme.sharder", "configuration": {}}]}, "'acme.sharder'"),
        ({"storage_transformers": ["one", {"name": "two"}]}, "'one', 'two'"),
        ({"acme.statistics": {"must_understand": True}}, "'acme.statistics'"),
        ({"acme.statistics": [1]}, "'acme.statistics'"),
        ({"chunk_key_encoding": {"name": "acme.keys"}}, "'acme.keys'"),
        ({"chunk_grid": {"name": "acme.grid", "configuration": {}}}, "'acme.grid'"),
        ({"codecs": [LITTLE, {"name": "acme.codec"}]}, "acme.codec"),
        ({"codecs": [shards(LITTLE, {"name": "acme.codec"})]}, "acme.codec"),
        ({"codecs": [transpose(1, 0), shards(LITTLE, chunk=(5, 4))]}, "transposed before it is sharded"),
        ({"data_type": {"name": "acme.float", "configuration": {}}}, "acme.float"),
    ],
)
def test_what_must_be_understood_and_is_not_is_refused_by_name(fields: Json, said: str, tmp_path: Path) -> None:
    (tmp_path / "in.zarr").mkdir()
    (tmp_path / "in.zarr/zarr.json").write_text(json.dumps(v3() | fields))
    with pytest.raises(UnsupportedError) as refused:
        leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"))
    assert said in str(refused.value)
    assert os.listdir(tmp_path) == ["in.zarr"]


def test_an_extension_of_a_group_is_refused_by_name_unless_it_need_not_be_understood(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "in.zarr", mode="w")
    group.create_array("a", data=np.ones(3))
    path = tmp_path / "in.zarr/zarr.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"acme.links": {"a": "b"}}))
    with pytest.raises(UnsupportedError, match=r"in\.zarr/zarr\.json: .*'acme\.links'"):
        leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"))
    extended = document | {"acme.links": {"must_understand": False, "a": "b"}}
    path.write_text(json.dumps(extended))
    leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"))
    assert documents(tmp_path / "out.zarr")["zarr.json"] == extended


# Hierarchies.


def provenance(before: str, after: str, **more: Any) -> str:
    """The attribute: JSON as text, so that netCDF has it."""
    said = {"version": leakycli.__version__, "function": "leaky_relu", "alpha": 0.2, "dtype_before": before, "dtype_after": after}
    return json.dumps(said | more)


def hierarchy(path: Path, version: Any, **given: Any) -> None:
    """Groups with attributes of their own, arrays at two levels, consolidated at the root and in an inner group."""
    attributes: Json = {"title": "all", "odd": {"deep": [None, 1e300]}, "": []}
    root = zarr.open_group(path, mode="w", zarr_format=version, attributes=attributes)
    inner = root.create_group("in/ner", attributes={"n": 1})
    for group, name, dtype in ((root, "a", "f4"), (inner, "b", "f8"), (inner, "labels", "i4")):
        array = group.create_array(name, shape=(6, 4), dtype=dtype, chunks=(2, 4), fill_value=-2, attributes={"of": name}, **given)
        array[:3] = np.arange(-6, 6).reshape(3, 4)
    for consolidated in ("in/ner", ""):
        zarr.consolidate_metadata(path, path=consolidated or None, zarr_format=version)


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
@pytest.mark.parametrize("version", [2, 3])
def test_the_documents_of_a_hierarchy_change_where_they_must_and_nowhere_else(version: int, tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    hierarchy(source, version)
    leakycli.apply(str(source), str(out), Options(dtype="float64"))
    before, after = documents(source), documents(out)
    fills = {"a": 0.2 * -2.0, "in/ner/b": 0.2 * -2.0}
    expected = copy.deepcopy(before)
    for name, fill in fills.items():
        said = provenance("float32" if name == "a" else "float64", "float64")
        if version == 3:
            changes = {"data_type": "float64", "fill_value": fill, "attributes.leakycli": said}
            expected[f"{name}/zarr.json"] = patched(before[f"{name}/zarr.json"], changes)
        else:
            expected[f"{name}/.zarray"] = patched(before[f"{name}/.zarray"], {"dtype": "<f8", "fill_value": fill})
            expected[f"{name}/.zattrs"] = patched(before[f"{name}/.zattrs"], {"leakycli": said})
        for group in ("", "in/ner"):
            consolidated = os.path.join(group, "zarr.json" if version == 3 else ".zmetadata")
            if not name.startswith(group):
                continue
            inner = expected[consolidated]["consolidated_metadata"]["metadata"] if version == 3 else expected[consolidated]["metadata"]
            under = name[len(group) + 1 if group else 0 :]
            if version == 3:
                assert under in inner
                inner[under] = expected[f"{name}/zarr.json"]
            else:
                inner[f"{under}/.zarray"], inner[f"{under}/.zattrs"] = expected[f"{name}/.zarray"], expected[f"{name}/.zattrs"]
    assert after.keys() == expected.keys()
    for key in expected:
        assert written(after[key]) == written(expected[key]), key
    assert stored(out) == stored(source)
    for name in fills:
        np.testing.assert_array_equal(by_tensorstore(out / name), defined(by_tensorstore(source / name), dtype="float64"))


def test_documents_of_version_2_beside_those_of_version_3_do_not_go_stale(tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    hierarchy(source, 2, compressors=None)
    for group in ("", "in", "in/ner"):
        (source / group / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group"}))
    for name in ("a", "in/ner/b", "in/ner/labels"):
        old = json.loads((source / name / ".zarray").read_text())
        new = v3(np.dtype(old["dtype"]).name, LITTLE, shape=old["shape"], fill_value=old["fill_value"], chunk_key_encoding=keys("v2"))
        new["chunk_grid"]["configuration"]["chunk_shape"] = old["chunks"]
        (source / name / "zarr.json").write_text(json.dumps(new))
    leakycli.apply(str(source), str(out), Options(verify=True))
    assert not any(key.startswith(("a/.z", ".z", "in/.z", "in/ner/.z", "in/ner/b/.z")) for key in documents(out))
    np.testing.assert_array_equal(by_tensorstore(out / "a"), defined(by_tensorstore(source / "a")))


def dataset() -> xarray.Dataset:
    """Data variables, and every kind of variable that goes with them."""
    t = (RNG.standard_normal((6, 5, 4)) * 10).astype("f4")
    t[0, 1, :3] = np.nan, np.inf, -np.inf
    grid = ("y", "x")
    made = xarray.Dataset(
        {
            "t": (("time", *grid), t, {"units": "K", "valid_range": [-50.0, 50.0], "ancillary_variables": "quality"}),
            "u": (grid, RNG.standard_normal((5, 4)), {"cell_measures": "area: cell_area", "grid_mapping": "crs"}),
            "n": (grid, RNG.integers(-9, 9, (5, 4)).astype("i2")),
            "name": (grid, np.full((5, 4), "a")),
            "quality": (grid, -RNG.random((5, 4)).astype("f4")),
            "cell_area": (grid, -RNG.random((5, 4))),
            "crs": ((), -1.5),
            "seen": (grid, -RNG.random((5, 4)), {"units": "days since 2001-01-01"}),
            "y_bounds": (("y", "two"), -RNG.random((5, 2))),
        },
        coords={
            "time": np.arange("2001-01-01", "2001-01-07", dtype="M8[D]").astype("M8[ns]"),
            "y": ("y", -np.arange(5.0), {"bounds": "y_bounds"}),
            "x": -np.arange(4.0),
            "lat": (grid, RNG.standard_normal((5, 4))),
            "height": ((), -2.0),
        },
        attrs={"title": "all", "odd": [1.5, -2.0]},
    )
    return made


DATA = ["t", "u"]


@pytest.mark.filterwarnings(
    "ignore::zarr.errors.ZarrUserWarning", "ignore:The data type:FutureWarning", "ignore::zarr.errors.UnstableSpecificationWarning"
)
@pytest.mark.parametrize("missing", [None, -9999.0, 1e20])
@pytest.mark.parametrize("version", [2, 3])
def test_a_dataset_of_xarrays_is_one_afterwards(version: Any, missing: float | None, tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    encoding: dict[str, Json] = {"t": {"chunks": (2, 5, 4)}, "u": {"chunks": (3, 4)}}
    if missing is not None:
        encoding["t"]["_FillValue"] = missing
    dataset().to_zarr(source, zarr_format=version, encoding=encoding, consolidated=True)
    report = leakycli.apply(str(source), str(out), Options(verify=True))
    actions = {array.name: array.action for array in report.arrays}
    assert {name for name, action in actions.items() if action == "transformed"} == set(DATA)
    assert actions.keys() == dataset().variables.keys()
    assert [warning for warning in report.warnings if "valid_range" not in warning] == []
    with opens(out) as opened, xarray.open_zarr(out, chunks=None) as found:
        assert not any(chunks_of(opened["read"], name) for name in DATA)  # lazily
        assert found["t"][0, 0, 0].load().size == 1
        assert len(chunks_of(opened["read"], "t")) == 1
        with xarray.open_zarr(source, chunks=None) as given:
            expected = xarray.apply_ufunc(leaky_relu, given[DATA], keep_attrs=True)
            del expected["t"].attrs["valid_range"]
            for name in DATA:
                assert found[name].attrs.pop("leakycli").startswith('{"version": ')
                xarray.testing.assert_identical(found[name].load(), expected[name].load())
                ours, theirs = dict(found[name].encoding), dict(given[name].encoding)
                fill = theirs.pop("_FillValue", None), ours.pop("_FillValue", None)
                if fill[0] is not None:
                    np.testing.assert_array_equal(np.float32(fill[1]), leaky_relu(np.float32(fill[0])))
                assert ours.pop("fill_value", None) == theirs.pop("fill_value", None) or np.isnan(given[name].encoding["fill_value"])
                assert ours == theirs
            assert int(found["t"].isnull().sum()) == 1
            xarray.testing.assert_identical(found.drop_vars(DATA).load(), given.drop_vars(DATA).load())
            assert found.attrs == given.attrs
    with xarray.open_zarr(out, chunks=None, consolidated=True) as once, xarray.open_zarr(out, chunks=None, consolidated=False) as again:
        xarray.testing.assert_identical(once.load(), again.load())


def test_names_in_attributes_lead_to_arrays_around_and_elsewhere(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "in.zarr", mode="w", attributes={"coordinates": "height"})
    run = root.create_group("run/one")
    for group, names in ((root, "height crs away lat spare"), (run, "t lat near y other")):
        for name in names.split():
            group.create_array(name, data=-np.ones(3), dimension_names=(name if name == "y" else "n",))
    run["t"].attrs.update(coordinates="/away near ../../lat", grid_mapping="crs: x y", cell_measures="spare: nowhere", bounds=7)
    report = leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"))
    transformed = {array.name for array in report.arrays if array.action == "transformed"}
    assert transformed == {"spare", "run/one/lat", "run/one/t", "run/one/other"}
    named = leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "b.zarr"), Options(only=("height", "run/one/t")))
    assert {array.name for array in named.arrays if array.action == "transformed"} == {"height", "run/one/t"}
    leakycli.apply(str(tmp_path / "in.zarr/run/one/y"), str(tmp_path / "y.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.full(3, -0.2))


def test_a_packed_array_is_transformed_by_its_own_path_only(tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", str(tmp_path / "out.zarr")
    group = zarr.open_group(source, mode="w")
    group.create_array("plain", data=-np.ones(3))
    group.create_array("packed", data=-np.ones(3), attributes={"scale_factor": 0.5, "add_offset": 3.0})
    group.create_array("integers", data=-np.ones(3, "i2"), attributes={"scale_factor": 0.5})
    for options, name in ((Options(), "packed"), (Options(only=("pack*",)), "packed"), (Options(only=("int*",)), "integers")):
        with pytest.raises(UnsupportedError, match=rf"in\.zarr/{name}/zarr\.json: has scale_factor.*--skip"):
            leakycli.apply(str(source), out, options)
    assert os.listdir(tmp_path) == ["in.zarr"]
    for options, count in ((Options(skip=("packed",)), 1), (Options(only=("packed", "integers")), 2)):
        report = leakycli.apply(str(source), out, Options(skip=options.skip, only=options.only, overwrite=True, verify=True))
        assert [array.action for array in report.arrays].count("transformed") == count
    leakycli.apply(str(source / "packed"), str(tmp_path / "packed.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "packed.npy"), np.full(3, -0.2))


def in_base64(value: float) -> str:
    return base64.b64encode(struct.pack("<d", value)).decode()


@pytest.mark.parametrize(
    ("attributes", "rule", "expected", "said"),
    [
        ({"_FillValue": in_base64(np.nan)}, Rule.of("f4"), {"_FillValue": in_base64(np.nan)}, ""),
        ({"_FillValue": in_base64(1e20)}, Rule.of("f4"), {"_FillValue": in_base64(1e20)}, ""),
        ({"_FillValue": in_base64(-1.5)}, Rule.of("f4"), {"_FillValue": in_base64(F4)}, ""),
        # Others become the same value: the mark gets one that no element takes.
        ({"_FillValue": in_base64(1e20)}, Rule.of("f4", dtype="float16"), {"_FillValue": in_base64(np.nan)}, "replaced"),
        ({"_FillValue": in_base64(-2.0)}, Rule.of("f8", 0), {"_FillValue": in_base64(np.nan)}, "replaced"),
        ({"_FillValue": in_base64(-2.0)}, Rule.of("f8", -1), {"_FillValue": in_base64(np.nan)}, "replaced"),
        ({"_FillValue": 9999.0}, Rule.of("f8", -1), {"_FillValue": "NaN"}, "replaced"),
        ({"_FillValue": 9999.0}, Rule.of("f8", 1.0), {"_FillValue": 9999.0}, ""),
        ({"_FillValue": 99999999}, Rule.of("i4"), {"_FillValue": in_base64(np.nan)}, "replaced"),
        ({"_FillValue": -100}, Rule.of("i2", dtype="int32"), {"_FillValue": -(1 << 31)}, "replaced"),
        ({"missing_value": 1e300}, Rule.of("f8", dtype="float32"), {"missing_value": "NaN"}, "replaced"),
        # There is no such value: they are counted.
        ({"_FillValue": in_base64(-20.0)}, Rule.of("f4", dtype="int32"), {"_FillValue": -4}, "counted"),
        ({"_FillValue": in_base64(np.nan)}, Rule.of("f4", dtype="int32", nan=3), {"_FillValue": 3}, "counted"),
        ({"_FillValue": in_base64(np.nan)}, Rule.of("f4", dtype="int32"), {}, "dropped"),
        ({"_FillValue": -100}, Rule.of("i2"), {"_FillValue": in_base64(-20.0)}, ""),
        ({"_FillValue": 100}, Rule.of("i2", dtype="int32"), {"_FillValue": 100}, ""),
        ({"_FillValue": "NaN", "missing_value": float("inf")}, Rule.of("f4"), {"_FillValue": "NaN", "missing_value": float("inf")}, ""),
        ({"missing_value": [-1.5, 7, "none", None]}, Rule.of("f4"), {"missing_value": [F4, 7, "none", None]}, ""),
        ({"missing_value": -9999}, Rule.of("u1"), {"missing_value": -9999}, ""),
        ({"valid_min": 0, "valid_max": 1, "actual_range": [0, 1], "units": "K"}, Rule.of("f4"), {"units": "K"}, "no longer true"),
        # The types that NCZarr notes follow.
        (
            {"_FillValue": -7, "valid_min": 0, "_nczarr_attr": {"types": {"_FillValue": "<i4", "valid_min": "<i4", "units": ">S1"}}},
            Rule.of("i4"),
            {
                "_FillValue": in_base64(float(np.float32(0.2) * np.float32(-7))),
                "_nczarr_attr": {"types": {"_FillValue": "<f4", "units": ">S1"}},
            },
            "no longer true",
        ),
        (
            {"_FillValue": 7.0, "_nczarr_attrs": {"attribute_types": [{"name": "_FillValue", "configuration": {"type": "float32"}}]}},
            Rule.of("f4", dtype="float64"),
            {"_FillValue": 7.0, "_nczarr_attrs": {"attribute_types": [{"name": "_FillValue", "configuration": {"type": "float64"}}]}},
            "",
        ),
    ],
)
def test_attributes_that_are_elements_become_what_elements_become(attributes: Json, rule: Rule, expected: Json, said: str) -> None:
    mask = Mask.of(attributes, None, rule)
    adapted, warnings = adapted_attributes(attributes, mask, 3)
    assert written(adapted) == written(expected)
    assert bool(mask.replaced) == (said == "replaced")
    assert bool(mask.counted) == (said == "counted")
    assert ([] if said in ("", "replaced", "counted") else [said]) == [said for warning in warnings if said in warning]


@pytest.mark.parametrize(
    ("values", "mark", "options", "masked"),
    [
        (np.r_[np.linspace(-1.001, -0.999, 99), 0.5].astype("f4"), -1.0, {"dtype": "float16"}, 0),
        (np.array([-9999, 9999, 5, 7], "f8"), 9999.0, {"alpha": -1}, 0),
        (np.array([99999998, 99999999, 5], "i4"), 99999999, {"only": ("f",)}, 0),
        (np.array([-1, -2, 3, -2], "f4"), -2.0, {"alpha": 0}, 0),
        (np.array([-19.9, -20.0, 3], "f4"), -20.0, {"dtype": "int32"}, 1),
        (np.array([-1e-9, -0.0, 1e-9, 3], "f4"), 0.0, {"dtype": "float16"}, 2),
    ],
)
@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
@pytest.mark.parametrize("version", [2, 3])
def test_what_was_missing_is_missing_and_what_was_valid_is_valid(
    version: Any, values: Array, mark: Any, options: Json, masked: int, tmp_path: Path
) -> None:
    source, out = str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr")
    xarray.Dataset({"f": ("x", values)}, attrs={"t": 1}).to_zarr(
        source, zarr_format=version, encoding={"f": {"_FillValue": mark, "chunks": (2,)}}, consolidated=True
    )
    # Zero is what every writer of version 2 fills with, so that elements keep it; in version 3 it was asked for.
    masked = 0 if version == 3 and mark == 0 else masked
    report = leakycli.apply(source, out, Options(**options, verify=True))
    assert report.losses.masked == masked
    assert [warning for warning in report.warnings if "look missing" in warning] == (
        [f"array f: {masked} valid elements have become the fill value, and look missing"] if masked else []
    )
    with xarray.open_zarr(source, chunks=None) as given, xarray.open_zarr(out, chunks=None) as found:
        missing, after = given.f.isnull().values, found.f.isnull().values
        assert missing.sum() == (values == mark).sum()
        assert (after & ~missing).sum() == masked
        assert not (missing & ~after).any()
        expected = leaky_relu(values, **{name: value for name, value in options.items() if name != "only"})
        np.testing.assert_array_equal(found.f.values[~after], expected[~after])
    if masked:
        with pytest.raises(LossError, match=f"{masked} valid elements? would look missing"):
            leakycli.apply(source, str(tmp_path / "strict.zarr"), Options(**options, strict=True))
        assert not (tmp_path / "strict.zarr").exists()


def test_a_fill_value_without_an_integer_is_null_in_version_2(tmp_path: Path) -> None:
    """xarray takes the fill value for the mark of what is missing, and a zero put in for NaN would be one."""
    zarr.create_array(tmp_path / "in.zarr", data=np.arange(4, dtype="f4"), chunks=(2,), zarr_format=2, fill_value=np.nan)
    leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"), Options(dtype="int32", verify=True))
    assert documents(tmp_path / "out.zarr")[".zarray"]["fill_value"] is None
    assert by_tensorstore(tmp_path / "out.zarr").tolist() == [0, 1, 2, 3]


def image(path: Path, version: Any, dtype: str) -> None:
    """An OME-Zarr image of two levels with labels, as https://ngff.openmicroscopy.org has it: 0.4 in version 2, 0.5 in version 3."""
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    levels = [{"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [0.5 * 2**level] * 2}]} for level in range(2)]
    multiscales = [{"name": "cells", "axes": axes, "datasets": levels}]
    omero = {"channels": [{"label": "a", "color": "FF0000", "window": {"start": -3, "end": 3, "min": -9, "max": 9}}]}
    said: Json = {"multiscales": multiscales, "omero": omero}
    names: Json = {"multiscales": multiscales, "image-label": {"colors": [{"label-value": 1, "rgba": [255, 0, 0, 255]}]}}
    if version == 2:
        multiscales[0]["version"] = "0.4"

    def wrapped(fields: Json) -> Json:
        return {"ome": {"version": "0.5", **fields}} if version == 3 else fields

    root = zarr.open_group(path, mode="w", zarr_format=version, attributes=wrapped(said))
    labels = root.create_group("labels", attributes=wrapped({"labels": ["nuclei"]}))
    nuclei = labels.create_group("nuclei", attributes=wrapped(names))
    slashes: Any = {"name": "v2" if version == 2 else "default", "separator": "/"}
    more: Json = {"dimension_names": ("y", "x")} if version == 3 else {}
    for level in range(2):
        size = 16 >> level
        x = (RNG.standard_normal((size, size)) * 3).astype(dtype)
        root.create_array(str(level), data=x, chunks=(8, 8), chunk_key_encoding=slashes, **more)
        nuclei.create_array(str(level), data=(x > 0).astype("i4"), chunks=(8, 8), chunk_key_encoding=slashes, **more)


@pytest.mark.parametrize(("dtype", "only"), [("f4", ()), ("i2", ("0", "1"))])
@pytest.mark.parametrize("version", [2, 3])
def test_an_image_of_ome_zarr_is_one_afterwards(version: int, dtype: str, only: tuple[str, ...], tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    image(source, version, dtype)
    report = leakycli.apply(str(source), str(out), Options(only=only, verify=True))
    actions = {array.name: array.action for array in report.arrays}
    assert actions == {"0": "transformed", "1": "transformed", "labels/nuclei/0": "copied", "labels/nuclei/1": "copied"}
    assert stored(out) == stored(source)
    changed = {key for key in stored(out) if (out / key).read_bytes() != (source / key).read_bytes()}
    assert changed
    assert all(key.startswith(("0/", "1/")) for key in changed)
    attributes: Json = dict(zarr.open_group(out, mode="r").attrs)
    multiscales = (attributes["ome"] if version == 3 else attributes)["multiscales"]
    for dataset in multiscales[0]["datasets"]:
        np.testing.assert_array_equal(by_tensorstore(out / dataset["path"]), defined(by_tensorstore(source / dataset["path"])))


# What is opened, and what is not stored.


@functools.cache
def _watchers() -> list[Callable[[str, bool], None]]:
    """Who is told the path of each file that this process opens, and whether to write. The hook stays: there is no way to take it back."""
    watchers: list[Callable[[str, bool], None]] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watchers and event == "open" and isinstance(arguments[0], (str, bytes)):
            for tell in watchers:
                tell(os.fsdecode(arguments[0]), bool(arguments[2] & (os.O_WRONLY | os.O_RDWR)))

    sys.addaudithook(hook)
    return watchers


@contextlib.contextmanager
def opens(folder: Path) -> Iterator[dict[str, set[str]]]:
    """The files below `folder` that are "read" and "written" meanwhile; those written under a temporary name by the name that they get.

    Those opened relative to an open folder are called "./KEY".
    """
    found: dict[str, set[str]] = {"read": set(), "written": set()}

    def tell(path: str, writing: bool) -> None:
        inner = path.removeprefix(f"{folder}/") if path.startswith("/") else f"./{path}"
        if inner != path:
            found["written" if writing else "read"].add(re.sub(r"\.[0-9a-f]{32}\.partial$", "", inner))

    _watchers().append(tell)
    try:
        yield found
    finally:
        _watchers().remove(tell)


def chunks_of(paths: set[str], store: str) -> set[str]:
    """The keys of chunks among the `paths` that lie in `store`."""
    found = {path[len(store) + 1 :] for path in paths if path.startswith(f"{store}/")}
    return {key for key in found if not key.endswith("zarr.json") and "/.z" not in f"/{key}"}


@pytest.mark.parametrize("version", [2, 3])
def test_of_a_million_chunks_the_ten_that_are_stored_are_read_and_written(version: Any, tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    slashes: Json = {"chunk_key_encoding": {"name": "v2", "separator": "/"}} if version == 2 else {}
    array = zarr.create_array(source, shape=(4000, 4000), dtype="f4", chunks=(4, 4), fill_value=-1.0, zarr_format=version, **slashes)
    for at in range(10):
        array[400 * at, 4 * at] = at - 4.5
    with opens(tmp_path) as opened:
        report = leakycli.apply(str(source), str(out))
    ten = {f"{'c/' if version == 3 else ''}{100 * at}/{at}" for at in range(10)}
    assert chunks_of(opened["read"], ".") == chunks_of(opened["written"], ".") == ten
    assert stored(out) == ten | set(documents(out))
    (summary,) = (array.after for array in report.arrays)
    assert summary is not None
    assert (summary.count, summary.zero, summary.positive) == (16_000_000, 0, 5)
    rows = [by_tensorstore(store, slice(400, 410)) for store in (source, out)]
    np.testing.assert_array_equal(rows[1], defined(rows[0]))


def test_of_a_million_chunks_in_shards_those_shards_that_are_stored_are_read_and_written(tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    array = zarr.create_array(source, shape=(4000, 4000), dtype="f4", chunks=(4, 4), shards=(40, 40), fill_value=-1.0)
    for at in range(10):
        array[4 * at, 1000 * (at % 3)] = at
    with opens(tmp_path) as opened:
        report = leakycli.apply(str(source), str(out))
    three = {"c/0/0", "c/0/25", "c/0/50"}
    assert chunks_of(opened["read"], ".") == chunks_of(opened["written"], ".") == three
    assert stored(out) == stored(source) == three | {"zarr.json"}
    sizes = [sum((store / key).stat().st_size for key in three) for store in (source, out)]
    assert sizes[1] <= sizes[0] * 1.01
    (summary,) = (array.after for array in report.arrays)
    assert summary is not None
    assert (summary.count, summary.zero, summary.positive) == (16_000_000, 1, 9)
    rows = [by_tensorstore(store, slice(0, 40)) for store in (source, out)]
    np.testing.assert_array_equal(rows[1], defined(rows[0]))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(("dtype", "fill"), [("f4", -9999.0), ("f4", math.nan), ("f8", 1e20), ("i2", -1)])
def test_missing_elements_are_transformed_and_counted_apart(tmp_path: Path, zarr_format: Any, dtype: str, fill: float) -> None:
    rng = np.random.default_rng(3)
    x = (100 * rng.standard_normal((50, 40))).astype(dtype)
    x[x == np.array(fill, dtype)] = 0
    gone = rng.random(x.shape) < 0.2
    x[gone] = fill
    array = zarr.create_array(str(tmp_path / "in.zarr"), shape=x.shape, dtype=dtype, chunks=(20, 20), zarr_format=zarr_format)
    array[:] = x
    array.attrs["missing_value"] = fill if math.isfinite(fill) else "NaN" if zarr_format == 2 else fill
    report = leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.npy"), Options(dtype="float64")).arrays[0]
    assert (report.before, report.after) != (None, None)
    y = np.load(tmp_path / "out.npy")
    assert np.array_equal(y, leakycli.leaky_relu(x, dtype="float64"), equal_nan=True)
    for side, elements in ((report.before, x), (report.after, y)):
        assert side is not None
        present = elements[~gone].astype(float)
        assert (side.count, side.missing) == (x.size, gone.sum())
        assert side.negative + side.zero + side.positive + side.nan + side.missing == side.count
        assert (side.positive, side.nan) == ((present > 0).sum(), 0)
        assert (side.min, side.max) == (present.min(), present.max())
        assert side.mean == pytest.approx(present.mean(), rel=1e-9)
        assert side.std == pytest.approx(present.std(), rel=1e-9)
        assert side.histogram is not None
        assert side.histogram.sampled == present.size
