"""What a Zarr hierarchy is kept in: a folder, a zip archive, or what is behind a URL.

Keys are relative to its root, with "/" between their parts.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import stat
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, Protocol, cast

from zarr.abc.store import Store
from zarr.storage import LocalStore, ZipStore

from leakycli.errors import CorruptError, StorageError, UnsupportedError, shown, storage_error
from leakycli.formats.zarr.store import RemoteStore
from leakycli.stores.remote import Remote


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a tree: a file, or a folder. size: its bytes where the listing tells; else that would cost a call for each chunk."""

    key: str
    folder: bool
    size: int | None = None


#: Most links to folders on the way to a file.
_MOST_LINKS = 2


class Tree(Protocol):
    """Where a hierarchy is kept; picklable."""

    path: str

    #: Whether what is read and written are plain files, which every codec pipeline can handle.
    files: bool

    #: Whether it can tell what is there; else only what is asked for, by its key, can be known.
    listed: bool

    def where(self, key: str) -> str:
        """How to call what is under `key` in a message."""
        ...

    def read(self, key: str) -> bytes | None:
        """What is under `key`; None where there is nothing. Raises StorageError."""
        ...

    def read_all(self, keys: list[str]) -> list[bytes | None]:
        """What is under each of some keys, at once where that is quicker."""
        ...

    def children(self, key: str) -> list[Entry]:
        """What is directly under the folder `key`, by name."""
        ...

    def walk(self, key: str) -> Iterator[Entry]:
        """All that is under `key`, one by one, folders before what is in them."""
        ...

    def holds(self, key: str) -> bool:
        """Whether there is a file under `key`."""
        ...

    def size(self, key: str) -> int:
        """Bytes of the file under `key`, 0 where it is gone."""
        ...

    def open(self, key: str) -> BinaryIO:
        """The file under `key`, to be read here and there. Raises OSError, CorruptError."""
        ...

    def identity(self) -> dict[str, Any]:
        """What tells an archive from a changed one; nothing for a folder."""
        ...

    def store(self) -> Store:
        """For zarr, to read only."""
        ...

    def close(self) -> None: ...


def _at_once(path: str, flags: int) -> int:
    """Opens; does not wait for whoever writes to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


class FolderTree:
    """A folder."""

    files = True
    listed = True

    def __init__(self, path: str) -> None:
        self.path = path

    def where(self, key: str) -> str:
        return shown(os.path.join(self.path, key) if key else self.path)

    def read(self, key: str) -> bytes | None:
        path = os.path.join(self.path, key)
        try:
            with open(path, "rb", opener=_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise CorruptError(f"{self.where(key)}: is no file")
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IsADirectoryError:
            raise CorruptError(f"{self.where(key)}: is a folder where a file belongs") from None
        except OSError as error:
            raise storage_error(error, path, "cannot read") from None

    def read_all(self, keys: list[str]) -> list[bytes | None]:
        return [self.read(key) for key in keys]

    def children(self, key: str) -> list[Entry]:
        return sorted(self._scanned(key), key=lambda entry: entry.key)

    def walk(self, key: str) -> Iterator[Entry]:
        for entry in self._scanned(key):
            yield entry
            if entry.folder:
                yield from self.walk(entry.key)

    def _scanned(self, key: str) -> Iterator[Entry]:
        folder = os.path.join(self.path, key)
        try:
            with os.scandir(folder) as found:
                for item in found:
                    inner = f"{key}/{item.name}" if key else item.name
                    yield Entry(inner, self._is_folder(item, inner))
        except OSError as error:
            raise storage_error(error, error.filename or folder, "cannot read") from None

    def _is_folder(self, item: os.DirEntry[str], key: str) -> bool:
        """Whether it is a folder, and not a file. Raises OSError, CorruptError where it is neither, or a link to a folder around it."""
        if item.is_file():
            return False
        if not item.is_dir():
            os.stat(item.path)  # says what is wrong with a broken link
            raise CorruptError(f"{self.where(key)}: is neither a file nor a folder")
        if item.is_symlink():
            found, around, links = os.stat(item.path), key, 1
            while around:
                around = around.rpartition("/")[0]
                links += bool(around) and os.path.islink(os.path.join(self.path, around))
                if os.path.samestat(found, os.stat(os.path.join(self.path, around))):
                    raise CorruptError(f"{self.where(key)}: is a link to a folder that it lies in")
            if links > _MOST_LINKS:
                # A few folders that link to one another crosswise would be more than any number of files.
                raise CorruptError(f"{self.where(key)}: leads through {links} links to folders; more than {_MOST_LINKS} are not followed")
        return True

    def holds(self, key: str) -> bool:
        return os.path.isfile(os.path.join(self.path, key))

    def size(self, key: str) -> int:
        try:
            return os.path.getsize(os.path.join(self.path, key))
        except OSError:
            return 0

    def open(self, key: str) -> BinaryIO:
        return cast("BinaryIO", open(os.path.join(self.path, key), "rb", buffering=0, opener=_at_once))

    def identity(self) -> dict[str, Any]:
        return {}

    def store(self) -> Store:
        return LocalStore(self.path, read_only=True)

    def close(self) -> None:
        pass


class ZipTree:
    """A zip archive; of several members with one name the last counts."""

    files = False
    listed = True

    def __init__(self, path: str) -> None:
        self.path = path
        # Python 3.12 and 3.13 skip a member's extra field from wherever another thread left the file.
        self._reading = threading.Lock()
        try:
            self._zip = zipfile.ZipFile(path)
        except OSError as error:
            raise storage_error(error, path, "cannot read") from None
        except Exception as error:  # a hostile directory trips zipfile in several ways
            raise CorruptError(f"{shown(path)}: is no zip archive that can be read: {shown(str(error))}") from None
        for info in self._zip.infolist():
            if "\\" in info.filename or not {"", ".", ".."}.isdisjoint(info.filename.removesuffix("/").split("/")):
                raise CorruptError(
                    f"{shown(path)}: has a member of the name {shown(info.filename)[:200]}, which no key of a hierarchy can be"
                )
        self._sizes = {info.filename: info.file_size for info in self._zip.infolist() if not info.is_dir()}
        self._folders = {""}
        for name in self._sizes:
            while name := name.rpartition("/")[0]:
                if name in self._folders:
                    break
                self._folders.add(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def where(self, key: str) -> str:
        return shown(f"{self.path}/{key}" if key else self.path)

    def read(self, key: str) -> bytes | None:
        if key not in self._sizes:
            return None
        try:
            with self._reading:
                return self._zip.read(key)
        except Exception as error:
            # What zipfile and the decoders say of damage are errors of the system's class, too.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise storage_error(error, self.where(key), "cannot read") from None
            raise CorruptError(f"{self.where(key)}: cannot be read: {shown(str(error)) or type(error).__name__}") from None

    def read_all(self, keys: list[str]) -> list[bytes | None]:
        return [self.read(key) for key in keys]

    def children(self, key: str) -> list[Entry]:
        under = f"{key}/" if key else ""
        names = {name[len(under) :].partition("/")[0] for name in (*self._sizes, *self._folders) if name.startswith(under)} - {""}
        return [Entry(under + name, under + name in self._folders) for name in sorted(names)]

    def walk(self, key: str) -> Iterator[Entry]:
        under = f"{key}/" if key else ""
        yield from (Entry(name, True) for name in sorted(self._folders) if name.startswith(under) and name != key)
        yield from (Entry(name, False) for name in self._sizes if name.startswith(under))

    def holds(self, key: str) -> bool:
        return key in self._sizes

    def size(self, key: str) -> int:
        return self._sizes.get(key, 0)

    def open(self, key: str) -> BinaryIO:
        return io.BytesIO(self.read(key) or b"")

    def identity(self) -> dict[str, Any]:
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise storage_error(error, self.path, "cannot read") from None
        return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "inode": found.st_ino}

    def store(self) -> Store:
        return ZipStore(self.path, mode="r")

    def close(self) -> None:
        self._zip.close()


class UrlTree:
    """What is behind a URL: objects of a store, or files of a web server, which has no listing: groups must be consolidated there."""

    files = False

    def __init__(self, remote: Remote) -> None:
        self.remote, self.path, self.listed = remote, remote.url, remote.listed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.remote,)

    def where(self, key: str) -> str:
        return self.remote.where(key)

    def read(self, key: str) -> bytes | None:
        return self.remote.read(key)

    def read_all(self, keys: list[str]) -> list[bytes | None]:
        return self.remote.read_all(keys)

    def children(self, key: str) -> list[Entry]:
        if not self.listed:
            return [Entry(name, True) for name in self._consolidated if name.rpartition("/")[0] == key and name]
        return [Entry(name, folder) for name, folder in self.remote.children(key)]

    @cached_property
    def _consolidated(self) -> list[str]:
        """The nodes that the consolidated metadata of the root tell."""
        nodes = None
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            newer, older = (None if text is None else json.loads(text) for text in self.read_all(["zarr.json", ".zmetadata"]))
            if newer is not None:
                nodes = set(newer["consolidated_metadata"]["metadata"])
            elif older is not None:
                nodes = {name.rpartition("/")[0] for name in older["metadata"]}
        if nodes is None:
            raise UnsupportedError(
                f"{self.where('')}: is a group without consolidated metadata, and a web server does not tell what is in it; "
                "give the URL of an array"
            )
        return sorted(nodes)

    def walk(self, key: str) -> Iterator[Entry]:
        # Consoles and other tools mark what they show as folders by empty objects, whose names end so.
        return (Entry(name, False, size) for name, size in self.remote.walk(key) if name and not name.endswith("/"))

    def holds(self, key: str) -> bool:
        try:
            self.remote.size(key)
        except FileNotFoundError:
            return False
        return True

    def size(self, key: str) -> int:
        try:
            return self.remote.size(key) or 0
        except FileNotFoundError:
            return 0

    def open(self, key: str) -> BinaryIO:
        return io.BytesIO(self.read(key) or b"")

    def identity(self) -> dict[str, Any]:
        return {}

    def store(self) -> Store:
        return RemoteStore(self.remote, read_only=True)

    def close(self) -> None:
        self.remote.close()


#: What makes a folder a node of a hierarchy.
DOCUMENTS = ("zarr.json", ".zarray", ".zgroup")


def opened(path: str | Remote) -> tuple[Tree, str]:
    """The tree that `path` leads into and the key of the node in it, as in "a.zarr.zip/layer1". Raises StorageError, CorruptError."""
    if isinstance(path, Remote):
        return UrlTree(path), ""
    if os.path.isdir(path):
        return FolderTree(path), ""
    archive, inner = path.rstrip("/"), ""
    while archive and not os.path.isfile(archive):
        archive, _, name = archive.rpartition("/")
        inner = f"{name}/{inner}".rstrip("/")
    if not archive:
        raise StorageError(f"cannot read {shown(path)}: No such file or directory")
    return ZipTree(archive), inner
