"""Regions: what one task reads, transforms and writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """The elements `start` up to `stop` (not included) of an array's flat buffer, in memory order."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def spans(start: int, stop: int, step: int) -> Iterator[Span]:
    """Spans of `step` elements (the last may be shorter) that cover start up to stop exactly once, in order."""
    for at in range(start, stop, step):
        yield Span(at, min(at + step, stop))
