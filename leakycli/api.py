"""The one door for library users: `apply`, `verify`, `info`, and `plan` for what `apply` would do.

The command line parses, calls these and renders what they return. Every function raises the errors of `leakycli.errors` only, each with
one line that can be shown as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from leakycli import events, machine, storage
from leakycli._version import __version__
from leakycli.compare import ComparingWriter, Difference
from leakycli.errors import DifferenceError, LeakyError, LossError, SourceChangedError, StorageError, UsageError, shown
from leakycli.executors import local_executor
from leakycli.onepass import sample_stride, scratch_bytes
from leakycli.pipeline import ArrayResult, run
from leakycli.plan import ArrayPlan, Plan, plan_run
from leakycli.publish import Publication, check_distinct, check_space, resolve
from leakycli.report.model import ArrayReport, Cost, Distribution, Endpoint, Report, Statistics
from leakycli.rule import OUTPUTS, Rule
from leakycli.storage import ArrayInfo, Reader, Source, Target, Writer

#: Suffixes that `Options.reports` may have.
REPORT_SUFFIXES = (".json",)


@dataclass(frozen=True, slots=True)
class Options:
    """What `apply` does and how.

    alpha, dtype, nan: see `leakycli.rule.Rule`. strict: publish nothing where a cast overflowed or clipped. workers: threads, by default
    as many as the process may use. memory: bound in bytes of the process's peak resident memory. overwrite: an existing destination may
    be replaced. verify: read the result back and compare before it is published. reports: paths of further reports; "none" among them
    leaves out the one beside the destination. command: what to record as the command.
    """

    alpha: float = 0.2
    dtype: str | None = None
    nan: int | None = None
    strict: bool = False
    workers: int | None = None
    memory: int | None = None
    overwrite: bool = False
    verify: bool = False
    reports: tuple[str, ...] = ()
    command: tuple[str, ...] | None = field(default=None, compare=False)

    def rule(self, info: ArrayInfo, path: str) -> Rule:
        """The rule for one array of the source at `path`."""
        try:
            return Rule.of(info.dtype, self.alpha, self.dtype, self.nan)
        except LeakyError as error:
            raise type(error)(f"{shown(path)}: {error}") from None

    def parameters(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "dtype": self.dtype, "nan": self.nan, "strict": self.strict}


@dataclass(frozen=True, slots=True)
class ArrayComparison:
    """What `verify` found for one array. problem: why nothing could be compared (a shape or dtype that differs), else None."""

    name: str
    count: int
    difference: Difference | None
    index: tuple[int, ...] | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `verify` found. parameters: those it computed with."""

    source: str
    destination: str
    parameters: dict[str, Any]
    arrays: tuple[ArrayComparison, ...]

    @property
    def equal(self) -> bool:
        return all(array.difference is None and array.problem is None for array in self.arrays)

    def message(self) -> str:
        """The first difference, in one line."""
        for array in self.arrays:
            where = f"{shown(self.destination)}: " + (f"array {shown(array.name)}: " if array.name else "")
            if array.problem is not None:
                return where + array.problem
            if (d := array.difference) is not None:
                at = ", ".join(map(str, array.index or ()))
                return (
                    f"{where}{d.count} of {array.count} elements differ; the first at [{at}]: expected {d.expected!r}, found {d.found!r}; "
                    f"largest difference {d.max_abs!r} ({d.max_ulp} ulp)"
                )
        return f"{shown(self.destination)}: equal"


def apply(source: str, dest: str, options: Options | None = None, observe: events.Observer = events.ignore) -> Report:
    """Write the leaky ReLU of the array file `source` to `dest` and a report beside it; returns the report.

    source: path of a `.npy` file or a FIFO, or "-" for standard input. dest: path ending in `.npy`, or "-" for standard output. The
    destination appears complete or not at all; what was under its name stays until then, and for good without `options.overwrite`.
    """
    with _Job(source, dest, options or Options()) as job:
        return job.run(observe)


def plan(source: str, dest: str, options: Options | None = None) -> Plan:
    """What `apply` would do, after the same checks; nothing is written."""
    with _Job(source, dest, options or Options()) as job:
        return job.plan


def info(source: str) -> tuple[str, tuple[ArrayInfo, ...], int | None]:
    """What is at `source`: its format, its arrays, its size in bytes (None for a stream)."""
    with contextlib.closing(storage.open_source(source)) as opened:
        return opened.format, opened.arrays, opened.identity().get("bytes")


def verify(source: str, dest: str, options: Options | None = None, observe: events.Observer = events.ignore) -> Comparison:
    """Compute the leaky ReLU of `source` again and compare `dest` with it bit for bit, in streams.

    Of `options`, alpha, dtype, nan, workers and memory count.
    """
    options = options or Options()
    for path in (source, dest):
        if storage.is_stream(path):
            raise UsageError(f"{shown(path)}: verify compares files; a stream cannot be read twice")
    with (
        contextlib.closing(storage.open_source(source)) as opened,
        contextlib.closing(storage.open_source(dest)) as found,
    ):
        return _compare(source, opened, dest, found, options, observe)


