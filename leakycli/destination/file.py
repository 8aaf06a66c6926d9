"""A result on a file system: written under a temporary name beside DEST, which gets DEST's name in one step.

A run that fails or is interrupted leaves nothing under DEST's name that was not there before. Without `overwrite` the last step
refuses to replace anything, however it came to be there. After a failure that a later run can mend what is done stays, and its journal.
What is there when a run begins is judged by `states`; nothing is removed that the journal does not prove to be ours.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from types import TracebackType
from typing import Any

from leakycli import stopping
from leakycli.destination.base import FILE_MODE, FOLDER_MODE, Destination, LockedDestination
from leakycli.destination.journal import Past, Published
from leakycli.destination.names import Names, check_destination, folder_wanted, missing_bytes, resolve
from leakycli.destination.rename import NO_SUCH_CALL, Identity, exchange, identity, is_empty, remove, rename_new
from leakycli.destination.states import ROWS, Action, State
from leakycli.errors import StorageError, UsageError, shown, storage_error
from leakycli.system import open_own, sync_path

#: Where Linux keeps access control lists.
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")


class FileDestination(LockedDestination):
    """On a file system: a name of its own until it is complete, then the destination's."""

    partial: str

    def __init__(
        self,
        dest: str,
        overwrite: bool = False,
        parents: bool = False,
        resume: bool = False,
        flush: bool = False,
        like: str | None = None,
        packed: bool = False,
    ) -> None:
        """dest: its links are followed. parents: its folder is made if need be. like: the source, whose permissions a new result has.
        packed: what is written first is a folder, and then packed.

        Raises UsageError or StorageError where the destination may not be written.
        """
        names = Names(resolve(dest), dest)
        super().__init__(names.dest, names, resume, flush)
        self.partial = names.partial
        self._overwrite, self._parents, self._packed = overwrite, parents, packed
        self._is_folder = folder_wanted(names.dest)
        self._like = like
        check_destination(names, overwrite or resume, parents)

    @property
    def touched(self) -> tuple[str, ...]:
        return self.names.all

    @property
    def finished(self) -> bool:
        found = identity(self.names.dest)
        return found is not None and (self.published is None or self.published.result != found)

    @property
    def published(self) -> Published | None:
        return None if self.past is None else self.past.published

    @property
    def named(self) -> bool:
        return self.complete or (self.published is not None and identity(self.names.dest) == self.published.result)

    @property
    def result(self) -> str:
        return self.names.dest if self.named else self.partial

    # What an earlier run left.

    def _make_folder(self) -> None:
        if self._parents:
            os.makedirs(os.path.dirname(self.names.dest) or ".", exist_ok=True)

    def _enter(self, past: Past | None, new: bool) -> None:
        self._made = {} if past is None else dict(past.made)
        state = self._judged(past, new)
        if state is State.SPLIT:
            os.rename(self.names.replaced, self.names.dest)
            self.flush_folder()
            state = self._judged(past, new)
        action = ROWS[state].action(self._resume, self._overwrite)
        if action is Action.REFUSE or (action in (Action.BEGIN, Action.RESTART) and self._is_taken()):
            raise self._refusal(state, past)
        if action in (Action.CONTINUE, Action.PUBLISH, Action.FINISH) and past is not None and not (past.counts and self.journal.tells):
            action = Action.RESTART
        if action is Action.RESTART:
            self._remove_left(past)
        else:
            self._remove_empty()
            self.past = past

    def _is_taken(self) -> bool:
        return not self._overwrite and not self._resume and os.path.lexists(self.names.dest)

    def _judged(self, past: Past | None, new: bool) -> State:
        """Raises UsageError, naming it, where there is something that is not ours."""
        names = self.names
        found = {role: identity(path) for role, path in names.made.items()}
        dest, replaced = identity(names.dest), found["replaced"]
        published = None if past is None else past.published
        old = None if published is None else published.replaces
        for role, path in names.made.items():
            ours = found[role] in (None, self._made.get(role)) or (role in ("partial", "replaced") and found[role] == old)
            if not ours and (new or role == "replaced" or not is_empty(path)):
                raise self._in_the_way(path)
        if past is None:
            return State.EMPTY
        if published is not None:
            if dest == published.result:
                return State.PUBLISHED
            if dest is None and replaced is not None and not published.done:
                return State.SPLIT
            if found["partial"] == published.result and self._whole(past):
                return State.COMPLETE
            return State.TAKEN
        made = all(found[role] == proof for role, proof in self._made.items() if role in ("partial", "folder", "spool"))
        return State.BEGUN if past.valid and "partial" in self._made and made and self._whole(past) else State.VOID

    def _whole(self, past: Past) -> bool:
        """Whether what is there has not been cut off, and has no link in it, since the journal's last line."""
        found = os.lstat(self.partial)
        if stat.S_ISREG(found.st_mode) and found.st_size < past.extent:
            return False
        return not any(_has_links(path) for path in (self.partial, self.names.folder) if os.path.isdir(path))

    def _refusal(self, state: State, past: Past | None) -> UsageError:
        dest = shown(self.dest)
        if state in (State.BEGUN, State.COMPLETE) and past is not None:
            share = f"{past.share:.0%}" if past.counts else "0%"
            way = "continue with --resume, or begin anew with --overwrite" if self.resumable else "begin anew with --overwrite"
            there = "" if identity(self.names.dest) is None else f"; {dest} is the old one, which --overwrite replaces"
            return UsageError(f"{dest}: an unfinished run left {shown(self.partial)} ({share} done); {way}{there}")
        return UsageError(f"{dest}: exists; give --overwrite to replace it")

    def _remove_left(self, past: Past | None) -> None:
        """Remove what an earlier run left. First the journal says that none of it counts: a run that ends in the middle misleads nobody."""
        old = past.published.replaces if past is not None and past.published is not None else None
        for role in ("partial", "replaced"):
            if old is not None and identity(self.names.made[role]) == old:
                self._made[role] = old
        if past is not None:
            self.journal.discard(self._made, flush=self.flushes or past.flushed)
        self._clean()
        self._remove_empty()
        self.journal.forget()
        self._made = {}

    def _remove_empty(self) -> None:
        """What a run had made, also in the place of what its journal names, and did not come to tell its journal of."""
        for role, path in self.names.made.items():
            if role != "replaced" and is_empty(path) and identity(path) != self._made.get(role):
                remove(path)

    def extent(self) -> int:
        found = os.stat(self.partial)
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    # What this run makes.

    def prepare(self, fingerprint: dict[str, Any], total: int, spool: bool) -> None:
        """Everything is made empty, and the journal says what it is, before anything is written."""
        self._working = True
        # A signal between making something and recording it would leave what nobody knows to be ours.
        with stopping.guarded():
            wanted = {"partial": self._is_folder} | ({"folder": True} if self._packed else {}) | ({"spool": False} if spool else {})
            for role, folder in wanted.items():
                if role in self._made:
                    continue
                path = self.names.made[role]
                self._make(path, folder)
                proof = identity(path)
                assert proof is not None
                self._made[role] = proof
                if self.flushes:
                    sync_path(path)
                if self.past is not None:
                    self.journal.made(role, proof)
            self.flush_folder()
            if self.past is None:
                self.journal.begin(fingerprint, total, self._made)

    def _make(self, path: str, folder: bool) -> None:
        """Make an empty file or folder with the permissions of the result, and never with wider ones. Raises StorageError."""
        old = self._old()
        mode = (0o700 if folder else 0o600) if old is not None else self._wanted(folder) | (0o700 if folder else 0o600)
        try:
            if folder:
                os.mkdir(path, mode)
            else:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode))
            if old is not None:
                self._take_permissions(path, folder, old)
        except OSError as error:
            raise storage_error(error, path, "cannot write") from None

    def _old(self) -> os.stat_result | None:
        """What is to be replaced; None where nothing is."""
        if not self._overwrite:
            return None
        try:
            return os.lstat(self.names.dest)
        except OSError:
            return None

    def _wanted(self, folder: bool) -> int:
        """The permission bits of a new file or folder, before the umask: those of the source, as `cp` has it."""
        like = self._like
        while like:
            try:
                found = os.stat(like)
                break
            except NotADirectoryError:
                like = os.path.dirname(like)  # a node in an archive
            except OSError:
                like = None
        if not like:
            return FOLDER_MODE if folder else FILE_MODE
        mode = found.st_mode & 0o777
        if stat.S_ISDIR(found.st_mode):
            return mode if folder else mode & FILE_MODE
        return mode | (mode & 0o444) >> 2 if folder else mode

    def _take_permissions(self, path: str, folder: bool, old: os.stat_result) -> None:
        """Give `path` the owner, the permission bits and the access control list of what it replaces; never wider ones. Raises OSError."""
        mode = old.st_mode & 0o777
        if stat.S_ISDIR(old.st_mode) != folder:
            mode = mode | (mode & 0o444) >> 2 if folder else mode & FILE_MODE
        found = os.lstat(path)
        if (found.st_uid, found.st_gid) != (old.st_uid, old.st_gid):
            for owner in ((old.st_uid, old.st_gid), (-1, old.st_gid)):
                try:
                    os.chown(path, *owner)
                    break
                except PermissionError:
                    continue
            if os.lstat(path).st_gid != old.st_gid:
                # The bits of the group would be another group's.
                mode &= ~0o070
        os.chmod(path, mode | (0o700 if folder else 0o600))
        if not hasattr(os, "getxattr"):
            return
        for name in _ACLS if folder and stat.S_ISDIR(old.st_mode) else _ACLS[:1]:
            try:
                held = os.getxattr(self.names.dest, name)
            except OSError:
                continue  # it has none, or its file system has none
            os.setxattr(path, name, held)

    def _final_mode(self) -> int:
        """The permission bits of the result."""
        found, old = os.lstat(self.partial), self._old()
        wanted = self._wanted(self._is_folder) if old is None else old.st_mode
        return found.st_mode & wanted & 0o777

    def _settle_permissions(self) -> None:
        """Give the result its permissions; what is in a folder none that the folder does not give."""
        old = self._old()
        if old is not None:
            self._take_permissions(self.partial, self._is_folder, old)
        mode, bits = self._final_mode(), os.lstat(self.partial).st_mode & 0o777
        if self._is_folder:
            _narrow(self.partial, mode)
        if mode != bits:
            os.chmod(self.partial, mode)

    def _missing(self, result: int, spooled: int, left: float, reserved: bool) -> int:
        found = missing_bytes(self.partial, result, left) if reserved else int(result * left)
        # An archive is packed when all that goes into it is there.
        packing = result if self._packed else 0
        return found + packing + missing_bytes(self.names.spool, spooled, left)

    def report_paths(self, path: str, own: bool) -> tuple[str, ...]:
        return (self.names.report if own else path), (self.names.report_partial if own else super().report_paths(path, own)[1])

    def _new_report(self, path: str, own: bool) -> str:
        made = self.report_paths(path, own)[1]
        mode = (self._final_mode() if os.path.lexists(self.partial) else FILE_MODE) & FILE_MODE
        try:
            if own and "report" in self._made and identity(made) == self._made["report"]:
                remove(made)  # of an earlier run
            fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                self._reports.append((made, path))
                os.fchmod(fd, mode)
            finally:
                os.close(fd)
            if own and (proof := identity(made)) is not None:
                self._made["report"] = proof
                self.journal.made("report", proof)
        except OSError as error:
            raise storage_error(error, path, "cannot write") from None
        return made

    # Publishing.

    def _publish(self, digest: Any, bytes: int, warnings: tuple[str, ...]) -> None:
        names, proof = self.names, self._made.get("partial")
        if self.published is not None and self.named:
            self._old_identity = self.published.replaces
            return
        if proof is None or identity(self.partial) != proof:
            raise StorageError(f"cannot publish {shown(self.dest)}: {shown(self.partial)} was taken away while it was written")
        try:
            self._settle_permissions()
            self._old_identity = identity(names.dest) if self._overwrite else None
            size = 0 if self._is_folder else os.lstat(self.partial).st_size
            self.journal.publishing(Published(proof, self._old_identity, digest, bytes, warnings), size)
            if self._old_identity is None:
                rename_new(self.partial, names.dest)
            elif self._is_folder:
                self._replace_folder()
            else:
                os.replace(self.partial, names.dest)
        except FileExistsError:
            raise UsageError(
                f"{shown(self.dest)}: appeared while this run worked, and was left as it is; the result is kept"
                + (": --resume --overwrite puts it in its place" if self.resumable else f" as {shown(self.partial)}: rename it")
                + ", or choose --overwrite to begin anew"
            ) from None
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise storage_error(error, self.dest, "cannot publish") from None
        self.flush_folder()

    _old_identity: Identity | None = None

    def _replace_folder(self) -> None:
        """Put the new folder in the place of the old one. At every moment one of the two is whole, under its name or `DEST.replaced`."""
        if exchange(self.partial, self.names.dest):
            return
        os.rename(self.names.dest, self.names.replaced)
        rename_new(self.partial, self.names.dest)

    def _move_report(self, made: str, path: str) -> None:
        os.replace(made, path)
        self.flush_folder(path)

    def _clean(self) -> None:
        if self.complete and self._old_identity is not None:
            old = [path for path in (self.partial, self.names.replaced) if identity(path) == self._old_identity]
            if old:
                # It is on its way out from now on, and no longer what DEST was.
                self.journal.published()
            for path in old:
                remove(path)
        super()._clean()


