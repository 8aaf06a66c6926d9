"""What a store of keys and bytes offers to those who read and write chunks: many objects in a row, or parts of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

#: Requests that are made at once, where that is quicker. More would hardly be, and the answers to all are held.
AT_ONCE = 32


class Request(NamedTuple):
    """An object by its key, or the bytes `start` up to `stop` of it; a negative `start` counts from its end."""

    key: str
    start: int = 0
    stop: int | None = None

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.stop is None


#: Gives memory for what a request asks for, by its size in bytes. It may raise where that is too much.
Room = Callable[[Request, int], memoryview]

#: Bytes that are written one after the other.
Pieces = Sequence[memoryview]


class Store(Protocol):
    """Objects by key, with "/" between the parts of a key. Threads may share it; it pickles as what it takes to open it again."""

    #: Whether a part of an object can be had without the rest.
    parts: bool

    #: Whether many requests at once are quicker than one after the other.
    requests: bool

    def where(self, key: str) -> str:
        """The name of what is under `key` in messages."""
        ...

    def read(self, requests: Iterable[Request], room: Room) -> Iterator[memoryview | None]:
        """What each request asks for, in their order; None where there is no such object.

        What is given is good until the next is asked for; it lies in memory that `room` gave, where the store needs any. Of a part that
        reaches past the end of an object, what there is. Raises StorageError, CorruptError.
        """
        ...

    def write(self, objects: Iterable[tuple[str, Pieces]]) -> None:
        """Put objects in place, each as a whole or not at all. Raises StorageError."""
        ...

    def close(self) -> None:
        """Twice is no error."""
        ...
