"""`Tuning`: the sizes and intervals that decide how a run goes, but not what it gives. Tests make them small, as users have no need to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """Sizes in bytes, times in seconds.

    unit_bytes: of input in a unit of a flat array.
    region_units: least units in a region of a flat array: enough to make the cost of a task small.
    region_bytes: that write units of a chunk grid are joined to, where memory allows: enough to make the cost of a call small.
    most_joined: most write units that are joined: small chunks cost more memory than their elements, and large calls are no quicker.
    small_bytes: of a `.npy` up to which a run is not worth resuming: its result is made without a name and a journal, where the system
    allows that.
    journal_seconds: least time between two lines of the journal.
    journal_seconds_flushed: the same where each line is flushed to disk.
    """

    unit_bytes: int = 1 << 21
    region_units: int = 4
    region_bytes: int = 16 << 20
    most_joined: int = 1024
    small_bytes: int = 1 << 20
    journal_seconds: float = 0.1
    journal_seconds_flushed: float = 2.0


DEFAULT = Tuning()

_current = ContextVar("tuning", default=DEFAULT)


def current() -> Tuning:
    """That of options which are made now."""
    return _current.get()


@contextlib.contextmanager
def using(tuning: Tuning) -> Iterator[None]:
    """Within, options that are made have that `tuning`."""
    token = _current.set(tuning)
    try:
        yield
    finally:
        _current.reset(token)
