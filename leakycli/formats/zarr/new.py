"""Metadata documents of new arrays: the same that zarr makes for the same chunks and compressor."""

from __future__ import annotations

import re

import numpy as np

from leakycli.errors import UsageError
from leakycli.formats.base import ArrayInfo
from leakycli.formats.zarr.metadata import Document
from leakycli.regions import Index

#: Bytes of a chunk, about.
_CHUNK_BYTES = 4 << 20

_BLOSC_CODECS = ("lz4", "lz4hc", "blosclz", "zstd", "zlib")
_SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")

#: A codec and its settings, in the names of version 3.
Codec = tuple[str, Document]


def default_chunks(shape: Index, itemsize: int) -> Index:
    """Chunks of about 4 MiB: runs of whole rows, so that an array that comes or goes in order needs little memory."""
    chunks = [max(n, 1) for n in shape]
    for axis in range(len(chunks)):
        inner = itemsize
        for n in chunks[axis + 1 :]:
            inner *= n
        chunks[axis] = max(1, min(chunks[axis], _CHUNK_BYTES // inner))
        if chunks[axis] > 1 or inner <= _CHUNK_BYTES:
            break
    return tuple(chunks)


def is_compressor(text: str) -> bool:
    """Whether `text` is "none", "zstd:LEVEL", "gzip:LEVEL" or "blosc-CODEC:LEVEL:SHUFFLE"."""
    return _compressor(text) is not None


def check_compressor(text: str) -> None:
    """Raise UsageError for an unknown compressor."""
    if not is_compressor(text):
        raise UsageError(
            f"compressor {text!r} is not known for Zarr; choose none, zstd:1 to zstd:22, gzip:1 to gzip:9 or blosc-CODEC:LEVEL:SHUFFLE "
            f"(codec {', '.join(_BLOSC_CODECS)}; shuffle {', '.join(_SHUFFLES)})"
        )


def _compressor(text: str) -> list[Codec] | None:
    """The codecs that `text` names, at most one; None for an unknown compressor."""
    name, *rest = text.split(":")
    level = int(rest[0]) if rest and re.fullmatch(r"\d{1,2}", rest[0]) else None
    if name == "none" and not rest:
        return []
    if rest and level is None:
        return None
    if name == "zstd" and len(rest) < 2 and (level or 3) <= 22:
        return [("zstd", {"level": 3 if level is None else level, "checksum": False})]
    if name == "gzip" and len(rest) < 2 and (level or 6) <= 9:
        return [("gzip", {"level": 6 if level is None else level})]
    codec, shuffle = name.removeprefix("blosc-"), rest[1] if len(rest) > 1 else "shuffle"
    if name.startswith("blosc-") and codec in _BLOSC_CODECS and shuffle in _SHUFFLES and len(rest) < 3 and (level or 5) <= 9:
        return [("blosc", {"cname": codec, "clevel": 5 if level is None else level, "shuffle": shuffle, "blocksize": 0})]
    return None


def document(info: ArrayInfo, zarr_format: int, names: list[str | None] | None = None, keys: tuple[str, str] | None = None) -> Document:
    """The `zarr.json` or `.zarray` of a new array whose fill value is 0.

    names: of its dimensions, in version 3.
    keys: (encoding of chunk keys, their separator); None for the version's own.
    """
    assert info.chunking is not None
    codecs = _compressor(info.chunking.codecs)
    assert codecs is not None, "checked before"
    zero = np.zeros(1, info.dtype)[0].item()
    if zarr_format == 2:
        return {
            "shape": list(info.shape),
            "chunks": list(info.chunking.chunks),
            "dtype": info.dtype.newbyteorder("<").str,
            "fill_value": zero,
            "order": "C",
            "filters": None,
            "dimension_separator": "." if keys is None else keys[1],
            "compressor": _version_2(*codecs[0]) if codecs else None,
            "zarr_format": 2,
        }
    encoding, separator = keys or ("default", "/")
    return {
        "shape": list(info.shape),
        "data_type": info.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(info.chunking.unit)}},
        "chunk_key_encoding": {"name": encoding, "configuration": {"separator": separator}},
        "fill_value": zero,
        "codecs": _version_3(codecs, info),
        "attributes": {},
        **({} if names is None else {"dimension_names": names}),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _version_2(name: str, settings: Document) -> Document:
    """A compressor as version 2 has it."""
    if name == "zstd":
        return {"id": "zstd", "level": settings["level"]}
    if name == "blosc":
        return {"id": "blosc", **settings, "shuffle": _SHUFFLES.index(settings["shuffle"])}
    return {"id": name, **settings}


def _version_3(codecs: list[Codec], info: ArrayInfo) -> list[Document]:
    """The codecs of an array as version 3 has them."""
    assert info.chunking is not None
    size = info.dtype.itemsize
    little: Document = {"name": "bytes", "configuration": {"endian": "little"}}
    chain: list[Document] = [little if size > 1 else {"name": "bytes"}]
    for name, settings in codecs:
        chain.append({"name": name, "configuration": ({"typesize": size} if name == "blosc" else {}) | settings})
    if info.chunking.shards is None:
        return chain
    sharding: Document = {
        "chunk_shape": list(info.chunking.chunks),
        "codecs": chain,
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": sharding}]
