"""Storage formats: which one a path holds, and how to open and make it.

Formats are recognised by what a source contains, and chosen for a destination by its suffix.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from leakycli.errors import CorruptError, StorageError, UnsupportedError, UsageError, shown, storage_error
from leakycli.formats.base import (
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
from leakycli.formats.npy import MAGIC, NpySource, NpyStreamSource, NpyStreamTarget, NpyTarget, behind_text
from leakycli.formats.npy import is_stream as _is_stream
from leakycli.stores.urls import is_url, name_in, parse_options

if TYPE_CHECKING:
    from leakycli.stores.remote import Remote

#: The formats that can be written, and the suffix that says each.
FORMATS = {"npy": ".npy", "npz": ".npz", "zarr.zip": ".zarr.zip", "zarr": ".zarr"}

#: Suffixes of the files that a folder is searched for.
SUFFIXES = tuple(FORMATS.values())

#: What a folder has that is a Zarr array or group.
DOCUMENTS = ("zarr.json", ".zarray", ".zgroup")


def located(path: str, options: Mapping[str, Any]) -> str | Remote:
    """What is at `path`: itself, or what is behind a URL."""
    if not is_url(path):
        return path
    from leakycli.stores.remote import Remote

    return Remote(path, options)


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
    if is_stream(path):
        return NpyStreamSource(path)
    if is_zarr(path) or (os.path.isdir(path) and path.rstrip("/").lower().endswith(".zarr")):
        from leakycli.formats.zarr import ZarrSource

        return ZarrSource(path)
    if os.path.isdir(path):
        raise StorageError(f"{shown(path)}: is a folder, and no Zarr array or group; name what is in it")
    try:
        with open(path, "rb") as file:
            archive = file.read(4) in (b"PK\3\4", b"PK\5\6")
    except OSError as error:
        raise storage_error(error, path, "cannot read") from None
    if archive:
        from leakycli.formats.npz import NpzSource

        if (inner := _zarr_in_archive(path)) is not None:
            raise CorruptError(f"{shown(path)}: is no Zarr array or group itself, but {shown(inner)} is; give that path")
        return NpzSource(path)
    return NpySource(path)


def _zarr_in_archive(path: str) -> str | None:
    """The path of a Zarr array or group in the folders of an archive that holds no `.npy`; None where there is none."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as opened:
            names = opened.namelist()
    # A hostile directory trips zipfile in several ways; whoever opens it says so.
    except Exception:
        return None
    if any(name.endswith(".npy") for name in names):
        return None
    folders = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] in DOCUMENTS}
    return f"{path}/{min(folders, key=lambda folder: (folder.count('/'), folder))}" if folders else None


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
    if not is_regular(archive) or (archive != path and not archive.lower().endswith(".zip")):
        return False
    try:
        with open(archive, "rb") as file:
            if file.read(4) not in (b"PK\3\4", b"PK\5\6"):
                return False
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


def dest_format(dest: str, to: str | None = None) -> str:
    """The format of `dest`: what its suffix says, or `to` (by default "npy") for "-". Raises UsageError where they disagree."""
    check_path(dest)
    if is_url(dest) and not dest.rstrip("/").lower().endswith(FORMATS["zarr"]):
        raise UsageError(f"{shown(dest)}: only a Zarr store is written to a URL, and its name must end in {FORMATS['zarr']}")
    if dest == "-":
        if (to or "npy").startswith("zarr"):
            raise UsageError("a Zarr store is many files and cannot go to standard output; name a destination")
        return to or "npy"
    for name, suffix in FORMATS.items():
        if dest.rstrip("/").lower().endswith(suffix):
            if to is not None and not name.startswith(to):
                raise UsageError(f"{shown(dest)}: its suffix says {name}, --to says {to}; make them agree")
            return name
    raise UsageError(f"{shown(dest)}: a destination's suffix says its format; it must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


def create_target(path: str | Remote, format: str, layout: Layout, begun: bool = False, flush: bool = False) -> Target:
    """A target of that format that will be at `path` (a temporary name, whatever its suffix); "-" is standard output.

    begun: by an earlier run. flush: see `Target.ensure`. An empty file, or folder, may be there already.
    """
    if not isinstance(path, str):
        from leakycli.formats.zarr import ZarrTarget

        return ZarrTarget(path, layout, begun=begun)
    if format == "npy":
        return NpyStreamTarget(1) if path == "-" else NpyTarget(path, flush)
    if format == "npz":
        from leakycli.formats.npz import Compressor, NpzTarget

        return NpzTarget(path, Compressor.parse(layout.compressor), stream=1 if path == "-" else None, begun=begun, flush=flush)
    from leakycli.formats.zarr import ZarrTarget

    return ZarrTarget(path, layout, packed=format == "zarr.zip", begun=begun, flush=flush)


def carries(format: str, layout: Layout, source: Source, member: Member) -> bool:
    """Whether a member that is not transformed is read as an array and written as one: from one kind of format to another.

    Raises the member's problem, or UsageError, where it would have to be and cannot.
    """
    if format == "npy":
        return False
    if format.removesuffix(".zip") == source.format.removesuffix(".zip"):
        if not format.startswith("zarr") or layout.zarr_format is None:
            return False
        from leakycli.formats.zarr import carries as translates

        return translates(layout, source, member)
    if member.problem is not None:
        raise type(member.problem)(f"{member.problem} (an array that is not chosen is copied, which this one cannot be from Zarr to npz)")
    return member.array is not None


def check_layout(format: str, layout: Layout) -> None:
    """Raise UsageError for what that format does not have."""
    if format.startswith("zarr"):
        from leakycli.formats.zarr import check_compressor

        check_compressor(layout.compressor)
        return
    for given, option in ((layout.chunks, "--chunks"), (layout.shards, "--shards"), (layout.zarr_format, "--zarr-format")):
        if given is not None:
            raise UsageError(f"{option} is for Zarr; a .{format} file has no chunks")
    if format == "npy" and layout.compressor is not None:
        raise UsageError("--compressor is for .npz and Zarr; a .npy file is not compressed")
    if format == "npz":
        from leakycli.formats.npz import Compressor

        Compressor.parse(layout.compressor)


def compresses(format: str, layout: Layout, source: Source, member: Member) -> bool:
    """Whether a target of that format compresses `member`, and so writes it front to back."""
    if format != "npz":
        return False
    from leakycli.formats.npz import Compressor

    return Compressor.of(Compressor.parse(layout.compressor), source, member).compresses


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
    "FORMATS",
    "MAGIC",
    "METADATA",
    "SUFFIXES",
    "ArrayInfo",
    "Begun",
    "Chunking",
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
    "check_layout",
    "compresses",
    "create_target",
    "dest_format",
    "fingerprint",
    "is_regular",
    "is_small_file",
    "is_stream",
    "is_unchanged",
    "is_url",
    "is_zarr",
    "located",
    "name_in",
    "open_source",
    "parse_options",
    "read",
    "unchanged",
]
