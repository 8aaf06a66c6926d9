"""Publishing on a file system: work under a temporary name beside the destination, and make it real in one step.

    DEST.partial           what is being written
    DEST.partial.folder    the folder that a `.zarr.zip` is packed from
    DEST.partial.spool     an array that comes, or must go, in order and does not fit in memory
    DEST.replaced          an old Zarr folder on its way out, where the system cannot exchange two names
    DEST.partial.journal   how far the run came; and the lock: held (flock) while a run works on DEST, so that a killed run holds none

A run that fails or is interrupted leaves nothing under DEST's name that was not there before. Without `overwrite` the last step
refuses to replace anything, however it came to be there. After a failure that a later run can mend what is done stays, and its journal.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import stat
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

from leakycli.destination.journal import Journal, Past
from leakycli.errors import LeakyError, SourceChangedError, StorageError, UsageError, shown, storage_error
from leakycli.formats import is_url, is_zarr
from leakycli.formats.base import sync_path

if TYPE_CHECKING:
    from leakycli.stores.remote import Remote

#: linux/fs.h and sys/stdio.h (macOS)
_RENAME_NOREPLACE = 1
_RENAME_EXCL = 4
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2
_AT_FDCWD = -100

#: The system, or this file system, has no such call.
_NO_SUCH_RENAME = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


#: What is said when what is done stays.
KEPT = "what is done is kept: go on from there with --resume"


class Publication(ABC):
    """The one run that may work on a destination, from its lock to the moment the destination becomes real.

    Used as a context manager: entering takes the lock; leaving removes all that was written, but after a failure that a later run can
    mend. Then `kept` is true.
    """

    #: What the result is written to, under a name that is not its own, or without what makes it one.
    partial: str | Remote

    #: How far the run came; None where there is nothing to go on from.
    journal: Journal | None = None

    #: Whether what is written has no name at all until it is complete; then it is there already, and so are companions.
    unnamed = False

    def __init__(self, dest: str, beside: str, resume: bool, flush: bool) -> None:
        """dest: how it is called. beside: how the names of journal and spool begin. resume: what an earlier run left is kept.

        flush: to disk, before anything relies on it.
        """
        self.dest = dest
        #: In the folder that must have room.
        self._room = dest
        self.spool = f"{beside}.spool"
        self._journal = f"{beside}.journal"
        self._resume, self._flush = resume, flush
        self._lock = -1
        self.past: Past | None = None
        self.kept = False
        self._companions: list[tuple[str, str]] = []

    @property
    def _journal_open(self) -> Journal:
        assert self.journal is not None
        return self.journal

    @property
    def kept_text(self) -> str:
        """What is said when what is done stays."""
        return KEPT

    @abstractmethod
    def touched(self) -> tuple[str, ...]:
        """Every path, or URL, that the run writes or removes."""

    @abstractmethod
    def finished(self, past: Past | None) -> bool:
        """Whether there is something under the destination's name that no unfinished run, of which `past` tells, put there."""

    @abstractmethod
    def published(self, past: Past | None) -> bool:
        """Whether the destination is the result of that earlier run, which did not come to tell its journal so."""

    @property
    @abstractmethod
    def result(self) -> str | Remote:
        """Where the result is, now that it is complete."""

    @abstractmethod
    def missing(self, result: int, spooled: int, left: float, reserved: bool) -> int:
        """Bytes that are to be found for so many of which the share `left` is to be written yet, as far as that can be known.

        reserved: room for the result is set aside when it is made.
        """

    def check_space(self, result: int, spooled: int, left: float, reserved: bool) -> None:
        """Raise StorageError where there is no room for what is `missing`."""
        check_space(self._room, self.missing(result, spooled, left, reserved))

    def no_space(self, result: int, spooled: int, left: float, reserved: bool) -> str:
        """What to say when there was no room, but for what needs next to none."""
        missing = self.missing(result, spooled, left, reserved)
        return f"; {no_space(self._room, missing)}" if missing else ""

    @abstractmethod
    def temporary(self, report: str) -> str:
        """Where the destination's own `report` is written first."""

    @abstractmethod
    def _take_over(self, ours: bool) -> None:
        """Look at what an earlier run left; the lock says that it is nobody's. ours: it has left a journal, so that it was one of these."""

    @abstractmethod
    def _clean(self, done: bool) -> None:
        """Remove what was written on the way to the result, and what of it is there unless it is done."""

    @abstractmethod
    def _identity(self) -> Any:
        """What the journal tells of the complete result just before it becomes real."""

    @abstractmethod
    def _publish(self) -> None:
        """Make the destination real."""

    def companion(self, temporary: str, final: str) -> None:
        """The file `temporary` is to be published as `final` right after the destination, as the report is, or to be removed."""
        self._companions.append((temporary, final))

    def __enter__(self) -> Publication:
        try:
            self._prepare()
            ours = os.path.lexists(self._journal)
            self._lock = self._take_lock()
            try:
                self._take_over(ours)
            except BaseException:
                self._let_go(remove_journal=not ours)
                raise
        except OSError as error:
            if isinstance(error, LeakyError):
                raise
            raise storage_error(error, self.dest, "cannot write") from None
        return self

    @abstractmethod
    def _prepare(self) -> None:
        """Make the folder that the journal is in, where that is to be made."""

    def _load(self, durable: bool) -> tuple[Journal, Past | None]:
        """The journal, open from now on, and what it tells. durable: what it tells of is there after any crash."""
        self.journal = Journal(self._lock, self._flush, durable)
        try:
            return self.journal, self.journal.load()
        except ValueError:
            raise UsageError(f"{shown(self._journal)}: is in the way, and no journal of leakycli; remove it") from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with _undisturbed():
            if error is not None and _mendable(error):
                with contextlib.suppress(OSError):
                    # What waits to be written is left out where the disk is full; what was written before counts.
                    self._journal_open.write()
                with contextlib.suppress(OSError):
                    self.kept = os.fstat(self._lock).st_size > 0
            remove_journal = not self.kept
            if not self.kept:
                try:
                    self._clean(done=error is None)
                except LeakyError:
                    # Who comes next can tell by it that this was ours.
                    remove_journal = False
            for temporary, _ in self._companions:
                remove(temporary)
            self._let_go(remove_journal)

    def _let_go(self, remove_journal: bool) -> None:
        if remove_journal:
            remove(self._journal)
        # Last: whoever waits for the lock must find nothing of this run.
        os.close(self._lock)

    def publish(self, told: dict[str, Any]) -> None:
        """Make the destination real, then its companions. Signals wait until both are. told: what the journal is to tell of it."""
        with _undisturbed():
            if self.published(self.past):
                self._publish_companions()
                return
            self._journal_open.publishing({"file": self._identity(), **told})
            self._publish()
            self._publish_companions()

    def _publish_companions(self) -> None:
        for temporary, final in self._companions:
            try:
                self._move(temporary, final)
            except OSError as error:
                raise storage_error(error, final, f"{shown(self.dest)} is done, but cannot write") from None

    def _move(self, temporary: str, final: str) -> None:
        os.replace(temporary, final)

    def flush_folder(self, path: str | None = None) -> None:
        """Flush to disk, where that was asked for, what names there are beside the destination (or `path`)."""
        if self._flush:
            sync_path(os.path.dirname(path or self._journal) or ".")

    def _take_lock(self) -> int:
        while True:
            fd = os.open(self._journal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The run that held it may have removed it between the two calls: then this is a lock on nothing.
                if os.path.samestat(os.fstat(fd), os.stat(self._journal)):
                    return fd
            except FileNotFoundError:
                pass
            except BlockingIOError:
                os.close(fd)
                raise UsageError(f"{shown(self.dest)}: another run is writing it; wait for it or choose another name") from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)


