"""Hierarchies: each file of the source is accounted for in the result, and what readers open by default is right."""

from __future__ import annotations

import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tensorstore
import xarray
import zarr
import zarr.codecs
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import leakycli
from leakycli import Options, leaky_relu
from leakycli.errors import CorruptError, LeakyError, UnsupportedError, UsageError
from leakycli.formats.zarr.place import FolderPlace
from leakycli.formats.zarr.tree import FolderTree

Array = NDArray[Any]
Json = dict[str, Any]

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning", "ignore::zarr.errors.UnstableSpecificationWarning")

DOCUMENTS = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")

X = np.array([-5, -1.5, 3, 2, -4, 7], "f4")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def by_tensorstore(path: Path) -> Array:
    driver = "zarr3" if (path / "zarr.json").exists() else "zarr"
    opened = tensorstore.open({"driver": driver, "kvstore": {"driver": "file", "path": str(path)}}).result()
    return np.asarray(opened.read().result())


def array(path: Path, x: Array = X, version: Any = 3, consolidate: bool = False, **more: Any) -> None:
    """An array whose dimensions have names, in the way of its version."""
    named: Json = {"dimension_names": ("n",)} if version == 3 else {"attributes": {"_ARRAY_DIMENSIONS": ["n"]}}
    more = {"chunks": (2,), "zarr_format": version, **named, **more}
    zarr.create_array(FolderTree(str(path)).path, data=x, overwrite=True, **more)


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def consolidated(group: Path) -> Json:
    """The entries of the consolidated metadata of a group."""
    if (group / "zarr.json").exists():
        found: Json = json.loads((group / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
        return found
    entries: Json = json.loads((group / ".zmetadata").read_text())["metadata"]
    return entries


# Any hierarchy.


@dataclass
class Made:
    """A hierarchy: its arrays by path, and the version of each; its root's version."""

    version: int
    arrays: dict[str, Array]
    versions: dict[str, int]


PATHS = ("a", "b", "g/a", "g/h/c", "A/1/0", "A/2/0", "[x]/y%41", "g/h/d")
STRAYS = ("notes.txt", "g/read.me", "points/part.0.parquet", "OME/METADATA.ome.xml", "A/rows.csv", "g/.DS_Store", "x/y/z/deep", "g/c/0")


@st.composite
def hierarchies(draw: st.DrawFn, folder: Path) -> Made:
    """A hierarchy on disk: of both versions, with stray files and folders without documents, consolidated metadata of every state."""
    shutil.rmtree(folder, ignore_errors=True)
    version: Any = draw(st.sampled_from([2, 3]))
    paths = draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=5, unique=True))
    root = zarr.open_group(folder, mode="w", zarr_format=version, attributes={"title": "all"})
    made = Made(version, {}, {})
    groups = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 1)}
    for group in sorted(groups):
        root.require_group(group).attrs["of"] = group
    for path in paths:
        dtype = draw(st.sampled_from(["f4", "f8", "i2"])) if path != paths[0] else "f4"
        own = version if draw(st.integers(0, 4)) else 5 - version
        x = np.array(draw(st.lists(st.integers(-9, 9).filter(bool), min_size=6, max_size=6)), dtype)
        sharded: Json = {"shards": (4,)} if own == 3 and draw(st.booleans()) else {}
        array(folder / path, x, own, **sharded)
        made.arrays[path], made.versions[path] = x, own
    state = draw(st.sampled_from(["none", "fresh", "stale", "gone"]))
    if state != "none":
        zarr.consolidate_metadata(folder, zarr_format=version)
    if state == "stale":
        array(folder / "late", -X, version)
        made.arrays["late"], made.versions["late"] = -X, version
        zarr.open_array(folder / paths[0], mode="r+").attrs["later"] = 1
    if state == "gone" and len(paths) > 1:
        shutil.rmtree(folder / paths[-1])
        del made.arrays[paths[-1]], made.versions[paths[-1]]
    for group in draw(st.lists(st.sampled_from(sorted(groups)), unique=True)) if groups else []:
        for name in DOCUMENTS:
            (folder / group / name).unlink(missing_ok=True)
    for stray in (*draw(st.lists(st.sampled_from(STRAYS), unique=True)), *(f"{p}/.notes" for p in paths if draw(st.booleans()))):
        if (folder / stray).exists() or not stray.endswith(".notes") or (folder / stray).parent.is_dir():
            (folder / stray).parent.mkdir(parents=True, exist_ok=True)
            (folder / stray).write_text(stray)
    return made


