"""Every name beside a destination that a run may write or remove, and the checks that none of them is a source.

Nothing else in leakycli makes up a name beside DEST: what is not in `Names` is not touched.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from leakycli.errors import StorageError, UsageError, shown, storage_error
from leakycli.stores.urls import is_url

#: One of these is in every folder that is a Zarr store.
_STORE = ("zarr.json", ".zarray", ".zgroup")

#: The longest name of a file where the file system does not say.
_LONGEST = 255


@dataclass(frozen=True, slots=True)
class Names:
    """The names beside `dest`, a path that is no link. given: as it was called, which the report's name follows.

    partial: what is being written
    folder: the folder that a `.zarr.zip` is packed from
    spool: an array that comes, or must go, in order and does not fit in memory
    replaced: an old Zarr folder, where the system cannot exchange two names
    journal: how far the run came; and the lock
    report: the report; report_partial: the same until it is complete
    """

    dest: str
    given: str = ""

    @property
    def partial(self) -> str:
        return f"{self.dest}.partial"

    @property
    def folder(self) -> str:
        return f"{self.dest}.partial.folder"

    @property
    def spool(self) -> str:
        return f"{self.dest}.partial.spool"

    @property
    def replaced(self) -> str:
        return f"{self.dest}.replaced"

    @property
    def journal(self) -> str:
        return f"{self.dest}.partial.journal"

    @property
    def report(self) -> str:
        return f"{self.given or self.dest}.report.json"

    @property
    def report_partial(self) -> str:
        return temporary(self.report)

    @property
    def made(self) -> dict[str, str]:
        """Of what a run makes or moves for itself, and the next one may find: the name by its role, as the journal calls it."""
        return {
            "partial": self.partial,
            "folder": self.folder,
            "spool": self.spool,
            "report": self.report_partial,
            "replaced": self.replaced,
        }

    @property
    def all(self) -> tuple[str, ...]:
        return self.dest, self.journal, self.report, *self.made.values()

    def check_length(self) -> None:
        """Raise UsageError where a name is longer than the file system takes."""
        try:
            longest = os.pathconf(os.path.dirname(self.dest) or ".", "PC_NAME_MAX")
        except (OSError, ValueError):
            longest = _LONGEST
        for path in self.all:
            name = os.path.basename(path)
            if (length := len(os.fsencode(name))) > longest:
                raise UsageError(
                    f"{shown(self.dest)}: this name is too long: {shown(name)} beside it would have {length} bytes, and at most {longest} "
                    "are possible; choose a shorter one"
                )


def temporary(report: str) -> str:
    """Where a report is written until it is complete."""
    return f"{report}.partial"


def resolve(dest: str) -> str:
    """`dest` with its symbolic links followed: what is replaced is what they point to, the links stay."""
    return os.path.realpath(dest) if os.path.islink(dest) else dest


def folder_wanted(dest: str) -> bool:
    """Whether a result of that name is a folder."""
    return dest.rstrip("/").lower().endswith(".zarr")


def check_destination(names: Names, overwrite: bool, parents: bool = False) -> None:
    """Raise UsageError or StorageError where DEST is there and may not be replaced, or has no folder to be in (unless `parents`)."""
    dest = names.dest
    folder = os.path.dirname(dest) or "."
    names.check_length()
    try:
        found = os.lstat(dest)
    except FileNotFoundError:
        if not parents and not os.path.isdir(folder):
            raise StorageError(f"{shown(dest)}: the folder {shown(folder)} does not exist; create it first") from None
        return
    except OSError as error:
        raise storage_error(error, dest, "cannot write") from None
    store = stat.S_ISDIR(found.st_mode) and any(os.path.lexists(os.path.join(dest, name)) for name in _STORE)
    if store != folder_wanted(dest) or not (store or stat.S_ISREG(found.st_mode)):
        kind = "a Zarr store" if store else "a folder and no Zarr store" if stat.S_ISDIR(found.st_mode) else "no regular file"
        if stat.S_ISREG(found.st_mode):
            kind = "a file, where a folder is to be"
        raise UsageError(f"{shown(dest)}: is {kind}; it is not replaced, with or without --overwrite")
    if not overwrite:
        tidy = f" ({shown(names.journal)}: an ended run left something beside it, which --resume tidies up)"
        raise UsageError(f"{shown(dest)}: exists; give --overwrite to replace it{tidy if os.path.lexists(names.journal) else ''}")


def check_jobs(jobs: Iterable[tuple[str, str]]) -> None:
    """Raise UsageError where one job of a batch would write over, inside or around the source or the destination of another.

    jobs: (source, destination) of each. Every name that a run may touch is compared with every source, by its path with all links
    followed, by the folders around it, and by the file that it is. The work grows with the number of jobs, not with its square.
    """
    jobs = list(jobs)
    followed = cache(os.path.realpath)

    def real(path: str) -> str:
        """The path with the links of its folder followed, but not the last one."""
        folder, name = os.path.split(path.rstrip("/") or "/")
        return os.path.realpath(path) if name in ("", ".", "..") else os.path.join(followed(folder), name)

    sources: dict[str, str] = {}
    around: dict[str, str] = {}
    files: dict[tuple[int, int], str] = {}
    for source, _ in jobs:
        if is_url(source) or source == "-" or "\0" in source:
            continue
        for path in {real(source), os.path.realpath(source)}:
            sources[path] = source
            for outer in _above(path):
                around.setdefault(outer, source)
        try:
            found = os.stat(source)
        except OSError:
            continue
        files[found.st_dev, found.st_ino] = source
    taken: dict[str, str] = {}
    listing = cache(_listing)
    for source, dest in jobs:
        if is_url(dest) or dest == "-" or "\0" in dest:
            other = taken.setdefault(dest.rstrip("/"), source)
            if other is not source and dest != "-":
                raise UsageError(f"{shown(other)} and {shown(source)} would both become {shown(dest)}; nothing was written")
            continue
        path = real(resolve(dest))
        other = taken.setdefault(path, source)
        if other is not source:
            raise UsageError(f"{shown(other)} and {shown(source)} would both become {shown(dest)}; nothing was written")
        # The report may be beside a link to the destination.
        beside = Names(path, real(dest)).all
        for name in beside:
            there = listing(os.path.dirname(name))
            hit = sources.get(name) or around.get(name) or next((sources[outer] for outer in _above(name) if outer in sources), None)
            if hit is None and os.path.basename(name) in there:
                try:
                    found = os.stat(name)
                except OSError:
                    continue
                hit = files.get((found.st_dev, found.st_ino))
            if hit is not None:
                raise UsageError(
                    f"{shown(dest)}: a run to it writes or removes {shown(name)}, and that is, holds or lies in the source {shown(hit)}; "
                    "nothing was written; choose another destination"
                )
    for path in taken:
        inside = next((outer for outer in _above(path) if outer in taken), None)
        if inside is not None and not is_url(path):
            raise UsageError(f"{shown(path)}: would lie in {shown(inside)}, another result of this call; nothing was written")


def check_reports(reports: Iterable[str], touched: Iterable[str]) -> None:
    """Raise UsageError where a report is to be where the run writes, or removes, something else."""
    taken = {os.path.realpath(path) for path in touched if not is_url(path) and path != "-"}
    for report in reports:
        path = os.path.realpath(report)
        if not is_url(report) and (path in taken or not taken.isdisjoint(_above(path))):
            raise UsageError(
                f"{shown(report)}: lies in the destination, or is one of the names that a run to it uses; give --report another"
            )


def _above(path: str) -> Iterable[str]:
    """The folders around `path`, from the inside out, but for the root."""
    while (path := os.path.dirname(path)) not in ("", "/"):
        yield path


def _listing(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


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
    try:
        found = os.lstat(path)
    except OSError:
        return int(size * left)
    held = 512 * found.st_blocks if stat.S_ISREG(found.st_mode) else 0
    return max(min(int(size * left), size - held), 0)


def _free(folder: str) -> int | None:
    """Bytes that are free there; None where the file system does not tell (it says that it has no room at all)."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def check_space(dest: str, needed: int) -> None:
    """Raise StorageError, naming both numbers, where the file system of `dest` has less than `needed` bytes free."""
    try:
        free = _free(_folder_of(dest))
    except OSError as error:
        raise storage_error(error, dest, "cannot write") from None
    if free is not None and free < needed:
        raise StorageError(f"{shown(dest)}: {no_space(dest, needed)}")


def no_space(dest: str, needed: int) -> str:
    """The message where there is too little."""
    folder, free = _folder_of(dest), None
    try:
        free = _free(folder)
    except OSError:
        pass
    found = "fewer are" if free is None else f"{free} are"
    return f"no space: {needed} bytes are needed, {found} free in {shown(folder)}; make room and run again"


def _folder_of(dest: str) -> str:
    """The folder of `dest`, or the one in which it is yet to be made."""
    folder = os.path.abspath(os.path.dirname(dest))
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder
