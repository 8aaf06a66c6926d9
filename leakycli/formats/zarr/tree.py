"""What a Zarr hierarchy is kept in: a folder, a zip archive, or what is behind a URL.

Keys are relative to its root, with "/" between their parts.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

from leakycli.errors import CorruptError, LeakyError, SourceChangedError, StorageError, shown, storage_error
from leakycli.formats.base import file_identity
from leakycli.stores.base import Store
from leakycli.stores.directory import Directory

if TYPE_CHECKING:
    import zarr.abc.store

    from leakycli.stores.remote import Remote


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a tree: a file, or a folder.

    size: its bytes where the listing tells; else that would cost a call for each chunk.
    problem: why it is neither, as a broken link or a pipe; whoever needs it raises that.
    """

    key: str
    folder: bool
    size: int | None = None
    problem: LeakyError | None = None


#: Bytes of a file that are read at once where it is copied.
_PIECE = 1 << 20

#: Most links to folders on the way to a file.
_MOST_LINKS = 2


class Tree(Protocol):
    """Where a hierarchy is kept."""

    path: str

    #: Whether what is read and written are plain files.
    files: bool

    #: Whether it can tell what is there; else only what is asked for, by its key, can be known.
    listed: bool

    def where(self, key: str) -> str:
        """How to call what is under `key` in a message."""
        ...

    def read(self, key: str, most: int | None = None) -> bytes | None:
        """What is under `key`; None where there is nothing.

        most: bytes; files know their size, and of a longer one nothing is read. Raises StorageError, CorruptError.
        """
        ...

    def read_all(self, keys: list[str], most: int | None = None) -> list[bytes | None]:
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

    def pieces(self, key: str) -> Iterator[bytes]:
        """The bytes of the file under `key`, from front to back. Raises StorageError, CorruptError."""
        ...

    def identity(self) -> dict[str, Any]:
        """What tells an archive from a changed one; nothing for a folder."""
        ...

    def objects(self) -> Store:
        """Its chunks, by key. Raises StorageError."""
        ...

    def store(self) -> zarr.abc.store.Store:
        """For zarr, to read only."""
        ...

    def close(self) -> None: ...


def too_long(where: str, size: int, most: int) -> CorruptError:
    """The error of a metadata document that has too many bytes."""
    return CorruptError(f"{where}: has {size} bytes; a metadata document of more than {most} is not read")


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

    def read(self, key: str, most: int | None = None) -> bytes | None:
        path = os.path.join(self.path, key)
        try:
            with open(path, "rb", opener=_at_once) as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise CorruptError(f"{self.where(key)}: is no file")
                if most is not None and found.st_size > most:
                    raise too_long(self.where(key), found.st_size, most)
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IsADirectoryError:
            raise CorruptError(f"{self.where(key)}: is a folder where a file belongs") from None
        except OSError as error:
            raise storage_error(error, path, "cannot read") from None

    def read_all(self, keys: list[str], most: int | None = None) -> list[bytes | None]:
        return [self.read(key, most) for key in keys]

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
                    yield self._entry(item, inner)
        except OSError as error:
            raise storage_error(error, error.filename or folder, "cannot read") from None

    def _entry(self, item: os.DirEntry[str], key: str) -> Entry:
        try:
            if item.is_file():
                return Entry(key, False)
            if item.is_dir():
                return Entry(key, self._is_sound(item, key))
            os.stat(item.path)  # says what is wrong with a broken link
            problem: LeakyError = CorruptError(f"{self.where(key)}: is neither a file nor a folder")
        except OSError as error:
            if isinstance(error, LeakyError) or not item.is_symlink():
                raise
            problem = storage_error(error, item.path, "cannot read")
        return Entry(key, False, problem=problem)

    def _is_sound(self, item: os.DirEntry[str], key: str) -> bool:
        """True for a folder. Raises OSError, CorruptError where it is a link to a folder around it."""
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

    def pieces(self, key: str) -> Iterator[bytes]:
        path = os.path.join(self.path, key)
        try:
            with open(path, "rb", buffering=0, opener=_at_once) as file:
                while data := file.read(_PIECE):
                    yield data
        except FileNotFoundError:
            raise SourceChangedError(f"{self.where(key)}: was deleted while it was read; restore it and run again") from None
        except OSError as error:
            raise storage_error(error, path, "cannot read") from None

    def identity(self) -> dict[str, Any]:
        return {}

    def objects(self) -> Store:
        return Directory(self.path)

    def store(self) -> zarr.abc.store.Store:
        from zarr.storage import LocalStore

        return LocalStore(self.path, read_only=True)

    def close(self) -> None:
        pass


def states_of(tree: Tree, keys: list[tuple[str, bool]]) -> str:
    """A digest of the inode number, size and times of everything under some keys, in whatever order it is listed; "" where there are no
    files of its own to look at. keys: each with whether all that is under it counts, or only the files directly there.

    Folders count as well: one that was put in the place of another, and back, has another time of change.
    """
    if not isinstance(tree, FolderTree):
        return ""
    total = 0
    for key, deep in keys:
        total += _state(tree, key)
        entries = tree.walk(key) if deep else (entry for entry in tree.children(key) if not entry.folder)
        total += sum(_state(tree, entry.key) for entry in entries)
    return f"{total % (1 << 64):016x}"


def _state(tree: FolderTree, key: str) -> int:
    try:
        found = os.stat(os.path.join(tree.path, key))
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise storage_error(error, os.path.join(tree.path, key), "cannot read") from None
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    state = b"%d %d %d %d " % (found.st_ino, size, found.st_mtime_ns, found.st_ctime_ns) + os.fsencode(key)
    return int.from_bytes(hashlib.blake2b(state, digest_size=8).digest(), "little")


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
        self._folders: dict[str, set[str]] = {"": set()}
        for name in self._sizes:
            while name:
                folder = name.rpartition("/")[0]
                known = folder in self._folders
                self._folders.setdefault(folder, set()).add(name)
                if known:
                    break
                name = folder

        if both := sorted(self._sizes.keys() & self._folders.keys()):
            raise CorruptError(f"{shown(path)}: {shown(both[0])[:200]} is a file in it, and a folder of others")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def where(self, key: str) -> str:
        return shown(f"{self.path}/{key}" if key else self.path)

    def read(self, key: str, most: int | None = None) -> bytes | None:
        if key not in self._sizes:
            return None
        if most is not None and self._sizes[key] > most:
            raise too_long(self.where(key), self._sizes[key], most)
        try:
            with self._reading:
                return self._zip.read(key)
        except Exception as error:
            raise self._explained(error, key) from None

    def _explained(self, error: Exception, key: str) -> LeakyError:
        # What zipfile and the decoders say of damage are errors of the system's class, too.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            return storage_error(error, self.where(key), "cannot read")
        return CorruptError(f"{self.where(key)}: cannot be read: {shown(str(error)) or type(error).__name__}")

    def pieces(self, key: str) -> Iterator[bytes]:
        try:
            with self._reading:
                file = self._zip.open(key)
            with file:
                while data := file.read(_PIECE):
                    yield data
        except GeneratorExit:
            raise
        except Exception as error:
            raise self._explained(error, key) from None

    def read_all(self, keys: list[str], most: int | None = None) -> list[bytes | None]:
        return [self.read(key, most) for key in keys]

    def children(self, key: str) -> list[Entry]:
        return [Entry(name, name in self._folders) for name in sorted(self._folders.get(key, ()))]

    def walk(self, key: str) -> Iterator[Entry]:
        pending = [key]
        while pending:
            for entry in self.children(pending.pop()):
                if entry.folder:
                    yield entry
                    pending.append(entry.key)
                if not entry.folder or entry.key in self._sizes:
                    yield Entry(entry.key, False)

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
        return file_identity(found)

    def objects(self) -> Store:
        from leakycli.stores.objects import Members

        return Members(self)

    def store(self) -> zarr.abc.store.Store:
        from zarr.storage import ZipStore

        return ZipStore(self.path, mode="r")

    def close(self) -> None:
        self._zip.close()


class UrlTree:
    """What is behind a URL: objects of a store, or files of a web server, which has no listing."""

    files = False

    def __init__(self, remote: Remote) -> None:
        self.remote, self.path, self.listed = remote, remote.url, remote.listed

    def where(self, key: str) -> str:
        return self.remote.where(key)

    def read(self, key: str, most: int | None = None) -> bytes | None:
        return self.remote.read(key)

    def read_all(self, keys: list[str], most: int | None = None) -> list[bytes | None]:
        return self.remote.read_all(keys)

    def children(self, key: str) -> list[Entry]:
        return [Entry(name, folder) for name, folder in self.remote.children(key)]

    def walk(self, key: str) -> Iterator[Entry]:
        # Consoles and other tools mark what they show as folders by empty objects, whose names end so.
        return (Entry(name, False, size) for name, size in self.remote.walk(key) if name and not name.endswith("/"))

    def holds(self, key: str) -> bool:
        try:
            self._size(key)
        except FileNotFoundError:
            return False
        return True

    def size(self, key: str) -> int:
        try:
            return self._size(key) or 0
        except FileNotFoundError:
            return 0

    def _size(self, key: str) -> int | None:
        held = self._held_back(key)
        return self.remote.size(key) if held is None else len(held)

    def _held_back(self, key: str) -> bytes | None:
        """What is under `key`, if it is held back."""
        return None if self.remote.held is None else self.remote.held.get(key)

    def open(self, key: str) -> BinaryIO:
        return io.BytesIO(self.read(key) or b"")

    def pieces(self, key: str) -> Iterator[bytes]:
        if (held := self._held_back(key)) is not None:
            yield held
            return
        try:
            opened = self.remote.stream(key)
        except StorageError:
            if self.holds(key):
                raise
            raise SourceChangedError(f"{self.where(key)}: was deleted while it was read; restore it and run again") from None
        with contextlib.closing(opened) as stream:
            buffer = bytearray(_PIECE)
            while count := stream.readinto(memoryview(buffer)):
                yield bytes(buffer[:count])

    def identity(self) -> dict[str, Any]:
        return {}

    def objects(self) -> Store:
        from leakycli.stores.objects import Objects

        return Objects(self.remote)

    def store(self) -> zarr.abc.store.Store:
        from leakycli.formats.zarr.store import RemoteStore

        return RemoteStore(self.remote, read_only=True)

    def close(self) -> None:
        self.remote.close()


#: What makes a folder a node of a hierarchy.
DOCUMENTS = ("zarr.json", ".zarray", ".zgroup")


def opened(path: str | Remote) -> tuple[Tree, str]:
    """The tree that `path` leads into and the key of the node in it, as in "a.zarr.zip/layer1". Raises StorageError, CorruptError."""
    if not isinstance(path, str):
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
