"""Read and write the elements of Zarr arrays chunk by chunk, in any store.

The bytes of a chunk are read once, checked in memory, and decoded into the caller's buffer. Encoded chunks are written without copying. A
reader's regions may lie anywhere in the array. A writer's regions consist of whole chunks (whole shards in a sharded array).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np

from leakycli.errors import CorruptError, SourceChangedError
from leakycli.formats.base import Array, ArrayInfo, Held
from leakycli.formats.zarr.codecs import ChunkError, CodecChain, Part, UnknownCodec
from leakycli.formats.zarr.metadata import ArrayDocument, Document, codec_chain
from leakycli.regions import Box, Grid, Index, Presence
from leakycli.stores.base import Pieces, Request, Store

#: Largest gap between two inner chunks of a shard that one request reads together, in bytes.
_GAP = 1 << 16

#: Most bytes that one request reads of several inner chunks.
_LONGEST = 16 << 20


def chain_of(document: ArrayDocument) -> CodecChain:
    """The codec chain of an array.

    Raises UnknownCodec, also for details of the document that zarr may refuse: zarr then decides.
    """
    fields, dtype = document.document, document.dtype
    assert dtype is not None
    if not (_is_usual_v3(fields) if document.zarr_format == 3 else _is_usual_v2(fields)):
        raise UnknownCodec("an unusual document")
    fill = np.full(1, 0 if document.fill_value is None else document.fill_value, dtype).tobytes()
    if document.zarr_format == 3:
        return CodecChain.v3(fields["codecs"], document.unit, dtype, fill)
    return CodecChain.v2(fields.get("compressor"), fields.get("filters"), document.order, document.unit, dtype, fill)


def reading(document: ArrayDocument) -> Held:
    """Memory for reading an array."""
    try:
        chain = chain_of(document)
    except UnknownCodec:
        return _by_zarr(document)
    encoded = _encoded(chain)
    return Held((0 if chain.plain else encoded) + chain.decode_memory(True), encoded + chain.decode_memory())


def writing(document: ArrayDocument) -> Held:
    """Memory for writing an array, or for reading it again afterwards."""
    try:
        chain = chain_of(document)
    except UnknownCodec:
        return _by_zarr(document)
    again = reading(document)
    return Held(max(chain.encode_memory(True), again.direct), max(chain.encode_memory(), again.gathered))


def _encoded(chain: CodecChain) -> int:
    """Bytes of an encoded chunk whose content does not compress."""
    return chain.nbytes + chain.nbytes // 128 + 1024


def _by_zarr(document: ArrayDocument) -> Held:
    """Memory for an array that goes through zarr's own pipeline: the encoded chunk, two copies of zarr's, and the output of each codec."""
    assert document.dtype is not None
    size = (3 + len(codec_chain(document))) * prod(document.unit) * document.dtype.itemsize
    return Held(size, size)


def _is_usual_v3(fields: Document) -> bool:
    """Whether a parsed document has no unknown settings outside its codecs."""
    known = {"chunk_grid": {"chunk_shape"}, "chunk_key_encoding": {"separator"}}
    for name, settings in known.items():
        found = fields[name].get("configuration", {}) if isinstance(fields[name], dict) else {}
        if not isinstance(found, dict) or not found.keys() <= settings:
            return False
    return isinstance(fields.get("storage_transformers", []), list)


def _is_usual_v2(fields: Document) -> bool:
    """Whether a parsed document has its type and fill value in the usual form."""
    fill = fields["fill_value"]
    return re.fullmatch(r"[<>|][iuf][1248]", fields["dtype"]) is not None and not (isinstance(fill, str) and fill.startswith("0x"))


@dataclass(frozen=True, slots=True)
class _Unit:
    """A chunk (or shard) that a region touches.

    start: index, in the chunk, of the first element that the region needs.
    out: the place of these elements in the region's array.
    """

    number: int
    key: str
    start: Index
    out: Array


class _Chunked:
    """The common part of reader and writer."""

    sequential = False
    decodes = False
    cumulative = False
    #: Name of the codec path in reports.
    pipeline = "leakycli"

    def __init__(self, store: Store, key: str, info: ArrayInfo, document: ArrayDocument) -> None:
        self.info, self.store, self.chain = info, store, chain_of(document)
        self._key, self._document = key, document
        self._grid = Grid(document.shape, document.unit)
        self._fill = np.full(1, 0 if document.fill_value is None else document.fill_value, info.dtype)

    def _unit_key(self, index: Index) -> str:
        key = self._document.chunk_key(index)
        return f"{self._key}/{key}" if self._key else key

    def close(self) -> None:
        self.store.close()

    def finish(self) -> None:
        pass


class ChunkReader(_Chunked):
    """Reads boxes of an array, from any number of threads."""

    def __init__(self, store: Store, key: str, info: ArrayInfo, document: ArrayDocument, stored: Presence | None) -> None:
        """Raises UnknownCodec.

        key: the array's key in the store.
        stored: the chunks that existed when the source was opened. A missing one of these is an error. None if unknown.
        """
        super().__init__(store, key, info, document)
        self._stored = stored
        self._memory = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.store, self._key, self.info, self._document, self._stored)

    def fetch(self, region: Box, buffer: Array) -> None:
        raise NotImplementedError("boxes are read as they are needed")

    def read(self, region: Box, buffer: Array) -> tuple[Array, None]:
        x: Array = buffer[: region.size * self.info.dtype.itemsize].view(self.info.dtype).reshape(region.shape)
        whole: list[_Unit] = []
        divided: list[_Unit] = []
        for unit in self._units(region, x):
            (divided if self._by_parts(unit) else whole).append(unit)
        self._read_parts(divided + self._read_whole(whole))
        return x, None

    def _units(self, region: Box, x: Array) -> Iterator[_Unit]:
        """The stored units of a region. Fills the places of the others."""
        for number in self._grid.units(region):
            index = self._grid.index(number)
            unit = self._grid.box(index)
            common = unit.common(region)
            out = x[common.within(region) or ...]
            if self._stored is not None and number not in self._stored:
                out[...] = self._fill[0]
            else:
                yield _Unit(number, self._unit_key(index), tuple(a - b for a, b in zip(common.start, unit.start, strict=True)), out)

    def _by_parts(self, unit: _Unit) -> bool:
        """Whether to read single inner chunks: the region needs at most half of the shard."""
        return self._divides and 2 * unit.out.size <= prod(self._grid.unit)

    @property
    def _divides(self) -> bool:
        return self.store.parts and self.chain.divisible

    def _read_whole(self, units: list[_Unit]) -> list[_Unit]:
        """Read whole units; returns the shards that are too large, to be read by parts."""
        large: list[_Unit] = []
        by_key = {unit.key: unit for unit in units}
        direct: dict[str, memoryview] = {}

        def room(request: Request, size: int) -> memoryview:
            if size > self.chain.encoded_limit:
                if self._divides:
                    # It has gaps, as after a writer replaced inner chunks by appending.
                    large.append(by_key[request.key])
                    return memoryview(b"")
                most = "" if self.chain.encoded_size else "at most "
                raise self._damaged(request.key, f"it has {size} bytes, where {most}{self.chain.encoded_limit} belong (bytes 0 to {size})")
            place = self._direct(by_key[request.key])
            if place is None or place.nbytes != size:
                return self._buffer(size)
            direct[request.key] = place
            return place

        for unit, data in zip(units, self.store.read(map(Request, by_key), room), strict=True):
            if data is None:
                self._missing(unit)
            elif data is not direct.get(unit.key) and unit not in large[-1:]:
                self._decode(unit, data)
        return large

    def _direct(self, unit: _Unit) -> memoryview | None:
        """The memory to read a whole unit into without decoding; None if it must be decoded."""
        if not self.chain.plain or unit.out.shape != self._grid.unit or not unit.out.flags.c_contiguous:
            return None
        return unit.out.reshape(-1).view(np.uint8).data

    def _decode(self, unit: _Unit, data: memoryview) -> None:
        try:
            self.chain.decode(data, unit.out, unit.start)
        except ChunkError as error:
            raise self._damaged(unit.key, str(error)) from None

    def _read_parts(self, units: list[_Unit]) -> None:
        size, first = self.chain.index_span if units else (0, False)
        ends = (Request(unit.key, 0, size) if first else Request(unit.key, -size) for unit in units)
        wanted: list[tuple[_Unit, list[Part]]] = []
        for unit, index in zip(units, self.store.read(ends, lambda _, size: memoryview(bytearray(size))), strict=True):
            if index is None:
                self._missing(unit)
                continue
            if len(index) < size:
                raise self._damaged(unit.key, "it is cut off: its index is missing")
            try:
                parts = list(self.chain.parts(index, None, unit.start, unit.out.shape))
            except ChunkError as error:
                raise self._damaged(unit.key, str(error)) from None
            most = self.chain.inner.encoded_limit
            for offset, length in (part.span for part in parts if part.span is not None):
                if length > most:
                    where = f"bytes {offset} to {offset + length}"
                    raise self._damaged(unit.key, f"an inner chunk has {length} bytes, where at most {most} belong ({where})")
            wanted.append((unit, parts))
        runs = [(unit, run) for unit, parts in wanted for run in _runs(parts, unit.out, self.chain)]
        spans = (Request(unit.key, *_span(run)) for unit, run in runs)
        for (unit, run), data in zip(runs, self.store.read(spans, lambda _, size: self._buffer(size)), strict=True):
            start, stop = _span(run)
            if data is None:
                raise self._gone(unit.key)
            if len(data) < stop - start:
                raise self._damaged(unit.key, f"its index points past its end (bytes {start} to {stop})")
            for part in run:
                assert part.span is not None
                at = part.span[0] - start
                try:
                    self.chain.decode_part(data[at : at + part.span[1]], part, unit.out)
                except ChunkError as error:
                    raise self._damaged(unit.key, str(error)) from None

    def _missing(self, unit: _Unit) -> None:
        if self._stored is not None:
            raise self._gone(unit.key)
        unit.out[...] = self._fill[0]

    def _gone(self, key: str) -> SourceChangedError:
        return SourceChangedError(f"{self.store.where(key)}: was deleted while it was read; restore it and run again")

    def _damaged(self, key: str, what: str) -> CorruptError:
        return CorruptError(f"{self.store.where(key)}: cannot be decoded: {what}")

    def _buffer(self, size: int) -> memoryview:
        """A buffer of this thread, used again for the next chunk."""
        buffer: Array | None = getattr(self._memory, "buffer", None)
        if buffer is None or buffer.size < size:
            self._memory.buffer = None  # free it before the next is allocated
            buffer = self._memory.buffer = np.empty(size, np.uint8)
        return buffer[:size].data

    def commit(self, payloads: list[Any]) -> None:
        pass


def _span(run: list[Part]) -> tuple[int, int]:
    """Start and stop of the bytes of a run of parts."""
    spans = [part.span for part in run if part.span is not None]
    return spans[0][0], max(offset + length for offset, length in spans)


def _runs(parts: list[Part], out: Array, chain: CodecChain) -> Iterator[list[Part]]:
    """Runs of parts that lie close together in a shard. Fills the places of parts that are not stored."""
    held = []
    for part in parts:
        if part.span is None:
            chain.decode_part(b"", part, out)
        else:
            held.append((part.span, part))
    run: list[Part] = []
    for (offset, length), part in sorted(held, key=lambda pair: pair[0]):
        if run and (offset - _span(run[-1:])[1] > _GAP or offset + length - _span(run[:1])[0] > _LONGEST):
            yield run
            run = []
        run.append(part)
    if run:
        yield run


class Written(Protocol):
    """Notes the keys that were written, for flushing them to disk."""

    def wrote(self, keys: Iterable[str]) -> None: ...


class ChunkWriter(_Chunked):
    """Writes boxes of whole chunks (or shards), from any number of threads."""

    def __init__(
        self, store: Store, key: str, info: ArrayInfo, document: ArrayDocument, write_empty: bool, written: Written | None = None
    ) -> None:
        """Raises UnknownCodec.

        key: the array's key in the store.
        write_empty: also write chunks that hold only the fill value. Such shards are never written.
        written: notes the keys of committed chunks.
        """
        super().__init__(store, key, info, document)
        self._write_empty, self._written = write_empty, written

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.store, self._key, self.info, self._document, self._write_empty, self._written)

    def write(self, region: Box, y: Array) -> Box:
        self.store.write(self._encoded(region, y))
        return region

    def _encoded(self, region: Box, y: Array) -> Iterator[tuple[str, Pieces]]:
        for number in self._grid.units(region):
            index = self._grid.index(number)
            chunk = y[self._grid.box(index).within(region) or ...]
            if not self._write_empty and self.chain.is_fill(chunk):
                continue
            if (pieces := self.chain.encode(chunk)) is not None:
                yield self._unit_key(index), pieces

    def commit(self, payloads: list[Any]) -> None:
        if self._written is not None:
            self._written.wrote(self._unit_key(self._grid.index(number)) for region in payloads for number in self._grid.units(region))

    def state(self) -> Any:
        return None
