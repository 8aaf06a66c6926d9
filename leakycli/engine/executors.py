"""What runs the tasks: a `concurrent.futures.Executor`.

Threads take turns at the interpreter's lock around every call into numpy, and with calls of some ten microseconds two of them gain
little. Forked processes have a lock each. They are for a program that has no other threads, as the command line: a library must not fork
its caller.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import queue
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from leakycli import system
from leakycli.errors import StorageError

_LEFT_TO_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_PR_SET_PDEATHSIG = 1

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
    return ThreadPoolExecutor(workers, thread_name_prefix="leakycli")


def can_fork() -> bool:
    """Whether `ForkedExecutor` is safe here and now: Linux, and no other thread that could hold a lock that a child needs."""
    return sys.platform == "linux" and threading.active_count() == 1


class ForkedExecutor(ThreadPoolExecutor):
    """Runs each task in one of some processes, forked when this is made; a thread for each hands them tasks and waits for results.

    A task and what it gives must pickle. A task that is given again, the same object, goes over once; one that has a method `close` is
    closed when another comes. The processes leave signals to this one, and end when it does, however it ends. One that is lost fails its
    task, and the others go on.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers, thread_name_prefix="leakycli")
        self._children: list[_Child] = []
        #: None, when none is left.
        self._idle: queue.SimpleQueue[_Child | None] = queue.SimpleQueue()
        # What is there now stays: a collection in a child would copy the pages that all share.
        gc.freeze()
        # A handler that raises in the middle of a fork would be passed over.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_PARENT)
        try:
            for _ in range(workers):
                self._children.append(_Child(self._children))
                self._idle.put(self._children[-1])
        except BaseException:
            self.shutdown()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown(cancel_futures=kind is not None)

    @property
    def size(self) -> int:
        """Number of processes."""
        return len(self._children)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return super().submit(self._call, fn, args, kwargs)

    def resident(self) -> int:
        """Bytes of resident memory of the largest process now."""
        return max(self._from_each(system.resident), default=0)

    def keep(self, most: int) -> None:
        """End all processes but so many, which then are all that tasks run in."""
        while len(self._children) > most and (child := self._idle.get()) is not None:
            self._children.remove(child)
            child.end()

    def peak_resident(self) -> int:
        """Bytes of resident memory at the peaks of all processes together."""
        return sum(self._from_each(system.peak_resident))

    def _from_each(self, fn: Callable[[], T]) -> list[T]:
        """What `fn` gives in each process, one after the other, when none has anything else to do."""
        results, asked = [], []
        for _ in range(len(self._children)):
            if (child := self._idle.get()) is None:
                self._idle.put(None)
                break
            try:
                results.append(child.call(fn, (), {}))
                asked.append(child)
            except LostError:
                self._lose(child)
        for child in asked:
            self._idle.put(child)
        return results

    def _lose(self, child: _Child) -> None:
        self._children.remove(child)
        child.end()
        if not self._children:
            self._idle.put(None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            while self._children:
                self._children.pop().end()

    def _call(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        if (child := self._idle.get()) is None:
            self._idle.put(None)
            raise LostError
        try:
            result: T = child.call(fn, args, kwargs)
        except LostError:
            self._lose(child)
            raise
        except BaseException:
            self._idle.put(child)
            raise
        self._idle.put(child)
        return result


class LostError(StorageError):
    """A process that worked on a task is gone."""

    def __init__(self, text: str = "a worker process was lost (killed, or out of memory?); run again") -> None:
        super().__init__(text)


class _Child:
    """A forked process that runs one task after the other."""

    def __init__(self, others: list[_Child]) -> None:
        read, self._send = os.pipe()
        self._receive, write = os.pipe()
        self._known: object = None
        parent = os.getpid()
        with warnings.catch_warnings():
            # OpenBLAS has threads, and is ready for a fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if not self._pid:
            code = 1
            try:
                # A pipe ends when nobody holds its other end.
                for fd in (self._send, self._receive, *(fd for other in others for fd in (other._send, other._receive))):
                    os.close(fd)
                _die_with(parent)
                _serve(read, write)
                code = 0
            finally:
                os._exit(code)
        os.close(read)
        os.close(write)

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Raises what the task raises, and LostError where the process is gone."""
        try:
            _write(self._send, pickle.dumps((None if fn is self._known else fn, args, kwargs), pickle.HIGHEST_PROTOCOL))
            self._known = fn
            answer = _read(self._receive)
        except (OSError, EOFError):
            raise LostError from None
        result, error = pickle.loads(answer)
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        os.close(self._send)
        os.close(self._receive)
        # Whoever started this program may have told the system not to keep what became of its children.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _die_with(parent: int) -> None:
    """Let the system end this process when the process `parent` ends: what is left of a task must not be written when the lock is free."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _serve(read: int, write: int) -> None:
    """Run tasks until the pipe ends."""
    for signum in _LEFT_TO_PARENT:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_TO_PARENT)
    # This process is one worker: libraries that make as many threads as there are processors would have them stand in line.
    os.environ |= {"RAYON_NUM_THREADS": "1", "ZARR_CODEC_PIPELINE__MAX_WORKERS": "1"}
    if (zarr := sys.modules.get("zarr")) is not None:
        zarr.config.refresh()
    task: Any = None
    while True:
        try:
            fn, args, kwargs = pickle.loads(_read(read))
        except EOFError:
            return
        if fn is not None:
            if hasattr(task, "close"):
                task.close()
            task = fn
        try:
            answer = pickle.dumps((task(*args, **kwargs), None), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            try:
                answer = pickle.dumps((None, error), pickle.HIGHEST_PROTOCOL)
                pickle.loads(answer)
            except Exception:
                answer = pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")), pickle.HIGHEST_PROTOCOL)
        try:
            _write(write, answer)
        except BrokenPipeError:
            return


def _write(fd: int, message: bytes) -> None:
    data = memoryview(len(message).to_bytes(8, "little") + message)
    while data:
        data = data[os.write(fd, data) :]


def _read(fd: int) -> bytes:
    """The next message. Raises EOFError."""
    return bytes(_exactly(fd, int.from_bytes(_exactly(fd, 8), "little")))


def _exactly(fd: int, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        if not (count := os.readv(fd, [view])):
            raise EOFError
        view = view[count:]
    return data
