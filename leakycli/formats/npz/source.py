"""Reading `.npz`: the directory by `zipfile`, the members as streams or, where they are stored, at any place.

Nothing that the archive claims is believed before it is checked: a member gives no more bytes than it declares, its declared size holds
the array that its header declares, and its CRC-32 is that of the bytes that came.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import lzma
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol, cast

import numpy as np
from isal import igzip_lib, isal_zlib

from leakycli import stopping
from leakycli.errors import CorruptError, LeakyError, StorageError, UnsupportedError, counted, listed, shown, storage_error
from leakycli.formats import zipfile as z
from leakycli.formats.base import Array, ArrayInfo, FlatSource, Member, Source, changed, file_identity
from leakycli.formats.npy import AGAIN, MAGIC, NpyReader, read_header, refuse_second
from leakycli.regions import Span

#: Bytes read from the archive at once.
_CHUNK = 1 << 18

#: Deflate's most bytes out for one byte in: a match of 258 bytes in two bits.
_MOST = 1032

#: Smallest dictionary that liblzma makes, in bytes.
_LEAST_DICTIONARY = 1 << 12

#: Names of methods that are not read (APPNOTE 4.4.5).
_METHODS = {
    1: "Shrink",
    6: "Implode",
    9: "Deflate64",
    10: "Implode",
    93: "Zstandard",
    95: "XZ",
    96: "JPEG",
    97: "WavPack",
    98: "PPMd",
    99: "AES",
}

#: Layouts of several arrays of which most say where values are: what to call them, the arrays that all have, those of which they have one
#: group, and those that hold values.
_SPARSE = (
    (
        "a sparse matrix of SciPy (scipy.sparse.save_npz)",
        {"format", "shape", "data"},
        ({"indices", "indptr"}, {"row", "col"}, {"coords"}, {"offsets"}),
        ("data",),
    ),
    (
        "a sparse array (sparse.save_npz)",
        {"shape", "data", "fill_value"},
        ({"coords"}, {"indices", "indptr"}),
        ("data", "fill_value"),
    ),
)

#: What zipfile and the decompressors behind it raise on data that is not what it should be.
_BROKEN: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    cast("type[Exception]", igzip_lib.IsalError),
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    ValueError,
)


class Bytes(Protocol):
    """A member's data, decompressed, front to back."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, at least one unless the data ends."""
        ...

    def close(self) -> None: ...


class Decompressor(Protocol):
    """What bz2, lzma and ISA-L have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, /, max_length: int) -> bytes: ...


class Decompressed:
    """The data of a member, decompressed. It never holds more than the bytes asked for, a chunk of the archive, and `held` bytes."""

    held = 0

    def __init__(self, path: str, start: int, entry: zipfile.ZipInfo) -> None:
        """start: the place of the data in the archive, in bytes. Raises OSError, NotImplementedError."""
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        try:
            self._file.seek(start)
            self._left = entry.compress_size
            self._decompressor = self._made(entry.compress_type, entry.file_size)
        except BaseException:
            self._file.close()
            raise

    def read(self, size: int, /) -> bytes:
        if self._decompressor is None:
            return self._chunk(size)
        while not self._decompressor.eof:
            chunk = b""
            if self._decompressor.needs_input and not (chunk := self._chunk(_CHUNK)):
                break
            if data := self._decompressor.decompress(chunk, max_length=size):
                return data
        return b""

    def skip(self, size: int) -> None:
        """Pass over the next `size` bytes."""
        if self._decompressor is None:
            size = min(size, self._left)
            self._file.seek(size, os.SEEK_CUR)
            self._left -= size
            return
        while size and (data := self.read(min(size, _CHUNK))):
            stopping.check()
            size -= len(data)

    def close(self) -> None:
        self._file.close()

    def _chunk(self, size: int) -> bytes:
        chunk = self._file.read(min(size, self._left))
        self._left -= len(chunk)
        return chunk

    def _made(self, method: int, size: int) -> Decompressor | None:
        """The decompressor of zip's `method` for data of `size` bytes; None for stored data."""
        if method == z.STORED:
            return None
        if method == z.DEFLATED:
            return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)
        if method == zipfile.ZIP_BZIP2:
            return bz2.BZ2Decompressor()
        if method != zipfile.ZIP_LZMA:
            name = f" ({_METHODS[method]})" if method in _METHODS else ""
            raise NotImplementedError(f"compression method {method}{name} is not read; unpack the archive, and pack it again with 'zip'")
        # APPNOTE 5.8.8: version, size of the properties, properties as in a .lzma file.
        head = b""
        while len(head) < 9 and (part := self._chunk(9 - len(head))):
            head += part
        if len(head) < 9 or head[2:4] != b"\5\0":
            raise ValueError("its LZMA header is malformed")
        packed, dictionary = head[4], int.from_bytes(head[5:9], "little")
        rest, lc = divmod(packed, 9)
        pb, lp = divmod(rest, 5)
        # Nothing refers to what is farther back than the data are long.
        self.held = max(min(dictionary, size), _LEAST_DICTIONARY)
        filters = [{"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": self.held}]
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)


