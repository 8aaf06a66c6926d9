"""The journal of a run: what it has made, and how far it came, so that another can resume it. The one place that names a record's fields.

A file of lines, each the CRC-32 of its JSON and the JSON. A line that is torn or wrong ends what counts.

    begin      the fingerprint of the job, host and boot, whether data were flushed to disk before each line, bytes to do, what was made
    made       what else the run has made beside DEST, by role: inode number and time of birth. It proves what may be removed
    member     what a finished member of the source gave, and what the target must know of it
    reached    how far the member after those came: its position, what it gave so far, the state of its writer
    publish    what the finished result is on disk, and what it will replace, just before it gets its name
    published  it has its name: what it replaced may be removed
    discard    nothing that was said before counts any more, but for what was made

A line is written before anything that it vouches for is relied on, and `discard` before anything that the lines vouch for is removed.
Lines are written every `Tuning.journal_seconds` or every hundredth of the time so far, not for every region: the work after the last one
is repeated. They are read one by one, and of those of a kind that the next one replaces only the last is held. What a member gave so far
may be said in parts: each line adds to those before it (`Past.results`), such as the elements of a sample.
"""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

from leakycli.errors import LeakyError, UsageError
from leakycli.tuning import DEFAULT, Tuning

#: Changes when journals of older versions cannot be resumed.
FORMAT = 5

#: Least time between two lines, as a share of the time so far.
SHARE = 0.01

#: Bytes of a line that is read; a longer one was not written by this program.
_LONGEST = 64 << 20

Record = dict[str, Any]

#: How a journal begins, after the checksum.
_BEGINNING = b'01234567 {"begin":'
_REACHED = b'{"reached":'

#: What a record that is not what this program writes makes those raise who use it.
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, AssertionError, RecursionError)


