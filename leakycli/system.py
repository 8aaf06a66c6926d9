"""What this machine gives the process: processors, memory, files; and how much it has used. Linux's cgroup limits (v1 and v2) count."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Iterator
from functools import lru_cache

from leakycli.errors import FlushError, shown, storage_error

#: Bytes from which `reserve` does something: smaller files are written at once.
_RESERVED = 1 << 20

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@lru_cache(maxsize=1)
def cpus() -> int:
    """Processors that the process may use at once: its affinity, or its cgroup's quota (rounded up) where that is less. Looked up once."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _cgroup_folders("cpu"):
        quota, period = _words(f"{folder}/cpu.max"), "100000"
        if not quota:
            quota, period = _words(f"{folder}/cpu.cfs_quota_us"), (_words(f"{folder}/cpu.cfs_period_us") or [period])[0]
        elif len(quota) == 2:
            period = quota[1]
        if quota and quota[0].isdigit() and int(period) > 0:
            allowed = min(allowed, -(-int(quota[0]) // int(period)))
    return max(allowed, 1)


def wanted_kernel() -> str:
    """The implementation of the function that LEAKYCLI_KERNEL asks for; "" where it asks for none."""
    return os.environ.get("LEAKYCLI_KERNEL", "")


def memory_available() -> int | None:
    """Bytes the process could still take without pushing others out; None where the system does not say."""
    found: list[int] = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    for folder in _cgroup_folders("memory"):
        limit = _words(f"{folder}/memory.max") or _words(f"{folder}/memory.limit_in_bytes")
        used = _words(f"{folder}/memory.current") or _words(f"{folder}/memory.usage_in_bytes")
        if limit and used and limit[0].isdigit():
            # The page cache counts as used but gives way.
            cache = sum(
                int(line.split()[1]) for line in _lines(f"{folder}/memory.stat") if line.startswith(("inactive_file ", "active_file "))
            )
            found.append(max(int(limit[0]) - int(used[0]) + cache, 0))
    if not found and hasattr(os, "sysconf"):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (ValueError, OSError):
            return None
    return min(found, default=None)


def reserve(fd: int, size: int) -> None:
    """Have the file system set aside the first `size` bytes of a file, where it can: then none of it runs out half-way, and what several
    processes write lies together. Raises OSError where there is no room. Elsewhere nothing happens: to write zeros instead would take as
    long as the work.
    """
    if sys.platform != "linux" or size < _RESERVED:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # glibc's own name for the one whose offsets have 64 bits everywhere.
    fallocate = libc.fallocate64 if hasattr(libc, "fallocate64") else libc.fallocate
    if fallocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size)) and (code := ctypes.get_errno()) in _NO_ROOM:
        raise OSError(code, os.strerror(code))


def sync_path(path: str) -> None:
    """Flush a file, or a folder's list of names, to disk. Raises StorageError; FlushError where what was written may be lost."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise storage_error(error, path, "cannot flush") from None
    try:
        sync(fd, path)
    finally:
        os.close(fd)


def sync(fd: int, path: str) -> None:
    """Flush an open file to disk. Raises FlushError, naming `path`."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTSUP) and stat.S_ISDIR(os.fstat(fd).st_mode):
            return  # its file system has no such thing for folders
        raise FlushError(f"cannot flush {shown(path)}: {error.strerror}") from None


def open_own(path: str, flags: int, mode: int = 0o600) -> int:
    """Open a file that this run has made, or makes: never by way of a link that somebody put in its place. Raises OSError.

    The links of /proc/self/fd are those of files that have no name.
    """
    follow = path.startswith("/proc/self/fd/")
    return os.open(path, flags | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW), mode)


def resident() -> int:
    """Bytes of resident memory now (the peak so far where the system tells only that)."""
    return _status("VmRSS:") or _max_rss()


def peak_resident() -> int:
    """Bytes of resident memory at the process's peak."""
    # Not ru_maxrss on Linux: it survives exec, so that the child of a large parent reports the parent's peak.
    return _status("VmHWM:") or _max_rss()


def _status(field: str) -> int:
    try:
        fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        _, _, rest = os.read(fd, 1 << 14).partition(field.encode())
        return int(rest.split(None, 1)[0]) * 1024 if rest else 0
    finally:
        os.close(fd)


def _max_rss() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cgroup_folders(controller: str) -> Iterator[str]:
    """The process's cgroup and its parents, for `controller`, as far as they can be seen."""
    root = "/sys/fs/cgroup"
    for line in _lines("/proc/self/cgroup"):
        number, controllers, path = line.rstrip("\n").split(":", 2)
        if number == "0":
            mount = root
        elif controller in controllers.split(","):
            mount = f"{root}/{controller}"
        else:
            continue
        # Inside a container the path may be the host's: the mount itself is then the process's own.
        parts = [part for part in path.split("/") if part]
        yield from ("/".join([mount, *parts[:n]]) for n in range(len(parts), -1, -1))


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:
        return []


def _words(path: str) -> list[str]:
    return " ".join(_lines(path)).split()
