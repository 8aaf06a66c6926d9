"""The one door for library users: `apply`, `dry_run`, `verify`, `info`.

The command line parses, calls these and renders what they return. Every function raises the errors of `leakycli.errors` only, each with
one line that can be shown as it is.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from leakycli import formats
from leakycli.arguments import path
from leakycli.engine import events
from leakycli.engine.job import Job
from leakycli.engine.preview import Preview
from leakycli.engine.selection import refuse_unmet
from leakycli.engine.tasks import ignored, selection
from leakycli.errors import CorruptError, LeakyError, StorageError, UsageError, let_go, shown, storage_error
from leakycli.formats import ArrayInfo, Member, Usage
from leakycli.options import RECORDED, Options, Parameters
from leakycli.report import renderer
from leakycli.report.model import Report
from leakycli.report.saved import saved_report

if TYPE_CHECKING:
    from leakycli.engine.verify import Comparison

__all__ = [
    "Options",
    "SourceInfo",
    "apply",
    "check_patterns",
    "dry_run",
    "info",
    "read_report",
    "recorded_parameters",
    "save_report",
    "verify",
]


Path = str | os.PathLike[str]

F = TypeVar("F", bound=Callable[..., Any])

#: What of `Options` `verify` takes.
_VERIFIED = (*RECORDED, "workers", "memory", "storage_options")


def _takes(*names: str) -> Callable[[F], F]:
    """For a function that takes options as keywords: give it a signature that lists them (all of `Options` without `names`)."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        listed = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in inspect.signature(Options).parameters.values()]
        keywords = [p for p in listed if not names or p.name in names]
        function.__signature__ = signature.replace(parameters=own + keywords)  # type: ignore[attr-defined]
        return function

    return decorate


@_takes()
def apply(
    source: Path,
    dest: Path,
    options: Options | None = None,
    observe: events.Observer = events.ignore,
    progress: bool = False,
    **fields: Any,
) -> Report:
    """Write the leaky ReLU of the array file `source` to `dest` and a report beside it; returns the report.

    source: path of a `.npy` or `.npz` file, a Zarr array or group, a FIFO, or "-" for standard input.
    dest: path ending in `.npy`, `.npz`, `.zarr` or `.zarr.zip`, or "-".
    options: all options in one object; each may be given as a keyword as well, as in `apply(a, b, alpha=0.1, dtype="float16")`.
    observe: called with each event of the run (`Started`, `RegionDone`, `Finished`).
    progress: show a bar, in a notebook or on a terminal.

    The destination appears complete or not at all; what was under its name stays until then, and for good without `overwrite`.
    """
    options = (options or Options()).with_fields("apply", fields)
    with Job(path("source", source), path("dest", dest), options) as job, _watched(observe, progress) as watch:
        return job.run(watch)


@contextlib.contextmanager
def _watched(observe: events.Observer, progress: bool) -> Iterator[events.Observer]:
    """`observe`, and with `progress` a bar, too."""
    if not progress:
        yield observe
        return
    from leakycli.progress import notebook

    def both(event: events.Event) -> None:
        bar(event)
        observe(event)

    with contextlib.closing(notebook()) as bar:
        yield both


@_takes()
def dry_run(source: Path, dest: Path, options: Options | None = None, **fields: Any) -> Preview:
    """What `apply` would do, after the same checks; nothing is written. Takes the same options."""
    options = (options or Options()).with_fields("dry_run", fields)
    with Job(path("source", source), path("dest", dest), options) as job:
        job.check()
        return job.preview()


