"""What Zarr's users bring: documents kept key by key, written by others and read by others; xarray's and OME-Zarr's hierarchies; sparse grids."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from numpy.typing import NDArray

import leakycli
from leakycli import Options
from leakycli.errors import LeakyError, UnsupportedError
from tests.test_npy import defined

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
        reader="zarr",
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


def by_tensorstore(path: Path) -> Array:
    driver = "zarr3" if (path / "zarr.json").exists() else "zarr"
    return np.asarray(tensorstore.open({"driver": driver, "kvstore": {"driver": "file", "path": str(path)}}).result().read().result())


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
    if case.attributes or document["zarr_format"] == 2 and case.options.get("provenance") is False:
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
    provenance = {
        "version": leakycli.__version__,
        "function": "leaky_relu",
        "alpha": options.alpha,
        "dtype_before": array.dtype_before,
        "dtype_after": array.dtype_after,
    } | ({} if options.nan is None else {"nan": options.nan})
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
        attributes["leakycli"] = provenance
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
