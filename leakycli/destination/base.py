"""What every destination has: it is entered, written to, and becomes real with its reports, or is left.

entered     the lock is taken, and what an earlier run left is judged
written     under a name that is not its own, or without what makes it one
published   its name, then those of its reports; signals wait until all of it is done
left        what was written on the way is removed, but for what a later run can resume
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Any

from leakycli.destination.journal import Journal, Past, Published
from leakycli.destination.names import Names, check_space, no_space, temporary
from leakycli.destination.rename import Identity, identity, remove
from leakycli.errors import FlushError, LeakyError, SourceChangedError, StorageError, UsageError, shown, storage_error
from leakycli.system import sync_path
from leakycli.tuning import DEFAULT

if TYPE_CHECKING:
    from leakycli.stores.remote import Remote

#: The end of a message where what is done stays.
KEPT = "what is done is kept: continue with --resume"

#: Permission bits of new files and folders, before the umask.
FILE_MODE, FOLDER_MODE = 0o666, 0o777


class Destination(ABC):
    """Where a result goes. A context manager: entering takes the lock, where there is one; leaving removes what is not to stay.

    dest: the name to show
    partial: what the result is written to
    journal: how far the run came; None where nothing can be resumed
    past: what an earlier run has done, where this one resumes it
    kept: after leaving: whether what is done stays
    complete: whether the result is there, under its own name
    """

    partial: str | Remote
    journal: Journal | None = None
    past: Past | None = None
    kept = False
    complete = False

    #: Whether it can be taken back: read again before it is published, and removed.
    revocable = True

    #: Whether a digest of the result can be told.
    identifiable = True

    #: Whether the result is a file without a name, for one of many small ones.
    unnamed = False

    #: How often the journal gets a line.
    tuning = DEFAULT

    #: Whether the same call with --resume can continue what is left.
    resumable = True

    def __init__(self, dest: str) -> None:
        self.dest = dest
        self._reports: list[tuple[str, str]] = []

    @property
    def kept_text(self) -> str:
        """The end of a message where what is done stays."""
        return KEPT

    @property
    @abstractmethod
    def touched(self) -> tuple[str, ...]:
        """Every path, or URL, that the run may write or remove, but for reports elsewhere."""

    @property
    def finished(self) -> bool:
        """Whether there is something under the destination's name that no unfinished run put there."""
        return False

    @property
    def published(self) -> Published | None:
        """The result of an earlier run, where it is complete: it may have its name already."""
        return None

    @property
    def named(self) -> bool:
        """Whether the result has its own name already."""
        return self.complete

    @property
    @abstractmethod
    def result(self) -> str | Remote:
        """Where the result is, now that it is complete."""

    def prepare(self, fingerprint: dict[str, Any], total: int, spool: bool) -> None:
        """Make what is written to, and begin the journal of a job of `total` bytes. spool: one is needed. By default nothing."""
        return

    def spool(self) -> str | None:
        """Where an array that has to be spooled goes; None where there is no such place beside the destination."""
        return None

    def extent(self) -> int:
        """Bytes that the partial file has now; 0 for what is no single file."""
        return 0

    def check_space(self, result: int, spooled: int, left: float, reserved: bool) -> None:
        """Raise StorageError where there is no room for what is to be written yet, as far as that can be known.

        result, spooled: bytes of them; left: the share that is not written yet; reserved: room for the result is set aside when it is made.
        By default nothing is known.
        """
        return

    def no_space(self, result: int, spooled: int, left: float, reserved: bool) -> str:
        """What to add to a message about a full disk; see `check_space`."""
        return ""

    def report(self, path: str, text: str, own: bool) -> None:
        """The report `text` is to be at `path` once the result is published. own: it is the one beside the destination."""
        made = self._new_report(path, own)
        try:
            with open(made, "w", encoding="utf-8") as file:
                file.write(text)
                if self.flushes:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(error, path, "cannot write") from None

    flushes = False

    def report_paths(self, path: str, own: bool) -> tuple[str, ...]:
        """The names under which `report` writes."""
        return path, temporary(path) if own else f"{path}.{os.getpid()}.partial"

    def _new_report(self, path: str, own: bool) -> str:
        """An empty file for a report, with the permissions that it will have; it is one of `_reports` from its creation on."""
        made = self.report_paths(path, own)[1]
        try:
            os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE))
        except OSError as error:
            raise storage_error(error, path, "cannot write") from None
        self._reports.append((made, path))
        return made

    def publish(self, digest: Any, bytes: int, warnings: tuple[str, ...]) -> None:
        """Make the destination real, then its reports. digest, bytes, warnings: what the report says of the result."""
        self._publish(digest, bytes, warnings)
        self.complete = True
        for made, path in self._reports:
            try:
                self._move_report(made, path)
            except OSError as error:
                raise storage_error(error, path, f"{shown(self.dest)} is done, but cannot write") from None

    @abstractmethod
    def _publish(self, digest: Any, bytes: int, warnings: tuple[str, ...]) -> None: ...

    def _move_report(self, made: str, path: str) -> None:
        os.replace(made, path)

    def __enter__(self) -> Destination:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for made, _ in self._reports:
            with contextlib.suppress(OSError):
                os.unlink(made)


