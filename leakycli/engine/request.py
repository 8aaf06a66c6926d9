"""`Request`: one source on its way to one destination, opened, its paths checked; nothing is written or planned here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leakycli import formats
from leakycli.destination.base import Destination
from leakycli.destination.file import FileDestination, UnnamedDestination
from leakycli.destination.names import check_distinct, check_reports
from leakycli.destination.stdout import StandardOutput
from leakycli.errors import StorageError, UsageError, shown, storage_error
from leakycli.formats import FORMATS, Format, Source
from leakycli.options import Options
from leakycli.report import renderer

if TYPE_CHECKING:
    from leakycli.stores.remote import Remote


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is to do.

    source_path, dest_path: as given, the second without a slash at its end where it names one result.
    format: of the result.
    destination: not entered yet.
    reports: where reports go, each once.
    """

    source_path: str
    source: Source
    dest_path: str
    format: Format
    destination: Destination
    reports: tuple[str, ...]
    options: Options

    @property
    def source_format(self) -> Format:
        return FORMATS[self.source.format]

    @property
    def same_family(self) -> bool:
        """Whether source and result hold the same things, however they are packed."""
        return self.format.family == self.source_format.family

    @property
    def remote(self) -> bool:
        """Whether a side is behind a URL."""
        return formats.is_url(self.source_path) or formats.is_url(self.dest_path)

    def located(self, path: str) -> str | Remote:
        """What is at `path`, reached with the options of the request."""
        return formats.located(path, self.options.storage_options)

    def is_own(self, report: str) -> bool:
        """Whether `report` is the one beside the destination, which its lock guards."""
        return _own_report(self.dest_path) == report


@contextlib.contextmanager
def opened(source: str, dest: str, options: Options) -> Iterator[Request]:
    """The request for those paths. Raises an error of `leakycli.errors` where it cannot be done, before the source is read."""
    formats.check_path(source)
    kind = formats.dest_format(dest, options.to)
    # A store is one thing, with or without a slash at its end.
    dest = dest.rstrip("/") if kind.folder else dest
    kind.code.check_layout(options.layout)
    _check_streams(source, dest, options)
    destination = _destination(source, dest, kind, options)
    destination.resumable &= not formats.is_stream(source)
    destination.tuning = options.tuning
    reports = _report_paths(dest, options)
    for report in reports:
        _check_report(report, dest, options)
    own = _own_report(dest)
    written = {path for report in reports for path in destination.report_paths(report, report == own)}
    check_reports((report for report in reports if report != own), destination.touched)
    check_distinct(source, dict.fromkeys((*destination.touched, *sorted(written))))
    with contextlib.closing(formats.open_source(formats.located(source, options.storage_options))) as found:
        yield Request(source, found, dest, kind, destination, reports, options)


def _check_streams(source: str, dest: str, options: Options) -> None:
    """Raise UsageError for what cannot be with standard output, or with a source that can be read once."""
    for report in options.reports:
        if report != "none":
            renderer(report)
    stdout = dest == "-"
    for given, name in ((options.strict, "--strict"), (options.verify, "--verify"), (options.resume, "--resume")):
        if given and stdout:
            raise UsageError(f"{name} cannot take back what went to standard output; name a file")
    if stdout and os.isatty(1):
        raise UsageError("standard output is a terminal, where binary data is of no use; redirect it or name a file")
    if options.fsync and stdout:
        raise UsageError("--fsync is for files; what goes to standard output is not on a disk yet")
    for given, name in ((options.verify, "--verify"), (options.resume, "--resume")):
        if given and formats.is_stream(source):
            raise UsageError(f"{name} reads the source again, which a stream ({shown(source)}) does not allow")


def _destination(source: str, dest: str, format: Format, options: Options) -> Destination:
    if dest == "-":
        return StandardOutput()
    if formats.is_url(dest):
        from leakycli.destination.object_store import ObjectStoreDestination

        return ObjectStoreDestination(dest, options.storage_options, options.resume, options.fsync)
    like = None if formats.is_url(source) or formats.is_stream(source) else source
    if format.single and _is_small(source, options):
        return UnnamedDestination(dest, options.parents, like)
    return FileDestination(dest, options.overwrite, options.parents, options.resume, options.fsync, like, format.packed)


def _is_small(source: str, options: Options) -> bool:
    """Whether all is done at once, so that there is nothing to keep of a run that does not end."""
    kept = options.overwrite or options.resume or options.fsync or options.verify or set(options.reports) - {"none"}
    return hasattr(os, "O_TMPFILE") and not kept and formats.is_small_file(source, options.tuning.small_bytes)


def _own_report(dest: str) -> str | None:
    return None if dest == "-" else f"{dest}.report.json"


def _report_paths(dest: str, options: Options) -> tuple[str, ...]:
    """Where reports go: beside the destination, and where asked for; each once, however it was written."""
    given = [path for path in options.reports if path != "none"]
    own = _own_report(dest)
    beside = [] if own is None or "none" in options.reports else [own]
    if not given:
        return tuple(beside)
    return tuple({os.path.realpath(path): path for path in reversed(beside + given)}.values())[::-1]


def _check_report(path: str, dest: str, options: Options) -> None:
    """Refuse to replace what is no report of ours."""
    if formats.is_url(path):
        if not formats.is_url(dest):
            raise UsageError(f"{shown(path)}: a report goes to a URL only where the destination does (--report)")
        text = formats.read(formats.located(path, options.storage_options))
        if text is not None and renderer(path).MARKER not in text[:200]:
            raise UsageError(f"{shown(path)}: exists and is no report of leakycli; give --report another path, or --report none")
        return
    if not os.path.lexists(path):
        folder = os.path.dirname(path) or "."
        made = options.parents and folder == os.path.dirname(dest)
        if not made and not os.path.isdir(folder):
            raise StorageError(f"{shown(path)}: the folder {shown(folder)} does not exist; create it first")
        return
    ours = False
    if formats.is_regular(path):
        try:
            with open(path, "rb") as file:
                ours = renderer(path).MARKER in file.read(200)
        except OSError as error:
            raise storage_error(error, path, "cannot read") from None
    if not ours:
        raise UsageError(f"{shown(path)}: exists and is no report of leakycli; give --report another path, or --report none")
