"""The system calls of publishing: names that change in one step, and what proves that a file is the one that was made.

A file is known by its inode number and its time of birth, which the system sets once and nobody can set again: an inode number alone
is given to the next file as soon as the first is gone, and a name proves nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from functools import cache

from leakycli.errors import LeakyError, storage_error

#: linux/fs.h and sys/stdio.h (macOS)
_RENAME_NOREPLACE = 1
_RENAME_EXCL = 4
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2
_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_BTIME = 0x800

#: The system, this file system, or a filter of system calls (EPERM) has no such call.
NO_SUCH_CALL = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)

#: Inode number and time of birth in nanoseconds, 0 where the system does not tell; a list, as JSON has it.
Identity = list[int]


def identity(path: str) -> Identity | None:
    """What tells the file or folder at `path` from all others, under whatever name; None where there is nothing. Links are not followed."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    born = getattr(found, "st_birthtime_ns", 0) or int(getattr(found, "st_birthtime", 0) * 1e9)
    return [found.st_ino, born or _born(path)]


def _born(path: str) -> int:
    libc = _libc()
    if sys.platform != "linux" or not hasattr(libc, "statx"):
        return 0
    found = ctypes.create_string_buffer(256)
    if libc.statx(_AT_FDCWD, os.fsencode(path), _AT_SYMLINK_NOFOLLOW, ctypes.c_uint(_STATX_BTIME), found):
        return 0
    # struct statx of linux/stat.h: the mask at 0, the time of birth (seconds, nanoseconds) at 80.
    mask, seconds, nanoseconds = struct.unpack_from("=I76xqI", found.raw)
    return int(seconds * 1_000_000_000 + nanoseconds) if mask & _STATX_BTIME else 0


def is_empty(path: str) -> bool:
    """Whether there is an empty file with no other name, or an empty folder, at `path`."""
    try:
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode):
            return not os.listdir(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == 0 and found.st_nlink == 1


def rename_new(old: str, new: str) -> None:
    """Rename `old` to `new`, which must not exist, in one step. Raises FileExistsError, OSError.

    Where the system has neither such a rename nor, for a file, a second name, it is looked whether `new` exists, and then renamed: what
    appears between the two is replaced where it is a file, or an empty folder.
    """
    code = _rename_flagged(old, new)
    if code in NO_SUCH_CALL:
        if not os.path.isdir(old) and _linked(old, new):
            return
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
        os.rename(old, new)
    elif code:
        raise OSError(code, os.strerror(code), new)


def _linked(old: str, new: str) -> bool:
    """Whether `old` got the name `new` by a second name, and one less; both fail where `new` exists."""
    try:
        os.link(old, new)
    except FileExistsError:
        raise
    except OSError:
        return False
    os.unlink(old)
    return True


def exchange(one: str, other: str) -> bool:
    """Let two names change places in one step; False where the system cannot. Raises OSError."""
    code = _rename_flagged(one, other, exchange=True)
    if code and code not in NO_SUCH_CALL:
        raise OSError(code, os.strerror(code), other)
    return not code


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _rename_flagged(old: str, new: str, exchange: bool = False) -> int:
    """The system's rename that does not replace, or that exchanges; returns errno, 0 for success."""
    libc = _libc()
    while True:
        if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
            failed = libc.renamex_np(os.fsencode(old), os.fsencode(new), ctypes.c_uint(_RENAME_SWAP if exchange else _RENAME_EXCL))
        elif hasattr(libc, "renameat2"):
            flag = ctypes.c_uint(_RENAME_EXCHANGE if exchange else _RENAME_NOREPLACE)
            failed = libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flag)
        else:
            return errno.ENOSYS
        if not failed:
            return 0
        if (code := ctypes.get_errno()) != errno.EINTR:
            return code


def remove(path: str) -> None:
    """Remove a file, or a folder with all that is in it. Raises StorageError, naming what cannot be removed; nothing there is no error."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            import shutil

            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        if os.path.lexists(path):
            remove(path)  # somebody else removed what was in it
    except OSError as error:
        if isinstance(error, LeakyError):
            raise
        named = error.filename if isinstance(error.filename, str) and os.path.isabs(error.filename) == os.path.isabs(path) else path
        raise storage_error(error, named if named.startswith(path) else path, "cannot remove") from None
