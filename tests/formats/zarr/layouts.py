"""Ways to store an array in Zarr: some hundred, over versions, codecs, shards, orders, types, fill values, edges and missing chunks.

Arrays are written and read by zarr, by TensorStore and by `zarrs`, and chunk by chunk with codecs of our own.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from numpy.typing import NDArray

from leakycli.formats.zarr.codecs import CodecChain

Array = NDArray[Any]
Index = tuple[int, ...]

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
BIG = {"name": "bytes", "configuration": {"endian": "big"}}
CRC32C = {"name": "crc32c"}


@dataclass(frozen=True)
class Layout:
    """An array as its documents describe it. unit: the shape of a chunk or shard. dtype: in memory."""

    name: str
    document: dict[str, Any]
    shape: Index
    unit: Index
    dtype: np.dtype[Any]
    fill: Any
    seed: int
    peers: frozenset[str] = field(default_factory=frozenset)

    @property
    def version(self) -> int:
        return int(self.document["zarr_format"])

    def chain(self) -> CodecChain:
        fields, fill = self.document, np.array([self.fill], self.dtype).tobytes()
        if self.version == 3:
            return CodecChain.v3(fields["codecs"], self.unit, self.dtype, fill)
        return CodecChain.v2(fields["compressor"], fields["filters"], fields["order"], self.unit, self.dtype, fill)

    def units(self) -> Iterator[tuple[Index, tuple[slice, ...]]]:
        """Index and box of all write units."""
        counts = [-(-n // u) for n, u in zip(self.shape, self.unit, strict=True)]
        for index in itertools.product(*map(range, counts)):
            yield index, tuple(slice(i * u, min(i * u + u, n)) for i, u, n in zip(index, self.unit, self.shape, strict=True))

    def key(self, index: Index) -> str:
        if self.version == 3:
            return "/".join(["c", *map(str, index)])
        return ".".join(map(str, index)) or "0"

    def missing(self, index: Index) -> bool:
        """Whether nothing is written there."""
        return bool(self.shape) and sum(index) % 4 == 3

    def data(self) -> Array:
        """Values of all kinds, runs of them, and fill values in whole write units and parts of them."""
        rng = np.random.default_rng(self.seed)
        native = self.dtype.newbyteorder("=")
        n = math.prod(self.shape)
        if native.kind == "f":
            data = rng.normal(size=n).astype(native)
            special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, self.fill], native)
            at = rng.random(n) < 0.3
            data[at] = rng.choice(special, size=int(at.sum()))
        else:
            info = np.iinfo(native)
            data = rng.integers(info.min, info.max, size=n, dtype=native, endpoint=True)
        data = np.where(rng.random(n) < 0.5, data, data[np.arange(n) // 9])
        shaped = data.astype(native).reshape(self.shape)
        for index, box in self.units():
            if self.missing(index) or (len(index) and sum(index) % 4 == 1):
                shaped[box] = np.array(self.fill, native)
            elif self.shape and sum(index) % 4 == 2:
                part = shaped[box]
                part[: -(-part.shape[0] // 2)] = np.array(self.fill, native)
        return np.ascontiguousarray(shaped).astype(self.dtype).reshape(self.shape)


def write_documents(layout: Layout, path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / ("zarr.json" if layout.version == 3 else ".zarray")).write_text(json.dumps(layout.document))


@contextlib.contextmanager
def opened_by_zarr(path: Path, mode: Any, zarrs: bool = False) -> Iterator[Any]:
    config: dict[str, Any] = {"array.write_empty_chunks": False, "array.order": "C"}
    if zarrs:
        config |= {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True, "threading.max_workers": 1}
    with warnings.catch_warnings(), zarr.config.set(config):
        warnings.simplefilter("ignore")
        if zarrs:
            importlib.import_module("zarrs")
        yield zarr.open_array(str(path), mode=mode)


def write(layout: Layout, path: Path, peer: str) -> None:
    """Write the layout's data, unit by unit, where it is not missing."""
    write_documents(layout, path)
    data = layout.data()
    if peer == "tensorstore":
        array = open_tensorstore(layout, path)
        for index, box in layout.units():
            if not layout.missing(index):
                array[box].write(data[box].astype(array.dtype.numpy_dtype)).result()
        return
    with opened_by_zarr(path, "r+", peer == "zarrs") as target:
        for index, box in layout.units():
            if not layout.missing(index):
                target[box or ...] = data[box]


