"""Where a run may be stopped by a signal.

An exception that a signal's handler raises comes anywhere: also between the taking of a lock and the block that would give it back, and
then a thread waits for ever. So while a run has threads it is guarded: what asks it to stop is raised where the run checks.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

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
