"""Where a run may be stopped by a signal.

An exception that a signal's handler raises comes anywhere: also between the taking of a lock and the block that would give it back, and
then a thread waits for ever. So while a run has threads it is guarded: what asks it to stop is raised where the run checks.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_depth = 0
_asked: BaseException | None = None
_stopping = False


def ask(error: BaseException) -> None:
    """In the main thread, from a signal's handler: raise `error`, at once or where the run that is guarded allows it."""
    global _asked, _stopping
    if not _depth:
        raise error
    _asked, _stopping = error, True


def asked() -> bool:
    """Whether the run that is guarded is to stop: for whatever waits long in another thread."""
    return _stopping


def check() -> None:
    """Raise what was asked for. Only the main thread is asked."""
    global _asked
    if _asked is not None and threading.current_thread() is threading.main_thread():
        error, _asked = _asked, None
        raise error


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Within, what is asked for waits for `check`, or for the end."""
    global _depth, _stopping
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _stopping = False
            check()


class Hold:
    """A context that can hold signals back: from `begin` to its end, what asks to stop waits, and is then delivered.

    Python runs a signal's handler in the main thread whichever thread the system gave it to, so that the handlers are replaced; to block
    the signals in one thread would not do. Elsewhere than in the main thread nothing is delivered, and nothing is done.
    """

    def __init__(self) -> None:
        self._handlers: dict[signal.Signals, Callable[[int, FrameType | None], Any]] = {}
        self._taken: list[int] = []

    def begin(self) -> None:
        if self._handlers or threading.current_thread() is not threading.main_thread():
            return
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if callable(handler := signal.getsignal(signum)):
                self._handlers[signum] = handler
                signal.signal(signum, lambda number, _: self._taken.append(number))

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        handlers, self._handlers = self._handlers, {}
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        for number in self._taken[:1]:
            handlers[signal.Signals(number)](number, None)