def recorded_parameters(dest: str) -> dict[str, Any] | None:
    """The parameters that the report beside `dest` gives for it; None without a report, or where it is of another file."""
    try:
        with open(f"{dest}.report.json", encoding="utf-8") as file:
            report = json.load(file)
        identity, given = report["destination"]["identity"], report["parameters"]
        known = isinstance(given["alpha"], float) and given["dtype"] in (None, *OUTPUTS) and type(given["nan"]) in (int, type(None))
        if known and identity == {"sampled_blake2b": storage.fingerprint(dest)}:
            return {name: given[name] for name in ("alpha", "dtype", "nan")}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    return None


class _Job:
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

    def __enter__(self) -> _Job:
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
        options = self._options
        if options.workers is not None and options.workers < 1:
            raise UsageError(f"workers must be at least 1, not {options.workers}")
        ordered = (storage.is_stream(self._source_path), self._stream_out)
        arrays = tuple(
            ArrayPlan.of(
                array.name,
                array.size,
                (array.dtype.itemsize, rule.dtype.itemsize),
                # With verify, what was found is held beside what was expected.
                scratch_bytes(rule, array.size) + (1 << 20) * 3 * rule.dtype.itemsize // array.dtype.itemsize * options.verify,
                ordered,
            )
            for array, rule in zip(self._source.arrays, self.rules, strict=True)
        )
        return _plan(arrays, options)

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
                with _opened(self._source, array, target, _result_info(array, rule)) as ends:

                    def done(region: Any, planned: ArrayPlan = planned) -> None:
                        size = region.size
                        event = events.RegionDone(self._source_path, planned.name, size * planned.itemsize_in, size * planned.itemsize_out)
                        observe(event)

                    try:
                        results.append(run(planned, rule, ends, executor, self.plan.workers, done))
                    except LossError as error:
                        raise LossError(f"{shown(self._source_path)}: {error}") from None
        return results

    def _check_losses(self, results: list[ArrayResult]) -> None:
        if not self._options.strict:
            return
        for array, result in zip(self._source.arrays, results, strict=True):
            lost = result.losses
            if lost.overflowed or lost.clipped:
                name = f"array {shown(array.name)}: " if array.name else ""
                raise LossError(
                    f"{shown(self._source_path)}: {name}{lost.overflowed} elements overflowed and {lost.clipped} were clipped; "
                    "nothing was written (--strict)"
                )

    def _verify(self, partial: str) -> None:
        with contextlib.closing(storage.open_source(partial)) as found:
            comparison = _compare(self._source_path, self._source, partial, found, self._options, events.ignore)
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


def _plan(arrays: tuple[ArrayPlan, ...], options: Options) -> Plan:
    return plan_run(arrays, options.workers or machine.cpus(), machine.resident(), options.memory, machine.memory_available())


def _result_info(array: ArrayInfo, rule: Rule) -> ArrayInfo:
    """The array as it is written: the same shape, memory order and byte order in the rule's type."""
    dtype = rule.dtype if array.dtype.isnative else rule.dtype.newbyteorder("S")
    return ArrayInfo(array.name, array.shape, dtype, array.fortran)


@contextlib.contextmanager
def _opened(source: Source, array: ArrayInfo, target: Target, result: ArrayInfo) -> Iterator[tuple[Reader, Writer]]:
    with contextlib.closing(target.writer(result)) as writer, contextlib.closing(source.reader(array)) as reader:
        yield reader, writer


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


def _compare(source: str, opened: Source, dest: str, found: Source, options: Options, observe: events.Observer) -> Comparison:
    compared = []
    by_name = {array.name: array for array in found.arrays}
    for array in opened.arrays:
        rule = options.rule(array, source)
        expected = _result_info(array, rule)
        problem = _mismatch(expected, by_name.get(array.name))
        result = None
        if problem is None:
            planned = ArrayPlan.of(
                array.name,
                array.size,
                (array.dtype.itemsize, rule.dtype.itemsize),
                scratch_bytes(rule, array.size) + (1 << 20) * 3 * rule.dtype.itemsize // array.dtype.itemsize,
            )
            whole = _plan((planned,), options)
            with (
                contextlib.closing(opened.reader(array)) as reader,
                contextlib.closing(ComparingWriter(expected, found.reader(by_name[array.name]))) as writer,
                local_executor(whole.workers, whole.regions) as executor,
            ):
                observe(events.Started(source, array.nbytes))

                def done(region: Any, planned: ArrayPlan = planned) -> None:
                    observe(events.RegionDone(source, planned.name, region.size * planned.itemsize_in, 0))

                try:
                    run(planned, rule, (reader, writer), executor, whole.workers, done)
                except LossError as error:
                    raise LossError(f"{shown(source)}: {error}") from None
                result = writer.result
                observe(events.Finished(source))
        index = None if result is None else array.index(result.position)
        compared.append(ArrayComparison(array.name, array.size, result, index, problem))
    return Comparison(source, dest, options.parameters(), tuple(compared))


def _mismatch(expected: ArrayInfo, found: ArrayInfo | None) -> str | None:
    """Why two arrays cannot be compared element by element, in words; None where they can."""
    if found is None:
        return "is missing"
    if found.shape != expected.shape:
        return f"has shape {found.shape}, expected {expected.shape}"
    if found.dtype.newbyteorder("=") != expected.dtype.newbyteorder("="):
        return f"has dtype {found.dtype.name}, expected {expected.dtype.name}"
    if found.fortran != expected.fortran and len(found.shape) > 1:
        order = {True: "Fortran", False: "C"}
        return f"is in {order[found.fortran]} order, expected {order[expected.fortran]} order"
    return None
