"""Zarr's metadata documents: what is read out of them, and that a transform changes what it must and nothing else."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakycli.errors import CorruptError, UnsupportedError
from leakycli.formats.zarr.consolidated import with_consolidated, zmetadata
from leakycli.formats.zarr.metadata import (
    ArrayDocument,
    Document,
    adapt,
    check_transformable,
    decode_fill,
    encode_fill,
    parse,
)

BYTES: Document = {"name": "bytes", "configuration": {"endian": "little"}}
ZSTD: Document = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
BLOSC: Document = {"name": "blosc", "configuration": {"typesize": 4, "cname": "lz4", "clevel": 5, "shuffle": "shuffle", "blocksize": 0}}


def v3(**fields: Any) -> Document:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [40, 30],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10, 10]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": [BYTES, ZSTD],
        "attributes": {"units": "m"},
        "dimension_names": ["y", None],
    } | fields


def v2(**fields: Any) -> Document:
    return {
        "zarr_format": 2,
        "shape": [40, 30],
        "chunks": [10, 10],
        "dtype": "<f4",
        "compressor": {"id": "zstd", "level": 3},
        "fill_value": 0.0,
        "order": "C",
        "filters": None,
    } | fields


def parsed(document: Document, attributes: Document | None = None) -> ArrayDocument:
    return parse(document, attributes or {}, "here")


def changed(before: Document, after: Document) -> set[str]:
    return {key for key in before.keys() | after.keys() if before.get(key, ...) != after.get(key, ...)}


def shards(*codecs: Document, shape: tuple[int, ...] = (5, 5), **more: Any) -> Document:
    configuration = {
        "chunk_shape": list(shape),
        "codecs": list(codecs),
        "index_codecs": [BYTES, {"name": "crc32c"}],
        "index_location": "start",
    }
    return {"name": "sharding_indexed", "configuration": configuration | more}


# What is read.


def test_what_a_document_of_version_3_says() -> None:
    found = parsed(v3(codecs=[shards(BYTES, ZSTD)]))
    assert (found.zarr_format, found.shape, found.chunks, found.shards, found.unit) == (3, (40, 30), (5, 5), (10, 10), (10, 10))
    assert (found.dtype, found.dtype_name, found.codecs) == (np.dtype("f4"), "float32", "zstd:3")
    assert (found.dimension_names, found.attributes) == (("y", None), {"units": "m"})
    assert (found.prefix, found.separator) == ("c", "/")


def test_what_a_document_of_version_2_says() -> None:
    found = parsed(v2(dtype=">f8", order="F", dimension_separator="/", filters=[{"id": "shuffle", "elementsize": 8}]), {"units": "m"})
    assert (found.zarr_format, found.shape, found.chunks, found.shards) == (2, (40, 30), (10, 10), None)
    assert (found.dtype, found.order, found.codecs) == (np.dtype(">f8"), "F", "shuffle+zstd:3")
    assert (found.dimension_names, found.attributes, found.prefix, found.separator) == (None, {"units": "m"}, "", "/")


def test_what_may_be_left_out_is() -> None:
    document = v3(chunk_key_encoding={"name": "v2"}, codecs=["bytes", "crc32c"])
    del document["attributes"], document["dimension_names"]
    found = parsed(document)
    assert (found.prefix, found.separator, found.attributes, found.dimension_names) == ("", ".", {}, None)
    document = v2()
    del document["filters"], document["compressor"]
    assert parsed(document).codecs == "none"


def test_an_extension_that_need_not_be_understood_is_kept() -> None:
    document = v3(extra={"must_understand": False, "a": 1})
    assert adapt(parsed(document), np.dtype("f8"), None)[0]["extra"] == {"must_understand": False, "a": 1}
    with pytest.raises(UnsupportedError, match=r"here: .*extra"):
        parsed(v3(extra={"a": 1}))


def test_axes_without_elements() -> None:
    assert parsed(v2(shape=[0, 3], chunks=[0, 3])).unit == (1, 3)
    assert parsed(v2(shape=[], chunks=[])).chunk_key(()) == "0"
    assert (
        parsed(v3(shape=[], chunk_grid={"name": "regular", "configuration": {"chunk_shape": []}}, dimension_names=[])).chunk_key(()) == "c"
    )


@pytest.mark.parametrize("name", ["lz4", "acme.magic", "numcodecs.acme"])
@pytest.mark.parametrize("nested", [False, True])
def test_only_codecs_that_are_known_are_transformed(name: str, nested: bool) -> None:
    codecs = [BYTES, {"name": name, "configuration": {}}]
    found = parsed(v3(codecs=[shards(*codecs)] if nested else codecs))
    if name == "lz4":
        check_transformable(found, "here")
        return
    with pytest.raises(UnsupportedError, match=r"here: codec .*(acme)"):
        check_transformable(found, "here")


@st.composite
def grids(draw: st.DrawFn) -> tuple[ArrayDocument, tuple[int, ...]]:
    """An array of any version, and the index of one of its write units."""
    rank = draw(st.integers(0, 4))
    index, shape, unit = [], [], []
    for _ in range(rank):
        at, size = draw(st.integers(0, 900)), draw(st.integers(1, 30))
        index.append(at)
        unit.append(size)
        shape.append(at * size + draw(st.integers(1, 3 * size)))
    separator = draw(st.sampled_from(["/", "."]))
    if draw(st.booleans()):
        return parsed(v2(shape=shape, chunks=unit, dimension_separator=separator)), tuple(index)
    encoding = {"name": draw(st.sampled_from(["default", "v2"])), "configuration": {"separator": separator}}
    grid = {"name": "regular", "configuration": {"chunk_shape": unit}}
    return parsed(v3(shape=shape, chunk_grid=grid, chunk_key_encoding=encoding, dimension_names=None)), tuple(index)


@given(grids())
def test_a_chunk_key_leads_back_to_its_index(made: tuple[ArrayDocument, tuple[int, ...]]) -> None:
    document, index = made
    key = document.chunk_key(index)
    assert document.chunk_index(key) == index
    beyond = tuple(-(-n // u) for n, u in zip(document.shape, document.unit, strict=True))
    if index:
        assert document.chunk_index(document.chunk_key(beyond)) is None
        assert document.chunk_index(key + document.separator + "0") is None
        assert document.chunk_index(key.rpartition(document.separator)[0]) is None
    for odd in (f" {key}", f"{key}\n", f"0{key}", f"-{key}", f"{key}.partial", "zarr.json", ".zarray", "", "٣", "c"):
        assert document.chunk_index(odd) is None or document.chunk_key(document.chunk_index(odd) or ()) == odd


@given(st.text("0123456789./c-", max_size=12), grids())
def test_what_is_no_chunk_key_is_none(key: str, made: tuple[ArrayDocument, tuple[int, ...]]) -> None:
    document, _ = made
    index = document.chunk_index(key)
    if index is not None:
        assert document.chunk_key(index) == key
        assert all(0 <= i * u < n for i, u, n in zip(index, document.unit, document.shape, strict=True))


# Fill values.

FLOATS = ("float16", "float32", "float64")


def bits(value: np.generic) -> bytes:
    return np.array([value]).tobytes()


@pytest.mark.parametrize("name", FLOATS)
def test_fill_values_of_floats(name: str) -> None:
    dtype = np.dtype(name)
    for text, number in (
        ("NaN", math.nan),
        ("Infinity", math.inf),
        ("-Infinity", -math.inf),
        (0, 0.0),
        (-0.0, -0.0),
        (1.5, 1.5),
        (-3, -3.0),
    ):
        assert bits(decode_fill(text, dtype)) == bits(dtype.type(number))
    assert encode_fill(dtype.type(np.nan), 3) == encode_fill(dtype.type(np.nan), 2) == "NaN"
    assert encode_fill(dtype.type(np.inf), 3) == "Infinity"
    assert encode_fill(dtype.type(-np.inf), 2) == "-Infinity"
    assert str(encode_fill(dtype.type(-0.0), 3)) == "-0.0"


@pytest.mark.parametrize(
    ("name", "payload"), [("float16", "0x7e01"), ("float32", "0x7fc00001"), ("float32", "0xffc00000"), ("float64", "0xfff8000000000123")]
)
def test_a_nan_keeps_its_payload(name: str, payload: str) -> None:
    found = decode_fill(payload, np.dtype(name))
    assert math.isnan(float(found))
    assert bits(found) == int(payload, 16).to_bytes(np.dtype(name).itemsize, "little")
    assert encode_fill(found, 3) == payload
    assert encode_fill(found, 2) == "NaN"


@given(st.sampled_from(FLOATS), st.integers(0, 2**64 - 1))
def test_any_float_comes_back(name: str, pattern: int) -> None:
    dtype = np.dtype(name)
    value = np.array([pattern % 2 ** (8 * dtype.itemsize)], f"u{dtype.itemsize}").view(dtype)[0]
    assert bits(decode_fill(encode_fill(value, 3), dtype)) == bits(value)
    again = decode_fill(encode_fill(value, 2), dtype)
    assert bits(again) == bits(value) or (math.isnan(float(value)) and math.isnan(float(again)))


@given(st.sampled_from(["int8", "uint8", "int16", "uint32", "int64", "uint64"]), st.data())
def test_any_integer_comes_back(name: str, data: st.DataObject) -> None:
    limits = np.iinfo(name)
    value = np.dtype(name).type(data.draw(st.integers(limits.min, limits.max)))
    encoded = encode_fill(value, data.draw(st.sampled_from([2, 3])))
    assert type(encoded) is int
    assert bits(decode_fill(encoded, np.dtype(name))) == bits(value)
    with pytest.raises(CorruptError):
        decode_fill(limits.max + 1, np.dtype(name))
    with pytest.raises(CorruptError):
        decode_fill(limits.min - 1, np.dtype(name))


def test_a_float_that_is_an_integer_is_one_and_bytes_may_be_swapped() -> None:
    assert bits(decode_fill(-2.0, np.dtype("i2"))) == bits(np.int16(-2))
    assert decode_fill(1.5, np.dtype(">f4")).dtype == np.dtype("f4")
    assert decode_fill("0x3fc00000", np.dtype(">f4")) == np.float32(1.5)
    assert bool(decode_fill(True, np.dtype("bool"))) is True


ODD_FILLS: list[Any] = [None, True, "", "nan", "0x", "0xzz", "0x1ffffffff", "0x-1", [], {}, [0], 10**400, 1e400, "1.5", "0x" + "f" * 5000]


@pytest.mark.parametrize("name", ["float32", "int32"])
@pytest.mark.parametrize("value", ODD_FILLS, ids=lambda value: repr(value)[:12] if not isinstance(value, int) or value < 9 else "huge")
def test_fill_values_that_are_none(name: str, value: Any) -> None:
    if name == "float32" and value == 1e400:  # JSON's Infinity, which Python reads and writes so
        return
    with pytest.raises(CorruptError) as raised:
        decode_fill(value, np.dtype(name))
    assert len(str(raised.value)) < 200


def test_a_document_of_version_2_need_not_say_what_is_not_stored() -> None:
    found = parsed(v2(fill_value=None))
    assert found.fill_value is None
    assert adapt(found, np.dtype("f8"), None)[0]["fill_value"] is None
    with pytest.raises(CorruptError, match="fill_value"):
        parsed(v3(fill_value=None))


# What a transform changes.


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", [*FLOATS, "int32", "int64"])
def test_only_what_knows_of_the_type_changes(name: str, nested: bool) -> None:
    codecs = [BYTES, BLOSC, {"name": "crc32c"}]
    document = v3(codecs=[shards(*codecs)] if nested else codecs, fill_value="NaN", extra={"must_understand": False})
    before = copy.deepcopy(document)
    dtype = np.dtype(name)
    after, beside, warnings = adapt(parsed(document), dtype, dtype.type(7))
    assert document == before
    assert (beside, warnings) == (None, ())
    assert changed(before, after) == {"fill_value"} | (set() if name == "float32" else {"data_type"}) | (
        set() if dtype.itemsize == 4 else {"codecs"}
    )
    assert (after["data_type"], after["fill_value"]) == (name, 7)
    (had,), (got,) = ([x["codecs"] if not nested else x["codecs"][0]["configuration"]["codecs"]] for x in (before, after))
    assert got[0] == BYTES
    assert got[1] == {"name": "blosc", "configuration": BLOSC["configuration"] | {"typesize": dtype.itemsize}}
    assert got[2] == had[2]
    if nested:
        mine, theirs = (x["codecs"][0]["configuration"] for x in (before, after))
        assert changed(mine, theirs) <= {"codecs"}
    assert list(after) == list(before)


def test_shards_within_shards() -> None:
    document = v3(codecs=[shards(shards(BYTES, BLOSC, shape=(1, 5)))])
    after, _, _ = adapt(parsed(document), np.dtype("f8"), None)
    inner = after["codecs"][0]["configuration"]["codecs"][0]["configuration"]
    assert inner["codecs"][1]["configuration"]["typesize"] == 8
    assert inner["index_codecs"] == [BYTES, {"name": "crc32c"}]


def test_the_byte_order_stays_and_is_said_where_it_was_not_needed() -> None:
    big = {"name": "bytes", "configuration": {"endian": "big"}}
    assert adapt(parsed(v3(codecs=[big, ZSTD])), np.dtype("f8"), None)[0]["codecs"] == [big, ZSTD]
    for without in ({"name": "bytes"}, {"name": "bytes", "configuration": {}}, "bytes"):
        document = v3(data_type="uint8", fill_value=0, codecs=[without, ZSTD])
        assert adapt(parsed(document), np.dtype("f4"), None)[0]["codecs"] == [BYTES, ZSTD]
    for had, name, got in ((">f4", "f8", ">f8"), ("<f4", "i4", "<i4"), ("|u1", "f4", "<f4"), (">i2", "f4", ">f4"), (">f4", ">f4", ">f4")):
        fill: Any = 0
        after, beside, _ = adapt(parsed(v2(dtype=had, fill_value=fill)), np.dtype(name), None)
        assert after["dtype"] == got
        assert beside == {}


def test_version_2_changes_as_little() -> None:
    document = v2(filters=[{"id": "shuffle", "elementsize": 4}], compressor={"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1})
    after, beside, warnings = adapt(parsed(document, {"a": 1}), np.dtype("f8"), np.float64(-0.0))
    assert changed(document, after) == {"dtype", "filters"} | ({"fill_value"} if after["fill_value"] != 0 else set())
    assert str(after["fill_value"]) == "-0.0"
    assert after["filters"] == [{"id": "shuffle", "elementsize": 8}]
    assert (beside, warnings) == ({"a": 1}, ())
    assert adapt(parsed(v2()), np.dtype("f4"), np.float32(0))[0] == v2()


@pytest.mark.parametrize("name", ["quantize", "bitround", "fixedscaleoffset", "astype", "packbits", "delta"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_lossy_filters_are_dropped_with_a_warning(name: str, zarr_format: int) -> None:
    settings = {"dtype": "<f4", "astype": "<f4"}
    if zarr_format == 2:
        document = v2(filters=[{"id": name, **settings}, {"id": "shuffle", "elementsize": 4}])
        after, _, warnings = adapt(parsed(document), np.dtype("f4"), None)
        assert after["filters"] == [{"id": "shuffle", "elementsize": 4}]
        alone, _, _ = adapt(parsed(v2(filters=[{"id": name, **settings}])), np.dtype("f4"), None)
        assert alone["filters"] is None
    else:
        document = v3(codecs=[{"name": f"numcodecs.{name}", "configuration": settings}, BYTES, ZSTD])
        after, _, warnings = adapt(parsed(document), np.dtype("f4"), None)
        assert after["codecs"] == [BYTES, ZSTD]
    (warning,) = warnings
    assert name in warning
    check_transformable(parsed(document), "here")


def test_a_lossy_filter_within_shards_is_dropped() -> None:
    document = v3(codecs=[shards({"name": "numcodecs.bitround", "configuration": {"keepbits": 3}}, BYTES, ZSTD)])
    after, _, warnings = adapt(parsed(document), np.dtype("f4"), None)
    assert after["codecs"] == [shards(BYTES, ZSTD)]
    assert len(warnings) == 1


def test_differences_of_integers_stay_and_learn_the_type() -> None:
    document = v2(dtype="<i2", filters=[{"id": "delta", "dtype": "<i2", "astype": "<i2"}], fill_value=0)
    after, _, warnings = adapt(parsed(document), np.dtype("i4"), None)
    assert (after["filters"], warnings) == ([{"id": "delta", "dtype": "<i4", "astype": "<i4"}], ())


def test_zfpy_makes_place_for_bytes() -> None:
    document = v3(codecs=[{"name": "numcodecs.zfpy", "configuration": {"mode": 4, "tolerance": 0.1}}])
    after, _, warnings = adapt(parsed(document), np.dtype("f8"), None)
    assert after["codecs"] == [BYTES]
    assert len(warnings) == 1
    after, _, warnings = adapt(parsed(v2(compressor={"id": "zfpy", "mode": 4})), np.dtype("f8"), None)
    assert after["compressor"] is None
    assert len(warnings) == 1


def test_attributes_are_those_given() -> None:
    after, _, _ = adapt(parsed(v3()), np.dtype("f4"), None, {"b": 2})
    assert after["attributes"] == {"b": 2}
    document = v3()
    del document["attributes"]
    assert "attributes" not in adapt(parsed(document), np.dtype("f4"), None, {})[0]
    assert adapt(parsed(document), np.dtype("f4"), None, {"b": 2})[0]["attributes"] == {"b": 2}


# Consolidated metadata.


GROUP: Document = {"zarr_format": 3, "node_type": "group", "attributes": {"x": 1}}
EMPTY: Document = {"kind": "inline", "must_understand": False, "metadata": {}}


def test_consolidated_metadata_of_version_3_are_the_documents_of_what_is_there() -> None:
    before = {"gone": v3(), "g": GROUP | {"consolidated_metadata": EMPTY}, "a": v3(), "g/b": v3()}
    written: dict[str, dict[str, Document]] = {
        "": {"zarr.json": GROUP},
        "a": {"zarr.json": v3()},
        "g": {"zarr.json": GROUP | {"consolidated_metadata": {**EMPTY, "metadata": {"b": v3()}}}},
        "g/b": {"zarr.json": v3(data_type="float64")},
        "new": {"zarr.json": GROUP},
        "lost/c": {"zarr.json": v3()},
        "old": {".zgroup": {"zarr_format": 2}},
    }
    found = with_consolidated(GROUP | {"consolidated_metadata": {**EMPTY, "more": 1, "metadata": before}}, written, before)
    expected = {"g": before["g"], "a": v3(), "g/b": v3(data_type="float64"), "new": GROUP | {"consolidated_metadata": EMPTY}}
    assert found == GROUP | {"consolidated_metadata": {**EMPTY, "more": 1, "metadata": expected}}
    # The source's order; what is below a folder without a document, or of the other version, readers do not find there.
    assert list(found["consolidated_metadata"]["metadata"]) == list(expected)


def test_consolidated_metadata_of_version_2_are_the_documents_of_what_is_there() -> None:
    before: Document = {"b/.zattrs": {}, ".zgroup": {"zarr_format": 2}, "a/.zarray": v2(), "gone/.zarray": v2(), "torn/.zattrs": {"u": 1}}
    new = v2(dtype="<f8")
    written: dict[str, dict[str, Document]] = {
        "": {".zgroup": {"zarr_format": 2}, ".zattrs": {"t": 1}},
        "a": {".zarray": new, ".zattrs": {"u": 2}},
        "b": {".zarray": new},
        "torn": {".zattrs": {"u": 1}},
    }
    assert zmetadata(written, before) == {
        "zarr_consolidated_format": 1,
        "metadata": {
            "b/.zattrs": {},
            ".zgroup": {"zarr_format": 2},
            "a/.zarray": new,
            ".zattrs": {"t": 1},
            "a/.zattrs": {"u": 2},
            "b/.zarray": new,
        },
    }
