"""The zip format as `.npz` and `.zarr.zip` need it, from PKWARE's APPNOTE.TXT 6.3: what is written, and where a member's data lies.

    local header, data   for each member, one after the other
    central directory    an entry for each member
    end records          ZIP64 end and its locator, where the counts, sizes or offsets ask for them; end of central directory

The standard library's writer can neither take pieces that were deflated in parallel nor write members at known places, so this is our
own. All dates are 1980-01-01, as numpy's: the same arrays give the same bytes. Reading leaves the directory to `zipfile`.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from isal import isal_zlib

from leakycli.errors import StorageError, UnsupportedError, shown, storage_error
from leakycli.formats.base import copy_in_pieces
from leakycli.system import open_own

STORED, DEFLATED = 0, 8

#: Flag bits: 0 encrypted, 3 sizes follow the data, 11 the name is UTF-8.
ENCRYPTED, SIZES_FOLLOW, UTF8 = 0x1, 0x8, 0x800
_METHOD_FLAGS = 0x6

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_SIZES64 = struct.Struct("<2H2Q")
_FOLLOW64 = struct.Struct("<4sL2Q")

_MAX32, _MAX16 = 0xFFFFFFFF, 0xFFFF

#: 1980-01-01 in DOS form: the day zip dates begin.
_TIME, _DATE = 0, 0x21

LOCAL_SIZE = _LOCAL.size

LONGEST_NAME = _MAX16


@dataclass(slots=True)
class Entry:
    """A member as the directory has it. Sizes in bytes; offset is that of its local header.

    flags and version are those of a copied member: of the flags, what its method says with them is kept (bits 1 and 2), and a reader needs
    at least its version.
    """

    name: str
    method: int
    offset: int
    crc: int = 0
    compressed: int = 0
    size: int = 0
    flags: int = 0
    version: int = 45
    follow: bool = False

    @property
    def _encoded(self) -> tuple[bytes, int]:
        try:
            name, flags = self.name.encode("ascii"), 0
        except UnicodeEncodeError:
            name, flags = self.name.encode("utf-8", "surrogatepass"), UTF8
        return name, flags | self.flags & _METHOD_FLAGS | (SIZES_FOLLOW if self.follow else 0)

    @property
    def _needed(self) -> int:
        return max(self.version, 45)

    def local_header(self) -> bytes:
        """The header before the data. Its length does not depend on the sizes, so that it can be written again when they are known."""
        name, flags = self._encoded
        crc, compressed, size = (0, 0, 0) if self.follow else (self.crc, self.compressed, self.size)
        header = _LOCAL.pack(b"PK\3\4", self._needed, flags, self.method, _TIME, _DATE, crc, _MAX32, _MAX32, len(name), _SIZES64.size)
        return header + name + _SIZES64.pack(1, 16, size, compressed)

    def following(self) -> bytes:
        """The record after the data of a member in a stream, whose header could not have the sizes."""
        return _FOLLOW64.pack(b"PK\7\10", self.crc, self.compressed, self.size) if self.follow else b""

    def central_header(self) -> bytes:
        name, flags = self._encoded
        wide = [value for value in (self.size, self.compressed, self.offset) if value >= _MAX32]
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        size, compressed, offset = (min(value, _MAX32) for value in (self.size, self.compressed, self.offset))
        # Version 3 (Unix) with the mode -rw-------, as zipfile has it for numpy.
        made_by, mode = 45 | 3 << 8, 0o600 << 16
        header = _CENTRAL.pack(
            b"PK\1\2",
            made_by,
            self._needed,
            flags,
            self.method,
            _TIME,
            _DATE,
            self.crc,
            compressed,
            size,
            len(name),
            len(extra),
            0,
            0,
            0,
            mode,
            offset,
        )
        return header + name + extra


def directory(entries: list[Entry], offset: int) -> bytes:
    """The central directory at `offset` and the end records."""
    central = b"".join(entry.central_header() for entry in entries)
    count, end = len(entries), b""
    if count >= _MAX16 or offset >= _MAX32 or len(central) >= _MAX32:
        end = _END64.pack(b"PK\6\6", _END64.size - 12, 45 | 3 << 8, 45, 0, 0, count, count, len(central), offset)
        end += _LOCATOR64.pack(b"PK\6\7", 0, offset + len(central), 1)
    short = min(count, _MAX16)
    end += _END.pack(b"PK\5\6", 0, 0, short, short, min(len(central), _MAX32), min(offset, _MAX32), 0)
    return central + end


def data_offset(local: bytes, offset: int) -> int | None:
    """Where the data of a member begins whose local header, at `offset`, begins with the bytes `local`; None where it is none."""
    if len(local) < _LOCAL.size:
        return None
    fields = _LOCAL.unpack(local[: _LOCAL.size])
    return offset + _LOCAL.size + fields[9] + fields[10] if fields[0] == b"PK\3\4" else None


def pack(folder: str, path: str) -> int:
    """A new archive at `path` of all files in `folder`, stored; returns its size in bytes. Raises StorageError, UnsupportedError.

    Metadata documents (zarr.json and files beginning with a dot) come first, so that a reader of the archive finds them at once.
    """
    names = [os.path.relpath(os.path.join(top, file), folder) for top, _, files in os.walk(folder, onerror=_fail) for file in files]
    names.sort(key=lambda name: (not (os.path.basename(name) == "zarr.json" or os.path.basename(name).startswith(".z")), name))
    entries, at = [], 0
    try:
        with open(open_own(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), "r+b") as archive:
            for name in names:
                try:
                    name.encode()
                except UnicodeEncodeError:
                    raise UnsupportedError(f"{shown(name)}: this name is no UTF-8, and cannot be one in a zip archive") from None
                with open(os.path.join(folder, name), "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    entry = Entry(name, STORED, at, 0, size, size)
                    archive.write(entry.local_header())

                    def put(data: bytes, entry: Entry = entry) -> None:
                        entry.crc = isal_zlib.crc32(data, entry.crc)
                        archive.write(data)

                    if copy_in_pieces(file.read, put) != size:
                        raise StorageError(f"cannot read {shown(os.path.join(folder, name))}: it was changed while it was packed")
                    end = archive.tell()
                    archive.seek(at)
                    archive.write(entry.local_header())
                    archive.seek(end)
                entries.append(entry)
                at = end
            archive.write(directory(entries, at))
            return archive.tell()
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error(error, path, "cannot write") from None


def _fail(error: OSError) -> None:
    """A folder that cannot be listed is no empty folder."""
    raise storage_error(error, error.filename, "cannot read")
