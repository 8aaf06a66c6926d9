"""SIGINT, SIGTERM and SIGHUP as one exception, so that a run can stop in order and then die of the signal."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from leakycli import stopping


class Interrupted(BaseException):
    """The process was asked to stop by `signal`. No Exception: nothing but the end of the program may handle it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signal = signal.Signals(signum)


@contextlib.contextmanager
def deliver_signals() -> Iterator[None]:
    """Raise `Interrupted` in the main thread for the first signal that asks to stop, at once or after the region at hand.

    Later ones wait for the clean-up.

    A signal that the process was started to ignore (nohup) stays ignored.
    """

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if not received:
            received.append(signum)
            stopping.ask(Interrupted(signum))

    received: list[int] = []
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    watched = [s for s, handler in before.items() if handler is not signal.SIG_IGN]
    for s in watched:
        signal.signal(s, interrupt)
    try:
        yield
    finally:
        for s in watched:
            signal.signal(s, before[s])
