"""The one door for library users: `apply`, `dry_run`, `verify`, `info`.

The command line parses, calls these and renders what they return. Every function raises the errors of `leakycli.errors` only, each with
one line that can be shown as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from leakycli import formats
from leakycli.engine import events
from leakycli.engine.job import Job
from leakycli.engine.preview import Preview
from leakycli.engine.selection import refuse_unmet
from leakycli.engine.tasks import ignored, selection
from leakycli.errors import LeakyError, UsageError, let_go, shown
from leakycli.formats import ArrayInfo, Member, Usage
from leakycli.function.rule import OUTPUTS
from leakycli.options import Options, Parameters
from leakycli.report.model import Report
from leakycli.report.saved import MALFORMED, saved_values

if TYPE_CHECKING:
    from leakycli.engine.verify import Comparison

__all__ = ["Options", "SourceInfo", "apply", "check_patterns", "dry_run", "info", "recorded_parameters", "verify"]


def apply(
    source: str,
    dest: str,
    options: Options | None = None,
    observe: events.Observer = events.ignore,
) -> Report:
    """Write the leaky ReLU of the array file `source` to `dest` and a report beside it; returns the report.

    source: path of a `.npy` or `.npz` file, a Zarr array or group, a FIFO, or "-" for standard input. dest: path ending in `.npy`, `.npz`,
    `.zarr` or `.zarr.zip`, or "-". The destination appears complete or not at all; what was under its name stays until then, and for good
    without `options.overwrite`.
    """
    with Job(source, dest, options or Options()) as job:
        return job.run(observe)


def dry_run(source: str, dest: str, options: Options | None = None) -> Preview:
    """What `apply` would do, after the same checks; nothing is written."""
    with Job(source, dest, options or Options()) as job:
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


def info(source: str, storage_options: Mapping[str, Any] | None = None) -> SourceInfo:
    """What is at `source`. No elements are read; the chunks of a Zarr are listed. storage_options: see `Options`."""
    with contextlib.closing(formats.open_source(formats.located(source, storage_options or {}))) as opened:
        usage = {member.key: found for member in opened.members if (found := opened.usage(member)) is not None}
        size = opened.identity().get("bytes")
        if size is None and usage:
            size = sum(found.bytes for found in usage.values())
        return SourceInfo(opened.format, opened.members, size, usage, (*opened.warnings, *ignored(source, opened.members)))


def verify(source: str, dest: str, options: Options | None = None, observe: events.Observer = events.ignore) -> Comparison:
    """Compute the leaky ReLU of `source` again and compare `dest` with it bit for bit, in streams.

    Of `options`, alpha, dtype, nan, only, skip, workers, memory and storage_options count.
    """
    from leakycli.engine.verify import Side, compare

    options = options or Options()
    for path in (source, dest):
        if formats.is_stream(path):
            raise UsageError(f"{shown(path)}: verify compares files; a stream cannot be read twice")
    with (
        contextlib.closing(formats.open_source(formats.located(source, options.storage_options))) as opened,
        contextlib.closing(formats.open_source(formats.located(dest, options.storage_options))) as found,
        formats.unchanged(opened, source),
        formats.unchanged(found, dest),
    ):
        return compare(Side(source, opened), Side(dest, found), options, observe)


def recorded_parameters(dest: str, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The parameters that the report beside `dest` gives for it; None without a report, or where it is of another file."""
    try:
        at, report_at = (formats.located(path, storage_options or {}) for path in (dest, f"{dest}.report.json"))
        report = saved_values(report_at)
        held = Parameters.from_dict(report["parameters"])
        if held.dtype in (None, *OUTPUTS) and report["destination"]["identity"] == formats.fingerprint(at):
            return {name: getattr(held, name) for name in ("alpha", "dtype", "nan", "only", "skip")}
    except MALFORMED:
        pass
    return None
