"""Storage formats: which one a path holds, and how to open and make it.

Formats are recognised by what a source contains, and chosen for a destination by its suffix.
"""

from __future__ import annotations

import hashlib
import os
import stat

from leakycli.errors import StorageError, UnsupportedError, UsageError, shown, storage_error
from leakycli.storage.base import ArrayInfo, Reader, Source, Target, Writer
from leakycli.storage.npy import NpySource, NpyStreamSource, NpyStreamTarget, NpyTarget, is_stream

#: Suffixes of the destinations that can be written, and of the files that a folder is searched for.
SUFFIXES = (".npy",)


def open_source(path: str) -> Source:
    """The source at `path`; "-" is standard input. Raises StorageError, CorruptError or UnsupportedError, each naming the path."""
    if is_stream(path):
        return NpyStreamSource(path)
    try:
        with open(path, "rb") as file:
            if file.read(4) in (b"PK\3\4", b"PK\5\6"):
                raise UnsupportedError(f"{shown(path)}: .npz archives cannot be read yet; save its arrays as .npy")
    except IsADirectoryError:
        raise StorageError(f"{shown(path)}: is a folder; give --recursive for the arrays in it") from None
    except OSError as error:
        raise storage_error(error, path, "cannot read") from None
    return NpySource(path)


def check_suffix(dest: str) -> None:
    """Raise UsageError unless `dest`'s suffix names a format that can be written."""
    if not dest.lower().endswith(SUFFIXES):
        raise UsageError(f"{shown(dest)}: a destination's suffix says its format; it must end in {' or '.join(SUFFIXES)}")


def create_target(path: str) -> Target:
    """A file target that will be at `path` (a temporary name, whatever its suffix)."""
    return NpyTarget(path)


def create_stream_target(fd: int) -> Target:
    """A target that is written front to back to `fd`."""
    if os.isatty(fd):
        raise UsageError("standard output is a terminal, where binary data is of no use; redirect it or name a file")
    return NpyStreamTarget(fd)


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
    "SUFFIXES",
    "ArrayInfo",
    "Reader",
    "Source",
    "Target",
    "Writer",
    "check_suffix",
    "create_stream_target",
    "create_target",
    "fingerprint",
    "is_regular",
    "is_stream",
    "open_source",
]