@dataclass(frozen=True, slots=True)
class Member:
    """A member that is finished. target: what the target must know of it; result: what it gave, None where it was copied."""

    target: Any
    pipeline: str
    result: Any


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a member came. cut: how it was cut into regions; position: of the first that is left; writer: the state of its writer;
    bytes: of input done, of all members."""

    key: str
    cut: Any
    position: Any
    writer: Any
    result: Any
    bytes: int


@dataclass(frozen=True, slots=True)
class Published:
    """A result that is complete.

    result: its identity (of `rename`), or what tells an object store's
    replaces: that of what it replaces; None for nothing
    digest: of every file of it, as the report has it
    bytes, warnings: those of the report
    done: it has its name
    """

    result: Any
    replaces: Any
    digest: Any
    bytes: int
    warnings: tuple[str, ...]
    done: bool = False


@dataclass(slots=True)
class Past:
    """What a journal says of an earlier run. bytes: of input done, and total; extent: bytes that its partial file has at least."""

    fingerprint: Record
    host: str
    boot: str
    flushed: bool
    total: int
    fd: int
    made: dict[str, list[int]] = field(default_factory=dict)
    bytes: int = 0
    extent: int = 0
    published: Published | None = None
    #: Whether anything but `made` counts.
    valid: bool = True
    _members: dict[str, tuple[int, int]] = field(default_factory=dict)
    _reached: tuple[int, int] | None = None
    #: The lines of the member that was reached, as the file has them.
    _lines: list[tuple[int, int]] = field(default_factory=list)

    @property
    def counts(self) -> bool:
        """Whether it can be relied on: lines outlive a crash of the system, the data only where they were flushed."""
        return self.valid and (self.flushed or (self.host, self.boot) == (os.uname().nodename, boot_id()))

    @property
    def share(self) -> float:
        """Of the input that is done, from 0 to 1."""
        return min(max(self.bytes / self.total, 0.0), 1.0) if self.total else 0.0

    @property
    def finished(self) -> tuple[str, ...]:
        """The keys of the members that are finished."""
        return tuple(self._members)

    def member(self, key: str) -> Member | None:
        """What is said of a member that is finished."""
        if key not in self._members:
            return None
        held = self._at(*self._members[key])["member"]
        return Member(held["target"], _text(held["pipeline"]), held["result"])

    @property
    def reached(self) -> Reached | None:
        if self._reached is None:
            return None
        held = self._at(*self._reached)["reached"]
        return Reached(held["key"], held["cut"], held["position"], held["writer"], held["result"], _count(held["bytes"]))

    def results(self) -> Iterator[Any]:
        """What each line says that the member that was reached gave so far, from the first line to the last."""
        for line in self._lines:
            yield self._at(*line)["reached"]["result"]

    def _at(self, start: int, size: int) -> Record:
        record = _parsed(_read(self.fd, start, size))
        if record is None:
            raise ValueError("a line changed while it was read")
        return record

    def add_line(self, start: int, size: int) -> None:
        """The next line is one of the member that is worked on."""
        self._lines.append((start, size))

    def take(self, record: Record, start: int, size: int) -> None:
        """The next line. Raises one of MALFORMED."""
        if "made" in record:
            self.made |= _identities(record["made"])
        elif "discard" in record:
            self.made |= _identities(record["discard"])
            self.valid, self.published, self._reached, self.bytes = False, None, None, 0
            self._members.clear()
            self._lines.clear()
        elif "member" in record:
            held = record["member"]
            self._members[_text(held["key"])] = start, size
            self.bytes, self._reached = _count(held["bytes"]), None
            self._lines.clear()
            self.extent = _count(held.get("extent", 0))
        elif "reached" in record:
            held = record["reached"]
            _text(held["key"])
            self.bytes, self._reached = _count(held["bytes"]), (start, size)
            self.extent = _count(held.get("extent", 0))
        elif "publish" in record:
            held = record["publish"]
            warnings = tuple(_text(warning) for warning in held["warnings"])
            self.published = Published(held["result"], held["replaces"], held["digest"], _count(held["bytes"]), warnings)
            self.bytes, self.extent = self.total, _count(held.get("extent", 0))
        elif "published" in record and self.published is not None:
            self.published = replace(self.published, done=True)


def _begun(record: Record, fd: int) -> Past:
    """Raises one of MALFORMED."""
    begun = record["begin"]
    if _count(begun["format"]) != FORMAT:
        return Past({}, "", "", False, 0, fd, _identities(begun.get("made", {})), valid=False)
    fingerprint, flushed = begun["fingerprint"], begun["flushed"]
    if not isinstance(fingerprint, dict) or not isinstance(flushed, bool):
        raise TypeError("a field is of another type")
    return Past(fingerprint, _text(begun["host"]), _text(begun["boot"]), flushed, _count(begun["total"]), fd, _identities(begun["made"]))


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise TypeError("no count of bytes")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _identities(value: Any) -> dict[str, list[int]]:
    if not all(isinstance(item, list) and all(type(n) is int for n in item) for item in value.values()):
        raise TypeError("no identity")
    return dict(value)


class Journal:
    """The journal in the open file `fd`, for appending."""

    def __init__(self, fd: int, flush: bool, durable: bool = False, tuning: Tuning = DEFAULT) -> None:
        """flush: to disk, each line, and the data before it. durable: the data outlive a crash of the system as they are."""
        self._fd, self._flush, self._durable = fd, flush, durable
        self._every = tuning.journal_seconds_flushed if flush else tuning.journal_seconds
        self._started = self._last = time.monotonic()
        self._members: list[Callable[[], Record]] = []
        self._reached: Callable[[], Record] | None = None
        self._before: Callable[[], int] = lambda: 0
        #: Whether there is anything in it that a later run can resume.
        self.tells = False
        #: Whether data could not be flushed: nothing may be built on what was written, and so nothing more is said of it.
        self.failed = False
        #: Whether it says that the result is complete.
        self.complete = False

    def load(self) -> Past | None:
        """What it says, and None where it is empty; what is torn off its end is removed. Raises ValueError where the file is another's."""
        past: Past | None = None
        end, waiting = 0, (0, 0)
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            while line := file.readline(_LONGEST):
                if not end and not line[9:].startswith(_BEGINNING[9:]):
                    raise ValueError("no journal")
                if past is not None and line[9:].startswith(_REACHED) and _whole(line):
                    # By far the most; the next one replaces it, but for what it adds to the result.
                    waiting = end, len(line)
                    if past.valid:
                        past.add_line(*waiting)
                elif (record := _parsed(line)) is None or not _took(past, waiting):
                    break
                else:
                    waiting = 0, 0
                    try:
                        if past is None:
                            past = _begun(record, self._fd)
                        elif past.valid:
                            past.take(record, end, len(line))
                    except MALFORMED:
                        break
                end += len(line)
        if not _took(past, waiting):
            end = waiting[0]
        os.ftruncate(self._fd, end if past is not None else 0)
        os.lseek(self._fd, 0, os.SEEK_END)
        self.tells = past is not None and past.valid and (past.bytes > 0 or past.published is not None)
        self.complete = past is not None and past.published is not None
        return past

    def begin(self, fingerprint: Record, total: int, made: dict[str, list[int]]) -> None:
        """Of a job of `total` bytes of input. made: what it has made for itself, by role."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.tells = self.complete = False
        place = {"host": os.uname().nodename, "boot": boot_id(), "flushed": self._flush or self._durable}
        self._append([{"begin": {"format": FORMAT, "fingerprint": fingerprint, "total": total, **place, "made": made}}])

    def work(self, before: Callable[[], int]) -> None:
        """Lines of what is done come from now on. before: makes sure of what a line will vouch for, and returns the bytes that the partial
        file has, 0 for a folder."""
        self._before = before

    def made(self, role: str, identity: list[int]) -> None:
        """The run has made something else."""
        self._append([{"made": {role: identity}}])

    def discard(self, made: dict[str, list[int]], flush: bool) -> None:
        """Nothing that was said counts any more, but for what is to be removed. flush: to disk, before this returns.

        Where that cannot be written, all that was said is removed.
        """
        self._members, self._reached, self.tells, self.complete = [], None, False, False
        if not os.fstat(self._fd).st_size:
            return
        try:
            self._append([{"discard": made}])
        except OSError:
            os.ftruncate(self._fd, 0)
        if flush:
            os.fsync(self._fd)

    def forget(self) -> None:
        """Forget all: what was made is gone."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.tells = self.complete = False

    def member(self, key: str, target: Any, pipeline: str, result: Callable[[], Any], bytes: int) -> None:
        """A member is finished; `result` is called when the line is written."""
        self._members.append(lambda: {"key": key, "target": target, "pipeline": pipeline, "result": result(), "bytes": bytes})
        self._reached = None
        self._write_if_due()

    def reached(self, reached: Reached, result: Callable[[], Any]) -> None:
        """The member that is worked on came so far."""
        r = reached
        fields = {"key": r.key, "cut": r.cut, "position": r.position, "writer": r.writer, "bytes": r.bytes}
        self._reached = lambda: fields | {"result": result()}
        self._write_if_due()

    def write(self) -> None:
        """Write what waits. Raises OSError."""
        waiting: list[tuple[str, Callable[[], Record]]] = [("member", record) for record in self._members]
        if self._reached is not None:
            waiting.append(("reached", self._reached))
        if waiting and not self.failed:
            extent = self._ensured()
            self._append([{kind: record() | {"extent": extent}} for kind, record in waiting])
            self.tells = True
        self._members, self._reached = [], None
        self._last = time.monotonic()

    def publishing(self, published: Published, extent: int) -> None:
        """The result is complete, flushed where that was asked for, and about to get its name. extent: its bytes, 0 for a folder."""
        self.write()
        self._append([{"publish": asdict(published) | {"extent": extent}}])
        self.tells = self.complete = True

    def published(self) -> None:
        """It has its name."""
        self._append([{"published": True}])

    def _ensured(self) -> int:
        try:
            return self._before()
        except BaseException as error:
            if isinstance(error, OSError):
                self.failed = True
                self._members, self._reached = [], None
            raise

    def _write_if_due(self) -> None:
        now = time.monotonic()
        if now - self._last >= max(self._every, SHARE * (now - self._started)):
            self.write()

    def _append(self, records: list[Record]) -> None:
        if not records:
            return
        data, end = memoryview(b"".join(map(_line, records))), os.lseek(self._fd, 0, os.SEEK_CUR)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except BaseException:
            # Half a line would end what counts; another try may follow.
            os.ftruncate(self._fd, end)
            os.lseek(self._fd, end, os.SEEK_SET)
            raise
        if self._flush:
            try:
                os.fsync(self._fd)
            except OSError:
                # It may be lost, and must not be followed by what builds on it.
                self.failed = True
                raise