class FilePublication(Publication):
    """On a file system: a name of its own until it is complete, then the destination's."""

    partial: str

    def __init__(self, dest: str, overwrite: bool = False, parents: bool = False, resume: bool = False, flush: bool = False) -> None:
        """dest: a path that is no link (see `resolve`). parents: its folder is made if need be.

        Raises UsageError or StorageError where the destination may not be written.
        """
        super().__init__(dest, f"{dest}.partial", resume, flush)
        self.partial = dest + ".partial"
        self._folder = dest + ".partial.folder"
        self._replaced = dest + ".replaced"
        self._overwrite, self._parents = overwrite, parents
        check_destination(dest, overwrite or resume, parents)

    def touched(self) -> tuple[str, ...]:
        companions = (path for pair in self._companions for path in pair)
        return self.dest, self.partial, self._folder, self.spool, self._journal, self._replaced, *companions

    def finished(self, past: Past | None) -> bool:
        return os.path.lexists(self.dest) and not self.published(past)

    def _prepare(self) -> None:
        if self._parents:
            os.makedirs(os.path.dirname(self.dest) or ".", exist_ok=True)

    def _take_over(self, ours: bool) -> None:
        journal, past = self._load(durable=False)
        if self.published(past):
            # Half removed, perhaps, and so not to be known for what it is.
            remove(self._replaced)
        left = [path for path in (self.partial, self._folder) if os.path.lexists(path)]
        if left and not self._overwrite and not (self._resume and ours):
            if not ours:
                raise UsageError(f"{shown(left[0])}: is in the way, and of no run that can be gone on from; remove it, or give --overwrite")
            share = f"{past.share:.0%}" if past else "0%"
            raise UsageError(
                f"{shown(self.dest)}: an unfinished run left {shown(left[0])} ({share} done); "
                "go on from there with --resume, or begin anew with --overwrite"
            )
        if past is not None and self._resume and past.counts and (left or self.published(past)):
            self.past = past
        else:
            self._clean(done=False)
            journal.clear()
        self._mend()

    def published(self, past: Past | None) -> bool:
        if past is None or past.published is None:
            return False
        try:
            found = os.lstat(self.dest)
        except OSError:
            return False
        return bool(_identity(found) == past.published["file"])

    def _clean(self, done: bool) -> None:
        for path in (self.partial, self._folder, self.spool):
            remove(path)

    @property
    def result(self) -> str:
        return self.dest if self.published(self.past) else self.partial

    def missing(self, result: int, spooled: int, left: float, reserved: bool) -> int:
        found = missing_bytes(self.partial, result, left) if reserved else int(result * left)
        return found + missing_bytes(self.spool, spooled, left)

    def temporary(self, report: str) -> str:
        return f"{report}.partial"

    def _identity(self) -> Any:
        return _identity(os.lstat(self.partial))

    def _publish(self) -> None:
        try:
            if self._overwrite and os.path.isdir(self.partial):
                self._replace_folder()
            elif self._overwrite:
                keep_mode(self.partial, self.dest)
                os.replace(self.partial, self.dest)
            else:
                rename_new(self.partial, self.dest)
        except FileExistsError:
            raise UsageError(
                f"{shown(self.dest)}: appeared while this run worked, and was left as it is; "
                "the result is kept: --resume --overwrite puts it in its place, or choose --overwrite to begin anew"
            ) from None
        except OSError as error:
            raise storage_error(error, self.dest, "cannot publish") from None
        self.flush_folder()

    def _move(self, temporary: str, final: str) -> None:
        super()._move(temporary, final)
        self.flush_folder(final)

    def _replace_folder(self) -> None:
        """Put the new folder in the place of the old one, where there is one. At every moment one of the two is whole."""
        if not os.path.lexists(self.dest):
            rename_new(self.partial, self.dest)
            return
        code = _rename_flagged(self.partial, self.dest, exchange=True)
        if code in _NO_SUCH_RENAME:
            os.rename(self.dest, self._replaced)
            os.rename(self.partial, self.dest)
            remove(self._replaced)
        elif code:
            raise OSError(code, os.strerror(code), self.dest)
        remove(self.partial)

    def _mend(self) -> None:
        """Put right what a crash in `_replace_folder` left."""
        if os.path.lexists(self._replaced) and is_zarr(self._replaced):
            if os.path.lexists(self.dest):
                remove(self._replaced)
            else:
                os.rename(self._replaced, self.dest)