class LockedDestination(Destination):
    """One that a single run at a time may work on, with a journal."""

    journal: Journal

    def __init__(self, dest: str, names: Names, resume: bool, flush: bool) -> None:
        """names: of what is beside it. resume: what an earlier run left is kept. flush: to disk, before anything relies on it."""
        super().__init__(dest)
        self.names = names
        self._resume, self.flushes = resume, flush
        self._lock = -1
        #: Whether it has begun to make anything.
        self._working = False
        #: What a run has made, and its proof: see `rename.identity`.
        self._made: dict[str, Identity] = {}

    @property
    def _room(self) -> str:
        """A path in the folder that must have room."""
        return self.names.dest

    @abstractmethod
    def _missing(self, result: int, spooled: int, left: float, reserved: bool) -> int:
        """Bytes that are needed for what is not written yet; see `check_space`."""

    def check_space(self, result: int, spooled: int, left: float, reserved: bool) -> None:
        check_space(self._room, self._missing(result, spooled, left, reserved))

    def no_space(self, result: int, spooled: int, left: float, reserved: bool) -> str:
        missing = self._missing(result, spooled, left, reserved)
        return f"; {no_space(self._room, missing)}" if missing > 0 else ""

    def spool(self) -> str:
        return self.names.spool

    def __enter__(self) -> Destination:
        try:
            self._make_folder()
            self._lock, new = self._take_lock()
            try:
                self._enter(self._load(), new)
            except BaseException as error:
                if new:
                    self._unlink_journal()
                elif not isinstance(error, Exception):
                    error.add_note(
                        f"of what an ended run left beside {shown(self.dest)} a part may be removed; the next run removes the rest"
                    )
                os.close(self._lock)
                raise
        except OSError as error:
            if isinstance(error, LeakyError):
                raise
            raise storage_error(error, self.dest, "cannot write") from None
        return self

    def _make_folder(self) -> None:
        """Make the folder that the journal is in, where that is to be made."""

    @abstractmethod
    def _enter(self, past: Past | None, new: bool) -> None:
        """Look at what an earlier run left, of which `past` tells; the lock says that it is nobody's. new: the journal was just made."""

    def _load(self) -> Past | None:
        self.journal = Journal(self._lock, self.flushes, self._durable, self.tuning)
        try:
            return self.journal.load()
        except ValueError:
            raise UsageError(f"{shown(self.names.journal)}: is in the way, and no journal of leakycli; remove it or rename it") from None

    #: Whether what is written outlives a crash of the system as it is.
    _durable = False

    def _take_lock(self) -> tuple[int, bool]:
        """The journal, open and locked, and whether it is new. Raises UsageError, OSError."""
        path = self.names.journal
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        while True:
            new = True
            try:
                fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                new = False
                try:
                    fd = os.open(path, flags)
                except FileNotFoundError:
                    continue
                except OSError:
                    if os.path.islink(path) or not os.path.isfile(path):
                        raise self._in_the_way(path) from None
                    raise
            try:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                    raise self._in_the_way(path)
                _lock(fd)
                # The run that held it may have removed it between the two calls: then this is a lock on nothing.
                if os.path.samestat(os.fstat(fd), os.lstat(path)):
                    return fd, new
            except FileNotFoundError:
                pass
            except BlockingIOError:
                os.close(fd)
                raise UsageError(f"{shown(self.dest)}: another run is writing it; wait for it or choose another name") from None
            except BaseException:
                os.close(fd)
                if new:
                    with contextlib.suppress(OSError):
                        os.unlink(path)
                raise
            os.close(fd)

    def _in_the_way(self, path: str) -> UsageError:
        return UsageError(f"{shown(path)}: is in the way, and was not made by leakycli for {shown(self.dest)}; remove it or rename it")

    def _unlink_journal(self) -> None:
        """Raises StorageError."""
        try:
            os.unlink(self.names.journal)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise storage_error(error, self.names.journal, "cannot remove") from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is not None and self._may_resume(error):
                with contextlib.suppress(OSError):
                    # What waits to be written is left out where the disk is full; what was written before counts.
                    self.journal.write()
                self.kept = self.journal.tells and not self.journal.failed
            if self.kept:
                self._leave_reports()
                return
            try:
                if error is not None:
                    self._give_up()
                self._clean()
                self._unlink_journal()
            except OSError as left:
                if error is None:
                    done = f"{shown(self.dest)} is done, but " if self.complete else ""
                    raise StorageError(f"{done}{left}; remove it by hand, or run again with --resume") from None
        finally:
            # Last: whoever waits for the lock must find nothing of this run.
            os.close(self._lock)

    def _leave_reports(self) -> None:
        for made, _ in self._reports:
            with contextlib.suppress(OSError):
                os.unlink(made)

    def _may_resume(self, error: BaseException) -> bool:
        """Whether the same run may succeed later: a full disk, a signal, what the user can change; not a source that is at fault."""
        if not self._working:
            # What an earlier run has left is as it was.
            return True
        if isinstance(error, (SourceChangedError, FlushError)):
            return False
        if self.journal.complete:
            return isinstance(error, (OSError, MemoryError, UsageError)) or not isinstance(error, Exception)
        return self.resumable and (isinstance(error, (OSError, MemoryError)) or not isinstance(error, Exception))

    def _give_up(self) -> None:
        """Say, before anything is removed, that nothing counts any more."""
        self.journal.discard(self._made, flush=self.flushes)

    def _clean(self) -> None:
        """Remove what was made on the way. Raises StorageError where some of it stays."""
        names = self.names.made
        for role, proof in self._made.items():
            if role in names and identity(names[role]) == proof:
                remove(names[role])
        self._leave_reports()

    def flush_folder(self, path: str | None = None) -> None:
        """Flush to disk, where that was asked for, what names there are beside the destination (or `path`)."""
        if self.flushes:
            sync_path(os.path.dirname(path or self.names.journal) or ".")


def _lock(fd: int) -> None:
    """Lock an open file, or raise BlockingIOError, or StorageError where its file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        raise
    except OSError:
        pass  # it may have the other kind
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise BlockingIOError from None
    except OSError as error:
        text = f"cannot lock: {error.strerror}; the file system has no locks, so that two runs would not notice one another"
        raise StorageError(f"{text}; write to another file system, and copy the result") from None
