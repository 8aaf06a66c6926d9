"""Progress: observers of a run's events, on standard error or in a notebook.

One of them follows all sources of a batch. Bytes are of elements; the rate is of bytes read and written, as in a report, over the last
seconds. What an interrupted run had done makes no rate.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TextIO

from leakycli.engine import events
from leakycli.errors import visible
from leakycli.report import words

#: In seconds: a bar appears after, changes no more often than every; lines come every; the rate is that of the last.
BAR_AFTER, BAR_EVERY, LINE_EVERY, WINDOW = 0.5, 0.1, 10.0, 5.0


class Progress:
    """How far a batch of `sources` is; an observer that shows nothing. `clear` makes room for a line of output, `close` ends it."""

    def __init__(self, sources: int = 1) -> None:
        self.sources = sources
        self.finished = 0
        self.source = ""
        self.done = self.total = 0
        self.read = 0
        self._moved = self._resumed = 0
        self._began = time.monotonic()
        self._recent: deque[tuple[float, int, int]] = deque([(self._began, 0, 0)])

    def __call__(self, event: events.Event) -> None:
        now = time.monotonic()
        if isinstance(event, events.Started):
            self.source, self.done, self.total, self._resumed = event.source, 0, event.bytes_in, 0
        elif isinstance(event, events.RegionDone):
            self.done += event.bytes_in
            if event.resumed:
                self._resumed += event.bytes_in
            else:
                self.read += event.bytes_in
                self._moved += event.bytes_in + event.bytes_out
        else:
            self.finish()
        # The oldest entry is the last that is older than the window.
        self._recent.append((now, self._moved, self.read))
        while len(self._recent) > 2 and self._recent[1][0] < now - WINDOW:
            self._recent.popleft()
        self.show(event, now)

    def finish(self) -> None:
        """The source at hand is done, or failed."""
        self.finished = min(self.finished + 1, self.sources)
        if self.sources > 1:
            self.done = self.total = 0

    def show(self, event: events.Event, now: float) -> None:
        pass

    def clear(self) -> None:
        pass

    def close(self) -> None:
        pass

    @property
    def share(self) -> float:
        """How much of all is done, from 0 to 1."""
        at_hand = self.done / self.total if self.total else 0.0
        return min((self.finished + at_hand) / self.sources if self.sources > 1 else at_hand, 1.0)

    @property
    def rate(self) -> float:
        """Bytes read and written a second over the last seconds; 0 where that is not known yet."""
        (began, before, _), (now, moved, _) = self._recent[0], self._recent[-1]
        return (moved - before) / (now - began) if now > began else 0.0

    @property
    def left(self) -> float | None:
        """Seconds that are left at the rate of this run; None where there is none yet."""
        if self.sources == 1:
            (began, _, before), (now, _, read) = self._recent[0], self._recent[-1]
            return (self.total - self.done) / (read - before) * (now - began) if read > before else None
        # What an earlier run has done took no time.
        worked = self.share - (self._resumed / self.total / self.sources if self.total else 0.0)
        elapsed = time.monotonic() - self._began
        return elapsed / worked * (1 - self.share) if worked > 0 else None

    def parts(self) -> list[str]:
        """How far it is, in words."""
        size = f"{words.size(self.done)} of {words.size(self.total)}" if self.sources == 1 else f"{words.size(self.read)} read"
        of = [f"{self.finished} of {self.sources}"] if self.sources > 1 else []
        rate = [f"{words.size(self.rate)}/s"] if self.rate else []
        left = [f"{words.duration(round(self.left))} left"] if self.left is not None and self.left >= 1 else []
        return [*of, f"{int(100 * self.share)} %", size, *rate, *left]


@contextlib.contextmanager
def observer(kind: str, quiet: bool = False, sources: int = 1, piped: bool = False) -> Iterator[Progress]:
    """The observer for `--progress kind`. piped: the result goes to standard output, which asks for silence.

    Leaving the context takes a bar off the screen.
    """
    if kind == "auto":
        terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        kind = "bar" if terminal else "none" if piped else "lines"
    progress = _KINDS["none" if quiet else kind](sources)
    with contextlib.closing(progress):
        yield progress


def notebook() -> Progress:
    """The observer for where Python runs: a bar in a notebook or on a terminal, nothing else."""
    if "ipykernel" in sys.modules and "IPython" in sys.modules:
        return _Notebook()
    return _Bar() if sys.stderr.isatty() else Progress()


class _Json(Progress):
    """A line of JSON for each event."""

    def show(self, event: events.Event, now: float) -> None:
        name = {events.Started: "started", events.RegionDone: "region_done", events.Finished: "finished"}[type(event)]
        fields = {key: visible(value) if isinstance(value, str) else value for key, value in asdict(event).items()}
        reached = {"done": self.done, "total": self.total, "sources_done": self.finished, "sources": self.sources}
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        _write(json.dumps({"event": name, "time": moment, **fields, **reached}) + "\n")


class _Lines(Progress):
    """A line every few seconds: for logs."""

    def __init__(self, sources: int = 1) -> None:
        super().__init__(sources)
        self._last = self._began

    def show(self, event: events.Event, now: float) -> None:
        if now - self._last >= LINE_EVERY:
            self._last = now
            _write(f"{visible(self.source)}: {', '.join(self.parts())}\n")


class _Plain(_Lines):
    """The same, and a line when a source is done."""

    def show(self, event: events.Event, now: float) -> None:
        if isinstance(event, events.Finished):
            _write(f"{visible(self.source)}: done\n")
        super().show(event, now)


class _Bar(Progress):
    """A line that changes, on a terminal; it appears when the run turns out to take its time."""

    def __init__(self, sources: int = 1) -> None:
        super().__init__(sources)
        self._next = self._began + BAR_AFTER
        self._shown = False

    def show(self, event: events.Event, now: float) -> None:
        if now >= self._next:
            import shutil

            self._next, self._shown = now + BAR_EVERY, True
            _write(f"\r{self.line(shutil.get_terminal_size().columns, sys.stderr)}\x1b[K")

    def line(self, columns: int, stream: TextIO) -> str:
        """The bar in at most so many columns: what it is of, how far it is."""
        text, room = "  ".join(self.parts()), columns - 1
        unicode = (stream.encoding or "").lower().startswith("utf")
        full, empty, ellipsis = ("━", "─", "…") if unicode else ("#", "-", "...")
        wide = min(30, room - len(text) - 16)
        bar = ""
        if wide >= 8:
            reached = max(int(self.share * wide), self.share > 0)
            bar = full * reached + empty * (wide - reached) + "  "
        name = words.shortened(visible(self.source), max(room - len(text) - len(bar) - 2, 0), ellipsis)
        return words.shortened(f"{name}  {bar}{text}" if name else text, room, "")

    def clear(self) -> None:
        if self._shown:
            self._shown = False
            _write("\r\x1b[K")

    def close(self) -> None:
        self.clear()


class _Notebook(Progress):
    """A bar beneath a cell of a notebook, which stays when it is full."""

    def __init__(self, sources: int = 1) -> None:
        super().__init__(sources)
        self._next = self._began + BAR_AFTER
        self._handle: Any = None

    def show(self, event: events.Event, now: float) -> None:
        if now >= self._next or (self._handle is not None and isinstance(event, events.Finished)):
            self._next = now + 2 * BAR_EVERY
            from IPython.display import display

            if self._handle is None:
                self._handle = display(self, display_id=True)
            else:
                self._handle.update(self)

    def __repr__(self) -> str:
        return f"{visible(self.source)}: {', '.join(self.parts())}"

    def _repr_html_(self) -> str:
        import html

        return f'<progress value="{self.share:.3f}" max="1"></progress> {html.escape(repr(self))}'


#: The kinds of `--progress`, and what "auto" is off a terminal.
_KINDS = {"bar": _Bar, "json": _Json, "plain": _Plain, "none": Progress, "lines": _Lines}


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