class UnnamedPublication(FilePublication):
    """A new file that has no name until it is complete, where the system has such (Linux's O_TMPFILE): for one of many small files.

    There is nothing to lock, as names are given in steps that replace nothing; nothing to go on from, and so no journal; and nothing that
    a run leaves when it is killed. Making and removing a journal for each of thousands of files took longer than all else: file
    systems are slow to use again what was just removed. What is there of an earlier run, or a system without, is left to the class above.
    """

    def __init__(self, dest: str, parents: bool = False) -> None:
        super().__init__(dest, parents=parents)
        self._files: list[int] = []

    def __enter__(self) -> Publication:
        with contextlib.suppress(OSError):
            self._prepare()
            if not any(map(os.path.lexists, (self.partial, self._folder, self._journal, self._replaced))):
                self.partial = self._new(self.dest)
                self.unnamed = True
                return self
        return super().__enter__()

    def _new(self, beside: str) -> str:
        """The path of a new file without a name, which can get one in the folder of `beside`. Raises OSError."""
        fd = os.open(os.path.dirname(beside) or ".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
        self._files.append(fd)
        os.stat(path := f"/proc/self/fd/{fd}")  # there may be no /proc
        return path

    def temporary(self, report: str) -> str:
        return self._new(report) if self.unnamed else super().temporary(report)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.unnamed:
            super().__exit__(kind, error, trace)
        for fd in self._files:
            os.close(fd)

    def publish(self, told: dict[str, Any]) -> None:
        if not self.unnamed:
            super().publish(told)
            return
        with _undisturbed():
            there = self._publish_unnamed()
            for temporary, final in there:
                aside = f"{final}.{os.getpid()}.partial"
                try:
                    _name(temporary, aside)
                    os.replace(aside, final)
                except OSError as error:
                    remove(aside)
                    raise storage_error(error, final, f"{shown(self.dest)} is done, but cannot write") from None

    def _publish_unnamed(self) -> list[tuple[str, str]]:
        """Make the destination real, with the companions whose names are free; returns the others.

        The report comes first: a run that ends between the two leaves nothing that a later one would take for a result. But one that is
        there may be that of a run that was quicker, and is replaced only when the destination is ours.
        """
        given, there = [], []
        try:
            for companion in self._companions:
                try:
                    _name(*companion)
                    given.append(companion)
                except FileExistsError:
                    there.append(companion)
            _name(self.partial, self.dest)
        except OSError as error:
            for temporary, final in given:
                with contextlib.suppress(OSError):
                    # A quicker run may have put its own there meanwhile.
                    if os.path.samestat(os.stat(temporary), os.lstat(final)):
                        remove(final)
            if isinstance(error, FileExistsError):
                text = "appeared while this run worked, and was left as it is; choose another name"
                raise UsageError(f"{shown(self.dest)}: {text}") from None
            raise storage_error(error, self.dest, "cannot publish") from None
        return there


def _name(unnamed: str, name: str) -> None:
    """Give the file behind `unnamed` its name. Raises FileExistsError, OSError."""
    # Where no folder is given, Python calls link, which would name the link in /proc and not what it leads to.
    os.link(unnamed, name, src_dir_fd=int(os.path.basename(unnamed)), follow_symlinks=True)


def _identity(found: os.stat_result) -> list[int]:
    """What stays of a file or folder when it gets another name, and no other has."""
    return [found.st_dev, found.st_ino, found.st_mtime_ns]


def _mendable(error: BaseException) -> bool:
    """Whether the same run may succeed later: a full disk, a signal, what the user can change; not a source that is at fault."""
    if isinstance(error, SourceChangedError):
        return False
    return isinstance(error, (OSError, MemoryError, UsageError)) or not isinstance(error, Exception)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that would stop the run are delivered afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def resolve(dest: str) -> str:
    """`dest` with its symbolic links followed: what is replaced is what they point to, the links stay."""
    return os.path.realpath(dest) if os.path.islink(dest) else dest


def check_destination(dest: str, overwrite: bool, parents: bool = False) -> None:
    """Raise UsageError or StorageError where `dest` is there and may not be replaced, or has no folder to be in (unless `parents`)."""
    folder = os.path.dirname(dest) or "."
    try:
        found = os.lstat(dest)
    except FileNotFoundError:
        if not parents and not os.path.isdir(folder):
            raise StorageError(f"{shown(dest)}: the folder {shown(folder)} does not exist; create it first") from None
        return
    except OSError as error:
        raise storage_error(error, dest, "cannot write") from None
    zarr = stat.S_ISDIR(found.st_mode) and is_zarr(dest)
    if zarr != folder_wanted(dest) or not (zarr or stat.S_ISREG(found.st_mode)):
        kind = "a Zarr store" if zarr else "a folder and no Zarr store" if stat.S_ISDIR(found.st_mode) else "no regular file"
        if stat.S_ISREG(found.st_mode):
            kind = "a file, where a folder is to be"
        raise UsageError(f"{shown(dest)}: is {kind}; it is not replaced, with or without --overwrite")
    if not overwrite:
        raise UsageError(f"{shown(dest)}: exists; give --overwrite to replace it")


def folder_wanted(dest: str) -> bool:
    """Whether a result of that name is a folder."""
    return dest.rstrip("/").lower().endswith(".zarr")


def written_beside(dest: str) -> tuple[str, ...]:
    """Every path that a run to `dest` may write or remove, by default."""
    report = dest + ".report.json"
    return dest, dest + ".partial", dest + ".partial.journal", report, report + ".partial"


def check_distinct(source: str, written: Iterable[str]) -> None:
    """Raise UsageError where one of `written`, paths that a run writes or removes, is the file `source`, by whatever path or link.

    "-" is what standard input or output leads to, where that is a file.
    """
    if is_url(source):
        outer = source.rstrip("/")
        for inner in (path.rstrip("/") for path in written if is_url(path)):
            if f"{inner}/".startswith(f"{outer}/") or f"{outer}/".startswith(f"{inner}/"):
                raise UsageError(f"{shown(inner)}: is the source {shown(outer)}, or in or around it; a source is never written to")
        return
    try:
        a = os.fstat(0) if source == "-" else os.stat(source)
    except OSError:
        a = None
    folder = a is not None and stat.S_ISDIR(a.st_mode)
    # Most of `written` are in one folder, whose links need to be followed once.
    followed, there = cache(os.path.realpath), cache(os.path.isdir)
    for path in written:
        if is_url(path):
            continue
        standard = "-" in (source, path)
        b = _found(path)
        # Most are not there at all: then they are not the source that is, nor around it. Without its folder, which may yet be made, that is
        # not known: "new/../x" is another file then.
        if a is not None and b is None and not folder and there(os.path.dirname(path) or "."):
            continue
        outer = "" if source == "-" else followed(source)
        link = b is not None and stat.S_ISLNK(b.st_mode)
        if standard:
            inner = ""
        elif link:
            inner = os.path.realpath(path)
        else:
            inner = os.path.join(followed(os.path.dirname(path)), os.path.basename(path))
        b = _found(path, follow=True) if link else b
        if a is not None and b is not None:
            same = os.path.samestat(a, b) and (stat.S_ISREG(a.st_mode) or not standard)
        else:
            same = not standard and outer == inner
        if same:
            raise UsageError(f"{shown(path)}: is the source itself ({shown(source)}); a source is never written to")
        if standard:
            continue
        if folder and inner.startswith(f"{outer}/"):
            raise UsageError(f"{shown(path)}: lies inside the source {shown(source)}; a source is never written to")
        if outer.startswith(f"{inner}/"):
            raise UsageError(f"{shown(path)}: lies around the source {shown(source)}; a source is never written to")


def _found(path: str, follow: bool = False) -> os.stat_result | None:
    """What is at `path`, or standard output leads to; None where there is nothing to be seen. follow: a link."""
    try:
        return os.fstat(1) if path == "-" else os.stat(path, follow_symlinks=follow)
    except OSError:
        return None


def missing_bytes(path: str, size: int, left: float) -> int:
    """Bytes that are to be found for a result of `size` bytes at `path` of which the share `left` is to be written yet: an earlier run may
    have left a file that holds the room for it."""
    held = 0
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        held = 512 * found.st_blocks if stat.S_ISREG(found.st_mode) else 0
    return max(min(int(size * left), size - held), 0)


def check_space(dest: str, needed: int) -> None:
    """Raise StorageError, naming both numbers, where the file system of `dest` has less than `needed` bytes free."""
    try:
        found = os.statvfs(_folder_of(dest))
    except OSError as error:
        raise storage_error(error, dest, "cannot write") from None
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise StorageError(f"{shown(dest)}: {no_space(dest, needed)}")


def no_space(dest: str, needed: int) -> str:
    """What to say where there is too little."""
    folder = _folder_of(dest)
    try:
        found = os.statvfs(folder)
        free = f"{found.f_bavail * found.f_frsize} are"
    except OSError:
        free = "fewer are"
    return f"no space: {needed} bytes are needed, {free} free in {shown(folder)}; make room and run again"


def _folder_of(dest: str) -> str:
    """The folder of `dest`, or the one in which it is yet to be made."""
    folder = os.path.abspath(os.path.dirname(dest))
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder


def rename_new(old: str, new: str) -> None:
    """Rename `old` to `new`, which must not exist, in one step. Raises FileExistsError, OSError."""
    code = _rename_flagged(old, new)
    if code in _NO_SUCH_RENAME and os.path.isdir(old):
        # A folder has no second name; what appears between the two calls is an empty folder, or the rename fails.
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
        os.rename(old, new)
    elif code in _NO_SUCH_RENAME:
        # No such call here, or not on this file system: a second name, then one less. Both fail where `new` exists.
        os.link(old, new)
        os.unlink(old)
    elif code:
        raise OSError(code, os.strerror(code), new)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _rename_flagged(old: str, new: str, exchange: bool = False) -> int:
    """The system's rename that does not replace, or that exchanges; returns errno, 0 for success."""
    libc = _libc()
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(os.fsencode(old), os.fsencode(new), ctypes.c_uint(_RENAME_SWAP if exchange else _RENAME_EXCL))
    elif hasattr(libc, "renameat2"):
        flag = ctypes.c_uint(_RENAME_EXCHANGE if exchange else _RENAME_NOREPLACE)
        failed = libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flag)
    else:
        return errno.ENOSYS
    return ctypes.get_errno() if failed else 0


def keep_mode(path: str, like: str) -> None:
    """Give `path` the permissions of the file `like` that it is about to replace, where there is one."""
    try:
        os.chmod(path, stat.S_IMODE(os.stat(like).st_mode))
    except FileNotFoundError:
        pass


def remove(path: str) -> None:
    """Remove a file or a folder of our own if it is there; what cannot be removed is left."""
    try:
        os.unlink(path)
    except (IsADirectoryError, PermissionError):  # the latter is what macOS says of a folder
        if os.path.isdir(path) and not os.path.islink(path):
            import shutil

            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass
