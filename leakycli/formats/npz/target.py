"""Writing `.npz`: members stored at known places by any thread, or deflated in pieces by any thread and put together in order.

A deflated member is a run of deflate blocks, each piece ended by a full flush (so that it stands alone and ends at a byte), and one
empty last block. Any reader sees one ordinary deflate stream.
"""

from __future__ import annotations

import dataclasses
import os
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from isal import isal_zlib

from leakycli import stopping
from leakycli.errors import UnsupportedError, UsageError, storage_error
from leakycli.formats import zipfile as z
from leakycli.formats.base import Array, ArrayInfo, Begun, Member, Source
from leakycli.formats.npy import NpyWriter, header_bytes, write_all
from leakycli.formats.npz.source import NpzSource
from leakycli.function.rule import Rule
from leakycli.regions import Span
from leakycli.system import open_own, sync

#: Level of new deflated members: ISA-L's, many times faster than zlib's 6 at about its size.
DEFAULT_LEVEL = 2

#: ISA-L has levels up to 3; the slower, smaller ones are zlib's.
_ISAL_LEVELS = 3

_PIECE = 1 << 20
_LARGEST = (1 << 63) - 1
_LAST_BLOCK = b"\3\0"


@dataclass(frozen=True, slots=True)
class Compressor:
    """How a member is written: `z.STORED`, or `z.DEFLATED` at a level from 1 to 9."""

    method: int
    level: int = DEFAULT_LEVEL

    @classmethod
    def parse(cls, text: str | None) -> Compressor | None:
        """From "stored", "deflate" or "deflate:LEVEL"; None stays None. Raises UsageError."""
        if text is None:
            return None
        name, _, level = text.partition(":")
        if text == "stored":
            return cls(z.STORED)
        if name == "deflate" and (text == name or level in set("123456789")):
            return cls(z.DEFLATED, int(level or DEFAULT_LEVEL))
        raise UsageError(f"compressor {text!r} is not known for .npz; choose stored, deflate or deflate:1 to deflate:9")

    @classmethod
    def of(cls, asked: Compressor | None, source: Source, member: Member) -> Compressor:
        """The compressor asked for; else the method that the member had, where that is one that is written here."""
        if asked is not None:
            return asked
        had = source.entry(member).compress_type if isinstance(source, NpzSource) else z.STORED
        return cls(z.STORED if had == z.STORED else z.DEFLATED)

    @property
    def compresses(self) -> bool:
        return self.method != z.STORED

    def deflate(self, data: Any) -> bytes:
        """`data` as deflate blocks that end at a byte and refer to nothing before them."""
        if self.level <= _ISAL_LEVELS:
            compressor = isal_zlib.compressobj(self.level, isal_zlib.DEFLATED, -15)
            return bytes(compressor.compress(data) + compressor.flush(isal_zlib.Z_FULL_FLUSH))
        slower = zlib.compressobj(self.level, zlib.DEFLATED, -15)
        return slower.compress(data) + slower.flush(zlib.Z_FULL_FLUSH)


