"""Storage formats: which one a path holds, and how to open and make it.

Formats are recognised by what a source contains, and chosen for a destination by its suffix.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from leakycli.errors import CorruptError, StorageError, UnsupportedError, UsageError, shown
from leakycli.formats.base import (
    DOCUMENTS,
    METADATA,
    ArrayInfo,
    Begun,
    Chunking,
    Layout,
    Mask,
    Member,
    Reader,
    Source,
    Target,
    Usage,
    Writer,
    changed,
    read_limited,
    unchanged,
)
from leakycli.formats.npy import MAGIC, NpyStreamSource, behind_text
from leakycli.formats.npy import is_stream as _is_stream
from leakycli.stores.urls import is_url, name_in, parse_options

if TYPE_CHECKING:
    from leakycli.stores.remote import Remote


def located(path: str, options: Mapping[str, Any]) -> str | Remote:
    """What is at `path`: itself, or what is behind a URL."""
    if not is_url(path):
        return path
    from leakycli.stores.remote import Remote

    return Remote(path, options)


class Code(Protocol):
    """What the module of a format has. It is imported when it is needed."""

    def open_source(self, path: str) -> Source: ...

    def create_target(self, path: str, packed: bool, layout: Layout, begun: bool, flush: bool) -> Target:
        """See `create_target` below. packed: `Format.packed`."""
        ...

    def check_layout(self, layout: Layout) -> None:
        """Raise UsageError for what the format does not have."""
        ...

    def result_array(self, array: ArrayInfo, dtype: np.dtype[Any], layout: Layout, source: Source, member: Member) -> ArrayInfo:
        """`array`, of that member, as it is written, with values of `dtype`."""
        ...

    def compresses(self, layout: Layout, source: Source, member: Member) -> bool:
        """Whether `member` is compressed as one stream, and so written front to back."""
        ...

    def carries(self, layout: Layout, source: Source, member: Member) -> bool:
        """Of a source of the same family: whether a member that is not transformed is read and written as an array."""
        ...


@dataclass(frozen=True, slots=True)
class Format:
    """A storage format, and all that the rest of the program asks about it.

    name: as reports have it.
    suffix: of a destination's name, which says the format.
    module: of its `Code`.
    recognises: whether what is at a path has it.
    family: its name for `--to`; formats of a family hold the same, and are packed differently.
    folder: a result is a folder.
    packed: a result is made as a folder, then packed into one file.
    single: it holds one array and nothing else; arrays that are not transformed are left out.
    nested: its arrays are in groups.
    holds_files: it may hold files that are no arrays.
    marks_missing: it says which elements stand for no value.
    checksummed: a member's checksum is that of its bytes in order, so that regions of a chunk grid go in order.
    preallocated: the room for a result is set aside when it is made.
    """

    name: str
    suffix: str
    module: str
    recognises: Callable[[str], bool]
    family: str
    folder: bool = False
    packed: bool = False
    single: bool = False
    nested: bool = False
    holds_files: bool = False
    marks_missing: bool = False
    checksummed: bool = False
    preallocated: bool = False

    @property
    def code(self) -> Code:
        return cast(Code, import_module(self.module))


def open_source(path: str | Remote) -> Source:
    """The source at `path`; "-" is standard input. Raises StorageError, CorruptError or UnsupportedError, each naming the path.

    Behind a URL there is a `.npy` where it ends so, else a Zarr.
    """
    if not isinstance(path, str):
        return _open_remote(path)
    check_path(path)
    before = _state(path)
    try:
        return _open_path(path)
    except CorruptError:
        if _state(path) != before:
            raise changed(path) from None
        raise


def _state(path: str) -> tuple[int, ...] | None:
    """What changes when the file at `path` does; None where there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _open_path(path: str) -> Source:
    found = next((each for each in FORMATS.values() if each.recognises(path)), None)
    if found is None and os.path.isdir(path):
        raise StorageError(f"{shown(path)}: is a folder, and no Zarr array or group; name what is in it")
    # What is of no format at all is told by what it begins with.
    return (found or FORMATS["npy"]).code.open_source(path)


def _is_archive(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) in (b"PK\3\4", b"PK\5\6")
    except (OSError, ValueError):
        return False


def _open_remote(remote: Remote) -> Source:
    name = name_in(remote.url).lower()
    if name.endswith(".npy"):
        return NpyStreamSource(remote)
    if name.endswith((".npz", ".zip")):
        raise UnsupportedError(f"{remote.where()}: an archive is not read from a URL; copy it here first")
    from leakycli.formats.zarr import ZarrSource

    return ZarrSource(remote)


