"""Progress on standard error: observers of a run's events."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from leakycli.engine import events
from leakycli.errors import visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: A bar appears after this many seconds, so that short runs do not load and flash it; plain lines come at this interval.
_BAR_AFTER = 0.5
_PLAIN_EVERY = 5.0


@contextlib.contextmanager
def observer(kind: str, quiet: bool) -> Iterator[events.Observer]:
    """The observer for `--progress kind`; leaving the context takes a bar off the screen."""
    if kind == "auto":
        kind = "bar" if sys.stderr.isatty() else "none"
    if quiet or kind == "none":
        yield events.ignore
    elif kind == "json":
        yield _json
    elif kind == "plain":
        yield _Plain()
    else:
        with contextlib.closing(_Bar()) as bar:
            yield bar


def _json(event: events.Event) -> None:
    fields = {key: visible(value) if isinstance(value, str) else value for key, value in asdict(event).items()}
    sys.stderr.write(json.dumps({"event": type(event).__name__, **fields}) + "\n")
    sys.stderr.flush()


class _Plain:
    """A line every few seconds, and one at the end: for logs."""

    def __init__(self) -> None:
        self._total = self._done = 0
        self._last = time.monotonic()

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Started):
            self._total, self._done = event.bytes_in, 0
        elif isinstance(event, events.RegionDone):
            self._done += event.bytes_in
        now = time.monotonic()
        if isinstance(event, events.Finished) or now - self._last >= _PLAIN_EVERY:
            self._last = now
            share = 100 * self._done // self._total if self._total else 100
            sys.stderr.write(f"{visible(event.source)}: {share} % of {self._total / 1e6:.1f} MB\n")
            sys.stderr.flush()


class _Bar:
    """rich's bar, loaded when the run turns out to take its time."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._total = self._done = 0
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Started):
            self._total, self._done = event.bytes_in, 0
            if self._progress is not None and self._task is not None:
                self._progress.update(self._task, total=self._total, completed=0)
        elif isinstance(event, events.RegionDone):
            self._done += event.bytes_in
            if self._progress is None and time.monotonic() - self._started >= _BAR_AFTER:
                self._show(event.source)
            if self._progress is not None and self._task is not None:
                self._progress.update(self._task, completed=self._done)

    def _show(self, source: str) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._progress.start()
        self._task = self._progress.add_task(escape(visible(source)), total=self._total)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
