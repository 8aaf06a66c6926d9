"""Objects as files in a directory. Reading takes four system calls; writing goes through a temporary name."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from leakycli.errors import CorruptError, SourceChangedError, StorageError, shown, storage_error
from leakycli.stores.base import Pieces, Request, Room

#: Non-blocking: opening a pipe does not wait for its writer.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

#: No file descriptor; the system refuses it.
_CLOSED = -1

#: Pieces in one call (IOV_MAX is 1024 on Linux and macOS).
_MOST_PIECES = 1000


class Directory:
    """An existing directory. Directories below it are made on demand; the directory itself is never made again if someone removes it."""

    parts = True
    requests = False

    def __init__(self, path: str) -> None:
        self.path = path
        self._root = _CLOSED
        try:
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error(error, path, "cannot open") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def __del__(self) -> None:
        self.close()

    def where(self, key: str) -> str:
        return shown(os.path.join(self.path, key) if key else self.path)

    def read(self, requests: Iterable[Request], room: Room) -> Iterator[memoryview | None]:
        for request in requests:
            try:
                fd = os.open(request.key, _READ, dir_fd=self._root)
            except (FileNotFoundError, NotADirectoryError):
                yield None
                continue
            except OSError as error:
                raise storage_error(error, os.path.join(self.path, request.key), "cannot read") from None
            try:
                found = self._read(fd, request, room)
            except OSError as error:
                if isinstance(error, StorageError):
                    raise
                raise storage_error(error, os.path.join(self.path, request.key), "cannot read") from None
            finally:
                os.close(fd)
            yield found

    def _read(self, fd: int, request: Request, room: Room) -> memoryview:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder where a file belongs" if stat.S_ISDIR(status.st_mode) else "no file"
            raise CorruptError(f"{self.where(request.key)}: is {kind}")
        start, stop, _ = slice(request.start, request.stop).indices(status.st_size)
        view, done = room(request, max(stop - start, 0)), 0
        while done < len(view):
            count = os.readv(fd, [view[done:]]) if start == 0 else os.preadv(fd, [view[done:]], start + done)
            if not count:
                raise SourceChangedError(f"{self.where(request.key)}: ended at byte {start + done}: it became shorter while it was read")
            done += count
        return view

    def write(self, objects: Iterable[tuple[str, Pieces]]) -> None:
        for key, pieces in objects:
            # Leftovers of killed runs are found by this form (as zarr's are).
            temporary = f"{key}.{os.urandom(16).hex()}.partial"
            try:
                fd = self._created(temporary)
                try:
                    _write_all(fd, pieces)
                finally:
                    os.close(fd)
                os.rename(temporary, key, src_dir_fd=self._root, dst_dir_fd=self._root)
            except OSError as error:
                self._discard(temporary)
                raise storage_error(error, os.path.join(self.path, key), "cannot write") from None
            except BaseException:
                self._discard(temporary)
                raise

    def _created(self, key: str) -> int:
        try:
            return os.open(key, _WRITE, 0o666, dir_fd=self._root)
        except FileNotFoundError:
            parts = key.split("/")[:-1]
            for depth in range(len(parts)):
                try:
                    # Relative to the open directory: its path may lead to another one by now.
                    os.mkdir("/".join(parts[: depth + 1]), dir_fd=self._root)
                except FileExistsError:
                    continue
                except FileNotFoundError:
                    raise OSError(errno.ENOENT, "it was removed while it was written") from None
            return os.open(key, _WRITE, 0o666, dir_fd=self._root)

    def _discard(self, key: str) -> None:
        try:
            os.unlink(key, dir_fd=self._root)
        except OSError:
            pass  # not made, or not removable: the first error is the one to report

    def close(self) -> None:
        root, self._root = self._root, _CLOSED
        if root != _CLOSED:
            os.close(root)


def _write_all(fd: int, pieces: Pieces) -> None:
    """Write all pieces, in as many calls as it takes."""
    waiting = [piece for piece in pieces if piece.nbytes]
    while waiting:
        count = os.writev(fd, waiting[:_MOST_PIECES])
        done = 0
        while done < len(waiting) and count >= waiting[done].nbytes:
            count -= waiting[done].nbytes
            done += 1
        del waiting[:done]
        if count:
            waiting[0] = waiting[0][count:]
