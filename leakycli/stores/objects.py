"""Objects behind a URL, and members of an archive, as stores."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

from leakycli.stores.base import AT_ONCE, Pieces, Request, Room
from leakycli.stores.remote import Remote


class Objects:
    """Objects behind a URL."""

    parts = True
    requests = True

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._remote,)

    def where(self, key: str) -> str:
        return self._remote.where(key)

    def read(self, requests: Iterable[Request], room: Room) -> Iterator[memoryview | None]:
        waiting = iter(requests)
        while together := list(islice(waiting, AT_ONCE)):
            found = self._remote.run(self._all(together))
            for number, data in enumerate(found):
                found[number] = None  # free each answer after use
                yield None if data is None else memoryview(data)

    async def _all(self, requests: list[Request]) -> list[bytes | None]:
        return await asyncio.gather(*map(self._one, requests))

    async def _one(self, request: Request) -> bytes | None:
        remote, key = self._remote, request.key
        if remote.held is not None and key in remote.held:
            return remote.held[key][request.start : request.stop]
        part = {} if request.whole else {"start": request.start, "end": request.stop}
        try:
            data: bytes = await remote.persist(lambda: remote.fs._cat_file(remote.path(key), **part), key, "cannot read")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        return data if request.whole else _part(data, request)

    def write(self, objects: Iterable[tuple[str, Pieces]]) -> None:
        waiting = iter(objects)
        # Joins no more objects than are sent at once.
        while together := {key: b"".join(pieces) for key, pieces in islice(waiting, AT_ONCE)}:
            self._remote.write_all(together)

    def close(self) -> None:
        """The remote is its opener's to close."""


def _part(data: bytes, request: Request) -> bytes:
    """The requested part. A web server without range support sends the whole object, which fsspec does not report: the length shows it."""
    if request.start < 0:
        return data[request.start :]
    return data[request.start : request.stop] if len(data) > (request.stop or len(data)) - request.start else data


class _Wholes(Protocol):
    """Something that reads whole objects by key."""

    def where(self, key: str) -> str: ...

    def read(self, key: str) -> bytes | None: ...


class Members:
    """Members of an archive, read only."""

    parts = False
    requests = False

    def __init__(self, archive: _Wholes) -> None:
        self._archive = archive

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._archive,)

    def where(self, key: str) -> str:
        return self._archive.where(key)

    def read(self, requests: Iterable[Request], room: Room) -> Iterator[memoryview | None]:
        for request in requests:
            data = self._archive.read(request.key)
            yield None if data is None else memoryview(data)[request.start : request.stop]

    def write(self, objects: Iterable[tuple[str, Pieces]]) -> None:
        raise NotImplementedError("archives are packed as the last step")

    def close(self) -> None:
        """The archive is its opener's to close."""
