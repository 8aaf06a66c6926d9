"""The report of a run, from its work and its results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from leakycli import formats, system
from leakycli._version import __version__
from leakycli.engine.request import Request
from leakycli.engine.tasks import ArrayTask, CopyTask, Work, warnings
from leakycli.engine.transform import ArrayResult
from leakycli.errors import redacted, shown
from leakycli.function.kernel import NAME
from leakycli.report.model import ArrayReport, Cost, Endpoint, Report, Statistics, Versions


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A task that is finished. result: None for one that only copied. pipeline: the codecs' that ran; "" where none had to."""

    result: ArrayResult | None
    pipeline: str


@dataclass(frozen=True, slots=True)
class Written:
    """A destination that is complete but for its name: the finished tasks by their keys, its bytes, what could not be kept as it was."""

    finished: Mapping[str, TaskResult]
    bytes: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Clock:
    """When a run began, and how long it has taken."""

    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _from: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._from


def reported(request: Request, work: Work, written: Written, identity: dict[str, Any], clock: Clock, resumed: bool) -> Report:
    """The report. identity: of the source. resumed: whether an earlier run did a part."""
    seconds, read = clock.seconds, identity.get("bytes", work.plan.bytes_in)
    arrays = tuple(report for task in work.tasks if (report := _array_report(task, written.finished)) is not None)
    destination = request.destination
    fingerprint = formats.fingerprint(destination.result) if destination.identifiable else None
    cost = Cost(
        started=clock.started.isoformat(timespec="seconds"),
        seconds=round(seconds, 6),
        bytes_read=read,
        bytes_written=written.bytes,
        throughput=round((read + written.bytes) / seconds, 1) if seconds > 0 else 0.0,
        workers=work.plan.workers,
        engine="threads",
        kernel=NAME,
        codec_path=", ".join(sorted({array.codec_path for array in arrays if array.codec_path})) or None,
        memory_bound=work.plan.memory.bound,
        memory_projected=work.plan.memory.projected,
        memory_measured=system.peak_resident(),
    )
    return Report(
        version=__version__,
        command=request.options.command,
        parameters=request.options.parameters.to_dict(),
        source=Endpoint(redacted(request.source_path), request.source_format.name, read, identity or None),
        destination=Endpoint(redacted(request.dest_path), request.format.name, written.bytes, fingerprint),
        arrays=arrays,
        cost=cost,
        versions=Versions.here(),
        resumed=resumed,
        verified=request.options.verify,
        warnings=(*warnings(request, work), *written.warnings, *_masked(arrays)),
    )


def _array_report(task: ArrayTask | CopyTask, finished: Mapping[str, TaskResult]) -> ArrayReport | None:
    """What became of a member; None where it is no array, or one of which nothing is known."""
    array, outline = task.member.array, task.member.outline
    if array is None:
        return None if outline is None else ArrayReport.copied(task.member.name, outline.shape, "C", outline.dtype, outline.chunking)
    order = "F" if array.fortran else "C"
    if isinstance(task, CopyTask):
        return ArrayReport.copied(array.name, array.shape, order, array.dtype.name, array.chunking)
    chunking = task.result.chunking
    if task.rule is None:
        return ArrayReport.copied(array.name, array.shape, order, array.dtype.name, chunking)
    done = finished[task.key]
    result = done.result
    assert result is not None
    return ArrayReport(
        name=array.name,
        action="transformed",
        shape=array.shape,
        order=order,
        chunks=None if chunking is None else chunking.chunks,
        shards=None if chunking is None else chunking.shards,
        codecs=None if chunking is None else chunking.codecs,
        codec_path=done.pipeline or None,
        dtype_before=array.dtype.name,
        dtype_after=task.rule.dtype.name,
        factor=task.rule.factor,
        before=Statistics.of(result.stats.before, result.before),
        after=Statistics.of(result.stats.after, result.after),
        losses=result.stats.losses,
    )


def _masked(arrays: tuple[ArrayReport, ...]) -> Iterator[str]:
    """Warnings of valid elements that have become what marks a missing one."""
    for array in arrays:
        if array.losses is not None and array.losses.masked:
            where = f"array {shown(array.name)}: " if array.name else ""
            yield f"{where}{array.losses.masked} valid elements have become the fill value, and look missing"