def is_stream(path: str) -> bool:
    """Whether `path` can only be read from front to back: "-", a FIFO, a socket, a terminal, or a `.npy` behind a URL."""
    return name_in(path).lower().endswith(".npy") if is_url(path) else _is_stream(path)


def is_zarr(path: str) -> bool:
    """Whether `path` is a Zarr array or group: a folder with its documents, an archive of one, or a node inside an archive.

    A URL is not looked at, and is one if it is to be read as one.
    """
    if is_url(path):
        return not is_stream(path)
    if os.path.isdir(path):
        return any(os.path.lexists(os.path.join(path, name)) for name in DOCUMENTS)
    archive = path
    while archive and not os.path.lexists(archive):
        archive = archive.rpartition("/")[0]
    if not is_regular(archive) or (archive != path and not archive.lower().endswith(".zip")) or not _is_archive(archive):
        return False
    try:
        if archive.lower().endswith(".zarr.zip"):
            return True
        import zipfile

        inner = path[len(archive) :].strip("/")
        with zipfile.ZipFile(archive) as opened:
            return not {f"{inner}/{name}" if inner else name for name in DOCUMENTS}.isdisjoint(opened.namelist())
    # A hostile directory trips zipfile in several ways; whoever opens it says so.
    except Exception:
        return False


def check_path(path: str) -> None:
    """Raise UsageError for what no file system takes as a name."""
    if not path or "\0" in path:
        raise UsageError(f"{shown(path)}: is no path: it {'has a NUL character' if path else 'is empty'}")


#: The list of formats, by name: a new one is a module and an entry here. A destination's suffix is that of the first that it ends in.
FORMATS = {
    each.name: each
    for each in (
        Format("npy", ".npy", "leakycli.formats.npy", lambda path: is_stream(path), "npy", single=True, preallocated=True),
        Format(
            "npz",
            ".npz",
            "leakycli.formats.npz",
            lambda path: not os.path.isdir(path) and _is_archive(path) and not is_zarr(path),
            "npz",
            holds_files=True,
            checksummed=True,
        ),
        Format(
            "zarr.zip",
            ".zarr.zip",
            "leakycli.formats.zarr",
            lambda path: not os.path.isdir(path) and is_zarr(path),
            "zarr",
            packed=True,
            nested=True,
            marks_missing=True,
        ),
        Format(
            "zarr",
            ".zarr",
            "leakycli.formats.zarr",
            lambda path: is_zarr(path) or (os.path.isdir(path) and path.rstrip("/").lower().endswith(".zarr")),
            "zarr",
            folder=True,
            nested=True,
            marks_missing=True,
        ),
    )
}

#: Suffixes of the files that a folder is searched for.
SUFFIXES = tuple(each.suffix for each in FORMATS.values())

#: What `--to` takes.
FAMILIES = tuple(dict.fromkeys(each.family for each in FORMATS.values()))


def named_format(name: str) -> Format | None:
    """The format that the suffix of `name`, a file's or a folder's, says."""
    name = name.rstrip("/").lower()
    return next((each for each in FORMATS.values() if name.endswith(each.suffix)), None)


def is_folder_name(name: str) -> bool:
    """Whether what has that name is a folder, by its suffix."""
    found = named_format(name)
    return found is not None and found.folder


def dest_format(dest: str, to: str | None = None) -> Format:
    """The format of `dest`: what its suffix says, or `to` (by default "npy") for "-". Raises UsageError where they disagree."""
    check_path(dest)
    found = named_format(dest)
    if is_url(dest) and (found is None or not found.folder):
        suffix = FORMATS["zarr"].suffix
        raise UsageError(f"{shown(dest)}: only a Zarr store is written to a URL, and its name must end in {suffix}")
    if dest == "-":
        found = FORMATS[to or "npy"]
        if found.folder:
            raise UsageError("a Zarr store is many files and cannot go to standard output; name a destination")
        return found
    if found is None:
        rest = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise UsageError(f"{shown(dest)}: a destination's suffix says its format; it must end in {rest}")
    if to is not None and found.family != to:
        raise UsageError(f"{shown(dest)}: its suffix says {found.name}, --to says {to}; make them agree")
    return found