LAYOUTS: list[Json] = [
    {},
    {"chunks": (3,)},
    {"compressor": "gzip:1"},
    {"zarr_format": 2},
    {"zarr_format": 3},
    {"shards": (4,), "chunks": (2,)},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_each_file_of_any_hierarchy_is_accounted_for(layout: Json, tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"

    @settings(max_examples=8, deadline=None, derandomize=True, phases=(Phase.generate,))
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        made = data.draw(hierarchies(source))
        options = layout if "shards" not in layout or set(made.versions.values()) == {3} else {}
        before = files(source)
        leakycli.apply(str(source), str(out), Options(**options, overwrite=True))
        found = leakycli.verify(str(source), str(out), Options())
        assert found.equal, found.message()
        after = files(out)
        chunks = {name for path in made.arrays for name in before if name.startswith(f"{path}/") and not name.endswith(".notes")}
        for name, data_in in before.items():
            if name not in chunks and name.rpartition("/")[2] not in DOCUMENTS:
                assert after[name] == data_in, name
        into = options.get("zarr_format")
        gone = {name for name in before if name.rpartition("/")[2] in DOCUMENTS} if into is None else set()
        assert gone - {"zarr.json"} <= after.keys()
        if into is not None:
            unwanted = {".zarray", ".zgroup", ".zattrs", ".zmetadata"} if into == 3 else {"zarr.json"}
            assert not unwanted & {name.rpartition("/")[2] for name in after}
        expected = {path: x if x.dtype.kind == "i" else leaky_relu(x) for path, x in made.arrays.items()}
        opened = {name: zarr.open_group(store, mode="r") for name, store in (("in", source), ("out", out))}
        members = {name: {path for path, _ in group.members(max_depth=None)} for name, group in opened.items()}
        assert opened["out"].attrs["title"] == "all"
        root_version = into or made.version
        for path, x in expected.items():
            np.testing.assert_array_equal(np.asarray(zarr.open_array(out / path, mode="r")[...]), x)
            np.testing.assert_array_equal(by_tensorstore(out / path), x)
            parts = path.split("/")
            above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
            if path in members["in"] and all(any((source / group / name).exists() for name in DOCUMENTS[:3]) for group in above):
                assert path in members["out"]
                np.testing.assert_array_equal(np.asarray(opened["out"][path][...]), x)  # type: ignore[index]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with xarray.open_zarr(out, chunks=None, zarr_format=root_version) as dataset:
                for path in set(expected) & set(map(str, dataset.variables)):
                    np.testing.assert_array_equal(dataset[path].values, expected[path])
                if into is not None:
                    assert {path for path in expected if "/" not in path} <= set(dataset.variables)

    holds()


# What has no document.


@pytest.mark.parametrize("version", [2, 3])
def test_what_lies_in_folders_without_documents_goes_along(version: Any, tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    group = zarr.open_group(source, mode="w", zarr_format=version)
    group.create_array("a", data=X)
    group.create_group("A/1").create_array("0", data=X)
    for name in DOCUMENTS:
        (source / "A" / name).unlink(missing_ok=True)
    (source / "table/part").mkdir(parents=True)
    (source / "table/part/0.parquet").write_bytes(b"PAR1" * 700_000)
    report = leakycli.apply(str(source), str(out), Options(verify=True))
    assert [(array.name, array.action) for array in report.arrays] == [("A/1/0", "transformed"), ("a", "transformed")]
    assert files(source).keys() == files(out).keys()
    assert (out / "table/part/0.parquet").read_bytes() == (source / "table/part/0.parquet").read_bytes()
    np.testing.assert_array_equal(by_tensorstore(out / "A/1/0"), leaky_relu(X))
    (out / "table/part/0.parquet").write_bytes(b"PAR1" * 699_999 + b"PAR2")
    assert "0.parquet differs" in leakycli.verify(str(source), str(out)).message()
    (out / "table/part/0.parquet").unlink()
    assert "0.parquet is in one" in leakycli.verify(str(source), str(out)).message()
    shutil.rmtree(out / "A/1/0")
    assert not leakycli.verify(str(source), str(out)).equal


def test_a_large_file_is_copied_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in.zarr"
    zarr.open_group(source, mode="w").create_array("a", data=X)
    with open(source / "large.bin", "wb") as file:
        file.truncate(64 << 20)
    largest = []
    put = FolderPlace._put

    def watched(place: FolderPlace, key: str, pieces: Any) -> None:
        put(place, key, (largest.append(len(piece)) or piece for piece in pieces))  # type: ignore[func-returns-value]

    monkeypatch.setattr(FolderPlace, "_put", watched)
    leakycli.apply(str(source), str(tmp_path / "out.zarr"))
    assert max(largest) <= 1 << 20
    assert (tmp_path / "out.zarr/large.bin").stat().st_size == 64 << 20


@pytest.mark.parametrize(
    ("version", "stored", "said"),
    [(2, "/", "."), (2, ".", "/"), (3, "/", "."), (3, ".", "/")],
)
def test_chunks_under_keys_of_another_form_are_an_error(version: Any, stored: str, said: str, tmp_path: Path) -> None:
    source = tmp_path / "in.zarr"
    encoding: Any = {"name": "v2" if version == 2 else "default", "separator": stored}
    zarr.create_array(source, data=np.ones((4, 4), "f4"), chunks=(2, 2), zarr_format=version, chunk_key_encoding=encoding)
    if version == 2:
        edit(source / ".zarray", dimension_separator=said)
    else:
        edit(source / "zarr.json", chunk_key_encoding={"name": "default", "configuration": {"separator": said}})
    with pytest.raises(CorruptError, match=rf"4 files .* the separator '\{said}'"):
        leakycli.apply(str(source), str(tmp_path / "out.zarr"))
    assert os.listdir(tmp_path) == ["in.zarr"]


def test_files_among_chunks_are_told_and_copied(tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    group = zarr.open_group(source, mode="w")
    group.create_array("a", data=X, chunks=(2,))
    group.create_array("n", data=X.astype("i4"), chunks=(2,))
    group.create_array("empty", shape=(4,), dtype="f4", chunks=(2,))
    for name in ("a/c/Thumbs.db", "a/.DS_Store", "a/c/4", "n/.lock", "empty/read.me"):
        (source / name).write_text(name)
    (source / ".#link").symlink_to("nobody@nowhere")
    (source / "a/.#link").symlink_to("nobody@nowhere")
    report = leakycli.apply(str(source), str(out), Options(verify=True))
    told = " ".join(report.warnings)
    assert "array a: 3 files in its folder are no chunks of it" in told
    assert "array a: 1 files in its folder are no chunks of it, as .#link; left out" in told
    assert "array n: 1 files" in told
    assert "array empty: 1 files" in told
    assert ".#link was left out" in told
    assert files(source).keys() == files(out).keys()
    # With smaller chunks "c/4" would be one, and so cannot be copied.
    report = leakycli.apply(str(source), str(tmp_path / "small.zarr"), Options(chunks=(1,), only=("a",), verify=True))
    assert (tmp_path / "small.zarr/a/c/4").read_bytes() != b"a/c/4"
    np.testing.assert_array_equal(by_tensorstore(tmp_path / "small.zarr/a"), leaky_relu(X))


# Arrays that cannot be transformed.

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chunk_grid": {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[6]]}}}, "rectilinear"),
        ({"data_type": "bfloat16"}, "bfloat16"),
        ({"data_type": "float8_e5m2"}, "float8_e5m2"),
        ({"data_type": {"name": "numpy.float128", "configuration": {}}}, "float128"),
        ({"codecs": [LITTLE, {"name": "org.example.zip"}]}, "org.example.zip"),
        ({"org.example.origin": {"must_understand": True}}, "org.example.origin"),
        ({"storage_transformers": [{"name": "chunk-manifest-json", "configuration": {}}]}, "chunk-manifest-json"),
        ({"chunk_key_encoding": {"name": "suffix", "configuration": {"suffix": ".bin"}}}, "suffix"),
    ],
)
def test_floats_that_cannot_be_transformed_are_an_error_that_names_skip(change: Json, said: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    group = zarr.open_group(source, mode="w")
    group.create_array("ok", data=X)
    group.create_array("odd", data=X)
    edit(source / "odd/zarr.json", **change)
    with pytest.raises(UnsupportedError, match=rf"odd/zarr\.json: .*{said}.*--skip odd"):
        leakycli.apply(str(source), str(out))
    assert os.listdir(tmp_path) == ["in.zarr"]
    report = leakycli.apply(str(source), str(out), Options(skip=("odd",), verify=True))
    assert [(array.name, array.action) for array in report.arrays] == [("odd", "copied"), ("ok", "transformed")]
    assert {name: text for name, text in files(out).items() if name.startswith("odd")} == {
        name: text for name, text in files(source).items() if name.startswith("odd")
    }


@pytest.mark.parametrize(
    "change",
    [{"fill_value": -1}, {"fill_value": "0"}, {"dtype": "bfloat16", "fill_value": None}, {"dtype": "int4"}, {"dtype": "float8_e4m3b"}],
)
def test_an_array_that_is_only_copied_may_be_odd(change: Json, tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    group = zarr.open_group(source, mode="w", zarr_format=2)
    group.create_array("a", data=X)
    group.create_array("u", data=np.array([1, 2], "u4"))
    edit(source / "u/.zarray", **change)
    report = leakycli.apply(str(source), str(out), Options(verify=True))
    assert {array.name: array.action for array in report.arrays} == {"a": "transformed", "u": "copied"}
    assert ["float" in str(change.get("dtype"))] == [any("u/.zarray" in warning for warning in report.warnings)]
    with pytest.raises(LeakyError, match=r"u/\.zarray"):
        leakycli.apply(str(source), str(tmp_path / "b.zarr"), Options(only=("u",)))


@pytest.mark.parametrize("raw", [False, True])
def test_a_type_that_is_written_as_an_object_is_that_type(raw: bool, tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    zarr.create_array(source, data=X, chunks=(4,), compressors=None if raw else "auto")
    edit(source / "zarr.json", data_type={"name": "float32"})
    leakycli.apply(str(source), str(out), Options(verify=True))
    np.testing.assert_array_equal(np.asarray(zarr.open_array(out, mode="r")[...]), leaky_relu(X))


@pytest.mark.filterwarnings("ignore:Numcodecs codecs")
@pytest.mark.parametrize("version", [2, 3])
def test_base64_is_lossless(version: int, tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    if version == 2:
        zarr.create_array(source, data=X, chunks=(4,), zarr_format=2, compressors=numcodecs.Base64())
    else:
        zarr.create_array(source, data=X, chunks=(6,), compressors=None)
        (source / "c/0").write_bytes(numcodecs.Base64().encode(X))
        edit(source / "zarr.json", codecs=[LITTLE, {"name": "numcodecs.base64", "configuration": {}}])
    leakycli.apply(str(source), str(out), Options(verify=True))
    text = (out / ("0" if version == 2 else "c/0")).read_bytes()
    np.testing.assert_array_equal(
        np.frombuffer(numcodecs.Base64().decode(text), "f4")[: 4 if version == 2 else 6], leaky_relu(X)[: 4 if version == 2 else 6]
    )


# Consolidated metadata.


@pytest.mark.parametrize("layout", [{}, {"chunks": (3,)}, {"compressor": "none"}, {"zarr_format": 2}, {"zarr_format": 3}], ids=str)
@pytest.mark.parametrize("version", [2, 3])
def test_verify_sees_consolidated_metadata_that_are_stale(version: Any, layout: Json, tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    group = zarr.open_group(source, mode="w", zarr_format=version)
    group.create_array("n", data=X.astype("i4"), chunks=(2,))
    group.create_array("gone", data=X)
    zarr.consolidate_metadata(source, zarr_format=version)
    shutil.rmtree(source / "gone")
    report = leakycli.apply(str(source), str(out), Options(**layout, only=("n",), verify=True))
    assert any("list gone, which has no document" in warning for warning in report.warnings)
    entries = consolidated(out)
    assert not any(key.startswith("gone") for key in entries)
    np.testing.assert_array_equal(np.asarray(zarr.open_group(out, mode="r")["n"][...]), leaky_relu(X.astype("i4")))  # type: ignore[index]
    where = out / ("zarr.json" if (out / "zarr.json").exists() else ".zmetadata")
    good = where.read_text()
    for wrong in (good.replace("float32", "int32").replace("<f4", "<i4"), good.replace('"n"', '"m"').replace('"n/', '"m/')):
        where.write_text(wrong)
        found = leakycli.verify(str(source), str(out), Options(only=("n",)))
        assert not found.equal
        assert "consolidated" in found.message()


def test_verify_sees_attributes_fill_values_and_names_of_dimensions(tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    group = zarr.open_group(source, mode="w")
    group.create_array("a", data=X, attributes={"units": "K"}, fill_value=-2, dimension_names=("n",))
    leakycli.apply(str(source), str(out))
    good = (out / "a/zarr.json").read_text()
    for fields, said in (
        ({"attributes": {"units": "m"}}, "attributes"),
        ({"fill_value": -2}, "fill_value"),
        ({"dimension_names": ["m"]}, "dimension_names"),
    ):
        edit(out / "a/zarr.json", **fields)
        assert said in leakycli.verify(str(source), str(out)).message()
        (out / "a/zarr.json").write_text(good)
    assert leakycli.verify(str(source), str(out)).equal


# From version to version.


def dataset() -> xarray.Dataset:
    data = np.array([[-5.0, np.nan], [3.0, 7.0]], "f4")
    return xarray.Dataset(
        {"f": (("y", "x"), data), "n": ("x", [1, -2]), "s": ("x", ["a", "bc"]), "b": ("x", [True, False])},
        coords={"y": ("y", np.array([-1.5, -2.5])), "time": ("x", np.array(["2001-01-01", "2001-01-02"], "M8[ns]"))},
        attrs={"title": "important"},
    )


@pytest.mark.filterwarnings("ignore:The data type:FutureWarning", "ignore:.*vlen-utf8.*", "ignore:Numcodecs")
@pytest.mark.parametrize("consolidate", [False, True])
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2)])
def test_a_dataset_goes_from_version_to_version(before: Any, after: Any, consolidate: bool, tmp_path: Path) -> None:
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    dataset().to_zarr(source, zarr_format=before, consolidated=consolidate, encoding={"f": {"_FillValue": -9999.0, "chunks": (1, 2)}})
    (source / "read.me").write_text("me")
    leakycli.apply(str(source), str(out), Options(zarr_format=after, verify=True))
    assert leakycli.verify(str(source), str(out)).equal
    own = {"zarr.json"} if after == 3 else {".zarray", ".zgroup", ".zattrs"} | ({".zmetadata"} if consolidate else set())
    assert {name.rpartition("/")[2] for name in files(out)} & set(DOCUMENTS) == own
    ways: tuple[Json, ...] = ({}, {"consolidated": consolidate})
    for way in ways:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with xarray.open_zarr(source, chunks=None, **way) as given, xarray.open_zarr(out, chunks=None, **way) as found:
                expected = given.load().assign(f=xarray.apply_ufunc(leaky_relu, given.f, keep_attrs=True))
                assert found.f.attrs.pop("leakycli")
                xarray.testing.assert_identical(found.load(), expected)
                np.testing.assert_array_equal(np.float32(found.f.encoding["_FillValue"]), leaky_relu(np.float32(-9999)))
    (out / "n" / ("c/0" if after == 3 else "0")).unlink()
    assert not leakycli.verify(str(source), str(out)).equal


def test_into_a_version_that_has_no_such_type(tmp_path: Path) -> None:
    source = tmp_path / "in.zarr"
    group = zarr.open_group(source, mode="w")
    group.create_array("a", data=X)
    group.create_array("n", data=X.astype("i4"))
    edit(source / "n/zarr.json", data_type="int4")
    with pytest.raises(UsageError, match=r"array n: .*--zarr-format"):
        leakycli.apply(str(source), str(tmp_path / "out.zarr"), Options(zarr_format=2))
    assert os.listdir(tmp_path) == ["in.zarr"]


# Arrays that are no data.


def names_of(attributes: Json, **arrays: Json) -> Callable[[Path], None]:
    """A group of arrays x and `arrays`, with these attributes; x has `attributes`."""

    def make(path: Path) -> None:
        group = zarr.open_group(path, mode="w")
        for name, own in {"x": attributes, **arrays}.items():
            group.create_array(name, data=-np.ones(3), attributes=own)

    return make


@pytest.mark.parametrize(
    ("make", "copied"),
    [
        (names_of({"formula_terms": "a: hyam b: hybm ps: ps"}, hyam={}, hybm={}, ps={}, y={}), {"x", "hyam", "hybm", "ps"}),
        (names_of({"geometry": "g"}, g={"geometry_type": "a", "node_count": "k", "node_coordinates": "gx gy"}, gx={}, gy={}, k={}), None),
        (names_of({"cell_methods": "h: mean area: mean"}, h={}), {"h"}),
        (names_of({"mesh": "m"}, m={"face_coordinates": "p q", "edge_node_connectivity": "e"}, p={}, q={}, e={}), None),
        (names_of({"cell_measures": "area: ca"}, ca={}, area={}), {"ca"}),
        (names_of({"coordinate_interpolation": "lat: lon: ip"}, lat={}, lon={}, ip={"tie_point_mapping": "t: ti"}, ti={}), None),
        (names_of({}, lat={"units": "degrees_north"}, lon={"standard_name": "longitude"}, z={"axis": "Z"}, c={"flag_values": [1.0]}), None),
        (names_of({}, ct={"_CoordinateAxisType": "Lat"}, t={"units": "days since 2001-01-01"}), None),
    ],
)  # fmt: skip
def test_arrays_that_say_where_values_are_stay(make: Callable[[Path], None], copied: set[str] | None, tmp_path: Path) -> None:
    make(tmp_path / "in.zarr")
    report = leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"))
    names = {array.name for array in report.arrays}
    assert {array.name for array in report.arrays if array.action == "copied"} == (names - {"x"} if copied is None else copied)


def test_transformations_of_ome_zarr_and_labels_stay(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "in.zarr", mode="w")
    transformation = {"type": "sequence", "transformations": [{"type": "affine", "path": "../t/m"}, {"type": "displacements", "path": "d"}]}
    multiscales = [{"type": "gaussian", "datasets": [{"path": "0", "coordinateTransformations": [transformation]}]}]
    image = root.create_group("image", attributes={"ome": {"multiscales": multiscales}})
    image.create_array("0", data=X)
    image.create_array("d", data=X)
    root.create_array("t/m", data=X)
    root.create_group("labels/l", attributes={"ome": {"image-label": {}}}).create_array("0", data=X)
    root.create_group("obs/kind", attributes={"encoding-type": "categorical"}).create_array("categories", data=X)
    report = leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"))
    assert {array.name for array in report.arrays if array.action == "transformed"} == {"image/0"}


@pytest.mark.parametrize(
    ("dtype", "attributes"), [("i1", {"_Unsigned": "true"}), ("u2", {"_Unsigned": "false"}), ("i1", {"dtype": "bool"})]
)
def test_integers_that_readers_take_for_others_are_refused(dtype: str, attributes: Json, tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "in.zarr", mode="w")
    group.create_array("a", data=X)
    group.create_array("u", data=np.array([6, 7], dtype), attributes=attributes)
    with pytest.raises(UnsupportedError, match=next(iter(attributes))):
        leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"), Options(only=("u",)))
    report = leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"))
    assert {array.name: array.action for array in report.arrays} == {"a": "transformed", "u": "copied"}


# NaN with a payload.


@pytest.mark.parametrize("shards", [None, (8,)])
@pytest.mark.parametrize("version", [2, 3])
def test_nan_keeps_its_payload_where_alpha_is_above_0(version: Any, shards: Any, tmp_path: Path) -> None:
    if version == 2 and shards:
        pytest.skip("version 2 has no shards")
    payloads = np.array([0x7FC00001] * 4 + [0x7FC00002] * 4 + [0x7FC00000] * 4 + [0x3F800000] * 4, "u4")
    zarr.create_array(
        tmp_path / "in.zarr",
        data=np.full(16, 1, "f4"),
        chunks=(4,),
        shards=shards,
        fill_value=np.nan,
        zarr_format=version,
        compressors=None,
    )[...] = payloads.view("f4")
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(tmp_path / "in.zarr", mode="r+")[...] = payloads.view("f4")
    assert np.array_equal(by_tensorstore(tmp_path / "in.zarr").view("u4"), payloads)
    leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"))
    assert np.array_equal(by_tensorstore(tmp_path / "out.zarr").view("u4"), payloads)


# Refusals that say the way out.


def test_archives_with_an_outer_folder_name_what_is_in_it(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "s.zarr", mode="w").create_array("a", data=X)
    for name in ("p.zarr.zip", "p.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for key, text in files(tmp_path / "s.zarr").items():
                archive.writestr(f"s.zarr/{key}", text)
        with pytest.raises(CorruptError, match=rf"{name}/s\.zarr is"):
            leakycli.apply(str(tmp_path / name), str(tmp_path / "none.zarr"))
        leakycli.apply(str(tmp_path / name / "s.zarr"), str(tmp_path / "out.zarr"), Options(overwrite=True))
        np.testing.assert_array_equal(by_tensorstore(tmp_path / "out.zarr/a"), leaky_relu(X))


def test_a_root_without_a_document_names_what_lies_below(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "r.zarr/deep/inner", mode="w").create_array("a", data=X)
    with pytest.raises(CorruptError, match=r"r\.zarr: is no Zarr .*r\.zarr/deep/inner is one"):
        leakycli.apply(str(tmp_path / "r.zarr"), str(tmp_path / "out.zarr"))


def test_a_codec_that_is_not_installed_is_named_with_its_package(tmp_path: Path) -> None:
    numcodecs_registry = numcodecs.registry.codec_registry
    if "pcodec" in numcodecs_registry:
        pytest.skip("pcodec is installed")
    zarr.create_array(tmp_path / "in.zarr", data=X, compressors=None)
    edit(tmp_path / "in.zarr/zarr.json", codecs=[{"name": "numcodecs.pcodec", "configuration": {}}])
    with pytest.raises(UsageError, match="pip install pcodec"):
        leakycli.dry_run(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"))


@pytest.mark.parametrize("options", [{}, {"compressor": "blosc-lz4:5"}])
def test_a_chunk_that_becomes_too_large_for_its_codec_is_refused_when_planning(options: Json, tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "in.zarr",
        shape=(560_000_000,),
        chunks=(560_000_000,),
        dtype="i1",
        zarr_format=2,
        compressors=numcodecs.Blosc("lz4", 1, 1),
    )
    with pytest.raises(LeakyError, match="2240000000 bytes as float32 is more than blosc takes"):
        leakycli.dry_run(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"), Options(memory=64 << 30, **options))


def test_chunks_of_length_0_where_there_are_no_elements(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "in.zarr", shape=(0,), chunks=(1,), dtype="f4")
    edit(tmp_path / "in.zarr/zarr.json", chunk_grid={"name": "regular", "configuration": {"chunk_shape": [0]}})
    leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"), Options(verify=True))
    assert zarr.open_array(tmp_path / "out.zarr", mode="r").shape == (0,)
    edit(tmp_path / "in.zarr/zarr.json", shape=[3])
    with pytest.raises(CorruptError, match="length 0"):
        leakycli.apply(str(tmp_path / "in.zarr"), str(tmp_path / "b.zarr"))
