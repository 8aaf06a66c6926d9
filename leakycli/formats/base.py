"""What every storage format offers: `Source` and `Target`, made of `Reader`s and `Writer`s of single arrays.

A reader or writer is used by several threads at once. Sequential ones are fetched from and committed to in plan order, by one thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from leakycli import stopping
from leakycli.errors import CorruptError, LeakyError, SourceChangedError, StorageError, UsageError, shown
from leakycli.function.rule import Rule
from leakycli.options import Layout as Layout
from leakycli.regions import Box, Index, Presence, Span

Array = NDArray[Any]

#: Names of the metadata documents of Zarr, in the order in which those of a node are written: none makes a node of what is not complete.
METADATA = (".zattrs", ".zmetadata", ".zarray", ".zgroup", "zarr.json")

#: What a folder has that is a Zarr array or group.
DOCUMENTS = ("zarr.json", ".zarray", ".zgroup")

#: How regions are told: `Span` of a flat buffer, `Box` of a chunk grid.
Region = TypeVar("Region", bound=Span | Box, contravariant=True)


@dataclass(frozen=True, slots=True)
class Held:
    """Memory for codecs: bytes that a thread holds while it reads or writes one write unit, without the elements of its region.

    direct: if the region is one whole write unit.
    gathered: if the region is any other part of the array.
    """

    direct: int = 0
    gathered: int = 0


@dataclass(frozen=True, slots=True)
class Chunking:
    """How an array is cut up on disk: shapes in elements (shards None without), and its codecs in words, as in "zstd:5".

    fill: what elements that are not stored are; None where that is not said (they are then 0).
    held: memory for reading it (an array of a source) or for writing it (one of a result).
    """

    chunks: Index
    shards: Index | None
    codecs: str
    fill: np.generic | None = None
    held: Held = Held()

    @property
    def unit(self) -> Index:
        """The shape of a write unit."""
        return self.shards or self.chunks


@dataclass(frozen=True, slots=True)
class Usage:
    """What a chunked array takes: write units stored, of how many, in how many bytes (its documents too)."""

    stored: int
    units: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """One array as it is stored: its name in the source ("" where there is one only), shape, dtype in its byte order, memory order.

    chunking: None for an array that is one flat buffer.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool = False
    chunking: Chunking | None = None

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def index(self, position: int) -> tuple[int, ...]:
        """The index of the element at `position` of the flat buffer."""
        index = []
        for length in self.shape if self.fortran else reversed(self.shape):
            position, at = divmod(position, length)
            index.append(at)
        return tuple(index if self.fortran else reversed(index))


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of an array whose elements cannot be had: enough to say what was copied. dtype: its name, which may not be numpy's.

    chunking: None where it is of a kind that is not known.
    """

    shape: tuple[int, ...]
    dtype: str
    chunking: Chunking | None


@dataclass(frozen=True, slots=True)
class Member:
    """Something in a source, by its key (unique there): an array, something else, or an array that cannot be read and why.

    unasked: whether an array is transformed when nobody names it. reserved: why it is not unless it is named by its own path.
    outline: of an array with a problem, where that much is known. copies: whether it can be copied as it is, whatever the problem.
    memory: bytes that reading or copying it holds beside its regions. behind: bytes that follow the array, and are ignored.
    """

    key: str
    name: str
    array: ArrayInfo | None = None
    problem: LeakyError | None = None
    unasked: bool = True
    reserved: LeakyError | None = None
    outline: Outline | None = None
    copies: bool = True
    memory: int = 0
    behind: int = 0


@dataclass(frozen=True, slots=True)
class Begun:
    """That an array was begun by an earlier run: the state that its writer had."""

    state: Any


class Mask(Protocol):
    """How an array marks elements as missing."""

    @property
    def rule(self) -> Rule:
        """The array's rule, which says what is missing."""
        ...

    @property
    def active(self) -> bool:
        """Whether there is anything to do beside the transform by `rule`."""
        ...

    def apply(self, x: Array, y: Array, /) -> int:
        """After the transform of `x` into `y`, of the same shape: give missing elements their value.

        Returns how many valid elements now look missing, beside those that the kernel counts.
        """
        ...