def create_target(path: str | Remote, format: Format, layout: Layout, begun: bool = False, flush: bool = False) -> Target:
    """A target of that format that will be at `path` (a temporary name, whatever its suffix); "-" is standard output.

    begun: by an earlier run. flush: see `Target.ensure`. An empty file, or folder, may be there already.
    """
    if not isinstance(path, str):
        from leakycli.formats.zarr import ZarrTarget

        return ZarrTarget(path, layout, begun=begun)
    return format.code.create_target(path, format.packed, layout, begun, flush)


def carries(format: Format, layout: Layout, source: Source, member: Member) -> bool:
    """Whether a member that is not transformed is read as an array and written as one: from one kind of format to another.

    Raises the member's problem, or UsageError, where it would have to be and cannot.
    """
    if format.single:
        return False
    own = FORMATS[source.format].family
    if format.family == own:
        return format.code.carries(layout, source, member)
    if member.problem is not None:
        raise type(member.problem)(
            f"{member.problem}; an array that is not chosen is copied, which this one cannot be from {own} to {format.family}: "
            f"give DEST a name in .{own}, or in .npy for one array (--only)"
        )
    return member.array is not None


#: Samples of a file, bytes of each, and files of a folder that samples are taken of.
_SAMPLES, _SAMPLE, _SAMPLED_FILES = 16, 4096, 64


def fingerprint(path: str | Remote) -> dict[str, str]:
    """Digests that tell what this is, whatever its name and times.

    Of a file: its size and 16 samples of 4 KiB spread over it (all of a small one). Of a Zarr folder: name and size of every file in it,
    and such samples of 64 of them. Of a URL: all metadata documents. Raises OSError.
    """
    digest = hashlib.blake2b(digest_size=16)
    if not isinstance(path, str):
        from leakycli.formats.zarr import ZarrSource

        source = ZarrSource(path)
        source.close()
        digest.update(str(source.opened).encode())
        return {"sampled_blake2b": digest.hexdigest()}
    if not os.path.isdir(path):
        digest.update(_sampled(path))
        return {"sampled_blake2b": digest.hexdigest()}
    files = sorted(_manifest(path, ""))
    for name, size in files:
        digest.update(b"%s\0%d\0" % (os.fsencode(name), size))
    for i in sorted({n * (len(files) - 1) // (_SAMPLED_FILES - 1) for n in range(_SAMPLED_FILES)} if files else ()):
        digest.update(_sampled(os.path.join(path, files[i][0])))
    return {"manifest_blake2b": digest.hexdigest()}


def _manifest(folder: str, under: str) -> Iterator[tuple[str, int]]:
    """Path below the first folder, and size, of every file."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _manifest(entry.path, f"{under}{entry.name}/")
            else:
                yield under + entry.name, entry.stat().st_size


def _sampled(path: str) -> bytes:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _SAMPLES * _SAMPLE:
            return b"%d" % size + file.read(size)
        parts = []
        for i in range(_SAMPLES):
            file.seek((size - _SAMPLE) * i // (_SAMPLES - 1))
            parts.append(file.read(_SAMPLE))
        return b"%d" % size + b"".join(parts)


#: Bytes of a report that is read.
_LONGEST_REPORT = 1 << 28


def read(path: str | Remote) -> bytes | None:
    """All of a regular file of 256 MiB at most, or of what is behind a URL; None where there is nothing. Raises OSError, CorruptError."""
    return path.read("") if not isinstance(path, str) else read_limited(path, _LONGEST_REPORT)


def is_regular(path: str) -> bool:
    """Whether `path` is a regular file (a link to one counts)."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_small_file(path: str, most: int) -> bool:
    """Whether `path` is a `.npy` file of at most so many bytes."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return False
    return path.lower().endswith(".npy") and stat.S_ISREG(found.st_mode) and found.st_size <= most


__all__ = [
    "DOCUMENTS",
    "FAMILIES",
    "FORMATS",
    "MAGIC",
    "METADATA",
    "SUFFIXES",
    "ArrayInfo",
    "Begun",
    "Chunking",
    "Format",
    "Layout",
    "Mask",
    "Member",
    "Reader",
    "Source",
    "Target",
    "Usage",
    "Writer",
    "behind_text",
    "carries",
    "changed",
    "create_target",
    "dest_format",
    "fingerprint",
    "is_folder_name",
    "is_regular",
    "is_small_file",
    "is_stream",
    "is_url",
    "is_zarr",
    "located",
    "name_in",
    "named_format",
    "open_source",
    "parse_options",
    "read",
    "unchanged",
]