def read(layout: Layout, path: Path, peer: str, box: tuple[slice, ...] = ()) -> Array:
    """The array, or `box` of it."""
    if peer == "tensorstore":
        return np.asarray(open_tensorstore(layout, path).read().result())
    with opened_by_zarr(path, "r", peer == "zarrs") as source:
        return np.asarray(source[box or ...])


def open_tensorstore(layout: Layout, path: Path) -> Any:
    driver = "zarr3" if layout.version == 3 else "zarr"
    return tensorstore.open({"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/"}}).result()


def write_ours(layout: Layout, path: Path) -> None:
    write_documents(layout, path)
    chain, data = layout.chain(), layout.data()
    for index, box in layout.units():
        if layout.missing(index) or chain.is_fill(data[box or ...]):
            continue
        pieces = chain.encode(data[box or ...])
        assert pieces is not None
        target = path / layout.key(index)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"".join(pieces))


def read_ours(layout: Layout, path: Path) -> Array:
    chain = layout.chain()
    data = np.full(layout.shape, layout.fill, layout.dtype)
    for index, box in layout.units():
        file = path / layout.key(index)
        if file.exists():
            chain.decode(file.read_bytes(), data[box or ...], (0,) * len(index))
    return data


def same(x: Array, y: Array) -> bool:
    """Bit by bit, in either byte order."""
    native = x.dtype.newbyteorder("=")
    return x.shape == y.shape and x.astype(native).tobytes() == y.astype(native).tobytes()


