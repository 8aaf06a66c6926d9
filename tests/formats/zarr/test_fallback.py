"""Arrays whose codecs are left to zarr."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leakycli.errors import CorruptError, SourceChangedError, StorageError
from leakycli.formats.zarr.chunks import chain_of
from leakycli.formats.zarr.codecs import UnknownCodec
from leakycli.formats.zarr.fallback import FallbackReader, FallbackWriter
from leakycli.formats.zarr.place import FolderPlace
from leakycli.formats.zarr.tree import FolderTree
from leakycli.regions import Box, Grid, Presence
from tests.formats.zarr.layouts import LAYOUTS, LITTLE, Layout, read, write
from tests.formats.zarr.test_chunks import info_of
from tests.kit.conformance import check_box_reader, check_box_writer

BLOSC2 = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
BLOSC3 = {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 4, "blocksize": 0}}


def _v2(filters: list[Any], compressor: Any) -> Layout:
    document = {
        "zarr_format": 2,
        "shape": [37, 5],
        "chunks": [8, 5],
        "dtype": "<f4",
        "compressor": compressor,
        "filters": filters,
        "fill_value": 1.5,
        "order": "C",
        "dimension_separator": ".",
    }
    return Layout("", document, (37, 5), (8, 5), np.dtype("f4"), 1.5, 3)


def _v3(codecs: list[Any]) -> Layout:
    grid = {"name": "regular", "configuration": {"chunk_shape": [8, 5]}}
    document = {**LAYOUTS[0].document, "shape": [37, 5], "data_type": "float32", "fill_value": 1.5, "chunk_grid": grid, "codecs": codecs}
    return Layout("", document, (37, 5), (8, 5), np.dtype("f4"), 1.5, 3)


def _sharded(codecs: list[Any], location: str) -> list[Any]:
    index = [LITTLE, {"name": "crc32c"}]
    settings = {"chunk_shape": [4, 5], "codecs": codecs, "index_codecs": index, "index_location": location}
    return [{"name": "sharding_indexed", "configuration": settings}]


GZIP3 = {"name": "gzip", "configuration": {"level": 1}}

UNKNOWN = {
    "quantize": _v2([{"id": "quantize", "digits": 10, "dtype": "<f4"}], BLOSC2),
    "fixedscaleoffset": _v2([{"id": "fixedscaleoffset", "scale": 1, "offset": 0, "dtype": "<f4", "astype": "<f8"}], BLOSC2),
    "two compressors": _v2([{"id": "zlib", "level": 1}], BLOSC2),
    "two compressors, v3": _v3([LITTLE, GZIP3, BLOSC3, {"name": "crc32c"}]),
    "in shards": _v3(_sharded([LITTLE, GZIP3, BLOSC3], "end")),
    "in shards, index first": _v3(_sharded([LITTLE, GZIP3, BLOSC3], "start")),
}


def reader(layout: Layout, path: Path, stored: Presence | None = None) -> FallbackReader:
    return FallbackReader(FolderTree(str(path)), "", *info_of(layout), stored, "a test")


@pytest.mark.parametrize("name", UNKNOWN)
def test_it_keeps_the_contract_of_readers_and_writers(name: str, tmp_path: Path) -> None:
    layout = UNKNOWN[name]
    with pytest.raises(UnknownCodec):
        chain_of(info_of(layout)[1])
    write(layout, tmp_path / "a", "zarr")
    data, grid = read(layout, tmp_path / "a", "zarr"), Grid(layout.shape, layout.unit)
    check_box_reader(lambda: reader(layout, tmp_path / "a"), data, grid)
    check_box_reader(lambda: reader(layout, tmp_path / "a"), data, Grid(layout.shape, (3, 2)))

    def opened() -> FallbackWriter:
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        place = FolderPlace(str(tmp_path / "b"), begun=False)
        for document in ("zarr.json", ".zarray"):
            if (tmp_path / "a" / document).exists():
                shutil.copy(tmp_path / "a" / document, tmp_path / "b")
        return FallbackWriter(place, "", *info_of(layout), False, "a test")

    check_box_writer(opened, lambda: read(layout, tmp_path / "b", "zarr"), data, grid)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-3],
    "short": lambda data: data[:9],
    "long": lambda data: data + bytes(9),
}

#: What follows the last chunk of a shard belongs to nobody.
DAMAGED = [(name, damage) for name in UNKNOWN for damage in DAMAGE if (name, damage) != ("in shards, index first", "long")]


@pytest.mark.parametrize(("name", "damage"), DAMAGED)
def test_blosc_is_not_given_what_its_header_is_wrong_of(name: str, damage: str, tmp_path: Path) -> None:
    layout = UNKNOWN[name]
    write(layout, tmp_path, "zarr")
    path = tmp_path / layout.key((0, 0))
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(CorruptError, match=r"0.0: cannot be decoded: "):
        reader(layout, tmp_path).read(Box((0, 0), (8, 5)), np.empty(160, np.uint8))


def test_a_chunk_that_is_gone_is_missed(tmp_path: Path) -> None:
    layout = UNKNOWN["two compressors, v3"]
    write(layout, tmp_path, "zarr")
    presence = Presence(5)
    presence.add(0)
    (tmp_path / "c/0/0").unlink()
    with pytest.raises(SourceChangedError, match="c/0/0: was deleted while it was read"):
        reader(layout, tmp_path, presence).read(Box((0, 0), (8, 5)), np.empty(160, np.uint8))
    found, _ = reader(layout, tmp_path).read(Box((0, 0), (8, 5)), np.empty(160, np.uint8))
    assert found.tolist() == [[1.5] * 5] * 8


def test_what_zarr_refuses_is_an_error_of_one_line(tmp_path: Path) -> None:
    layout = _v3([LITTLE, {"name": "numcodecs.zlib", "configuration": {"level": 1, "unknown": 2}}])
    (tmp_path / "zarr.json").write_text("{}")
    with pytest.raises(CorruptError, match="cannot be opened: "):
        reader(layout, tmp_path)


def test_the_disk_s_errors_are_its_own(tmp_path: Path) -> None:
    layout = UNKNOWN["quantize"]
    write(layout, tmp_path, "zarr")
    (tmp_path / "0.0").unlink()
    (tmp_path / "0.0").symlink_to("0.0")
    with pytest.raises(StorageError, match=r"cannot read .*0\.0: Too many levels"):
        reader(layout, tmp_path).read(Box((0, 0), (8, 5)), np.empty(160, np.uint8))
