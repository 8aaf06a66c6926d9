"""Observers of runs, and what they do to them."""

from __future__ import annotations

from collections.abc import Callable

from leakycli.engine import events


class Stopped(BaseException):
    """Somebody ends the run, as a signal does."""


class At:
    """An observer that does something after so many regions."""

    def __init__(self, regions: int, act: Callable[[], object]) -> None:
        self.left, self.act = regions, act

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.RegionDone):
            self.left -= 1
            if not self.left:
                self.act()


def end() -> None:
    raise Stopped


class StopAfter(At):
    """An observer that ends the run after so many regions."""

    def __init__(self, regions: int) -> None:
        super().__init__(regions, end)
