"""Where a hierarchy is written: a folder, or under a URL. What is written can be read there, as in any tree."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from leakycli.errors import LeakyError, StorageError, shown, storage_error
from leakycli.formats.zarr.metadata import is_document
from leakycli.formats.zarr.tree import FolderTree, Tree, UrlTree
from leakycli.system import open_own, sync_path

if TYPE_CHECKING:
    import zarr.abc.store

    from leakycli.stores.remote import Remote

#: The end of the names that chunks are written under first.
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.partial$")


def _with_folder(path: str, flags: int) -> int:
    """Opens; makes the folder first where there is none."""
    try:
        return open_own(path, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open_own(path, flags, 0o666)


class Place(Tree, Protocol):
    """A tree that is written to. Its store is for writing."""

    def write(self, key: str, data: bytes) -> None:
        """Raises StorageError."""
        ...

    def write_pieces(self, key: str, pieces: Iterator[bytes]) -> None:
        """Write what comes in pieces, without holding all of it. Raises StorageError."""
        ...

    def clear(self, key: str) -> None:
        """Remove all that is under `key`."""
        ...

    def wrote(self, keys: Iterable[str]) -> None:
        """Note chunks that were written."""
        ...

    def ensure(self) -> None:
        """See `Target.ensure`."""
        ...

    def tidy(self) -> None:
        """Remove what an earlier run was writing when it was killed."""
        ...


class FolderPlace(FolderTree):
    """A folder."""

    def __init__(self, path: str, begun: bool, flush: bool = False) -> None:
        """begun: it is there. flush: see `Target.ensure`."""
        super().__init__(path)
        self._written: list[str] | None = [] if flush else None
        try:
            if not begun:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path)
            self._identity = os.stat(path)
        except OSError as error:
            raise storage_error(error, path, "cannot write") from None

    def write(self, key: str, data: bytes) -> None:
        self.put(key, data)
        self.wrote((key,))

    def write_pieces(self, key: str, pieces: Iterator[bytes]) -> None:
        self._put(key, pieces)
        self.wrote((key,))

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write a chunk, of which `wrote` is told later. Raises StorageError."""
        self._put(key, (data,))

    def _put(self, key: str, pieces: Iterable[bytes | memoryview]) -> None:
        path = os.path.join(self.path, key)
        try:
            with open(path, "wb", buffering=0, opener=_with_folder) as file:
                for piece in pieces:
                    view, done = memoryview(piece), 0
                    while done < len(view):
                        done += file.write(view[done:])
        except OSError as error:
            if isinstance(error, LeakyError):
                raise
            raise storage_error(error, path, "cannot write") from None

    def clear(self, key: str) -> None:
        folder = os.path.join(self.path, key)
        if key and os.path.islink(folder):
            os.unlink(folder)
        os.makedirs(folder, exist_ok=True)
        # Not the folder itself: that of the root is known by its inode.
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)

    def wrote(self, keys: Iterable[str]) -> None:
        if self._written is not None:
            self._written += (os.path.join(self.path, key) for key in keys)

    def ensure(self) -> None:
        try:
            # zarr makes the folders that it needs, and would not notice.
            there = os.path.samestat(self._identity, os.stat(self.path))
        except OSError:
            there = False
        if not there:
            raise StorageError(f"cannot write {shown(self.path)}: it was taken away while it was written")
        if self._written:
            folders = {self.path}
            for path in dict.fromkeys(self._written):
                # A chunk of nothing but fill values may not be there, nor the folder it would be in.
                if not os.path.exists(path):
                    continue
                sync_path(path)
                while (path := os.path.dirname(path)) not in folders:
                    folders.add(path)
            for folder in sorted(folders, reverse=True):
                sync_path(folder)
            self._written.clear()

    def tidy(self) -> None:
        def fail(error: OSError) -> None:
            raise storage_error(error, error.filename, "cannot read")

        for folder, _, files in os.walk(self.path, onerror=fail):
            for file in files:
                if _TEMPORARY.search(file):
                    os.unlink(os.path.join(folder, file))

    def store(self) -> zarr.abc.store.Store:
        from zarr.storage import LocalStore

        return LocalStore(self.path)


class UrlPlace(UrlTree):
    """Under a URL. Metadata documents are held back (`Remote.held`): what has none is no hierarchy yet."""

    def __init__(self, remote: Remote) -> None:
        assert remote.held is not None
        super().__init__(remote)
        self._held = remote.held

    def write(self, key: str, data: bytes) -> None:
        if is_document(key):
            self._held[key] = data
        else:
            self.remote.write(key, data)

    def write_pieces(self, key: str, pieces: Iterator[bytes]) -> None:
        if is_document(key):
            self._held[key] = b"".join(pieces)
        else:
            self.remote.write_pieces(key, pieces)

    def clear(self, key: str) -> None:
        self.remote.remove(key)

    def wrote(self, keys: Iterable[str]) -> None:
        pass

    def ensure(self) -> None:
        """What a server has answered for is there."""

    def tidy(self) -> None:
        pass

    def store(self) -> zarr.abc.store.Store:
        from leakycli.formats.zarr.store import RemoteStore

        return RemoteStore(self.remote, read_only=False)