class NpzSource(FlatSource):
    """A `.npz` archive. Of several members with one name the last counts, as numpy has it."""

    format = "npz"

    def __init__(self, path: str) -> None:
        """Raises StorageError, CorruptError or UnsupportedError, each naming `path`."""
        self._path = path
        self.zip = _opened(path)
        entries = {entry.filename: entry for entry in self.zip.infolist()}
        assert self.zip.fp is not None
        repeated = len(self.zip.infolist()) - len(entries)
        self.warnings: tuple[str, ...] = ()
        if repeated:
            names = listed(name for name, count in Counter(entry.filename for entry in self.zip.infolist()).items() if count > 1)
            self.warnings = (f"{shown(path)}: several members have one name, of which the last counts, as for numpy: {names}",)
        if system := [key for key in entries if _of_system(key)]:
            what = f"{counted(len(system), 'member')} of macOS's own ({listed(system)})"
            self.warnings += (f"{shown(path)}: {what}: skipped where it holds no array",)
        self._entries: dict[str, zipfile.ZipInfo] = {}
        self._offsets: dict[str, tuple[int, bytes]] = {}
        try:
            self.members = _without_positions(path, tuple(self._member(entry, _name(entry, entries)) for entry in entries.values()))
            self.opened = self._identity(os.fstat(self.zip.fp.fileno()))
            # Members are read by the path, the directory was read from the open file.
            if self.identity() != self.opened:
                raise changed(path)
            if not any(member.array or member.problem for member in self.members):
                raise CorruptError(f"{shown(path)}: {_no_arrays(entries)}")
        except BaseException:
            self.zip.close()
            raise

    def entry(self, member: Member) -> zipfile.ZipInfo:
        """The directory's entry for `member`."""
        return self._entries[member.key]

    def sequential(self, member: Member) -> bool:
        return self.entry(member).compress_type != z.STORED

    def reader(self, member: Member) -> NpzStoredReader | NpzStreamReader:
        info, entry = member.array, self.entry(member)
        assert info is not None
        start, header = self._offsets[member.key]
        name = _where(self._path, member.key)
        if entry.compress_type == z.STORED:
            return NpzStoredReader(self._path, info, start, header, (name, entry.CRC, entry.file_size))
        return NpzStreamReader(self.data(entry), info, header, (name, entry.CRC, entry.file_size))

    def data(self, entry: zipfile.ZipInfo) -> Bytes:
        """A member's data from its beginning."""
        return self._decompressed(entry)

    def _decompressed(self, entry: zipfile.ZipInfo) -> Decompressed:
        return Decompressed(self._path, self.start(entry), entry)

    def start(self, entry: zipfile.ZipInfo) -> int:
        """Where a member's data begins in the archive, in bytes. Raises CorruptError where it does not lie in it."""
        name = _where(self._path, entry.filename)
        try:
            with open(self._path, "rb") as file:
                file.seek(entry.header_offset)
                start = z.data_offset(file.read(z.LOCAL_SIZE), entry.header_offset)
                size = os.fstat(file.fileno()).st_size
        except (OSError, ValueError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise storage_error(error, self._path, "cannot read") from None
            raise CorruptError(f"{name}has no header where the directory says; {AGAIN}") from None
        if start is None or start + entry.compress_size > size:
            raise CorruptError(f"{name}has no data where the directory says; the archive is cut off or damaged; {AGAIN}")
        return start

    def copy_problem(self, member: Member, other: Source, there: Member) -> str | None:
        assert isinstance(other, NpzSource)
        if self.entry(member).file_size != other.entry(there).file_size:
            return f"has {other.entry(there).file_size} bytes, its source {self.entry(member).file_size}"
        at = 0
        for a, b in zip(self.contents(member, _CHUNK), other.contents(there, _CHUNK), strict=True):
            if a != b:
                first = next(i for i, (p, q) in enumerate(zip(a, b, strict=True)) if p != q)
                return f"is no copy of its source: byte {at + first} differs"
            at += len(a)
        return None

    def identity(self, used: Collection[Member] = ()) -> dict[str, Any]:
        try:
            return self._identity(os.stat(self._path))
        except OSError as error:
            raise storage_error(error, self._path, "cannot read") from None

    def _identity(self, found: os.stat_result) -> dict[str, Any]:
        return {**file_identity(found), "members": len(self._entries)}

    def close(self) -> None:
        self.zip.close()

    def contents(self, member: Member, piece: int) -> Iterator[bytes]:
        """A member's bytes in pieces of up to `piece`. Raises CorruptError, after the last, where size or CRC-32 are not as declared."""
        entry = self.entry(member)
        name = _where(self._path, member.key)
        if entry.flag_bits & z.ENCRYPTED:
            raise UnsupportedError(f"{name}is encrypted; decrypt the archive first")
        try:
            opened = self.data(entry)
        except LeakyError:
            raise
        except NotImplementedError as error:
            raise UnsupportedError(f"{name}cannot be checked: {shown(str(error))}") from None
        except _BROKEN as error:
            raise CorruptError(f"{name}cannot be read: {shown(str(error)) or type(error).__name__}") from None
        with contextlib.closing(_Checked(opened, (name, entry.CRC, entry.file_size))) as data:
            while size := min(piece, data.left):
                buffer = bytearray(size)
                data.take(memoryview(buffer))
                yield bytes(buffer)
            data.check_end()

    def raw(self, member: Member, piece: int) -> Iterator[bytes]:
        """A member's bytes as they are in the archive, in pieces of up to `piece`."""
        entry = self.entry(member)
        at, left = self.start(entry), entry.compress_size
        with open(self._path, "rb", buffering=0) as file:
            file.seek(at)
            while left:
                if not (data := file.read(min(piece, left))):
                    raise CorruptError(f"{_where(self._path, member.key)}is cut off; {AGAIN}")
                left -= len(data)
                yield data

    def _member(self, entry: zipfile.ZipInfo, array: str) -> Member:
        """What `entry` is, perhaps an array of the name `array`. What is wrong with it matters only if it is chosen."""
        key = entry.filename
        name = _where(self._path, key)
        self._entries[key] = entry
        problem: LeakyError
        try:
            return self._inspected(entry, name, array)
        except StorageError:
            raise
        except LeakyError as error:
            problem = error
        except NotImplementedError as error:
            problem = UnsupportedError(f"{name}cannot be read: {shown(str(error))}")
        except MemoryError:
            problem = UnsupportedError(
                f"{name}cannot be read: there is no memory for what its decompressor holds; pack it again with 'zip'"
            )
        except _BROKEN as error:
            problem = CorruptError(f"{name}cannot be read: {shown(str(error)) or type(error).__name__}; {AGAIN}")
        return Member(key, array, None, problem, copies=False)

    def _inspected(self, entry: zipfile.ZipInfo, name: str, array: str) -> Member:
        key = entry.filename
        if len(key.encode("utf-8", "surrogatepass")) > z.LONGEST_NAME:
            raise UnsupportedError(f"{name[:200]}... has a name of more than {z.LONGEST_NAME} bytes; pack it again under a shorter one")
        if entry.flag_bits & z.ENCRYPTED:
            raise UnsupportedError(f"{name}is encrypted; decrypt the archive first")
        start = self.start(entry)
        if entry.compress_type == z.DEFLATED and entry.file_size > _MOST * entry.compress_size:
            raise CorruptError(f"{name}declares {entry.file_size} bytes, more than {entry.compress_size} deflated bytes can hold; {AGAIN}")
        if entry.compress_type == z.STORED and entry.compress_size != entry.file_size:
            raise CorruptError(f"{name}is stored in {entry.compress_size} bytes but declares {entry.file_size}; {AGAIN}")
        if not key.endswith(".npy") or _of_system(key):
            # numpy goes by the content, so that an array may have any name.
            with contextlib.closing(self._decompressed(entry)) as data:
                if _exactly(data)(len(MAGIC)) != MAGIC:
                    return Member(key, array, memory=data.held)
        behind = 0
        with contextlib.closing(self._decompressed(entry)) as data:
            try:
                info, header = read_header(_exactly(data), name.removesuffix(": "), array=array)
                needed = len(header) + info.nbytes
                if needed > entry.file_size:
                    raise CorruptError(f"{name}is cut off: its header promises {needed} bytes, the archive has {entry.file_size}; {AGAIN}")
                if behind := entry.file_size - needed:
                    data.skip(info.nbytes)
                    refuse_second(name.removesuffix(": "), _exactly(data)(len(MAGIC)), behind)
            except (CorruptError, UnsupportedError) as error:
                # Of the array only: the member is one that can be copied.
                return Member(key, array, None, error, memory=data.held)
        self._offsets[key] = (start, header)
        return Member(key, array, info, memory=data.held, behind=behind)


class NpzStoredReader(NpyReader):
    """Reads a member that is stored, at any place, and checks the CRC-32 of all its bytes at the end."""

    cumulative = True

    def __init__(self, path: str, info: ArrayInfo, start: int, header: bytes, declared: tuple[str, int, int]) -> None:
        """start: of the member's data in the archive, in bytes; declared: how to call the member, its CRC-32 and its size."""
        super().__init__(path, info, start + len(header))
        self._start, self._header, self._declared = start, header, declared
        self._crc = isal_zlib.crc32(header)

    def read(self, span: Span, buffer: Array) -> tuple[Array, Any]:
        found, _ = super().read(span, buffer)
        return found, (isal_zlib.crc32(found.view(np.uint8)), found.nbytes)

    def commit(self, payloads: list[Any]) -> None:
        for crc, size in payloads:
            self._crc = isal_zlib.crc32_combine(self._crc, crc, size)

    def finish(self) -> None:
        name, crc, size = self._declared
        at, end = self._offset + self.info.nbytes, self._start + size
        while at < end:
            rest = os.pread(self._fd, min(_CHUNK, end - at), at)
            if not rest:
                break
            self._crc = isal_zlib.crc32(rest, self._crc)
            at += len(rest)
        _check_crc(name, self._crc, crc)


class _Checked:
    """A member's data, counted and summed: the one place where size and CRC-32 of a stream are checked."""

    def __init__(self, data: Bytes, declared: tuple[str, int, int]) -> None:
        """declared: how to call the member, its CRC-32 and its size in bytes."""
        self._data = data
        self._name, self._declared_crc, self._size = declared
        self._crc, self.left = 0, self._size

    def take(self, view: memoryview) -> None:
        """Fill `view` with the next bytes. Raises CorruptError, StorageError."""
        done = 0
        try:
            while done < len(view):
                if not (data := self._data.read(min(len(view) - done, _CHUNK))):
                    raise EOFError(f"it ends {self.left - done} bytes early")
                view[done : done + len(data)] = data
                done += len(data)
        except _BROKEN as error:
            raise self._broken(error) from None
        self._crc = isal_zlib.crc32(view, self._crc)
        self.left -= done

    def check_end(self) -> None:
        """After the last byte: raise CorruptError where there are more, or where they are not those that were stored."""
        rest = bytearray(_CHUNK)
        while self.left:
            self.take(memoryview(rest)[: min(self.left, _CHUNK)])
        try:
            more = self._data.read(1)
        except _BROKEN as error:
            raise self._broken(error) from None
        if more:
            raise CorruptError(f"{self._name}holds more than the {self._size} bytes it declares; {AGAIN}")
        _check_crc(self._name, self._crc, self._declared_crc)

    def close(self) -> None:
        self._data.close()

    def _broken(self, error: Exception) -> LeakyError:
        if isinstance(error, OSError) and error.errno is not None:
            return StorageError(f"{self._name}cannot be read: {error.strerror}")
        return CorruptError(f"{self._name}cannot be decompressed: {shown(str(error)) or type(error).__name__}; {AGAIN}")


class NpzStreamReader:
    """Reads a compressed member front to back, and checks its size and its CRC-32 at the end."""

    sequential = True
    decodes = True
    cumulative = True

    def __init__(self, data: Bytes, info: ArrayInfo, header: bytes, declared: tuple[str, int, int]) -> None:
        """data: the member from its beginning; declared: how to call it, its CRC-32 and its size."""
        self.info = info
        self._data = _Checked(data, declared)
        self._data.take(memoryview(bytearray(len(header))))

    def fetch(self, region: Span, buffer: Array) -> None:
        self._data.take(buffer.data)

    def read(self, span: Span, buffer: Array) -> tuple[Array, None]:
        return np.frombuffer(buffer, self.info.dtype, span.size), None

    def commit(self, payloads: list[Any]) -> None:
        pass

    def finish(self) -> None:
        self._data.check_end()

    def close(self) -> None:
        self._data.close()


def _opened(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        if error.errno is None:
            raise CorruptError(f"{shown(path)}: is no zip archive that can be read: {shown(str(error))}; {AGAIN}") from None
        raise storage_error(error, path, "cannot read") from None
    # A hostile directory trips zipfile in several ways.
    except Exception as error:
        text = shown(str(error)) or type(error).__name__
        raise CorruptError(f"{shown(path)}: is no zip archive that can be read: {text}; {AGAIN}") from None


def _name(entry: zipfile.ZipInfo, entries: Iterable[str]) -> str:
    """What numpy calls the member. Where a member has that very name, too, it is called by the whole of its own."""
    short = entry.filename.removesuffix(".npy")
    return entry.filename if short != entry.filename and short in entries else short


def _of_system(key: str) -> bool:
    """Whether macOS calls what it keeps beside files so."""
    folder, _, name = key.rpartition("/")
    return "__MACOSX" in folder.split("/") or name.startswith("._")


def _no_arrays(names: Iterable[str]) -> str:
    """What to say of an archive of members without arrays."""
    names = list(names)
    ends = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in ends:
        return "is a file of PyTorch (torch.save), and holds no .npy files; numpy.save each tensor of torch.load as its .numpy()"
    if "[Content_Types].xml" in ends:
        return "is a document of an office program; export its numbers as CSV, and numpy.save what numpy.loadtxt reads"
    inside = f": {listed(names)}" if names else ""
    return f"holds no arrays: of its {counted(len(names), 'member')} none is a .npy file{inside}; unpack it, and give what is in it"


def _without_positions(path: str, members: tuple[Member, ...]) -> tuple[Member, ...]:
    """The members of an archive; in one of a sparse matrix those that say where its values are must be named to be transformed."""
    names = {member.name for member in members}
    for what, common, groups, values in _SPARSE:
        if common <= names and any(group <= names for group in groups):
            only = " ".join(f"--only {name}" for name in values)
            verb = "holds" if len(values) == 1 else "hold"
            reserved = UnsupportedError(
                f"{shown(path)}: is {what}, of whose arrays {' and '.join(values)} alone {verb} values and the others say where they are; "
                f"transform the values with {only}"
            )
            positions = common.union(*groups).difference(values)
            return tuple(replace(member, reserved=reserved) if member.name in positions else member for member in members)
    return members


def _where(path: str, member: str) -> str:
    return f"{shown(path)}: member {shown(member)}: "


def _check_crc(name: str, found: int, declared: int) -> None:
    if found != declared:
        raise CorruptError(f"{name}is damaged: its CRC-32 is {found:08x}, the archive says {declared:08x}; {AGAIN}")


def _exactly(data: Bytes) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        parts = []
        while size and (part := data.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    return read
