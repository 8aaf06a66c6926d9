"""Storage formats: which one a path holds, and how to open and make it.

Formats are recognised by what a source contains, and chosen for a destination by its suffix.
"""

from __future__ import annotations

import hashlib
import os
import stat

from leakycli.errors import CorruptError, StorageError, UsageError, shown, storage_error
from leakycli.storage.base import ArrayInfo, Member, Reader, Source, Target, Writer
from leakycli.storage.npy import NpySource, NpyStreamSource, NpyStreamTarget, NpyTarget, is_stream

#: The formats that can be written, and the suffix that says each.
FORMATS = {"npy": ".npy", "npz": ".npz"}

#: Suffixes of the files that a folder is searched for.
SUFFIXES = tuple(FORMATS.values())


def open_source(path: str) -> Source:
    """The source at `path`; "-" is standard input. Raises StorageError, CorruptError or UnsupportedError, each naming the path."""
    check_path(path)
    if is_stream(path):
        return NpyStreamSource(path)
    try:
        with open(path, "rb") as file:
            archive = file.read(4) in (b"PK\3\4", b"PK\5\6")
    except IsADirectoryError:
        raise StorageError(f"{shown(path)}: is a folder; give --recursive for the arrays in it") from None
    except OSError as error:
        raise storage_error(error, path, "cannot read") from None
    if archive:
        from leakycli.storage.npz import NpzSource

        return NpzSource(path)
    if path.lower().endswith(".npz"):
        raise CorruptError(f"{shown(path)}: is not a .npz file: it does not begin as a zip archive does")
    return NpySource(path)


def check_path(path: str) -> None:
    """Raise UsageError for what no file system takes as a name."""
    if not path or "\0" in path:
        raise UsageError(f"{shown(path)}: is no path: it {'has a NUL character' if path else 'is empty'}")


def dest_format(dest: str, to: str | None = None) -> str:
    """The format of `dest`: what its suffix says, or `to` (by default "npy") for "-". Raises UsageError where they disagree."""
    check_path(dest)
    if dest == "-":
        return to or "npy"
    for name, suffix in FORMATS.items():
        if dest.lower().endswith(suffix):
            if to not in (None, name):
                raise UsageError(f"{shown(dest)}: its suffix says {name}, --to says {to}; make them agree")
            return name
    raise UsageError(f"{shown(dest)}: a destination's suffix says its format; it must end in {' or '.join(SUFFIXES)}")


def create_target(path: str, format: str, compressor: str | None = None) -> Target:
    """A target of that format that will be at `path` (a temporary name, whatever its suffix); "-" is standard output."""
    if path == "-" and os.isatty(1):
        raise UsageError("standard output is a terminal, where binary data is of no use; redirect it or name a file")
    if format == "npy":
        return NpyStreamTarget(1) if path == "-" else NpyTarget(path)
    from leakycli.storage.npz import Compressor, NpzTarget

    return NpzTarget(path, Compressor.parse(compressor), stream=1 if path == "-" else None)


def compresses(format: str, compressor: str | None, source: Source, member: Member) -> bool:
    """Whether a target of that format compresses `member`, and so writes it front to back. Raises UsageError for an unknown compressor."""
    if format == "npy":
        if compressor is not None:
            raise UsageError("--compressor is for .npz; a .npy file is not compressed")
        return False
    from leakycli.storage.npz import Compressor

    return Compressor.of(Compressor.parse(compressor), source, member).compresses


def fingerprint(path: str) -> str:
    """A digest of a file's size and of 16 samples of 4 KiB spread over it: tells which file this is, whatever its name and times."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(str(size).encode())
        for i in range(16):
            digest.update(os.pread(file.fileno(), 4096, max(size - 4096, 0) * i // 15))
    return digest.hexdigest()


def is_regular(path: str) -> bool:
    """Whether `path` is a regular file (a link to one counts)."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


__all__ = [
    "FORMATS",
    "SUFFIXES",
    "ArrayInfo",
    "Member",
    "Reader",
    "Source",
    "Target",
    "Writer",
    "compresses",
    "create_target",
    "dest_format",
    "fingerprint",
    "is_regular",
    "is_stream",
    "open_source",
]
