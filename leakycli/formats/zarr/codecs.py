"""Decode and encode the chunks and shards of Zarr arrays. This module does not touch files and does not import zarr.

A chunk is encoded by a chain of codecs (Zarr v3 specification, "Codecs"; version 2 calls them order, filters and compressor):

    array --transpose--> array --bytes or sharding_indexed--> bytes --checksums, filters, one compressor--> bytes

`CodecChain` is built from the metadata of an array. It raises `UnknownCodec` for a codec that it does not know: the caller then uses zarr's
own pipeline. Encoded bytes equal those that zarr writes.

The size of a decoded chunk is known before decoding, and the codecs decode into memory of that size. Damaged chunks raise `ChunkError`,
which names the range of bytes. The caller adds the array and the key.

A shard (sharding_indexed) holds inner chunks, each encoded by itself, and an index of (offset, length) pairs. An inner chunk that is not
stored has 2^64-1 for both, and all its elements are the fill value.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leakycli.errors import CorruptError
from leakycli.formats.zarr.filters import Bytes, Compressor, Damage, Filter, UnknownCodec, as_bytes, filter_v2, filter_v3

__all__ = ["ChunkError", "CodecChain", "Part", "UnknownCodec"]

Array = NDArray[Any]

Shape = tuple[int, ...]

#: Offset and length of an inner chunk that is not stored.
_ABSENT = np.uint64(0xFFFFFFFFFFFFFFFF)

#: Largest encoded chunk that is accepted: this factor of its decoded size, plus this many bytes.
_LARGEST, _LARGEST_MORE = 2, 1 << 16


class ChunkError(CorruptError):
    """An encoded chunk is damaged. The message says how, and names the range of bytes."""


class _Scratch(threading.local):
    """A stack of buffers for each thread, which later calls use again."""

    def __init__(self) -> None:
        self.buffers: list[Bytes] = []
        self.depth = 0

    def take(self, size: int) -> Bytes:
        """A buffer of `size` bytes. It is free again when the caller resets `depth`."""
        if self.depth == len(self.buffers):
            self.buffers.append(np.empty(0, np.uint8))
        if self.buffers[self.depth].size < size:
            self.buffers[self.depth] = np.empty(0, np.uint8)  # free it before the next is allocated
            self.buffers[self.depth] = np.empty(size, np.uint8)
        self.depth += 1
        return self.buffers[self.depth - 1][:size]


@dataclass(frozen=True, slots=True)
class Part:
    """An inner chunk of a shard, or the part of it that a region needs.

    span: offset and length in the shard, in bytes; None for a chunk that is not stored.
    inside: selects the part from the inner chunk.
    to: selects its place in the region's array. Both are in the array's axes.
    """

    span: tuple[int, int] | None
    inside: tuple[slice, ...]
    to: tuple[slice, ...]


class CodecChain:
    """The codecs of an array. Immutable; threads may share it.

    shape: shape of a chunk (or shard), in elements.
    dtype: dtype of the arrays that it decodes into and encodes.
    """

    def __init__(
        self,
        shape: Shape,
        dtype: np.dtype[Any],
        stored: np.dtype[Any],
        fill: bytes,
        order: Shape,
        stages: Sequence[Filter | Compressor],
        shard: _Shard | None = None,
    ) -> None:
        """Use `v2` or `v3`.

        stored: the dtype with the byte order of the stored bytes.
        order: the array's axis for each axis of the stored elements.
        fill: one element of `dtype`, as bytes.
        stages: filters and compressor, in the order of encoding.
        shard: the sharding codec; None where elements are stored one after the other.
        """
        self.shape, self.dtype, self._stored, self._order, self._shard = shape, dtype, stored, order, shard
        self._fill = np.frombuffer(fill, dtype)
        self._stages = tuple(stages)
        self._inverse = tuple(order.index(axis) for axis in range(len(order)))
        # Bytes of the elements, then after each stage; None where the size depends on the content.
        sizes: list[int | None] = [prod(shape) * dtype.itemsize if shard is None else None]
        for stage in self._stages:
            if isinstance(stage, Filter):
                sizes.append(None if sizes[-1] is None else stage.encoded_size(sizes[-1]))
            elif sizes[-1] is None:
                raise UnknownCodec(f"{stage.name} after a codec whose output has no fixed size")
            else:
                sizes.append(None)
        self._sizes = sizes
        self._scratch = _Scratch()

    @classmethod
    def v3(cls, codecs: Sequence[Any], shape: Shape, dtype: np.dtype[Any], fill: bytes) -> CodecChain:
        """The chain of an array of version 3.

        codecs: the list in the document.
        shape: shape of a chunk of the array's grid, in elements.
        dtype: dtype of arrays in memory, in any byte order; uint16 for bfloat16.
        fill: one element of that dtype, as bytes.
        Raises UnknownCodec, also for malformed codecs: zarr then says what is wrong with them.
        """
        order, stages = tuple(range(len(shape))), []
        named = [_named(codec) for codec in codecs]
        while named and named[0][0] == "transpose":
            _, settings = named.pop(0)
            axes = settings.pop("order", None)
            if settings or not isinstance(axes, (list, tuple)) or sorted(map(repr, axes)) != sorted(map(repr, range(len(shape)))):
                raise UnknownCodec("transpose with an order that is no permutation of the axes")
            order = tuple(order[axis] for axis in axes)
        if not named or named[0][0] not in ("bytes", "sharding_indexed"):
            raise UnknownCodec(f"{named[0][0] if named else 'none'} in the place of bytes")
        name, settings = named.pop(0)
        stored, shard = dtype, None
        if name == "bytes":
            endian = settings.pop("endian", None)
            if settings or endian not in (("little", "big") if dtype.itemsize > 1 else ("little", "big", None)):
                raise UnknownCodec("bytes with unknown settings")
            stored = dtype.newbyteorder("<" if endian == "little" else ">") if dtype.itemsize > 1 else dtype
        else:
            shard = _Shard.v3(settings, tuple(shape[axis] for axis in order), dtype, fill)
            if any(n % m for n, m in zip(shape, shard.index.chunk, strict=True)):
                raise UnknownCodec("inner chunks that fit a shard only after transposing")  # zarr refuses these
        for name, settings in named:
            stages.append(filter_v3(name, settings, dtype.itemsize))
        return cls(shape, dtype, stored, fill, order, stages, shard)

    @classmethod
    def v2(cls, compressor: Any, filters: Any, order: str, shape: Shape, dtype: np.dtype[Any], fill: bytes) -> CodecChain:
        """The chain of an array of version 2.

        compressor, filters, order: the fields of the document.
        shape: shape of a chunk, in elements.
        dtype: dtype of the stored elements and of arrays in memory, with its byte order.
        fill: one element of that dtype, as bytes.
        Raises UnknownCodec.
        """
        stages: list[Filter | Compressor] = []
        itemsize = dtype.itemsize
        if not isinstance(filters, (list, tuple, type(None))):
            raise UnknownCodec("filters that are no list")
        for codec in (*(filters or ()), *(() if compressor is None else (compressor,))):
            settings = dict(codec) if isinstance(codec, dict) else {}
            stages.append(stage := filter_v2(str(settings.pop("id", None)), settings, itemsize))
            itemsize = stage.itemsize if isinstance(stage, Filter) else 1
        axes = tuple(range(len(shape)))
        return cls(shape, dtype, dtype, fill, axes[::-1] if order == "F" else axes, stages)

    @property
    def plain(self) -> bool:
        """Whether an encoded chunk is just the elements, in the order and byte order of a C-contiguous array of `dtype`."""
        return self._in_order and not self._stages

    @property
    def nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def encoded_size(self) -> int | None:
        """Bytes of an encoded chunk; None where that depends on the content."""
        return self._sizes[-1]

    @property
    def encoded_limit(self) -> int:
        """Bytes of the largest encoded chunk that is accepted."""
        if self._shard is not None:
            return self._shard.limit
        return _LARGEST * self.nbytes + _LARGEST_MORE if self._sizes[-1] is None else self._sizes[-1]

    def decode_memory(self, direct: bool = False) -> int:
        """Peak memory of decoding in one thread, in bytes, without the encoded chunk and the resulting array.

        direct: only whole chunks are decoded, into arrays in C order.
        """
        if self._shard is not None:
            return self._shard.inner.decode_memory() + 64 * self._shard.index.count
        total, direct = 0, direct and self._in_order
        for number, stage in enumerate(self._stages):
            if isinstance(stage, Compressor):
                total += stage.workspace(self.nbytes)[0]
            elif stage.views:
                continue
            total += 0 if direct and number == 0 else self.nbytes
        return total

    def encode_memory(self, direct: bool = False) -> int:
        """Peak memory of encoding in one thread, in bytes, with the encoded chunk and without the array.

        direct: only whole chunks are encoded, from arrays in C order.
        """
        if self._shard is not None:
            inner = self._shard.inner
            return inner.encode_memory() + self._shard.index.count * (inner.nbytes + inner.nbytes // 128 + 1024)
        total = 0 if direct and self._in_order else self.nbytes
        for number, stage in enumerate(self._stages):
            if isinstance(stage, Compressor):
                total += stage.workspace(self.nbytes)[1] + self.nbytes + self.nbytes // 128 + 1024
            elif not stage.views or number + 1 < len(self._stages):
                total += self.nbytes
        return total

    @property
    def _in_order(self) -> bool:
        """Whether elements are stored as the memory of an array in C order has them."""
        return self._shard is None and self._stored == self.dtype and self._order == tuple(range(len(self.shape)))

    def is_fill(self, array: Array) -> bool:
        """Whether all elements of `array` are the fill value, to the bit. (To zarr all NaNs are equal: their payloads would be lost.)"""
        first = (0,) * array.ndim
        # The first element rules out most chunks.
        words = array.view(f"u{self.dtype.itemsize}")
        fill = self._fill.view(words.dtype)[0]
        return bool(words[first] == fill) and bool((words == fill).all())

    # Decoding

    def decode(self, encoded: Any, out: Array, start: Shape | None = None, at: int = 0) -> None:
        """Decode a chunk, or a part of it, into `out`.

        encoded: all bytes of the encoded chunk.
        out: array of `dtype`, of the chunk's shape or smaller, with any strides.
        start: index of the part's first element in the chunk; None for the whole chunk.
        at: offset of `encoded` in its object, for messages.
        Raises ChunkError.
        """
        data = as_bytes(encoded)
        mark = self._scratch.depth
        try:
            self._decode(data, out, (0,) * len(self.shape) if start is None else start, at)
        except Damage as damage:
            raise ChunkError(f"{damage} (bytes {at} to {at + data.size})") from None
        finally:
            self._scratch.depth = mark

    def _decode(self, data: Bytes, out: Array, start: Shape, at: int) -> None:
        if data.size > self.encoded_limit and self._shard is None:
            raise Damage(f"it has {data.size} bytes, where {'' if self.encoded_size else 'at most '}{self.encoded_limit} belong")
        view, start = out.transpose(self._order), tuple(start[axis] for axis in self._order)
        whole = view.shape == self._stored_shape
        if self._shard is None and whole and self._stored == out.dtype and view.flags.c_contiguous:
            place = view.reshape(-1).view(np.uint8)
            data = self._through_stages(data, place)
            if data is not place:
                place[:] = data
            return
        data = self._through_stages(data, None)
        if self._shard is not None:
            self._shard.decode(data, view, start, at)
            return
        elements = data.view(self._stored).reshape(self._stored_shape)
        view[...] = elements if whole else elements[tuple(slice(a, a + n) for a, n in zip(start, view.shape, strict=True))]

    @cached_property
    def _stored_shape(self) -> Shape:
        return tuple(self.shape[axis] for axis in self._order)

    def _through_stages(self, data: Bytes, place: Bytes | None) -> Bytes:
        """Decode to the bytes of the elements, or of the shard.

        place: memory for the result, or None. Filters that only cut off a checksum return a part of `data` instead.
        """
        for number in range(len(self._stages) - 1, -1, -1):
            stage, size = self._stages[number], self._sizes[number]
            self._check_size(data, number + 1)
            if isinstance(stage, Filter) and stage.views:
                data = stage.decode(data, data)
                continue
            if size is None:
                assert isinstance(stage, Filter), "a compressor's output has a fixed size"
                size = stage.decoded_size(data)
            out = place if number == 0 and place is not None else self._scratch.take(size)
            if isinstance(stage, Filter):
                data = stage.decode(data, out)
            else:
                stage.decode(data, out)
                data = out
        self._check_size(data, 0)
        return data

    def _check_size(self, data: Bytes, number: int) -> None:
        size = self._sizes[number]
        if size is not None and data.size != size:
            raise Damage(f"it has {data.size} bytes, where {size} belong")

    # Encoding

    def encode(self, array: Array) -> list[memoryview] | None:
        """Encode a chunk. Returns pieces to be written one after the other, or None for a shard that holds only the fill value.

        array: array of `dtype`, of the chunk's shape, or smaller at the far edges of the whole array; the rest is fill value. Pieces may
        refer to its memory: write them before it changes.
        """
        pieces = self.encode_pieces(array)
        return None if pieces is None else [piece.data for piece in pieces]

    def encode_pieces(self, array: Array) -> list[Bytes] | None:
        """As `encode`, but as arrays of bytes."""
        mark = self._scratch.depth
        try:
            view = array.transpose(self._order)
            if self._shard is not None:
                pieces = self._shard.encode(view)
                if pieces is None:
                    return None
            else:
                pieces = [self._elements(view)]
            for stage in self._stages:
                pieces = stage.encode(self._joined(pieces))
            return pieces
        finally:
            self._scratch.depth = mark

    def _elements(self, view: Array) -> Bytes:
        """The bytes of the elements, in the order in which they are stored."""
        if view.shape == self._stored_shape and view.dtype == self._stored and view.flags.c_contiguous:
            return view.reshape(-1).view(np.uint8)
        size = prod(self._stored_shape) * self._stored.itemsize
        # A compressor's input is not needed afterwards; other pieces are returned to the caller.
        memory = self._scratch.take(size) if any(isinstance(stage, Compressor) for stage in self._stages) else np.empty(size, np.uint8)
        elements = memory.view(self._stored).reshape(self._stored_shape)
        if view.shape != self._stored_shape:
            elements[...] = self._fill[0]
        elements[tuple(slice(n) for n in view.shape)] = view
        return memory

    @staticmethod
    def _joined(pieces: list[Bytes]) -> Bytes:
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    # Parts of shards

    @property
    def divisible(self) -> bool:
        """Whether inner chunks can be read by themselves: the outermost codec is sharding_indexed."""
        return self._shard is not None and not self._stages

    @property
    def inner(self) -> CodecChain:
        """The codecs of inner chunks, in the axes of the stored elements."""
        assert self._shard is not None
        return self._shard.inner

    @property
    def index_span(self) -> tuple[int, bool]:
        """(size of a shard's index in bytes, whether it is at the start of the shard)."""
        assert self._shard is not None
        return self._shard.index.size, self._shard.index.at_start

    def parts(self, index: Any, size: int | None, start: Shape, shape: Shape) -> Iterator[Part]:
        """The inner chunks that a part of a shard needs.

        index: the bytes of the shard's index.
        size: size of the shard in bytes, or None if unknown.
        start, shape: the part, in elements.
        Raises ChunkError if the index is damaged.
        """
        assert self._shard is not None
        try:
            spans = self._shard.index.spans(as_bytes(index), size)
        except Damage as damage:
            raise ChunkError(f"{damage} ({'first' if self._shard.index.at_start else 'last'} {self._shard.index.size} bytes)") from None
        stored = [tuple(values[axis] for axis in self._order) for values in (start, shape)]
        for span, inside, to in self._shard.parts(spans, *stored):
            yield Part(span, tuple(inside[i] for i in self._inverse), tuple(to[i] for i in self._inverse))

    def decode_part(self, encoded: Any, part: Part, out: Array) -> None:
        """Decode an inner chunk into its place in `out`.

        encoded: the bytes of the part's span.
        out: the array of the region that `parts` was called for.
        """
        assert self._shard is not None
        view = out[part.to]
        if part.span is None:
            view[...] = self._fill[0]
            return
        inside = tuple(part.inside[axis].start for axis in self._order)
        self._shard.inner.decode(encoded, view.transpose(self._order), inside, part.span[0])


class ShardIndex:
    """The index of shards: where their inner chunks are (Zarr v3 specification, "Sharding codec")."""

    def __init__(self, shape: Shape, chunk: Any, codecs: Any, location: Any) -> None:
        """Raises UnknownCodec.

        shape: shape of a shard, in elements.
        chunk, codecs, location: chunk_shape, index_codecs and index_location in the document.
        """
        if location not in ("start", "end") or not isinstance(codecs, (list, tuple)):
            raise UnknownCodec("sharding_indexed with an unknown index")
        if not isinstance(chunk, (list, tuple)) or len(chunk) != len(shape) or not all(type(n) is int and n > 0 for n in chunk):
            raise UnknownCodec("sharding_indexed without a chunk_shape")
        if any(n % m for n, m in zip(shape, chunk, strict=True)):
            raise UnknownCodec("sharding_indexed whose shards are not made of whole chunks")
        self.chunk: Shape = tuple(chunk)
        self.at_start: bool = location == "start"
        self.grid: Shape = tuple(n // m for n, m in zip(shape, chunk, strict=True))
        self.count = prod(self.grid)
        self._chain = CodecChain.v3(codecs, (*self.grid, 2), np.dtype("<u8"), b"\xff" * 8)
        if self._chain.encoded_size is None:
            raise UnknownCodec("sharding_indexed with an index of no fixed size")
        self.size: int = self._chain.encoded_size

    def of(self, shard: Bytes) -> NDArray[np.uint64]:
        """The spans of a whole shard; see `spans`."""
        if shard.size < self.size:
            raise Damage("it is cut off: its index is missing")
        return self.spans(shard[: self.size] if self.at_start else shard[shard.size - self.size :], shard.size)

    def spans(self, index: Bytes, size: int | None) -> NDArray[np.uint64]:
        """Offset and length of each inner chunk, with shape (count, 2).

        index: the bytes of the index.
        size: size of the shard in bytes, or None if unknown.
        Raises Damage if a chunk lies outside the shard, or two overlap.
        """
        table = np.empty((*self.grid, 2), "<u8")
        try:
            self._chain.decode(index, table)
        except ChunkError as error:
            raise Damage(f"in its index, {error}") from None
        spans: NDArray[np.uint64] = table.reshape(-1, 2).astype(np.uint64, copy=False)
        held = spans[(spans != _ABSENT).any(axis=1)]
        end = np.uint64((1 << 63 if size is None else size) - (0 if self.at_start else self.size))
        first = np.uint64(self.size if self.at_start else 0)
        offsets, lengths = held[:, 0], held[:, 1]
        if (lengths > end).any() or (offsets > end - lengths).any():
            raise Damage("its index points past its end")
        order = np.argsort(offsets, kind="stable")
        ends = (offsets + lengths)[order]
        if (offsets < first).any() or (offsets[order][1:] < ends[:-1]).any():
            raise Damage("chunks in its index overlap")
        return spans

    def encode(self, spans: NDArray[np.uint64]) -> list[Bytes]:
        """The bytes of the index, in pieces."""
        pieces = self._chain.encode_pieces(spans.reshape(*self.grid, 2))
        assert pieces is not None
        return pieces


class _Shard:
    """The codec sharding_indexed, from array to bytes."""

    def __init__(self, index: ShardIndex, inner: CodecChain) -> None:
        self.index, self.inner = index, inner

    @classmethod
    def v3(cls, settings: dict[str, Any], shape: Shape, dtype: np.dtype[Any], fill: bytes) -> _Shard:
        codecs = settings.pop("codecs", None)
        index = ShardIndex(
            shape, settings.pop("chunk_shape", None), settings.pop("index_codecs", None), settings.pop("index_location", "end")
        )
        if settings or not isinstance(codecs, (list, tuple)):
            raise UnknownCodec("sharding_indexed with unknown settings")
        return cls(index, CodecChain.v3(codecs, index.chunk, dtype, fill))

    @property
    def limit(self) -> int:
        """Bytes of the largest shard without gaps that is accepted."""
        return self.index.count * self.inner.encoded_limit + self.index.size

    def parts(
        self, spans: NDArray[np.uint64], start: Shape, shape: Shape
    ) -> Iterator[tuple[tuple[int, int] | None, tuple[slice, ...], tuple[slice, ...]]]:
        """The inner chunks that a part of the shard needs: span, selection from the chunk, selection from the part."""
        ranges = [range(a // m, -(-(a + n) // m)) for a, n, m in zip(start, shape, self.inner.shape, strict=True)]
        for index in product(*ranges):
            number = 0
            inside, to = [], []
            for i, count, a, n, m in zip(index, self.index.grid, start, shape, self.inner.shape, strict=True):
                number = number * count + i
                low, high = max(i * m, a), min(i * m + m, a + n)
                inside.append(slice(low - i * m, high - i * m))
                to.append(slice(low - a, high - a))
            offset, length = spans[number].tolist()
            span = None if offset == length == int(_ABSENT) else (offset, length)
            yield span, tuple(inside), tuple(to)

    def decode(self, data: Bytes, view: Array, start: Shape, at: int) -> None:
        spans = self.index.of(data)
        fill = self.inner._fill[0]
        for span, inside, to in self.parts(spans, start, view.shape):
            if span is None:
                view[to] = fill
            else:
                offset, length = span
                self.inner.decode(data[offset : offset + length], view[to], tuple(part.start for part in inside), at + offset)

    def encode(self, view: Array) -> list[Bytes] | None:
        table = np.full((self.index.count, 2), _ABSENT, "<u8")
        pieces: list[Bytes] = []
        offset = self.index.size if self.index.at_start else 0
        for number, index in self._written:
            box = tuple(slice(i * m, i * m + m) for i, m in zip(index, self.inner.shape, strict=True))
            chunk = view[box]
            if not chunk.size or self.inner.is_fill(chunk):
                continue
            encoded = self.inner.encode_pieces(chunk)
            if encoded is None:
                continue
            size = sum(piece.size for piece in encoded)
            table[number] = offset, size
            offset += size
            pieces += encoded
        if not pieces:
            return None
        index_pieces = self.index.encode(table)
        return index_pieces + pieces if self.index.at_start else pieces + index_pieces

    @cached_property
    def _written(self) -> list[tuple[int, Shape]]:
        """Number and index of each inner chunk, in the order in which zarr writes them (by Morton code)."""
        grid = self.index.grid
        indices = np.indices(grid).reshape(len(grid), self.index.count)
        codes, bit = np.zeros(self.index.count, np.uint64), 0
        for level in range(max(((n - 1).bit_length() for n in grid), default=0)):
            for axis, n in enumerate(grid):
                if level < (n - 1).bit_length():
                    codes |= ((indices[axis].astype(np.uint64) >> np.uint64(level)) & np.uint64(1)) << np.uint64(bit)
                    bit += 1
        order = np.argsort(codes, kind="stable")
        return list(zip(order.tolist(), map(tuple, indices[:, order].T.tolist()), strict=True))


# From documents


def _named(codec: Any) -> tuple[str, dict[str, Any]]:
    """Name and settings of a codec; settings may be left out by those that need none."""
    fields = {"name": codec} if isinstance(codec, str) else codec
    if not isinstance(fields, dict) or not isinstance(name := fields.get("name"), str):
        raise UnknownCodec("a codec without a name")
    settings = fields.get("configuration", {} if name in ("bytes", "crc32c") else None)
    if not isinstance(settings, dict):
        raise UnknownCodec(f"{name[:80]} without a configuration")
    return name, dict(settings)