def malformed(where: str) -> LeakyError:
    """The error where a journal's lines are whole, and are not what this program writes."""
    return UsageError(f"{where}: is damaged and cannot be resumed; start again with --overwrite (without --resume)")


def _took(past: Past | None, waiting: tuple[int, int]) -> bool:
    """Whether the line that was passed over, at that place and of that size, is what it should be; `past` has it then."""
    if past is None or not waiting[1] or not past.valid:
        return True
    try:
        past.take(past._at(*waiting), *waiting)
    except MALFORMED:
        return False
    return True


def _whole(line: bytes) -> bool:
    check, _, text = line.removesuffix(b"\n").partition(b" ")
    return line.endswith(b"\n") and check == b"%08x" % zlib.crc32(text)


def _line(record: Record) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode("utf-8", "surrogateescape")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parsed(line: bytes) -> Record | None:
    """The record of a line; None for one that is torn or wrong."""
    if not _whole(line):
        return None
    try:
        record = json.loads(line[9:])
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _read(fd: int, start: int, size: int) -> bytes:
    parts = []
    while size and (part := os.pread(fd, size, start)):
        parts.append(part)
        start, size = start + len(part), size - len(part)
    return b"".join(parts)


@cache
def boot_id() -> str:
    """What tells this start of the system from all others; "" where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        import subprocess

        try:
            return subprocess.run(["/usr/sbin/sysctl", "-n", "kern.boottime"], capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return ""
