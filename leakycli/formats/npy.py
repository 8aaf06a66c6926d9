"""NumPy's `.npy` format, by span and as a stream.

    offset  bytes  what
    0       6      magic, b"\\x93NUMPY"
    6       2      version, major and minor: 1.0, 2.0 or 3.0
    8       2|4    header length, little-endian: 2 bytes in version 1, 4 in versions 2 and 3
    10|12   ...    header: a Python dict literal of 'descr', 'fortran_order' and 'shape', padded with spaces, latin-1 (version 3: UTF-8)
    ...            the elements, in C or Fortran order

See numpy/lib/_format_impl.py. Writers pad the header so that the elements begin at a multiple of 64 bytes; readers must not rely on
it. Another array behind the first, which numpy.save on one handle makes, is refused: numpy.load gives them one after the other.
Anything else there is ignored, with a warning.
"""

from __future__ import annotations

import ast
import os
import re
import select
import stat
import warnings
from collections.abc import Callable, Collection
from functools import lru_cache, partial
from io import BytesIO
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.lib import format as npy_format

from leakycli import stopping, system
from leakycli.errors import (
    CorruptError,
    LeakyError,
    SourceChangedError,
    UnsupportedError,
    UsageError,
    counted,
    shown,
    storage_error,
    visible,
)
from leakycli.formats import kinds
from leakycli.formats.base import Array, ArrayInfo, Begun, FlatSource, Layout, Member, Source, Target, check_unchunked, file_identity
from leakycli.function.rule import Rule, refuse_unsupported
from leakycli.regions import Index, Span
from leakycli.system import open_own, sync_path

if TYPE_CHECKING:
    from leakycli.stores.remote import Remote

MAGIC = b"\x93NUMPY"

#: Bytes written to a stream at once: a pipe's usual capacity, so that a write blocks for one turn of the reader at most.
_PIPE = 1 << 16

#: Bytes written to a file by one call. Each takes the file's lock, for which other processes spin, so not too few; for large ones the
#: system may look for large pages for longer than it copies.
_WRITTEN = 1 << 19

#: Characters of a header that are shown.
_SHOWN = 120

#: Types under the names that numpy.save gives them, which numpy.load does not know.
_OF_ML_DTYPES = {"f1": "float8_e5m2", "W4": "complex32"}

#: Longest header read, in bytes. numpy itself refuses more than 10,000 as unsafe to parse.
_LONGEST_HEADER = 1 << 16


def wait_ready(fd: int, event: int) -> None:
    """Wait until the stream `fd` can be read or written without blocking.

    In short turns: a signal that another thread takes, or that comes just before a blocking call, interrupts none.
    """
    poll = select.poll()
    poll.register(fd, event)
    while not poll.poll(200):
        stopping.check()


