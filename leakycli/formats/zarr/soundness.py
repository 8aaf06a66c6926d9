"""What the decoders of chunks pass over.

One reads on in whatever memory follows a blosc chunk that is cut off; another takes a chunk of a shard that decodes to more than belongs
there, does not survive a shard's index that points past its end, and leaves out the checksum of a chunk of which it needs a part only, as
at the edges of an array. So headers, indices and such checksums are looked at first.
"""

from __future__ import annotations

import io
import os
from math import prod
from typing import BinaryIO

import google_crc32c
import numpy as np

from leakycli.formats.zarr.metadata import ArrayDocument, Codecs, codec_chain

#: Offset and length of a chunk that a shard does not hold (zarr v3 specification, sharding codec).
_ABSENT = np.uint64(0xFFFFFFFFFFFFFFFF)

#: Bytes before what is encoded that do not change its length.
_AS_THEY_ARE = {"bytes", "transpose"}

_CRC32C = 4


class Inspector:
    """Checks the write units of an array before they are decoded."""

    def __init__(self, document: ArrayDocument) -> None:
        assert document.dtype is not None
        self._chain = codec_chain(document)
        self._bytes = prod(document.chunks) * document.dtype.itemsize
        self._index: tuple[int, bool, int, str] | None = None
        name, configuration = self._chain[-1] if self._chain else ("", {})
        if name == "sharding_indexed":
            assert document.shards is not None
            count = prod(document.shards) // prod(document.chunks)
            index_codecs = codec_chain(document, configuration.get("index_codecs", ()))
            if [name for name, _ in index_codecs] in (["bytes"], ["bytes", "crc32c"]):
                checksum = _CRC32C * (len(index_codecs) - 1)
                word = ">u8" if index_codecs[0][1].get("endian") == "big" else "<u8"
                self._index = count, configuration.get("index_location", "end") == "start", checksum, word
            self._chain = codec_chain(document, configuration["codecs"])

    def problem(self, file: BinaryIO, whole: bool) -> str | None:
        """What is wrong with the write unit that `file` holds; None where nothing is. whole: it lies in the array as a whole."""
        size = file.seek(0, os.SEEK_END)
        if self._index is None:
            return self._chunk_problem(file, 0, size, whole)
        count, first, checksum, word = self._index
        length = 16 * count + checksum
        if size < length:
            return "it is cut off"
        index = np.frombuffer(_part(file, 0 if first else size - length, 16 * count), word).reshape(count, 2).astype(np.uint64)
        held = index[(index != _ABSENT).any(axis=1)]
        offsets, lengths = held[:, 0], held[:, 1]
        if (lengths > size).any() or (offsets > size - lengths).any():
            return "its index points past its end"
        problems = (self._chunk_problem(file, *chunk, whole) for chunk in zip(offsets.tolist(), lengths.tolist(), strict=True))
        return next(filter(None, problems), None)

    def part_problem(self, part: bytes, start: int) -> str | None:
        """What is wrong with a `part` of a write unit, from byte `start` on; None where nothing is seen to be.

        Of a shard that is the index, which is not believed by those who ask for parts, or a chunk.
        """
        if self._index is None or (self._index[1] and start == 0):
            return None
        return _header_problem(io.BytesIO(part), 0, len(part), self._chain, self._bytes)

    def _chunk_problem(self, file: BinaryIO, start: int, size: int, whole: bool) -> str | None:
        if not whole and self._chain and self._chain[-1][0] == "crc32c":
            data = _part(file, start, size)
            if google_crc32c.value(data[:-_CRC32C]) != int.from_bytes(data[-_CRC32C:], "little"):
                return "its checksum (crc32c) does not match"
        return _header_problem(file, start, size, self._chain, self._bytes)


def _header_problem(file: BinaryIO, start: int, size: int, chain: Codecs, nbytes: int) -> str | None:
    """What is wrong with a chunk of `size` bytes, by what it says of itself, when it should decode to `nbytes` bytes."""
    names = [name for name, _ in chain]
    while names and names[-1] == "crc32c":
        names.pop()
        size -= _CRC32C
    if set(names) <= _AS_THEY_ARE:
        return f"it has {size} bytes, where {nbytes} belong" if size != nbytes else None
    said: int | None = None
    if names[-1] == "blosc":
        header = _part(file, start, 16)
        if size < 16 or len(header) < 16 or int.from_bytes(header[12:], "little") > size:
            return "it is cut off"
        said = int.from_bytes(header[4:8], "little")
    elif names[-1] == "zstd":
        said = _zstd_size(_part(file, start, max(min(size, 18), 0)))
        if said == nbytes and set(names[:-1]) <= _AS_THEY_ARE and _zstd_end(file, start, size) < size:
            return "something follows its end"
    elif names[-1] == "gzip" and size >= 18:
        # Of the last part, where there are several; modulo 4 GiB.
        said = int.from_bytes(_part(file, start + size - 4, 4), "little")
    if said is not None and said > nbytes and set(names[:-1]) <= _AS_THEY_ARE:
        return f"it holds {said} bytes, where {nbytes} belong"
    return None


def _zstd_size(header: bytes) -> int | None:
    """The size of the content that a frame's header tells (RFC 8878, section 3.1.1.1); None where it does not."""
    if len(header) < 6 or header[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags = header[4]
    single = bool(flags & 0x20)
    at = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    width = (int(single), 2, 4, 8)[flags >> 6]
    field = header[at : at + width]
    if not width or len(field) < width:
        return None
    return int.from_bytes(field, "little") + (256 if width == 2 else 0)


def _zstd_end(file: BinaryIO, start: int, size: int) -> int:
    """Where a whole frame ends, in bytes after `start` (RFC 8878, section 3.1.1); `size` or more where it does not end before that.

    One decoder takes what follows for more of the chunk, another passes over it.
    """
    flags = _part(file, start + 4, 1)[0]
    single = bool(flags & 0x20)
    at = 5 + (not single) + (0, 1, 2, 4)[flags & 3] + (int(single), 2, 4, 8)[flags >> 6]
    while at + 3 <= size:
        block = int.from_bytes(_part(file, start + at, 3), "little")
        # A block of one repeated byte holds that byte.
        at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
        if block & 1:
            return at + (4 if flags & 4 else 0)
    return size


def _part(file: BinaryIO, start: int, size: int) -> bytes:
    """`size` bytes from `start` on, fewer at the end: a read of an unbuffered file may give fewer than there are."""
    file.seek(start, os.SEEK_SET)
    parts = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
