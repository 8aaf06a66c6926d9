"""What became of the sources of a batch: its total, its failures, and the list of sources that can be tried again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from leakycli.errors import LeakyError, StorageError, shown, storage_error, visible

if TYPE_CHECKING:
    from leakycli.report.model import Report


@dataclass(frozen=True, slots=True)
class Done:
    """One source that is done. text: what is said of it, if anything; already: an earlier run did it."""

    text: str
    elements: int
    bytes_read: int
    bytes_written: int
    losses: dict[str, int]
    already: bool = False

    @classmethod
    def of(cls, report: Report, text: str, already: bool = False) -> Done:
        return cls(text, report.elements, report.cost.bytes_read, report.cost.bytes_written, asdict(report.losses), already)


@dataclass(frozen=True, slots=True)
class Failure:
    """One source that failed. entry: what a list of sources calls it, see `entry_of`."""

    source: str
    entry: str
    error: str
    exit_code: int


@dataclass
class Batch:
    """The sum of a batch of `sources` whose results go to `folder`. Sources that were complete already count in their number only."""

    sources: int
    folder: str = ""
    done: int = 0
    already: int = 0
    failures: list[Failure] = field(default_factory=list)
    elements: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def add(self, one: Done) -> None:
        if one.already:
            self.already += 1
            return
        self.done += 1
        self.elements += one.elements
        self.bytes_read += one.bytes_read
        self.bytes_written += one.bytes_written
        self.losses = {name: self.losses.get(name, 0) + count for name, count in one.losses.items()}

    @property
    def not_begun(self) -> int:
        return self.sources - self.done - self.already - len(self.failures)

    def values(self) -> dict[str, Any]:
        """The total as plain JSON values."""
        names = ("sources", "done", "already", "elements", "bytes_read", "bytes_written", "losses")
        failures = [{"source": visible(f.source), "error": visible(f.error), "exit_code": f.exit_code} for f in self.failures]
        rest = {"failed": len(self.failures), "not_begun": self.not_begun, "seconds": round(time.monotonic() - self.began, 6)}
        return {"total": {name: getattr(self, name) for name in names} | rest | {"failures": failures}}

    def text(self) -> str:
        """The total in a line, and a line for each failure."""
        from leakycli.report import words

        numbers = (("done", self.done), ("already complete", self.already), ("failed", len(self.failures)), ("not begun", self.not_begun))
        seconds = time.monotonic() - self.began
        speed = words.rate(self.bytes_read + self.bytes_written, seconds)
        lost = ", ".join(f"{count:,} {words.LOSSES.get(name, name)}" for name, count in self.losses.items() if count)
        parts = [
            f"{self.sources:,} sources: " + ", ".join(f"{count:,} {name}" for name, count in numbers if count or name == "done"),
            words.elements(self.elements),
            f"{words.size(self.bytes_read)} read, {words.size(self.bytes_written)} written, {words.duration(seconds)}",
            f"lost: {lost}" if lost else "",
        ]
        total = "; ".join(filter(None, parts)) + (f" ({speed})" if speed else "")
        return "\n".join([total, *(f"failed: {visible(f.error)}" for f in self.failures)])


def read_list(path: str) -> tuple[str, ...]:
    """The sources listed in a file ("-": standard input): one a line, or each with a NUL behind it, as `find -print0` writes them."""
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            text = file.read()
    except OSError as error:
        raise storage_error(error, path, "cannot read") from None
    # A NUL elsewhere is in a name, which will be refused.
    entries = text.split(b"\0") if text.endswith(b"\0") else text.split(b"\n")
    return tuple(os.fsdecode(entry) for entry in entries if entry)


def write_list(path: str, entries: Iterable[str]) -> None:
    """List sources in a file, as `read_list` takes them; it is written whole or not at all."""
    listed = [os.fsencode(entry) for entry in entries]
    end = b"\0" if any(b"\n" in entry for entry in listed) else b"\n"
    temporary = f"{path}.{os.getpid()}.partial"
    try:
        try:
            with open(temporary, "xb") as file:
                file.writelines(entry + end for entry in listed)
            os.replace(temporary, path)
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)
    except OSError as error:
        raise storage_error(error, path, "cannot write") from None


def check_list(path: str) -> None:
    """Raise StorageError where a list could not be written: before the work, not after it."""
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path) or not os.path.isdir(folder):
        raise StorageError(
            f"cannot write {shown(path)}: {'it is a folder' if os.path.isdir(path) else f'there is no folder {shown(folder)}'}"
        )


def entry_of(source: str, dest: str, folder: str) -> str:
    """What a list calls `source` so that its result goes where it would have gone: to `dest`, somewhere in `folder`.

    As with rsync, "a/./b/c.npy" goes to b/c.npy in DEST, where "a/b/c.npy" goes to c.npy.
    """
    # What "/./" in its own name meant, if anything, is over.
    stem = source.rstrip("/")
    while "/./" in stem or stem.startswith("./"):
        stem = stem.replace("/./", "/").removeprefix("./")
    place = os.path.relpath(dest, folder or ".")
    parts = os.path.dirname(place).split("/") if os.path.dirname(place) else []
    place = "/".join([*parts, os.path.basename(stem)])
    if not parts or not f"/{stem}".endswith(f"/{place}"):
        return stem
    return f"{stem[: len(stem) - len(place)]}./{place}"


def placed(entry: str) -> tuple[str, str | None]:
    """The source that an entry of a list names, and where its result goes in DEST; None where its name says that."""
    _, dot, after = f"/{entry}".rpartition("/./")
    if not dot or not after or ".." in after.split("/"):
        return entry, None
    return entry, after


def failure(source: str, dest: str, folder: str, error: LeakyError) -> Failure:
    """The failure of one of a batch, whose error says of which."""
    text = str(error)
    text = text if shown(source) in text or shown(dest) in text else f"{shown(source)}: {text}"
    return Failure(source, entry_of(source, dest, folder), text, error.exit_code)
