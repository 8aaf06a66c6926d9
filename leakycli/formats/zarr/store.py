"""The stores that zarr reads and writes through, for arrays that go through its own pipeline (`fallback`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, WrapperStore

from leakycli.errors import StorageError
from leakycli.formats.zarr.metadata import is_document
from leakycli.stores.remote import Remote


class RemoteStore(FsspecStore):
    """What is behind a URL. Requests are made on fsspec's loop, and again when they fail for a reason that passes.

    Where documents are held back (`Remote.held`) they are kept there, and read from there.
    """

    def __init__(self, remote: Remote, read_only: bool) -> None:
        # Not FsspecStore's, which wants a file system that lives on zarr's loop.
        Store.__init__(self, read_only=read_only)
        self.fs, self.allowed_exceptions = remote.fs, (FileNotFoundError, NotADirectoryError, IsADirectoryError)
        # A query follows the key.
        self.path = remote.path("").removesuffix(remote.query)
        self._remote = remote

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and other._remote is self._remote and other.read_only == self.read_only

    __hash__ = None  # type: ignore[assignment]

    def with_read_only(self, read_only: bool = False) -> RemoteStore:
        return type(self)(self._remote, read_only)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if self._remote.held is not None and (data := self._remote.held.get(key)) is not None:
            return prototype.buffer.from_bytes(data)
        asked = self._remote.name(key) + self._remote.query
        return _part(
            await self._remote.elsewhere(
                self._remote.persist(lambda: super(RemoteStore, self).get(asked, prototype, byte_range), key, "cannot read")
            ),
            byte_range,
        )

    async def exists(self, key: str) -> bool:
        if self._remote.held is not None and key in self._remote.held:
            return True
        try:
            # Not fsspec's own question, which takes a web server that is down for "no".
            await self._remote.elsewhere(self._remote.persist(lambda: self.fs._info(self._remote.path(key)), key, "cannot read"))
        except FileNotFoundError:
            return False
        return True

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        if self._remote.held is not None and is_document(key):
            self._remote.held[key] = value.to_bytes()
            return
        if self._remote.given_up:
            # zarr goes on with the other chunks of a call of which one has failed.
            raise StorageError(f"cannot write {self._remote.where(key)}: the run has failed")
        await self._remote.elsewhere(
            self._remote.persist(lambda: super(RemoteStore, self).set(key, value, byte_range), key, "cannot write")
        )

    async def delete(self, key: str) -> None:
        await self._remote.elsewhere(self._remote.persist(lambda: super(RemoteStore, self).delete(key), key, "cannot remove"))


def _part(found: Buffer | None, asked: ByteRequest | None) -> Buffer | None:
    """The part that was asked for of what was `found`: a web server that knows no ranges gives all, and fsspec does not tell.

    It is told by its length: all of a shard is longer than any part that its index tells of, unless that is wrong. zarr asks for no
    `OffsetByteRequest`.
    """
    if found is not None and isinstance(asked, RangeByteRequest) and len(found) > asked.end - asked.start:
        start, stop = asked.start, asked.end
    elif found is not None and isinstance(asked, SuffixByteRequest) and len(found) > asked.suffix:
        start, stop = len(found) - asked.suffix, len(found)
    else:
        return found
    # A copy: zarr collects the parts for a whole region, and each would hold all of its shard.
    return type(found).from_bytes(found[start:stop].to_bytes())


class Overlaid(WrapperStore[Store]):
    """A store, to be read only, with another text under one key."""

    def __init__(self, store: Store, key: str, text: bytes) -> None:
        super().__init__(store)
        self._key, self._text = key, text

    def _with_store(self, store: Store) -> Overlaid:
        return type(self)(store, self._key, self._text)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if key == self._key and byte_range is None:
            return prototype.buffer.from_bytes(self._text)
        return await super().get(key, prototype, byte_range)


class Watched(WrapperStore[Store]):
    """A store, to be read only, of which everything that is read is shown to `look` before zarr gets it."""

    def __init__(self, store: Store, look: Callable[[str, Buffer | None, ByteRequest | None], None]) -> None:
        """look: gets the key, what is under it (None: nothing) and which part of it was asked for (None: all); it may raise."""
        super().__init__(store)
        self._look = look

    def _with_store(self, store: Store) -> Watched:
        return type(self)(store, self._look)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        self._look(key, found, byte_range)
        return found

    async def get_ranges(self, key: str, byte_ranges: Any, *, prototype: Any, **options: Any) -> AsyncIterator[Any]:
        """Several at once, as newer versions of zarr ask for the chunks of a shard."""
        ranges = list(byte_ranges)
        async for group in super().get_ranges(key, ranges, prototype=prototype, **options):  # type: ignore[misc]
            found: Sequence[tuple[int, Buffer | None]] = group
            for i, data in found:
                self._look(key, data, ranges[i])
            yield group
