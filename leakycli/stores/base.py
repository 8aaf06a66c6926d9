"""The interface of stores: objects (files) by key, read and written many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

#: Requests in flight at once, in stores where that is faster. All their answers are in memory.
AT_ONCE = 32


class Request(NamedTuple):
    """A whole object, or its bytes from `start` to `stop` (not included). A negative `start` counts from the end."""

    key: str
    start: int = 0
    stop: int | None = None

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.stop is None


#: Returns a buffer for the answer to a request, given its size in bytes. It may raise if that is too much.
Room = Callable[[Request, int], memoryview]

#: The content of an object, in pieces.
Pieces = Sequence[memoryview]


class Store(Protocol):
    """Objects by key; "/" separates the parts of a key. Threads may share a store. It pickles as the arguments to open it again."""

    #: Whether it can read a part of an object without the rest.
    parts: bool

    #: Whether several requests at once are faster than one after the other.
    requests: bool

    def where(self, key: str) -> str:
        """The name of what is under `key` in messages."""
        ...

    def read(self, requests: Iterable[Request], room: Room) -> Iterator[memoryview | None]:
        """Yield the answer to each request in order; None for an object that does not exist.

        An answer is valid until the next one. It is in a buffer from `room`, unless the store has it in memory anyway. A part that reaches
        past the end of its object is shorter than requested. Raises StorageError, CorruptError.
        """
        ...

    def write(self, objects: Iterable[tuple[str, Pieces]]) -> None:
        """Write objects, each completely or not at all. Raises StorageError."""
        ...

    def close(self) -> None:
        """May be called twice."""
        ...