def _has_links(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_symlink() or (entry.is_dir(follow_symlinks=False) and _has_links(entry.path)) for entry in entries)


def _narrow(folder: str, mode: int) -> None:
    """Take from what is in `folder` the permissions that its `mode` does not give."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                continue
            found = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(found):
                _narrow(entry.path, mode)
            if found & 0o077 & ~mode:
                os.chmod(entry.path, found & 0o777 & (mode | 0o700))
            elif not stat.S_ISDIR(found):
                return  # files are made alike; the documents of a folder come first or not at all


class UnnamedDestination(FileDestination):
    """A new file that has no name until it is complete, where the system has such (Linux's O_TMPFILE): for one of many small files.

    There is nothing to lock, as names are given in steps that replace nothing; nothing to resume, and so no journal; and nothing that
    a run leaves when it is killed before it gives the names. Making and removing a journal for each of thousands of files took longer than
    all else: file systems are slow to use again what was just removed. What is there of an earlier run, or a system without, is left to
    the class above.
    """

    def __init__(self, dest: str, parents: bool = False, like: str | None = None) -> None:
        super().__init__(dest, parents=parents, like=like)
        self._files: list[int] = []

    def __enter__(self) -> Destination:
        with contextlib.suppress(OSError):
            self._make_folder()
            names = self.names
            if not any(map(os.path.lexists, (names.journal, names.replaced, *names.made.values()))):
                self.partial = self._new(names.dest, self._wanted(folder=False))
                self.unnamed = True
                return self
        return super().__enter__()

    def prepare(self, fingerprint: dict[str, Any], total: int, spool: bool) -> None:
        if not self.unnamed:
            super().prepare(fingerprint, total, spool)

    def _new(self, beside: str, mode: int) -> str:
        """The path of a new file without a name, which can get one in the folder of `beside`. Raises OSError."""
        fd = os.open(os.path.dirname(beside) or ".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode | 0o600)
        self._files.append(fd)
        os.stat(path := f"/proc/self/fd/{fd}")  # there may be no /proc
        return path

    def _new_report(self, path: str, own: bool) -> str:
        if not self.unnamed:
            return super()._new_report(path, own)
        mode = os.fstat(self._files[0]).st_mode & self._wanted(folder=False) & FILE_MODE
        made = self._new(path, mode)
        self._reports.append((made, path))
        os.fchmod(self._files[-1], mode)
        return made

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.unnamed:
            super().__exit__(kind, error, trace)
        for fd in self._files:
            os.close(fd)

    def publish(self, digest: Any, bytes: int, warnings: tuple[str, ...]) -> None:
        """The result first: a run that ends between the two leaves a result without a report, and no report without a result."""
        if not self.unnamed:
            super().publish(digest, bytes, warnings)
            return
        try:
            mode = os.fstat(self._files[0]).st_mode & 0o777
            if (final := mode & self._wanted(folder=False)) != mode:
                os.fchmod(self._files[0], final)
            try:
                _name(self.partial, self.names.dest)
            except OSError as error:
                if error.errno not in NO_SUCH_CALL:
                    raise
                # Here no file can get a second name, and so none its first.
                self._publish_copy(digest, bytes, warnings)
                return
        except FileExistsError:
            text = "appeared while this run worked, and was left as it is; choose another name"
            raise UsageError(f"{shown(self.dest)}: {text}") from None
        except OSError as error:
            raise storage_error(error, self.dest, "cannot publish") from None
        self.complete = True
        for made, path in self._reports:
            aside = self.names.report_partial
            try:
                try:
                    _name(made, path)
                except FileExistsError:
                    # That of a result that is gone: ours replaces it, as DEST is ours.
                    _name(made, aside)
                    os.replace(aside, path)
            except OSError as error:
                raise storage_error(error, path, f"{shown(self.dest)} is done, but cannot write") from None

    def _publish_copy(self, digest: Any, bytes: int, warnings: tuple[str, ...]) -> None:
        """Publish as a file that has a name from the beginning."""
        named = FileDestination(self.dest, parents=self._parents, like=self._like)
        with named:
            named.prepare({}, bytes, spool=False)
            with open(self._files[0], "rb", closefd=False) as made, open(open_own(named.partial, os.O_WRONLY), "wb") as file:
                made.seek(0)
                shutil.copyfileobj(made, file)
            for unnamed, path in self._reports:
                with open(unnamed, encoding="utf-8") as text:
                    named.report(path, text.read(), own=True)
            named.publish(digest, bytes, warnings)
        self.complete = True


def _name(unnamed: str, name: str) -> None:
    """Give the file behind `unnamed` its name. Raises FileExistsError, OSError."""
    # Where no folder is given, Python calls link, which would name the link in /proc and not what it leads to.
    os.link(unnamed, name, src_dir_fd=int(os.path.basename(unnamed)), follow_symlinks=True)