class NpzTarget:
    """A `.npz` archive to be: a file at `path`, or, written front to back, a stream."""

    warnings = ()

    def __init__(
        self, path: str, compressor: Compressor | None = None, stream: int | None = None, begun: bool = False, flush: bool = False
    ) -> None:
        """compressor: for all members; by default each keeps the method it had. stream: a file descriptor, instead of a file.

        begun: the file is there, of an earlier run whose members are told by `restore`. flush: see `ensure`.
        """
        self._path, self._compressor, self._flush = path, compressor, flush
        self._stream = stream is not None
        self._entries: list[z.Entry] = []
        self._at = 0
        try:
            flags = os.O_WRONLY | os.O_CREAT | (0 if begun else os.O_TRUNC)
            self._fd = os.dup(stream) if stream is not None else open_own(path, flags)
        except OSError as error:
            raise storage_error(error, path, "cannot write") from None

    def writer(
        self, info: ArrayInfo, source: Source, member: Member, rule: Rule | None = None, begun: Begun | None = None
    ) -> NpzStoredWriter | NpzOrderedWriter:
        compressor = Compressor.of(self._compressor, source, member)
        # An array that comes without a name gets the one that numpy.savez gives.
        key = member.key if isinstance(source, NpzSource) else f"{member.name or 'arr_0'}.npy"
        header = header_bytes(info)
        if begun is not None:
            self.restore(info, source, member, rule, begun.state)
            entry = self._entries[-1]
            if compressor.compresses:
                return NpzOrderedWriter(info, compressor, (self, entry))
            return NpzStoredWriter(self._path, info, self._at - info.nbytes, (self, entry))
        entry = self._started(z.Entry(key, compressor.method, self._at, follow=self._stream))
        if self._stream or compressor.compresses:
            ordered = NpzOrderedWriter(info, compressor, (self, entry))
            ordered.commit([ordered.encode(header)])
            return ordered
        self.append(header)
        entry.size = entry.compressed = len(header) + info.nbytes
        entry.crc = isal_zlib.crc32(header)
        stored = NpzStoredWriter(self._path, info, self._at, (self, entry))
        self._at += info.nbytes
        os.ftruncate(self._fd, self._at)
        return stored

    def copy(self, source: Source, member: Member) -> None:
        """Take over a member: its compressed bytes as they are where the method stays, else compressed anew. Its CRC-32 is checked."""
        assert isinstance(source, NpzSource), "only an archive has members to copy"
        had = source.entry(member)
        compressor = Compressor.of(self._compressor, source, member)
        if self._compressor is None or compressor.method == had.compress_type:
            for _ in source.contents(member, _PIECE):
                stopping.check()
            sizes = had.CRC, had.compress_size, had.file_size
            self._started(z.Entry(member.key, had.compress_type, self._at, *sizes, had.flag_bits, had.extract_version))
            for data in source.raw(member, _PIECE):
                stopping.check()
                self.append(data)
        else:
            entry = self._started(z.Entry(member.key, compressor.method, self._at, follow=self._stream))
            writer = NpzOrderedWriter(None, compressor, (self, entry))
            for data in source.contents(member, _PIECE):
                stopping.check()
                writer.commit([writer.encode(data)])
            writer.finish()

    def state(self) -> Any:
        """The last member's entry, and where what comes after its data begins."""
        return {"entry": dataclasses.asdict(self._entries[-1]), "at": self._at}

    def restore(self, info: ArrayInfo | None, source: Source, member: Member, rule: Rule | None, state: Any) -> None:
        entry, at = z.Entry(**state["entry"]), state["at"]
        counts = (entry.method, entry.offset, entry.crc, entry.compressed, entry.size, entry.flags, entry.version, at)
        if type(entry.name) is not str or not all(type(n) is int and 0 <= n <= _LARGEST for n in counts) or type(entry.follow) is not bool:
            raise ValueError("no state of an archive")
        self._entries.append(entry)
        self._at = at

    def ensure(self) -> None:
        if self._flush:
            sync(self._fd, self._path)

    def finish(self) -> int:
        """Write the directory; returns the archive's size in bytes."""
        end = self._at
        self.append(z.directory(self._entries, end))
        size, self._at = self._at, end
        if not self._stream:
            # An earlier run may have been further when it ended.
            try:
                os.ftruncate(self._fd, size)
            except OSError as error:
                raise storage_error(error, self._path, "cannot write") from None
        return size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def append(self, data: Any) -> None:
        """Write `data` after what is there."""
        if self._stream:
            write_all(self._fd, memoryview(data))
        else:
            self._write_at(self._at, data)
        self._at += len(data)

    def completed(self, entry: z.Entry) -> None:
        """Write the sizes and CRC-32 of a member, all of whose data is written: after it, or into its header."""
        if entry.follow:
            self.append(entry.following())
        else:
            self._write_at(entry.offset, entry.local_header())

    def _write_at(self, at: int, data: Any) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, at)
                view, at = view[written:], at + written
        except OSError as error:
            raise storage_error(error, self._path, "cannot write") from None

    def _started(self, entry: z.Entry) -> z.Entry:
        if len(entry.name.encode("utf-8", "surrogatepass")) > z.LONGEST_NAME:
            raise UnsupportedError(f"a member's name of more than {z.LONGEST_NAME} bytes does not fit into a zip archive")
        self._entries.append(entry)
        self.append(entry.local_header())
        return entry


class NpzStoredWriter(NpyWriter):
    """Writes spans of a stored member to their places, from any number of threads."""

    def __init__(self, path: str, info: ArrayInfo, offset: int, member: tuple[NpzTarget, z.Entry] | None) -> None:
        """offset: of the first element in the archive, in bytes. member: for the one that commits; a copy elsewhere has none."""
        super().__init__(path, info, offset)
        self._member = member

    def write(self, span: Span, y: Array) -> tuple[int, int]:
        super().write(span, y)
        return isal_zlib.crc32(y.view(np.uint8)), y.nbytes

    def commit(self, payloads: list[Any]) -> None:
        assert self._member is not None
        entry = self._member[1]
        for crc, size in payloads:
            entry.crc = isal_zlib.crc32_combine(entry.crc, crc, size)

    def state(self) -> Any:
        assert self._member is not None
        return self._member[0].state()

    def finish(self) -> None:
        assert self._member is not None
        target, entry = self._member
        target.completed(entry)


class NpzOrderedWriter:
    """Writes a member front to back; its pieces are compressed by any number of threads."""

    sequential = True

    def __init__(self, info: ArrayInfo | None, compressor: Compressor, member: tuple[NpzTarget, z.Entry] | None) -> None:
        """info: None for bytes that are no array. member: for the one that commits; a copy elsewhere has none."""
        self._info, self._compressor, self._member = info, compressor, member

    @property
    def info(self) -> ArrayInfo:
        assert self._info is not None
        return self._info

    def write(self, span: Span, y: Array) -> tuple[bytes, int, int]:
        return self.encode(y.view(np.uint8))

    def encode(self, data: Any) -> tuple[bytes, int, int]:
        """(what goes into the archive, CRC-32, size in bytes) of a piece of the member."""
        encoded = self._compressor.deflate(data) if self._compressor.compresses else bytes(data)
        return encoded, isal_zlib.crc32(data), len(data)

    def commit(self, payloads: list[Any]) -> None:
        assert self._member is not None
        target, entry = self._member
        for encoded, crc, size in payloads:
            target.append(encoded)
            entry.crc = isal_zlib.crc32_combine(entry.crc, crc, size) if entry.size else crc
            entry.compressed += len(encoded)
            entry.size += size

    def state(self) -> Any:
        assert self._member is not None
        return self._member[0].state()

    def finish(self) -> None:
        assert self._member is not None
        target, entry = self._member
        if self._compressor.compresses:
            target.append(_LAST_BLOCK)
            entry.compressed += len(_LAST_BLOCK)
        target.completed(entry)

    def close(self) -> None:
        pass
