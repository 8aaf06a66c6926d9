"""The journal of a run: how far it came, so that another can go on from there.

A file of lines, each the CRC-32 of its JSON and the JSON; a line that is torn or wrong ends what counts.

    begin     the fingerprint of the job, host and boot, whether data were flushed to disk before each line, bytes to do
    member    what a finished member of the source gave, and what the target must know of it
    reached   how far the member after those came: its position, what it gave so far, the state of its writer
    publish   what the finished result is on disk, just before it gets its name

Lines are written every `EVERY` seconds, not for every region: what came after the last one is done again. So small jobs write none but
the last.
"""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

#: Changes when journals of older versions cannot be gone on from.
FORMAT = 3

#: Seconds between lines, without and with flushing the data to disk before.
EVERY = 0.1
EVERY_FLUSHED = 2.0

Record = dict[str, Any]

#: How a journal begins, after the checksum.
_BEGINNING = b'01234567 {"begin":'


@dataclass(slots=True)
class Past:
    """What a journal tells of an earlier run. bytes: of input done, and in all."""

    fingerprint: Record
    host: str
    boot: str
    flushed: bool
    total: int
    bytes: int = 0
    members: dict[str, Record] = field(default_factory=dict)
    reached: Record | None = None
    published: Record | None = None

    @property
    def counts(self) -> bool:
        """Whether what it tells can be relied on: lines outlive a crash of the system, the data only where they were flushed."""
        return self.flushed or (self.host, self.boot) == (os.uname().nodename, boot_id())

    @property
    def share(self) -> float:
        """Of the input that is done, from 0 to 1."""
        return min(self.bytes / self.total, 1.0) if self.total else 0.0


class Journal:
    """The journal in the open file `fd`, for appending."""

    def __init__(self, fd: int, flush: bool, durable: bool = False) -> None:
        """flush: to disk, each line, and the data before it. durable: the data outlive a crash of the system as they are."""
        self._fd, self._flush, self._durable = fd, flush, durable
        self._every = EVERY_FLUSHED if flush else EVERY
        self._last = time.monotonic()
        self._begin: Record | None = None
        self._members: list[Callable[[], Record]] = []
        self._reached: Callable[[], Record] | None = None
        self._before: Callable[[], None] = lambda: None

    def load(self) -> Past | None:
        """What it tells, and None where it is empty or of another format; what is torn off its end is removed.

        Raises ValueError where the file is something else.
        """
        data, past, end = _read_all(self._fd), None, 0
        if len(data) >= len(_BEGINNING) and not data[9:].startswith(_BEGINNING[9:]):
            raise ValueError("no journal")
        for line in data.splitlines(keepends=True):
            record = _parsed(line)
            if record is None:
                break
            end += len(line)
            try:
                if (begun := record.get("begin")) is not None:
                    if begun["format"] != FORMAT:
                        break
                    past = Past(begun["fingerprint"], begun["host"], begun["boot"], begun["flushed"], begun["total"])
                elif past is None:
                    break
                else:
                    _take(past, record)
            except (KeyError, TypeError):
                break
        os.ftruncate(self._fd, end if past is not None else 0)
        os.lseek(self._fd, 0, os.SEEK_END)
        return past

    def begin(self, fingerprint: Record, total: int, before: Callable[[], None], anew: bool) -> None:
        """Of a job of `total` bytes of input. before: makes sure of what a line will tell of. anew: not going on from what is there."""
        self._before = before
        if anew:
            self.clear()
            place = {"host": os.uname().nodename, "boot": boot_id(), "flushed": self._flush or self._durable}
            self._begin = {"begin": {"format": FORMAT, "fingerprint": fingerprint, "total": total, **place}}

    def clear(self) -> None:
        """Forget what it tells."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)

    def member(self, record: Callable[[], Record]) -> None:
        """A member is finished; `record` is called when the line is written."""
        self._members.append(record)
        self._reached = None
        self._write_if_due()

    def reached(self, record: Callable[[], Record]) -> None:
        """The member that is worked on came so far."""
        self._reached = record
        self._write_if_due()

    def write(self) -> bool:
        """Write what waits; returns whether the journal tells anything now."""
        records = [{"member": record()} for record in self._members]
        if self._reached is not None:
            records.append({"reached": self._reached()})
        self._append(records)
        self._members, self._reached = [], None
        self._last = time.monotonic()
        return os.fstat(self._fd).st_size > 0

    def publishing(self, record: Record) -> None:
        """The result is complete, and about to get its name."""
        self.write()
        self._append([{"publish": record}])

    def _write_if_due(self) -> None:
        if time.monotonic() - self._last >= self._every:
            self.write()

    def _append(self, records: list[Record]) -> None:
        if not records:
            return
        self._before()
        if self._begin is not None:
            records.insert(0, self._begin)
        data, end = memoryview(b"".join(map(_line, records))), os.lseek(self._fd, 0, os.SEEK_CUR)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except BaseException:
            # Half a line would end what counts; another try may follow.
            os.ftruncate(self._fd, end)
            os.lseek(self._fd, end, os.SEEK_SET)
            raise
        self._begin = None
        if self._flush:
            os.fsync(self._fd)


def _take(past: Past, record: Record) -> None:
    if "member" in record:
        past.members[record["member"]["key"]] = record["member"]
        past.bytes = record["member"]["bytes"]
        past.reached = None
    elif "reached" in record:
        past.reached = record["reached"]
        past.bytes = record["reached"]["bytes"]
    elif "publish" in record:
        past.published = record["publish"]
        past.bytes = past.total


def _line(record: Record) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode("utf-8", "surrogateescape")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parsed(line: bytes) -> Record | None:
    """The record of a line; None for one that is torn or wrong."""
    check, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or check != b"%08x" % zlib.crc32(text):
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _read_all(fd: int) -> bytes:
    parts, at = [], 0
    while part := os.pread(fd, 1 << 20, at):
        parts.append(part)
        at += len(part)
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
