"""One source on its way to one destination."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import UTC, datetime
from typing import Any

from leakycli import events, machine, storage
from leakycli._version import __version__
from leakycli.comparison import compare_sources, comparing_bytes, result_info
from leakycli.errors import DifferenceError, LossError, SourceChangedError, StorageError, UsageError, shown
from leakycli.executors import local_executor
from leakycli.onepass import sample_stride, scratch_bytes
from leakycli.options import Options, place
from leakycli.pipeline import ArrayResult, run
from leakycli.plan import ArrayPlan, Plan
from leakycli.publish import Publication, check_distinct, check_space, resolve
from leakycli.regions import Span
from leakycli.report.model import ArrayReport, Cost, Distribution, Endpoint, Report, Statistics
from leakycli.rule import Rule
from leakycli.storage import ArrayInfo, Source, Target

#: Suffixes that `Options.reports` may have.
REPORT_SUFFIXES = (".json",)


class Job:
    """One source on its way to one destination: opened, checked and planned when made, before anything is written."""

    def __init__(self, source: str, dest: str, options: Options) -> None:
        self._source_path, self._dest_path, self._options = source, dest, options
        self._stream_out = dest == "-"
        self._publication: Publication | None = None
        self._stack = contextlib.ExitStack()
        try:
            self._check_paths()
            self._source: Source = self._stack.enter_context(contextlib.closing(storage.open_source(source)))
            self.rules = [options.rule(array, source) for array in self._source.arrays]
            self.plan = self._planned()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _check_paths(self) -> None:
        options = self._options
        for report in options.reports:
            if report != "none" and not report.lower().endswith(REPORT_SUFFIXES):
                raise UsageError(f"{shown(report)}: a report's suffix says its kind; it must end in {' or '.join(REPORT_SUFFIXES)}")
        for given, name in ((options.strict, "--strict"), (options.verify, "--verify")):
            if given and self._stream_out:
                raise UsageError(f"{name} cannot take back what went to standard output; name a file")
        if options.verify and storage.is_stream(self._source_path):
            raise UsageError(f"--verify reads the source again, which a stream ({shown(self._source_path)}) does not allow")
        if not self._stream_out:
            storage.check_suffix(self._dest_path)
            self._publication = Publication(resolve(self._dest_path), options.overwrite)
        for report in self._report_paths():
            self._check_report(report)
        if self._source_path != "-":
            touched = self._publication.touched() if self._publication else ()
            for path in (*touched, *self._report_paths()):
                check_distinct(self._source_path, path)

    def _report_paths(self) -> tuple[str, ...]:
        given = tuple(path for path in self._options.reports if path != "none")
        beside = () if self._stream_out or "none" in self._options.reports else (f"{self._dest_path}.report.json",)
        return beside + given

    def _check_report(self, path: str) -> None:
        """Refuse to replace what is no report of ours."""
        if self._options.overwrite and (storage.is_regular(path) or not os.path.lexists(path)):
            return
        try:
            with open(path, "rb") as file:
                ours = b'"tool": "leakycli"' in file.read(200)
        except OSError:
            ours = not os.path.lexists(path)
        if not ours:
            raise UsageError(f"{shown(path)}: exists and is no report of leakycli; give --report another path, or --report none")

    def _planned(self) -> Plan:
        ordered = (storage.is_stream(self._source_path), self._stream_out)
        arrays = []
        for array, rule in zip(self._source.arrays, self.rules, strict=True):
            scratch = scratch_bytes(rule, array.size) + (comparing_bytes(rule) if self._options.verify else 0)
            itemsizes = (array.dtype.itemsize, rule.dtype.itemsize)
            arrays.append(ArrayPlan.of(array.name, array.size, itemsizes, scratch, ordered))
        return self._options.plan(tuple(arrays))

    def run(self, observe: events.Observer) -> Report:
        """Do it all. Raises an error of `leakycli.errors`; nothing is published then."""
        started, clock = datetime.now(UTC), time.perf_counter()
        observe(events.Started(self._source_path, self.plan.bytes_in))
        identity = self._source.identity()
        with contextlib.ExitStack() as stack:
            if self._publication is not None:
                check_space(self._publication.dest, self.plan.bytes_out)
                stack.enter_context(self._publication)
                target = storage.create_target(self._publication.partial)
            else:
                target = storage.create_stream_target(1)
            results = self._transform(stack.enter_context(contextlib.closing(target)), observe)
            written = target.finish()
            if self._source.identity() != identity:
                raise SourceChangedError(f"{shown(self._source_path)}: changed while it was read; run again when it is left alone")
            self._check_losses(results)
            if self._options.verify and self._publication is not None:
                self._verify(self._publication.partial)
            report = self._report(results, identity, written, (started, time.perf_counter() - clock))
            self._publish(report)
        observe(events.Finished(self._source_path))
        return report

    def _transform(self, target: Target, observe: events.Observer) -> list[ArrayResult]:
        results = []
        with local_executor(self.plan.workers, self.plan.regions) as executor:
            for array, rule, planned in zip(self._source.arrays, self.rules, self.plan.arrays, strict=True):

                def done(region: Span, planned: ArrayPlan = planned) -> None:
                    sizes = region.size * planned.itemsize_in, region.size * planned.itemsize_out
                    observe(events.RegionDone(self._source_path, planned.name, *sizes))

                with (
                    contextlib.closing(target.writer(result_info(array, rule))) as writer,
                    contextlib.closing(self._source.reader(array)) as reader,
                ):
                    try:
                        results.append(run(planned, rule, (reader, writer), executor, self.plan.workers, done))
                    except LossError as error:
                        raise LossError(f"{place(self._source_path)}{error}") from None
        return results

    def _check_losses(self, results: list[ArrayResult]) -> None:
        if not self._options.strict:
            return
        for array, result in zip(self._source.arrays, results, strict=True):
            lost = result.losses
            if lost.overflowed or lost.clipped:
                raise LossError(
                    f"{place(self._source_path, array.name)}{lost.overflowed} elements overflowed and {lost.clipped} were clipped; "
                    "nothing was written (--strict)"
                )

    def _verify(self, partial: str) -> None:
        with contextlib.closing(storage.open_source(partial)) as found:
            comparison = compare_sources((self._source_path, self._source), (partial, found), self._options)
        if not comparison.equal:
            raise DifferenceError(f"{comparison.message()}; nothing was published")

    def _publish(self, report: Report) -> None:
        text = report.to_json()
        for path in self._report_paths():
            temporary = self._publication.companion(path) if self._publication else path + ".partial"
            try:
                with open(temporary, "w", encoding="utf-8") as file:
                    file.write(text)
                if self._publication is None:
                    os.replace(temporary, path)
            except OSError as error:
                raise StorageError(f"cannot write {shown(path)}: {error.strerror or error}") from None
        if self._publication is not None:
            self._publication.publish()

    def _report(self, results: list[ArrayResult], identity: dict[str, Any], written: int, when: tuple[datetime, float]) -> Report:
        arrays = tuple(map(_array_report, self._source.arrays, self.rules, results))
        read = identity.get("bytes", self.plan.bytes_in)
        seconds = when[1]
        fingerprint = {"sampled_blake2b": storage.fingerprint(self._publication.partial)} if self._publication else None
        planned = self.plan
        cost = Cost(
            started=when[0].isoformat(timespec="seconds"),
            seconds=round(seconds, 6),
            bytes_read=read,
            bytes_written=written,
            throughput=round((read + written) / seconds, 1),
            workers=planned.workers,
            engine="threads",
            codec_pipeline=None,
            memory_bound=planned.memory.bound,
            memory_projected=planned.memory.projected,
            memory_measured=machine.peak_resident(),
        )
        return Report(
            version=__version__,
            command=self._options.command,
            parameters=self._options.parameters(),
            source=Endpoint(self._source_path, self._source.format, read, identity or None),
            destination=Endpoint(self._dest_path, "npy", written, fingerprint),
            arrays=arrays,
            cost=cost,
            resumed=False,
            verified=self._options.verify,
            warnings=self._source.warnings,
        )


def _array_report(array: ArrayInfo, rule: Rule, result: ArrayResult) -> ArrayReport:
    stride = sample_stride(rule, array.size)
    return ArrayReport(
        name=array.name,
        action="transformed",
        shape=array.shape,
        order="F" if array.fortran else "C",
        chunks=None,
        dtype_before=array.dtype.name,
        dtype_after=rule.dtype.name,
        factor=rule.factor,
        before=Statistics.of(result.before),
        after=Statistics.of(result.after),
        losses=result.losses,
        histogram_before=Distribution.of(result.histogram_before, stride),
        histogram_after=Distribution.of(result.histogram_after, stride),
    )
