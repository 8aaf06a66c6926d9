"""What runs the tasks: a `concurrent.futures.Executor` of threads.

All that takes time (reading, codecs, the kernel, writing) releases the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class InlineExecutor(Executor):
    """Runs each task in the calling thread, at once: for work too small to be worth a thread."""

    def __init__(self) -> None:
        self._down = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            result = fn(*args, **kwargs)
        # An interrupt is for the caller; an error is for whoever asks for the result.
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._down = True


def local_executor(workers: int, tasks: int) -> Executor:
    """Threads for `workers`, or the calling thread where there is nothing to do at once."""
    if workers <= 1 or tasks <= 1:
        return InlineExecutor()
    return threads(workers, "leakycli") or InlineExecutor()


class _Threads(ThreadPoolExecutor):
    """Threads, or as many of them as the system allows."""

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


def threads(most: int, name: str) -> ThreadPoolExecutor | None:
    """An executor of up to `most` threads; None where not even one can be started (a limit on processes, or on memory)."""
    executor = _Threads(most, thread_name_prefix=name)
    try:
        executor.submit(int).result()
    except RuntimeError:
        return None
    return executor
