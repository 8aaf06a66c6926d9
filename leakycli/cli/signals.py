"""SIGINT, SIGTERM and SIGHUP as one exception, so that a run can stop in order and then die of the signal."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from leakycli import stopping

#: Seconds that a run which was told to stop has before another signal ends it.
PATIENCE = 1.0


class Interrupted(BaseException):
    """The process was asked to stop by `signal`. No Exception: nothing but the end of the program may handle it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signal = signal.Signals(signum)


def end_at_once(signum: signal.Signals) -> NoReturn:
    """End the process by a second signal: whatever hangs cannot be waited for."""
    with contextlib.suppress(OSError):
        # Not by way of the stream, which may be in use.
        os.write(2, f"leakycli: stopped at once by {signum.name}; --resume continues what can be resumed\n".encode())
    die(signum)


def die(signum: signal.Signals) -> NoReturn:
    """End the process by `signum` itself, so that a shell loop around it stops too."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    # Blocked or not delivered yet: the exit code that a shell would show for it.
    os._exit(128 + signum)


@contextlib.contextmanager
def deliver_signals() -> Iterator[None]:
    """Raise `Interrupted` in the main thread for the first signal that asks to stop, at once or after the region at hand.

    Later ones wait for the clean-up, but not for ever: after `PATIENCE` seconds one more ends the process, as a worker may hang in a
    system call. The run is then as if it had been killed.

    A signal that the process was started to ignore (nohup) stays ignored.
    """

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if not received:
            received.append(time.monotonic())
            stopping.ask(Interrupted(signum))
        elif time.monotonic() - received[0] > PATIENCE:
            end_at_once(signal.Signals(signum))

    received: list[float] = []
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    watched = [s for s, handler in before.items() if handler is not signal.SIG_IGN]
    for s in watched:
        signal.signal(s, interrupt)
    try:
        yield
    finally:
        for s in watched:
            signal.signal(s, before[s])
