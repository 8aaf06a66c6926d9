"""Chunks and shards of Zarr: from encoded bytes into an array, and back. Nothing here reads or writes files, or imports zarr.

A chunk goes through a chain when it is stored (Zarr v3 specification, "Codecs"; in version 2: order, filters, compressor):

    array --transpose--> array --bytes or sharding_indexed--> bytes --checksums, filters, one compressor--> bytes

`CodecChain` is built from the parsed metadata of an array, and refuses what it does not know with `UnknownCodec`: zarr's own pipeline is
there for that. Encoded bytes are those that zarr writes.

The size that a chunk must decode to is known before, and everything is decoded into memory of that size. Errors are `ChunkError` and tell
the range of bytes; the caller knows the array and the key.

A shard (sharding_indexed) holds inner chunks, each encoded on its own, and an index of (offset, length) pairs; 2^64-1 stands for an inner
chunk that is not stored, which is then nothing but fill value.
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

#: Stands for an inner chunk that a shard does not hold, as offset and as length.
_ABSENT = np.uint64(0xFFFFFFFFFFFFFFFF)

#: An encoded chunk may take this many times what it holds, and as many bytes more; a larger one is refused before it is decoded.
_LARGEST, _LARGEST_MORE = 2, 1 << 16


class ChunkError(CorruptError):
    """An encoded chunk is not what it should be. Its text says what is wrong and in which bytes."""


class _Scratch(threading.local):
    """Buffers that one thread uses again and again, as a stack."""

    def __init__(self) -> None:
        self.buffers: list[Bytes] = []
        self.depth = 0

    def take(self, size: int) -> Bytes:
        """A buffer of `size` bytes, which is the caller's until it sets `depth` back to what it was."""
        if self.depth == len(self.buffers):
            self.buffers.append(np.empty(0, np.uint8))
        if self.buffers[self.depth].size < size:
            self.buffers[self.depth] = np.empty(0, np.uint8)  # free it before the next is allocated
            self.buffers[self.depth] = np.empty(size, np.uint8)
        self.depth += 1
        return self.buffers[self.depth - 1][:size]


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a shard that hold an inner chunk, or None for one that is not stored, and where it belongs.

    inside: the part of the inner chunk that is wanted. to: where that goes in the array that is wanted; both in the array's own axes.
    """

    span: tuple[int, int] | None
    inside: tuple[slice, ...]
    to: tuple[slice, ...]


class CodecChain:
    """How the chunks of an array are stored. Immutable; threads may share it.

    shape: of a chunk, or shard, in elements.
    dtype: of arrays that are decoded to and encoded from.
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

        stored: dtype with the byte order of what is stored.
        order: for each axis of what is stored, the axis of the array.
        stages: in the order in which they encode.
        shard: how the bytes are made of elements, where they are not simply written one after the other.
        """
        self.shape, self.dtype, self._stored, self._order, self._shard = shape, dtype, stored, order, shard
        self._fill = np.frombuffer(fill, dtype)
        self._stages = tuple(stages)
        self._inverse = tuple(order.index(axis) for axis in range(len(order)))
        # Sizes after the elements and after each stage, as far as they are fixed.
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
        """The chain that `codecs` of a version 3 document describe.

        codecs: as the document has them.
        shape: of a chunk of the array's grid, in elements.
        dtype: of arrays in memory, in any byte order (as uint16 for bfloat16).
        fill: one element of that dtype, as bytes.
        Raises UnknownCodec, and ValueError or TypeError never: a document that zarr refuses is for zarr to explain.
        """
        order, stages = tuple(range(len(shape))), []
        named = [_named(codec) for codec in codecs]
        while named and named[0][0] == "transpose":
            _, settings = named.pop(0)
            turned = settings.pop("order", None)
            if settings or not isinstance(turned, (list, tuple)) or sorted(map(repr, turned)) != sorted(map(repr, range(len(shape)))):
                raise UnknownCodec("transpose with an order that is no permutation of the axes")
            order = tuple(order[axis] for axis in turned)
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
                raise UnknownCodec("shards that are whole chunks only when they are transposed")  # zarr refuses them
        for name, settings in named:
            stages.append(filter_v3(name, settings, dtype.itemsize))
        return cls(shape, dtype, stored, fill, order, stages, shard)

    @classmethod
    def v2(cls, compressor: Any, filters: Any, order: str, shape: Shape, dtype: np.dtype[Any], fill: bytes) -> CodecChain:
        """The chain of a version 2 document.

        compressor, filters, order: as the document has them.
        shape: of a chunk, in elements.
        dtype: as the document has it, in its byte order; arrays in memory have it, too.
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
            itemsize = (stage.itemsize or itemsize) if isinstance(stage, Filter) else 1
        axes = tuple(range(len(shape)))
        return cls(shape, dtype, dtype, fill, axes[::-1] if order == "F" else axes, stages)

    @property
    def plain(self) -> bool:
        """Whether an encoded chunk is the memory of a C-ordered array of `dtype`, and nothing else."""
        return self._in_order and not self._stages

    @property
    def nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def encoded_size(self) -> int | None:
        """Bytes of every encoded chunk; None where they differ."""
        return self._sizes[-1]

    @property
    def encoded_limit(self) -> int:
        """Bytes of the largest encoded chunk that is decoded."""
        if self._shard is not None:
            return self._shard.limit
        return _LARGEST * self.nbytes + _LARGEST_MORE if self._sizes[-1] is None else self._sizes[-1]

    def decode_memory(self, direct: bool = False) -> int:
        """Bytes that decoding takes in each thread at most, beside the encoded chunk and the array that it is decoded to.

        direct: whole chunks only are decoded, to arrays in C order.
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
        """Bytes that encoding takes in each thread at most, beside the array, the encoded chunk among them. direct: see `decode_memory`."""
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
        """Whether there is nothing but fill value in `array`, as zarr sees it: zeros have a sign, one NaN is as good as another."""
        first = (0,) * array.ndim
        # Most chunks are not; that shows in the first element.
        if self.dtype.kind == "f" and np.isnan(self._fill[0]):
            return bool(np.isnan(array[first])) and bool(np.isnan(array).all())
        words = array.view(f"u{self.dtype.itemsize}")
        fill = self._fill.view(words.dtype)[0]
        return bool(words[first] == fill) and bool((words == fill).all())

    # Decoding

    def decode(self, encoded: Any, out: Array, start: Shape | None = None, at: int = 0) -> None:
        """Decode a chunk into `out`, or the part of it that begins at `start` and has the shape of `out`.

        encoded: the bytes of the chunk, all of them.
        out: an array of `dtype`, of the chunk's shape or smaller; any strides.
        at: the offset of `encoded` in what it was read from, for messages.
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
            raise Damage(f"has {data.size} bytes, where {'' if self.encoded_size else 'at most '}{self.encoded_limit} belong")
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
        """`data` decoded to the bytes of the elements, or of the shard: in `place` where that is not None and they are put somewhere."""
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
            raise Damage(f"has {data.size} bytes, where {size} belong")

    # Encoding

    def encode(self, array: Array) -> list[memoryview] | None:
        """The encoded chunk, as pieces to be written one after the other; None for a shard of nothing but fill value.

        array: of `dtype`, of the chunk's shape or smaller, at the edges of an array; what is missing is fill value. Pieces may be its
        memory, so that it must not be changed before they are written.
        """
        pieces = self.encode_pieces(array)
        return None if pieces is None else [piece.data for piece in pieces]

    def encode_pieces(self, array: Array) -> list[Bytes] | None:
        """As `encode`, for a chain that this one is a part of."""
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
        # What is encoded further can be in memory that is used again.
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
        """Whether parts of an encoded chunk can be decoded by themselves: it is a shard, and nothing else."""
        return self._shard is not None and not self._stages

    @property
    def inner(self) -> CodecChain:
        """How the inner chunks of shards are stored; its axes are those of what is stored."""
        assert self._shard is not None
        return self._shard.inner

    @property
    def index_span(self) -> tuple[int, bool]:
        """(bytes of the index of a shard, whether they are its first, or else its last)."""
        assert self._shard is not None
        return self._shard.index.size, self._shard.index.at_start

    def parts(self, index: Any, size: int | None, start: Shape, shape: Shape) -> Iterator[Part]:
        """The inner chunks that hold the part of a shard that begins at `start` and has `shape`.

        index: the bytes of the shard's index.
        size: of the whole shard in bytes; None where that is not known.
        Raises ChunkError where the index is damaged, or points past the end of the shard.
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
        """Decode an inner chunk into its place in `out`, the array that `parts` was asked for. encoded: the bytes of its span."""
        assert self._shard is not None
        view = out[part.to]
        if part.span is None:
            view[...] = self._fill[0]
            return
        inside = tuple(part.inside[axis].start for axis in self._order)
        self._shard.inner.decode(encoded, view.transpose(self._order), inside, part.span[0])


class ShardIndex:
    """Where the inner chunks of a shard are (Zarr v3 specification, "Sharding codec")."""

    def __init__(self, shape: Shape, chunk: Any, codecs: Any, location: Any) -> None:
        """Raises UnknownCodec.

        shape: of the shard, in elements.
        chunk, codecs, location: chunk_shape, index_codecs and index_location, as the document has them.
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
        """As `spans`, by the index in a whole shard."""
        if shard.size < self.size:
            raise Damage("is cut off: its index is missing")
        return self.spans(shard[: self.size] if self.at_start else shard[shard.size - self.size :], shard.size)

    def spans(self, index: Bytes, size: int | None) -> NDArray[np.uint64]:
        """(offset, length) of each inner chunk, of shape (count, 2).

        index: its bytes.
        size: of the shard, in bytes; None where that is not known.
        Raises Damage where it points past the end, or chunks overlap.
        """
        table = np.empty((*self.grid, 2), "<u8")
        try:
            self._chain.decode(index, table)
        except ChunkError as error:
            raise Damage(f"its index {error}") from None
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
            raise Damage("its index has chunks that overlap")
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
        """Bytes of inner chunks as large as they may be, and of the index."""
        return self.index.count * self.inner.encoded_limit + self.index.size

    def parts(
        self, spans: NDArray[np.uint64], start: Shape, shape: Shape
    ) -> Iterator[tuple[tuple[int, int] | None, tuple[slice, ...], tuple[slice, ...]]]:
        """The inner chunks of a part of the shard: span, the part of the chunk, and where it goes in the part of the shard."""
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
        """Number and index of all inner chunks, in the order in which zarr writes them: that of their Morton codes."""
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
