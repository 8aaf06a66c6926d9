"""What a run tells whoever watches it: small frozen events. The engine knows no user interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Started:
    """Work on a source begins; bytes_in is what there is to read."""

    source: str
    bytes_in: int


@dataclass(frozen=True, slots=True)
class RegionDone:
    """A region is read, transformed and written."""

    source: str
    array: str
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The source is done, its result published. already: it was complete before, and nothing was done."""

    source: str
    already: bool = False


Event = Started | RegionDone | Finished
Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer of a run that nobody watches."""