def check_patterns(sources: Iterable[str], options: Options) -> Options:
    """`options` for each of the `sources` of a batch. Raises UsageError where a pattern of theirs meets no array in any source.

    Sources are opened until each pattern is met. A stream, which can be read once, holds an array without a name.
    """
    sources = list(sources)

    def members(source: str) -> tuple[Member, ...] | None:
        if formats.is_stream(source):
            return (Member("", "", ArrayInfo("", (), np.dtype(np.float32))),)
        try:
            with contextlib.closing(formats.open_source(formats.located(source, options.storage_options))) as opened:
                return opened.members
        except LeakyError as error:
            let_go(error)
            return None

    if options.only or options.skip:
        refuse_unmet(selection(options), map(members, sources), len(sources))
    return replace(options, patterns_met=True)


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is at a path. bytes: its size, None for a stream. usage: what each chunked array takes, by the member's key.

    warnings: of what is odd, or is ignored.
    """

    format: str
    members: tuple[Member, ...]
    bytes: int | None
    usage: dict[str, Usage]
    warnings: tuple[str, ...] = ()


def info(source: Path, storage_options: Mapping[str, Any] | None = None) -> SourceInfo:
    """What is at `source`. No elements are read; the chunks of a Zarr are listed. storage_options: see `Options`."""
    source = path("source", source)
    with contextlib.closing(formats.open_source(formats.located(source, storage_options or {}))) as opened:
        usage = {member.key: found for member in opened.members if (found := opened.usage(member)) is not None}
        size = opened.identity().get("bytes")
        if size is None and usage:
            size = sum(found.bytes for found in usage.values())
        return SourceInfo(opened.format, opened.members, size, usage, (*opened.warnings, *ignored(source, opened.members)))


@_takes(*_VERIFIED)
def verify(source: Path, dest: Path, options: Options | None = None, observe: events.Observer = events.ignore, **fields: Any) -> Comparison:
    """Compute the leaky ReLU of `source` again and compare `dest` with it bit for bit, in streams.

    Of `options`, or as keywords: alpha, dtype, nan, only, skip, workers, memory and storage_options.
    """
    from leakycli.engine.verify import Side, compare

    options = (options or Options()).with_fields("verify", fields, _VERIFIED)
    source, dest = path("source", source), path("dest", dest)
    for given in (source, dest):
        if formats.is_stream(given):
            raise UsageError(f"{shown(given)}: verify compares files; a stream cannot be read twice")
    with (
        contextlib.closing(formats.open_source(formats.located(source, options.storage_options))) as opened,
        contextlib.closing(formats.open_source(formats.located(dest, options.storage_options))) as found,
        formats.unchanged(opened, source),
        formats.unchanged(found, dest),
    ):
        return compare(Side(source, opened), Side(dest, found), options, observe)


def read_report(source: Path, storage_options: Mapping[str, Any] | None = None) -> Report:
    """The report that was saved as JSON at `source`, by this version or an earlier one. "-": standard input; a URL is welcome.

    Raises StorageError where it cannot be read, CorruptError where it is no report.
    """
    from leakycli.report.json import LARGEST, parse

    name = path("source", source)
    located = formats.located(name, storage_options or {})
    try:
        if not isinstance(located, str):
            text = formats.read(located)
        else:
            with open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
                text = file.read(LARGEST + 1)
    except OSError as error:
        raise storage_error(error, name, "cannot read") from None
    if text is None:
        raise StorageError(f"{shown(name)}: does not exist")
    if len(text) > LARGEST:
        raise CorruptError(f"{shown(name)}: is larger than any report ({LARGEST >> 20} MiB)")
    return parse(text, shown(name))


def save_report(report: Report, dest: Path) -> None:
    """Write `report` to `dest`, in the form that its suffix says (.json, .html). It appears complete, and replaces a report only."""
    name = path("dest", dest)
    form, temporary = renderer(name), f"{name}.{os.getpid()}.partial"
    try:
        if os.path.lexists(name):
            ours = False
            if formats.is_regular(name):
                with open(name, "rb") as there:
                    ours = form.MARKER in there.read(200)
            if not ours:
                raise UsageError(f"{shown(name)}: exists and is no report of leakycli; choose another name")
        try:
            with open(temporary, "x", encoding="utf-8") as file:
                file.write(form.render(report))
            os.replace(temporary, name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        if isinstance(error, LeakyError):
            raise
        raise storage_error(error, name, "cannot write") from None


def recorded_parameters(dest: Path, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The parameters that the report beside `dest` gives for it; None without a report, or where it is of another file."""
    name = path("dest", dest)
    at, report_at = (formats.located(p, storage_options or {}) for p in (name, f"{name}.report.json"))
    report = saved_report(report_at)
    try:
        if report is None or report.destination.identity != formats.fingerprint(at):
            return None
        held = Parameters.from_dict(report.parameters)
    except (LeakyError, OSError, KeyError):
        return None
    return {name: getattr(held, name) for name in RECORDED}