class Reader(Protocol[Region]):
    """Reads one array."""

    @property
    def info(self) -> ArrayInfo: ...

    @property
    def sequential(self) -> bool:
        """Whether regions must be fetched, in order, before they can be read."""
        ...

    @property
    def decodes(self) -> bool:
        """Sequential readers: whether fetching is work, and not waiting for others, so that it is worth a thread of its own."""
        ...

    @property
    def cumulative(self) -> bool:
        """Whether `commit` must see all regions, also those that an earlier run has worked on."""
        ...

    def fetch(self, region: Region, buffer: Array, /) -> None:
        """Sequential readers: put the bytes of the next region into the uint8 `buffer` of just its size."""
        ...

    def read(self, region: Region, buffer: Array, /) -> tuple[Array, Any]:
        """The elements of `region`, in the array's dtype and the region's shape, and what is to be committed for them.

        They are read into the uint8 `buffer` (at least their bytes) and viewed there; a sequential reader finds them in it.
        """
        ...

    def commit(self, payloads: list[Any]) -> None:
        """Take what `read` returned for the spans of one region, region by region in plan order, in one thread."""
        ...

    def finish(self) -> None:
        """After the last commit: raise CorruptError where what was read is not what was stored."""
        ...

    def close(self) -> None: ...


class Writer(Protocol[Region]):
    """Writes one array."""

    @property
    def info(self) -> ArrayInfo: ...

    @property
    def sequential(self) -> bool:
        """Whether what `write` returns must be committed in order."""
        ...

    def write(self, region: Region, y: Array, /) -> Any:
        """Write the elements of `region`, in its shape and the array's memory order; what is returned goes to `commit`.

        y belongs to the caller again afterwards.
        """
        ...

    def commit(self, payloads: list[Any]) -> None:
        """Take what `write` returned for the spans of one region, region by region in plan order, in one thread."""
        ...

    def state(self) -> Any:
        """What a later run must know to go on after the regions that are committed, as JSON has it."""
        ...

    def finish(self) -> None:
        """After the last commit: complete the array."""
        ...

    def close(self) -> None: ...


class Source(Protocol):
    """Something that holds arrays."""

    @property
    def format(self) -> str: ...

    @property
    def members(self) -> tuple[Member, ...]:
        """All there is, in the source's order."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]: ...

    def sequential(self, member: Member) -> bool:
        """Whether the member's reader is sequential."""
        ...

    def reader(self, member: Member) -> Reader[Any]:
        """Its regions are boxes where the array is chunked, else spans."""
        ...

    def stored(self, member: Member) -> Presence | None:
        """Which write units of a chunked array are stored; None for all."""
        ...

    def usage(self, member: Member) -> Usage | None:
        """What a chunked array takes; None for one that is not chunked."""
        ...

    def mask(self, member: Member, rule: Rule) -> Mask | None:
        """What is to be done about elements that are marked as missing; None for nothing."""
        ...

    def copy_problem(self, member: Member, other: Source, there: Member) -> str | None:
        """How a copy of `member` in another source of the same format is none, in words; None where it is one."""
        ...

    def document_problem(self, member: Member, other: Source, there: Member, rule: Rule) -> str | None:
        """What else than the elements of a transformed array is not as it should be in another source of the same format, in words."""
        ...

    @property
    def opened(self) -> dict[str, Any]:
        """The identity of what was opened, as far as it is known without looking at what holds the elements."""
        ...

    def identity(self, used: Collection[Member] = ()) -> dict[str, Any]:
        """What tells this source from a changed one; taken anew at each call. It covers all that the members `used` are read from."""
        ...

    def close(self) -> None: ...