def read_exactly(fd: int, size: int) -> bytes:
    """`size` bytes from a file or stream, fewer at its end."""
    parts = []
    while size and (part := os.read(fd, min(size, 1 << 20))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


#: The end of messages about what is not whole.
AGAIN = "get the file again from where it came"


def read_header(read: Callable[[int], bytes], name: str, path: str = "", array: str = "") -> tuple[ArrayInfo, bytes]:
    """The array that the `.npy` file behind `read` holds, and the bytes read: the header, up to the first element.

    read(n) gives the next n bytes, fewer at the end. path: see `kinds.described`. Raises CorruptError or UnsupportedError, beginning with
    `name`.
    """
    try:
        start = read(8)
        if not start:
            raise CorruptError("is empty; a .npy file was expected, so see whether its program failed")
        if start[:6] != MAGIC[: len(start)]:
            raise CorruptError(kinds.described(start + read(kinds.ENOUGH - len(start)), path))
        if len(start) < 8:
            raise CorruptError(f"is cut off in its first 8 bytes; {AGAIN}")
        if start[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
            raise CorruptError(
                f"has .npy version {start[6]}.{start[7]}; versions 1.0, 2.0 and 3.0 are known, so save it again as one of them"
            )
        field = read(2 if start[6] == 1 else 4)
        length = int.from_bytes(field, "little")
        if length > _LONGEST_HEADER:
            raise CorruptError(
                f"claims a header of {length} bytes; more than {_LONGEST_HEADER} is not read, so save it again with numpy.save"
            )
        header = read(length)
        if len(field) < (2 if start[6] == 1 else 4) or len(header) < length:
            raise CorruptError(f"is cut off in its header; {AGAIN}")
        return ArrayInfo(array, *_parse(header, start[6])), start + field + header
    except (CorruptError, UnsupportedError) as error:
        raise type(error)(f"{name}: {error}") from None


def refuse_second(name: str, start: bytes, size: int, more: bool = False) -> None:
    """Raise UnsupportedError where the `size` bytes that follow the array in `name`, and begin with `start`, are another array.

    more: those are not all, but no more were looked at.
    """
    if start.startswith(MAGIC):
        raise UnsupportedError(
            f"{name}: behind the first array begins another, {'more than ' if more else ''}{size} bytes in all, as several calls of "
            "numpy.save on one file leave them; take them apart first: each numpy.load of the open file gives the next, to save by itself"
        )


def behind_text(size: int, more: bool = False) -> str:
    """What to say of `size` bytes (more: or more) that follow an array and are ignored."""
    return f"{'more than ' if more else ''}{counted(size, 'byte')} after the array {'was' if size == 1 else 'were'} ignored"


@lru_cache(16)
def _parse(header: bytes, version: int) -> tuple[Index, np.dtype[Any], bool]:
    """Shape, dtype and whether in Fortran order. Kept: the many files of a batch often have the same header."""
    try:
        text = header.decode("utf-8" if version == 3 else "latin-1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd literals
            try:
                fields = ast.literal_eval(text)
            except SyntaxError:
                if version == 3:
                    raise
                # Python 2 wrote its long integers as 3L.
                fields = ast.literal_eval(re.sub(r"\b(\d+)L\b", r"\1", text))
    # A hostile literal can exhaust the parser in several ways.
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise _malformed(f"{visible(header.decode('latin-1').strip()[:_SHOWN])[:_SHOWN]} is no Python dict literal") from None
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise _malformed(f"'descr', 'fortran_order' and 'shape' were expected, not {_brief(fields)}")
    shape, fortran, descr = fields["shape"], fields["fortran_order"], fields["descr"]
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
        raise _malformed(f"{_brief(shape)} is no shape")
    if len(shape) > 64:
        raise UnsupportedError(f"has {len(shape)} dimensions; numpy reads at most 64, so save it with fewer (numpy.reshape)")
    if type(fortran) is not bool:
        raise _malformed(f"'fortran_order' is {_brief(fortran)}, neither True nor False")
    if isinstance(descr, str) and (known := _OF_ML_DTYPES.get(descr.lstrip("<>|="))) is not None:
        offset, floats = len(header) + (10 if version == 1 else 12), "complex64" if known.startswith("complex") else "float32"
        raise UnsupportedError(
            f"type {descr} is {known} of ml_dtypes, which numpy.load does not read; to save it in another type, read its bytes with "
            f"open or ZipFile.open and take numpy.frombuffer(..., 'u1', offset={offset}).view(ml_dtypes.{known}).astype('{floats}')"
            f".reshape{_brief(shape)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old type names
            dtype = npy_format.descr_to_dtype(descr)
    # Also what numpy's own parser of dtype strings raises on odd input.
    except (ValueError, TypeError, SyntaxError, KeyError, IndexError, AttributeError, OverflowError, MemoryError, RecursionError):
        raise _malformed(f"{_brief(descr)} is no dtype") from None
    if dtype.hasobject:
        raise UnsupportedError(
            "an object array holds pickled Python objects, which are not read as they can run any code; if you trust it and they are "
            "numbers, numpy.save it again as numpy.load(..., allow_pickle=True).astype('float32')"
        )
    refuse_unsupported(dtype)
    if prod(n for n in shape if n) * dtype.itemsize >= 1 << 63:
        # Also where it has none: numpy refuses that.
        raise _malformed(f"an array of the shape {_brief(shape)} is too large to be")
    return shape, dtype, fortran


def _malformed(why: str) -> CorruptError:
    return CorruptError(f"has a malformed header: {why}; numpy.load does not read it either, so save the array again, its shape plain ints")


def _brief(value: Any) -> str:
    try:
        return shown(repr(value)[:80])
    except (ValueError, RecursionError):  # a number of more digits than Python prints, a nest too deep
        return f"what it has ({type(value).__name__})"


def header_bytes(info: ArrayInfo) -> bytes:
    """The header that `numpy.save` writes for such an array."""
    fields = {"descr": npy_format.dtype_to_descr(info.dtype), "fortran_order": info.fortran, "shape": info.shape}
    stream = BytesIO()
    npy_format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


class NpyReader:
    """Reads spans of a `.npy` file, from any number of threads."""

    sequential = False
    decodes = False
    cumulative = False

    def __init__(self, path: str, info: ArrayInfo, offset: int) -> None:
        self.info = info
        self._path, self._offset = path, offset
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error(error, path, "cannot read") from None

    def fetch(self, region: Span, buffer: Array) -> None:
        raise NotImplementedError("spans of a file are read as they are needed")

    def read(self, span: Span, buffer: Array) -> tuple[Array, None]:
        itemsize = self.info.dtype.itemsize
        view = buffer.data[: span.size * itemsize]
        done, at, size = 0, self._offset + span.start * itemsize, len(view)
        try:
            while done < size:
                if not (count := os.preadv(self._fd, [view[done:] if done else view], at + done)):
                    text = f"{shown(self._path)}: ended at byte {at + done}: it became shorter while it was read"
                    raise SourceChangedError(f"{text}; run again when it is left alone")
                done += count
        except OSError as error:
            if isinstance(error, LeakyError):
                raise
            raise storage_error(error, self._path, "cannot read") from None
        return np.frombuffer(view, self.info.dtype), None

    def commit(self, payloads: list[Any]) -> None:
        pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class NpySource(FlatSource):
    """A `.npy` file."""

    format = "npy"
    warnings = ()

    def __init__(self, path: str) -> None:
        """Raises StorageError, CorruptError or UnsupportedError, each naming `path`."""
        self._path = path
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                info, header = read_header(partial(read_exactly, fd), shown(path), path)
                self._header = header
                status = os.fstat(fd)
                self.opened, size = self._identity(status), status.st_size
                needed = len(header) + info.nbytes
                behind = os.pread(fd, len(MAGIC), needed) if size > needed else b""
            finally:
                os.close(fd)
        except OSError as error:
            if isinstance(error, LeakyError):
                raise
            raise storage_error(error, path, "cannot read") from None
        if size < needed:
            raise CorruptError(
                f"{shown(path)}: is cut off: its header promises {needed} bytes ({info.dtype.name} {info.shape}), it has {size}; {AGAIN}"
            )
        refuse_second(shown(path), behind, size - needed)
        self.members = (Member("", "", info, behind=size - needed),)

    def sequential(self, member: Member) -> bool:
        return False

    def reader(self, member: Member) -> NpyReader:
        assert member.array is not None
        return NpyReader(self._path, member.array, len(self._header))

    def copy_problem(self, member: Member, other: Source, there: Member) -> str | None:
        raise NotImplementedError("the one array of a .npy file is never copied")

    def identity(self, used: Collection[Member] = ()) -> dict[str, Any]:
        try:
            return self._identity(os.stat(self._path))
        except OSError as error:
            raise storage_error(error, self._path, "cannot read") from None

    def _identity(self, found: os.stat_result) -> dict[str, Any]:
        return {**file_identity(found), "header": self._header.hex()}

    def close(self) -> None:
        pass


class Stream(Protocol):
    """Bytes that come in order, once."""

    name: str

    def readinto(self, view: memoryview, /) -> int:
        """Put the next bytes, at least one, into `view`; returns how many, 0 at the end. Raises StorageError."""
        ...

    def state(self) -> dict[str, Any]:
        """What is another when the bytes come from something else; nothing where that cannot be told."""
        ...

    def close(self) -> None: ...


class PipeStream:
    """A FIFO, or standard input ("-")."""

    def __init__(self, path: str) -> None:
        self.name = "standard input" if path == "-" else shown(path)
        try:
            self._fd = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error(error, self.name, "cannot read") from None

    def readinto(self, view: memoryview) -> int:
        try:
            wait_ready(self._fd, select.POLLIN)
            return os.readv(self._fd, [view])
        except OSError as error:
            raise storage_error(error, self.name, "cannot read") from None

    def state(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _exactly(stream: Stream, size: int) -> bytes:
    """The next `size` bytes of a stream, or as many as there are."""
    data, done = bytearray(size), 0
    while done < size and (count := stream.readinto(memoryview(data)[done:])):
        done += count
    return bytes(data[:done])


#: Bytes behind the array of a stream that are looked at: whoever writes it is not cut off, but need not come to an end.
_MOST_TRAILING = 1 << 24


class NpyStreamReader:
    """Reads the array of a `.npy` stream, front to back, and to its end what follows it."""

    sequential = True
    decodes = False
    cumulative = True

    def __init__(self, stream: Stream, info: ArrayInfo, warn: Callable[[str], None]) -> None:
        """warn: takes a warning of what follows the array."""
        self.info = info
        self._stream, self._warn = stream, warn

    def fetch(self, region: Span, buffer: Array) -> None:
        view, done = buffer.data, 0
        while done < len(view):
            if not (count := self._stream.readinto(view[done:])):
                at = region.start * self.info.dtype.itemsize + done
                raise CorruptError(
                    f"{self._stream.name}: ended after {at} of {self.info.nbytes} bytes of the array; see whether what writes it failed"
                )
            done += count

    def read(self, span: Span, buffer: Array) -> tuple[Array, None]:
        return np.frombuffer(buffer, self.info.dtype, span.size), None

    def commit(self, payloads: list[Any]) -> None:
        pass

    def finish(self) -> None:
        start = _exactly(self._stream, len(MAGIC))
        size, rest, more = len(start), memoryview(bytearray(_PIPE)), bool(start)
        while more and size <= _MOST_TRAILING:
            count = self._stream.readinto(rest)
            size, more = size + count, count > 0
        if size:
            refuse_second(self._stream.name, start, size, more)
            self._warn(f"{self._stream.name}: {behind_text(size, more)}")

    def close(self) -> None:
        pass


class NpyStreamSource(FlatSource):
    """A `.npy` array that comes front to back: through a FIFO, from standard input ("-"), or from a URL."""

    format = "npy"

    def __init__(self, path: str | Remote) -> None:
        self._stream: Stream = PipeStream(path) if isinstance(path, str) else path.stream()
        self.warnings: tuple[str, ...] = ()
        try:
            self.opened = self._stream.state()
            info, _ = read_header(partial(_exactly, self._stream), self._stream.name, path if isinstance(path, str) else path.url)
        except BaseException:
            self._stream.close()
            raise
        self.members = (Member("", "", info),)

    def sequential(self, member: Member) -> bool:
        return True

    def reader(self, member: Member) -> NpyStreamReader:
        assert member.array is not None
        return NpyStreamReader(self._stream, member.array, self._warn)

    def _warn(self, warning: str) -> None:
        self.warnings = (warning,)

    def copy_problem(self, member: Member, other: Source, there: Member) -> str | None:
        raise NotImplementedError("the one array of a .npy file is never copied")

    def identity(self, used: Collection[Member] = ()) -> dict[str, Any]:
        return self._stream.state()

    def close(self) -> None:
        self._stream.close()


class NpyWriter:
    """Writes spans of a `.npy` file whose header is written, from any number of threads."""

    sequential = False

    def __init__(self, path: str, info: ArrayInfo, offset: int) -> None:
        self.info = info
        self._path, self.offset = path, offset
        try:
            self._fd = open_own(path, os.O_WRONLY)
        except OSError as error:
            raise storage_error(error, path, "cannot write") from None

    def write(self, span: Span, y: Array) -> Any:
        view, done = y.view(np.uint8).data, 0
        at = self.offset + span.start * self.info.dtype.itemsize
        try:
            while done < len(view):
                done += os.pwrite(self._fd, view[done : done + _WRITTEN], at + done)
        except OSError as error:
            raise storage_error(error, self._path, "cannot write") from None

    def commit(self, payloads: list[Any]) -> None:
        pass

    def state(self) -> Any:
        return None

    def finish(self) -> None:
        pass

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class NpyTarget:
    """A `.npy` file to be: created at once, its one array written through `writer`."""

    warnings = ()

    def __init__(self, path: str, flush: bool = False) -> None:
        self._path, self._flush = path, flush

    def copy(self, source: Source, member: Member) -> None:
        raise NotImplementedError("a .npy file holds one array and nothing else")

    def writer(self, info: ArrayInfo, source: Source, member: Member, rule: Rule | None = None, begun: Begun | None = None) -> NpyWriter:
        return self.created(info, begun is not None)

    def created(self, info: ArrayInfo, begun: bool = False) -> NpyWriter:
        """The file, made for the array `info`. begun: what is there already is kept."""
        header = header_bytes(info)
        try:
            with open(open_own(self._path, os.O_RDWR | os.O_CREAT | (0 if begun else os.O_TRUNC)), "r+b") as file:
                file.write(header)
                file.truncate(len(header) + info.nbytes)
                if not begun:
                    system.reserve(file.fileno(), len(header) + info.nbytes)
        except OSError as error:
            raise storage_error(error, self._path, "cannot write") from None
        return NpyWriter(self._path, info, len(header))

    def state(self) -> Any:
        return None

    def restore(self, info: ArrayInfo | None, source: Source, member: Member, rule: Rule | None, state: Any) -> None:
        pass

    def ensure(self) -> None:
        if self._flush:
            sync_path(self._path)

    def finish(self) -> int:
        return os.stat(self._path).st_size

    def close(self) -> None:
        pass


class NpyStreamWriter:
    """Writes the array of a `.npy` stream: threads hand in copies, which are written in order."""

    sequential = True

    def __init__(self, fd: int, info: ArrayInfo) -> None:
        self.info = info
        self._fd = fd

    def write(self, span: Span, y: Array) -> Array:
        return y.copy()

    def commit(self, payloads: list[Any]) -> None:
        for payload in payloads:
            write_all(self._fd, memoryview(payload.view(np.uint8)))

    def state(self) -> Any:
        return None

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class NpyStreamTarget:
    """Standard output as a `.npy` stream."""

    warnings = ()

    def __init__(self, fd: int) -> None:
        self._fd, self._bytes = fd, 0

    def copy(self, source: Source, member: Member) -> None:
        raise NotImplementedError("a .npy stream holds one array and nothing else")

    def writer(
        self, info: ArrayInfo, source: Source, member: Member, rule: Rule | None = None, begun: Begun | None = None
    ) -> NpyStreamWriter:
        header = header_bytes(info)
        write_all(self._fd, memoryview(header))
        self._bytes = len(header) + info.nbytes
        return NpyStreamWriter(self._fd, info)

    def state(self) -> Any:
        return None

    def restore(self, info: ArrayInfo | None, source: Source, member: Member, rule: Rule | None, state: Any) -> None:
        raise NotImplementedError("a stream cannot be gone on with")

    def ensure(self) -> None:
        pass

    def finish(self) -> int:
        return self._bytes

    def close(self) -> None:
        pass


def write_all(fd: int, view: memoryview) -> None:
    """Write all of `view` to a stream. Raises BrokenPipeError as it is: a reader that had enough is no error to report."""
    try:
        while view:
            wait_ready(fd, select.POLLOUT)
            view = view[os.write(fd, view[:_PIPE]) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise storage_error(error, "standard output", "cannot write") from None


def is_stream(path: str) -> bool:
    """Whether `path` can only be read from front to back: "-", a FIFO, a socket or a terminal."""
    if path == "-":
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def open_source(path: str) -> Source:
    """The `.npy` at `path`; "-" is standard input."""
    return NpyStreamSource(path) if is_stream(path) else NpySource(path)


def create_target(path: str, packed: bool, layout: Layout, begun: bool, flush: bool) -> Target:
    """See `formats.create_target`."""
    return NpyStreamTarget(1) if path == "-" else NpyTarget(path, flush)


def check_layout(layout: Layout) -> None:
    """Raise UsageError for what a `.npy` file does not have."""
    check_unchunked(".npy", layout)
    if layout.compressor is not None:
        raise UsageError("--compressor is for .npz and Zarr; a .npy file is not compressed")


def result_array(array: ArrayInfo, dtype: np.dtype[Any], layout: Layout, source: Source, member: Member) -> ArrayInfo:
    """`array` as it is written, with values of `dtype`."""
    return ArrayInfo(array.name, array.shape, dtype, array.fortran)


def compresses(layout: Layout, source: Source, member: Member) -> bool:
    """Nothing is compressed here."""
    return False


def carries(layout: Layout, source: Source, member: Member) -> bool:
    """A member that is not transformed is copied as it is stored."""
    return False