def stored(path: Path) -> dict[str, bytes]:
    """The chunks below `path`, by key."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name not in ("zarr.json", ".zarray", ".zattrs"))
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def _core(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


def _blosc(cname: str, clevel: int, shuffle: str, typesize: int = 0, blocksize: int = 0) -> dict[str, Any]:
    return _core("blosc", cname=cname, clevel=clevel, shuffle=shuffle, typesize=typesize, blocksize=blocksize)


#: Codecs of version 3 that follow `bytes`. A typesize of 0 stands for that of the array.
_V3: dict[str, list[dict[str, Any]]] = {
    "raw": [],
    "zstd": [_core("zstd", level=0, checksum=False)],
    "zstd-checked": [_core("zstd", level=3, checksum=True)],
    "zstd-fast": [_core("zstd", level=-5, checksum=False)],
    "gzip": [_core("gzip", level=6)],
    "gzip-fast": [_core("gzip", level=1)],
    "gzip-best": [_core("gzip", level=9)],
    "blosc-lz4": [_blosc("lz4", 5, "shuffle")],
    "blosc-zstd": [_blosc("zstd", 3, "bitshuffle")],
    "blosc-blosclz": [_blosc("blosclz", 9, "noshuffle")],
    "blosc-lz4hc": [_blosc("lz4hc", 1, "shuffle", blocksize=64)],
    "blosc-zlib": [_blosc("zlib", 1, "bitshuffle")],
    "blosc-stored": [_blosc("lz4", 0, "shuffle")],
    "blosc-typesize": [_blosc("lz4", 5, "shuffle", typesize=3)],
    "crc32c": [CRC32C],
    "zstd-crc32c": [_core("zstd", level=1, checksum=False), CRC32C],
    "crc32c-gzip": [CRC32C, _core("gzip", level=5)],
    "zlib": [_core("numcodecs.zlib", level=1)],
    "bz2": [_core("numcodecs.bz2", level=1)],
    "lzma": [_core("numcodecs.lzma", preset=0)],
    "lz4": [_core("numcodecs.lz4", acceleration=1)],
    "numcodecs-zstd": [_core("numcodecs.zstd", level=1)],
    "numcodecs-gzip": [_core("numcodecs.gzip", level=1)],
    "numcodecs-blosc": [_core("numcodecs.blosc", cname="lz4", clevel=5, shuffle=1, blocksize=0)],
    "shuffle-zlib": [_core("numcodecs.shuffle"), _core("numcodecs.zlib", level=5)],
    "crc32": [_core("numcodecs.crc32")],
    "adler32-zstd": [_core("numcodecs.adler32"), _core("zstd", level=1, checksum=False)],
    "fletcher32": [_core("numcodecs.fletcher32")],
    "jenkins": [_core("numcodecs.jenkins_lookup3"), _core("numcodecs.zlib", level=1), _core("numcodecs.crc32", location="end")],
}

_SHARDS = ("", "end", "start", "start-big", "unchecked", "nested", "turned")

#: (filters, compressor) of version 2. A dtype of None stands for that of the array.
_V2: dict[str, tuple[list[dict[str, Any]] | None, dict[str, Any] | None]] = {
    "none": (None, None),
    "zstd": (None, {"id": "zstd", "level": 1}),
    "zstd-checked": (None, {"id": "zstd", "level": 1, "checksum": True}),
    "blosc-lz4": (None, {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}),
    "blosc-auto": (None, {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": -1, "blocksize": 0}),
    "blosc-bits": (None, {"id": "blosc", "cname": "blosclz", "clevel": 9, "shuffle": 2, "blocksize": 0}),
    "blosc-zlib": (None, {"id": "blosc", "cname": "zlib", "clevel": 1, "shuffle": 0, "blocksize": 32}),
    "zlib": (None, {"id": "zlib", "level": 1}),
    "gzip": (None, {"id": "gzip", "level": 5}),
    "bz2": (None, {"id": "bz2", "level": 1}),
    "lzma": (None, {"id": "lzma", "format": 1, "check": -1, "preset": 0, "filters": None}),
    "lzma-alone": (None, {"id": "lzma", "format": 2, "check": -1, "preset": 1, "filters": None}),
    "lz4": (None, {"id": "lz4", "acceleration": 1}),
    "shuffle-zlib": ([{"id": "shuffle", "elementsize": 0}], {"id": "zlib", "level": 1}),
    "shuffle-blosc": ([{"id": "shuffle", "elementsize": 0}], {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}),
    "delta-zstd": ([{"id": "delta", "dtype": None, "astype": None}], {"id": "zstd", "level": 1}),
    "delta-blosc": ([{"id": "delta", "dtype": None}], {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}),
    "crc32": ([{"id": "crc32"}], None),
    "adler32": ([{"id": "adler32", "location": "end"}], {"id": "zstd", "level": 1}),
    "fletcher32": ([{"id": "fletcher32"}], {"id": "zlib", "level": 1}),
    "crc32c": ([{"id": "crc32c"}, {"id": "shuffle", "elementsize": 2}], None),
    "jenkins": ([{"id": "jenkins_lookup3", "initval": 7}], None),
    "base64": ([{"id": "base64"}], None),
    "base64-blosc": ([{"id": "base64"}], {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}),
    "checked-twice": ([{"id": "crc32"}], {"id": "fletcher32"}),
}

_GRIDS: list[tuple[Index, Index, Index, Index]] = [
    # shape, chunk or shard, chunk in it, chunk in that
    ((37,), (8,), (4,), (2,)),
    ((13, 9), (8, 6), (2, 3), (1, 3)),
    ((24, 12), (8, 6), (4, 6), (2, 2)),
    ((5, 6, 7), (4, 4, 4), (2, 4, 1), (1, 2, 1)),
    ((9, 40), (3, 40), (3, 8), (1, 4)),
]

_TYPES = ("float32", "float64", "float16", "int32", "uint8", "int16", "uint64", "int8")
_FLOAT_FILLS = (0.0, 1.5, float("nan"), -0.0, float("inf"))


def _fill(dtype: np.dtype[Any], number: int) -> tuple[Any, Any]:
    """A fill value, and its JSON form."""
    if dtype.kind != "f":
        return (0, 7)[number % 2], (0, 7)[number % 2]
    fill = _FLOAT_FILLS[number % 5]
    return fill, "NaN" if math.isnan(fill) else "Infinity" if math.isinf(fill) else fill


_TENSORSTORE = {"bytes", "transpose", "zstd", "gzip", "blosc", "crc32c", "sharding_indexed"}
_ZARRS = {"bytes", "transpose", "zstd", "gzip", "blosc", "crc32c", "sharding_indexed"}


def _names(codecs: list[dict[str, Any]]) -> set[str]:
    names = {codec["name"] for codec in codecs}
    for codec in codecs:
        if codec["name"] == "sharding_indexed":
            names |= _names(codec["configuration"]["codecs"])
    return names


def _v3(number: int, chain: str, shard: str) -> Layout:
    dtype = np.dtype(_TYPES[number % len(_TYPES)])
    shape, unit, chunk, part = _GRIDS[number % len(_GRIDS)]
    fill, text = _fill(dtype, number // 3)
    tail = [
        _core("blosc", **{**codec["configuration"], "typesize": codec["configuration"]["typesize"] or dtype.itemsize})
        if codec["name"] == "blosc"
        else codec
        for codec in _V3[chain]
    ]
    number_of_bytes = [{"name": "bytes"} if dtype.itemsize == 1 else BIG if number % 4 == 1 else LITTLE]
    turn = tuple(range(len(shape)))[::-1] if number % 2 else (*tuple(range(1, len(shape))), 0)
    turned = [_core("transpose", order=list(turn))] if number % 3 == 1 else []
    codecs = [*turned, *number_of_bytes, *tail]

    def sharded(chunk: Index, codecs: list[Any], index: list[Any], location: str) -> list[Any]:
        return [_core("sharding_indexed", chunk_shape=list(chunk), codecs=codecs, index_codecs=index, index_location=location)]

    if shard == "nested":
        codecs = sharded(chunk, sharded(part, codecs, [LITTLE, CRC32C], "start"), [LITTLE, CRC32C], "end")
    elif shard == "turned":
        chunk = (math.gcd(*unit),) * len(unit)  # zarr wants it to divide the shard before it is turned, too
        codecs = [_core("transpose", order=list(turn)), *sharded(chunk, codecs, [LITTLE, CRC32C], "end")]
    elif shard:
        index = [BIG if shard == "start-big" else LITTLE, *([] if shard == "unchecked" else [CRC32C])]
        codecs = sharded(chunk, codecs, index, "start" if shard.startswith("start") else "end")
    names = _names(codecs)
    # zarrs neither takes transposed shards, nor reads what it wrote with another typesize than the array's.
    peers = {"tensorstore"} if names <= _TENSORSTORE else set()
    if names <= _ZARRS and shard != "turned" and chain != "blosc-typesize":
        peers.add("zarrs")
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": _core("regular", chunk_shape=list(unit)),
        "chunk_key_encoding": _core("default", separator="/"),
        "fill_value": text,
        "codecs": codecs,
        "attributes": {},
    }
    return Layout(f"v3-{chain}-{shard or 'chunks'}-{dtype.name}", document, shape, unit, dtype, fill, number, frozenset(peers))


def _v2(number: int, chain: str, order: str, byteorder: Any) -> Layout:
    filters, compressor = _V2[chain]
    kinds = [name for name in _TYPES if not chain.startswith("delta") or np.dtype(name).kind in "iu"]
    dtype = np.dtype(kinds[number % len(kinds)])
    dtype = dtype.newbyteorder(byteorder) if dtype.itemsize > 1 else dtype
    shape, unit, _, _ = _GRIDS[number % len(_GRIDS)]
    fill, text = _fill(dtype, number // 2) if number % 7 else (0, None)  # not said: zeros
    bound: list[dict[str, Any]] = []
    for codec in filters or ():
        settings = {key: dtype.str if key in ("dtype", "astype") and value is None else value for key, value in codec.items()}
        bound.append(settings | ({"elementsize": dtype.itemsize} if settings.get("elementsize") == 0 else {}))
    document = {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": list(unit),
        "dtype": dtype.str,
        "compressor": compressor,
        "filters": bound or None,
        "fill_value": text,
        "order": order,
        "dimension_separator": ".",
    }
    peers = set()
    known = {None, "blosc", "zstd", "zlib", "bz2", "gzip"}
    if not filters and (compressor or {}).get("id") in known and "checked" not in chain and document["fill_value"] is not None:
        peers.add("tensorstore")
        if order == "C" and dtype.isnative and chain in ("none", "zstd", "blosc-lz4", "blosc-bits", "gzip"):
            peers.add("zarrs")
    return Layout(f"v2-{chain}-{order}-{dtype.str}", document, shape, unit, dtype, fill, number, frozenset(peers))


def _all() -> list[Layout]:
    found = [_v3(number, chain, shard) for number, (chain, shard) in enumerate(itertools.product(_V3, _SHARDS))]
    ways = itertools.product(_V2, ("C", "F"), "<>", range(2))
    found += [_v2(number, chain, order, byteorder) for number, (chain, order, byteorder, _) in enumerate(ways)]
    scalar = _core("regular", chunk_shape=[])
    document = {**found[0].document, "shape": [], "chunk_grid": scalar, "data_type": "float32", "fill_value": 1.5}
    everyone = frozenset({"tensorstore", "zarrs"})
    for chain in ("raw", "zstd", "gzip"):
        fields = {**document, "codecs": [LITTLE, *_V3[chain]]}
        found.append(Layout(f"v3-{chain}-scalar", fields, (), (), np.dtype("float32"), 1.5, 1, everyone - {"zarrs"}))
    return found


LAYOUTS = _all()


def those(peer: str | None = None) -> list[Any]:
    """The layouts as parameters of a test; those that `peer` takes, where it is given."""
    return [
        pytest.param(layout, id=f"{number}-{layout.name}") for number, layout in enumerate(LAYOUTS) if peer is None or peer in layout.peers
    ]