def changed(path: str) -> SourceChangedError:
    """The error of a source that was changed by someone else."""
    return SourceChangedError(f"{shown(path)}: changed while it was read; run again when it is left alone")


def check_unchanged(source: Source, path: str) -> None:
    """Raise StorageError where `source`, which is at `path`, is no longer what was opened."""
    try:
        found = source.identity()
    except StorageError as error:
        if error.errno != errno.ENOENT:
            raise
        gone = StorageError(f"{shown(path)}: was removed while it was read; run again when it is back")
        gone.errno = errno.ENOENT
        raise gone from None
    if any(found.get(name) != value for name, value in source.opened.items()):
        raise changed(path)


@contextlib.contextmanager
def unchanged(source: Source, path: str) -> Iterator[None]:
    """What is found wrong with `source`, which is at `path`, within: first whether it still is what was opened."""
    try:
        yield
    except (CorruptError, StorageError) as error:
        if isinstance(error, CorruptError) or error.errno == errno.ENOENT:
            check_unchanged(source, path)
        raise


def read_limited(path: str, most: int) -> bytes | None:
    """All of a regular file; None where there is none. Raises CorruptError where it has more than `most` bytes, or is no file; OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise CorruptError(f"{shown(path)}: is no regular file")
        data = file.read(most + 1) if found.st_size <= most else b""
        if found.st_size > most or len(data) > most:
            raise CorruptError(f"{shown(path)}: has {found.st_size} bytes; more than {most} are not read")
        return data


#: Bytes that are copied at once.
_COPIED = 1 << 20


def copy_in_pieces(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> int:
    """Copy until `read`, which gives up to so many bytes, gives none; returns how many. Memory holds one piece, whatever the size."""
    size = 0
    while data := read(_COPIED):
        stopping.check()
        write(data)
        size += len(data)
    return size


def file_identity(found: os.stat_result) -> dict[str, Any]:
    """What tells a file from a changed one. Its time of change (ctime) cannot be set back, as that of its content can."""
    return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns, "inode": found.st_ino}


def check_unchunked(suffix: str, layout: Layout) -> None:
    """Raise UsageError for what only Zarr has."""
    for given, option in ((layout.chunks, "--chunks"), (layout.shards, "--shards"), (layout.zarr_format, "--zarr-format")):
        if given is not None:
            raise UsageError(f"{option} is for Zarr; a {suffix} file has no chunks")


class FlatSource:
    """What all sources of arrays that are not chunked have in common."""

    def stored(self, member: Member) -> None:
        return None

    def usage(self, member: Member) -> None:
        return None

    def mask(self, member: Member, rule: Rule) -> None:
        return None

    def document_problem(self, member: Member, other: Source, there: Member, rule: Rule) -> None:
        return None


class Target(Protocol):
    """Something that arrays are written to, one after the other, under a temporary name or as a stream."""

    @property
    def warnings(self) -> Sequence[str]:
        """What could not be kept as it was."""
        ...

    def writer(self, info: ArrayInfo, source: Source, member: Member, rule: Rule | None, begun: Begun | None = None) -> Writer[Any]:
        """The writer for the array `info`, which comes from that member by `rule` (None: as it is). Its regions are as a reader's.

        begun: of the writer of an earlier run to go on from.
        """
        ...

    def copy(self, source: Source, member: Member) -> None:
        """Take over a member as it is."""
        ...

    def state(self) -> Any:
        """After a member is finished: what a later run must know of it, as JSON has it."""
        ...

    def restore(self, info: ArrayInfo | None, source: Source, member: Member, rule: Rule | None, state: Any) -> None:
        """Take a member as finished by an earlier run, which kept that `state`. info: None for one that was copied."""
        ...

    def ensure(self) -> None:
        """Make sure that what is written is there, before anything relies on it; flush it to disk where that was asked for."""
        ...

    def finish(self) -> int:
        """Complete the target after its last array; returns its size in bytes."""
        ...

    def close(self) -> None: ...
