"""One source on its way to one destination."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from leakycli import formats, stopping, system
from leakycli._version import __version__
from leakycli.destination.journal import Journal, Past
from leakycli.destination.publish import FilePublication, Publication, UnnamedPublication, check_distinct, remove, resolve
from leakycli.engine import events
from leakycli.engine.executors import ForkedExecutor, local_executor
from leakycli.engine.plan import ArrayPlan, GridPlan, Memory, Plan
from leakycli.engine.route import OF_REGION_AT_ONCE, array_plan, copy_array, fitting_reader, fitting_writer, result_info
from leakycli.engine.transform import ArrayResult, run
from leakycli.errors import (
    CorruptError,
    DifferenceError,
    LeakyError,
    LossError,
    StorageError,
    UnsupportedError,
    UsageError,
    counted,
    listed,
    redacted,
    shown,
    storage_error,
)
from leakycli.formats import ArrayInfo, Begun, Chunking, Member, Reader, Source, Target, Writer
from leakycli.function.onepass import sample_stride, scratch_bytes
from leakycli.function.rule import Losses, Rule
from leakycli.options import Options, ignored, place
from leakycli.regions import Box, Presence, Span
from leakycli.report.model import ArrayReport, Cost, Distribution, Endpoint, Report, Statistics, plain

if TYPE_CHECKING:
    from leakycli.stores.remote import Remote

#: What requests take beside a region, as a multiple of its bytes in and out: bodies as they come in and go out, and copies of those.
REQUESTS = 1.0

#: Bytes of input from which on the work of one source is shared among processes.
WORTH_PROCESSES = 16 << 20

#: What is near the beginning of each report.
OURS = b'"tool": "leakycli"'

#: Suffixes that `Options.reports` may have.
REPORT_SUFFIXES = (".json",)


@dataclass(frozen=True, slots=True)
class PlannedArray:
    """What is to become of one array. factor: alpha as it is rounded for the array; None where it is copied. chunking: of the result.

    part_elements: elements that are worked on at once; 0, as regions, where the array is copied as it is.
    """

    name: str
    action: str
    shape: tuple[int, ...]
    order: str
    dtype_before: str
    dtype_after: str
    factor: float | None
    chunking: Chunking | None
    regions: int
    part_elements: int


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run would do: all that its report will say and that is known before."""

    source: str
    source_format: str
    destination: str
    destination_format: str
    alpha: float
    arrays: tuple[PlannedArray, ...]
    plan: Plan
    engine: str
    warnings: tuple[str, ...]

    @property
    def workers(self) -> int:
        return self.plan.workers

    @property
    def memory(self) -> Memory:
        return self.plan.memory


class Job:
    """One source on its way to one destination: opened, checked and planned when made, before anything is written."""

    def __init__(self, source: str, dest: str, options: Options, processes: ForkedExecutor | None = None, brief: bool = False) -> None:
        """processes: to be used instead of threads where that is quicker. brief: so small that it is not worth going on from."""
        # A Zarr store is one thing, with or without a slash at its end.
        dest = dest.rstrip("/") if dest.rstrip("/").lower().endswith(".zarr") else dest
        self._source_path, self._dest_path, self._options = source, dest, options
        self._stream_out = dest == "-"
        self._journal: Journal | None = None
        self._worked_bytes = 0
        self._processes = processes
        kept = options.overwrite or options.resume or options.fsync or options.verify or set(options.reports) - {"none"}
        self._brief = brief and processes is None and hasattr(os, "O_TMPFILE") and not kept
        self._publication: Publication | None = None
        self._remote = any(map(formats.is_url, (source, dest)))
        self._stack = contextlib.ExitStack()
        try:
            formats.check_path(source)
            self._format = formats.dest_format(dest, options.to)
            formats.check_layout(self._format, options.layout)
            self._check_paths()
            self._source: Source = self._stack.enter_context(contextlib.closing(formats.open_source(self._located(source))))
            with formats.unchanged(self._source, source):
                self._members = self._chosen_members()
                self.plan = self._planned()
        except BaseException:
            self._stack.close()
            raise

    def _located(self, path: str) -> str | Remote:
        return formats.located(path, self._options.storage_options)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _check_paths(self) -> None:
        options = self._options
        for report in options.reports:
            if report != "none" and not report.lower().endswith(REPORT_SUFFIXES):
                raise UsageError(f"{shown(report)}: a report's suffix says its kind; it must end in {' or '.join(REPORT_SUFFIXES)}")
        for given, name in ((options.strict, "--strict"), (options.verify, "--verify"), (options.resume, "--resume")):
            if given and self._stream_out:
                raise UsageError(f"{name} cannot take back what went to standard output; name a file")
        if self._stream_out and os.isatty(1):
            raise UsageError("standard output is a terminal, where binary data is of no use; redirect it or name a file")
        if options.fsync and self._stream_out:
            raise UsageError("--fsync is for files; what goes to standard output is not on a disk yet")
        for given, name in ((options.verify, "--verify"), (options.resume, "--resume")):
            if given and formats.is_stream(self._source_path):
                raise UsageError(f"{name} reads the source again, which a stream ({shown(self._source_path)}) does not allow")
        if not self._stream_out:
            self._publication = self._publication_of(self._dest_path)
        self._reports = self._report_paths()
        for report in self._reports:
            self._check_report(report)
        touched = self._publication.touched() if self._publication else ("-",)
        reports = [path for report in self._reports for path in (report, self._temporary(report))]
        check_distinct(self._source_path, (*touched, *reports))

    def _publication_of(self, dest: str) -> Publication:
        options = self._options
        if formats.is_url(dest):
            from leakycli.destination.object_store import UrlPublication

            return UrlPublication(dest, options.storage_options, options.resume, options.fsync)
        if self._brief and self._format == "npy":
            return UnnamedPublication(resolve(dest), options.parents)
        return FilePublication(resolve(dest), options.overwrite, options.parents, options.resume, options.fsync)

    def _report_paths(self) -> tuple[str, ...]:
        """Where reports go: beside the destination, and where asked for; each once, however it was written."""
        given = [path for path in self._options.reports if path != "none"]
        beside = [] if self._stream_out or "none" in self._options.reports else [f"{self._dest_path}.report.json"]
        if not given:
            return tuple(beside)
        return tuple({os.path.realpath(path): path for path in reversed(beside + given)}.values())[::-1]

    def _check_report(self, path: str) -> None:
        """Refuse to replace what is no report of ours."""
        if formats.is_url(path):
            if not formats.is_url(self._dest_path):
                raise UsageError(f"{shown(path)}: a report goes to a URL only where the destination does (--report)")
            text = formats.read(self._located(path))
            if text is not None and OURS not in text[:200]:
                raise UsageError(f"{shown(path)}: exists and is no report of leakycli; give --report another path, or --report none")
            return
        if not os.path.lexists(path):
            folder = os.path.dirname(path) or "."
            made = self._options.parents and folder == os.path.dirname(self._dest_path)
            if not made and not os.path.isdir(folder):
                raise StorageError(f"{shown(path)}: the folder {shown(folder)} does not exist; create it first")
            return
        ours = False
        if formats.is_regular(path):
            try:
                with open(path, "rb") as file:
                    ours = OURS in file.read(200)
            except OSError as error:
                raise storage_error(error, path, "cannot read") from None
        if not ours:
            raise UsageError(f"{shown(path)}: exists and is no report of leakycli; give --report another path, or --report none")

    def _chosen_members(self) -> dict[str, Rule]:
        """The rule for each member that is transformed, by its key. What else goes into the destination is copied."""
        chosen = self._options.selection.choose(self._source.members, self._source_path, self._format != "npy")
        if self._format == "npy" and len(chosen) > 1:
            names = listed(member.name for member in chosen)
            takes, way = (
                ("standard output as a .npy takes one", "write all with --to npz")
                if self._stream_out
                else (f"{shown(self._dest_path)} takes one", "give DEST a name in .npz or .zarr")
            )
            raise UsageError(f"{shown(self._source_path)}: holds several arrays and {takes}; {way}, or choose one with --only: {names}")
        return {member.key: self._options.rule(member.array, self._source_path) for member in chosen if member.array is not None}

    def _planned(self) -> Plan:
        self._results: dict[str, ArrayInfo] = {}
        self._pipelines: dict[str, str] = {}
        arrays = []
        for member in self._source.members:
            array, rule = member.array, self._members.get(member.key)
            if (rule is None and not self._carried(member)) or array is None:
                continue
            result = result_info(array, rule, self._format, self._options.layout, self._source, member)
            self._results[member.key] = result
            scratch, beside = 0, REQUESTS * self._remote
            if rule is not None:
                scratch = scratch_bytes(rule, array.size)
                if self._options.verify:
                    from leakycli.engine.verify import comparing_bytes

                    scratch += comparing_bytes(rule)
                    # What was written is read again, beside what it should be; out of an archive by many chunks at once.
                    beside += result.dtype.itemsize / (array.dtype.itemsize + result.dtype.itemsize)
                    beside += OF_REGION_AT_ONCE if self._format == "zarr.zip" else 0
            arrays.append(
                array_plan(
                    member.key,
                    (array, result),
                    self._ordered(member, result),
                    scratch,
                    self._stored(member),
                    beside,
                    self._remote,
                )
            )
        try:
            read = (member for member in self._source.members if self._format != "npy" or member.key in self._members)
            held = max((member.memory for member in read), default=0)
            return self._plan_with_processes(tuple(arrays), held) or self._options.plan(tuple(arrays), remote=self._remote, held=held)
        except UsageError as error:
            raise UsageError(f"{shown(self._source_path)}: {error}") from None

    def _plan_with_processes(self, arrays: tuple[ArrayPlan[Any], ...], held: int) -> Plan | None:
        """A plan whose workers are processes; None where those are no gain, or do not fit into memory.

        They are none for what goes in order: its bytes would have to go through pipes, and its compressors are long calls that threads
        run side by side. Nor for what is behind a URL: the thread that makes requests does not survive a fork.
        """
        ordered = any(array.ordered_in or array.ordered_out for array in arrays)
        if self._processes is not None and not ordered and not self._remote and sum(array.bytes_in for array in arrays) >= WORTH_PROCESSES:
            plan = self._options.plan(arrays, self._processes, held=held)
            if plan.workers > 1:
                self._processes.keep(plan.workers)
                return plan
        self._processes = None
        return None

    def _carried(self, member: Member) -> bool:
        """Whether a member that is not transformed is read as an array and written as one: from one kind of format to another."""
        if self._format == "npy" or _family(self._format) == _family(self._source.format):
            return False
        if member.problem is not None:
            raise type(member.problem)(
                f"{member.problem}; an array that is not chosen is copied, which this one cannot be from {self._source.format} to "
                f"{self._format}: give DEST a name in .{_family(self._source.format)}, or in .npy for one array (--only)"
            )
        return member.array is not None

    def _stored(self, member: Member) -> Callable[[], Presence | None]:
        return lambda: self._source.stored(member)

    def _ordered(self, member: Member, result: ArrayInfo) -> tuple[bool, bool]:
        """Whether source and destination must go front to back. The checksum of a stored member is that of its bytes in order."""
        into = formats.compresses(self._format, self._options.layout, self._source, member) or self._stream_out
        out_of = self._source.sequential(member)
        if member.array is not None and member.array.chunking is None and result.chunking is None:
            return out_of, into
        return out_of or self._source.format == "npz", into or self._format == "npz"

    def _warnings(self) -> tuple[str, ...]:
        """What is odd about the source, and what becomes of it that may not be expected."""
        members = self._source.members
        warnings = [*self._source.warnings, *ignored(self._source_path, (m for m in members if m.key in self._members))]
        if self._source.format == "npz" and self._format != "npz":
            left = [member.name for member in members if member.array is None and member.problem is None and not member.name.endswith("/")]
            if left and self._format != "npy":
                warnings.append(f"{shown(self._source_path)}: what is no array was left out: {listed(left)}")
        integers = [m.name for m in members if m.array is not None and m.array.dtype.kind in "iu" and m.key in self._members]
        if self._source.format == "npz" and len(self._members) > 1 and not self._options.only and integers:
            warnings.append(
                f"{shown(self._source_path)}: integers of a .npz are transformed unless skipped, also where they are labels or indices "
                f"(--skip): {listed(integers)}"
            )
        return tuple(warnings)

    def check(self) -> None:
        """What a run finds out when it begins to write, found out without writing. Raises StorageError, UsageError."""
        left = None if self._publication is None else self._publication.partial
        if isinstance(left, str) and os.path.lexists(left) and not (self._options.resume or self._options.overwrite):
            raise UsageError(
                f"{shown(self._dest_path)}: an unfinished run left {shown(left)}; "
                "go on from there with --resume, or begin anew with --overwrite"
            )
        folders = [os.path.dirname(path) or "." for path in self._reports if not formats.is_url(path)]
        if self._publication is not None and not formats.is_url(self._dest_path):
            folders.append(os.path.dirname(resolve(self._dest_path)) or ".")
            self._publication.check_space(*self._space(), 1.0, self._format == "npy")
        for folder in dict.fromkeys(folders):
            there = folder
            while not os.path.isdir(there) and there != (above := os.path.dirname(there) or "."):
                there = above
            if not os.access(there, os.W_OK | os.X_OK):
                raise storage_error(OSError(errno.EACCES, os.strerror(errno.EACCES)), there, "cannot write to the folder")

    def preview(self) -> Preview:
        """What a run would do."""
        arrays = []
        for member in self._source.members:
            array, rule, result = member.array, self._members.get(member.key), self._results.get(member.key)
            if array is None or (rule is None and self._format == "npy"):
                continue
            written = result or array
            arrays.append(
                PlannedArray(
                    name=array.name,
                    action="copied" if rule is None else "transformed",
                    shape=array.shape,
                    order="F" if array.fortran else "C",
                    dtype_before=array.dtype.name,
                    dtype_after=written.dtype.name,
                    factor=None if rule is None else rule.factor,
                    chunking=written.chunking,
                    regions=next((plan.count for plan in self.plan.arrays if plan.name == member.key), 0),
                    part_elements=next((plan.largest_part for plan in self.plan.arrays if plan.name == member.key), 0),
                )
            )
        return Preview(
            redacted(self._source_path),
            self._source.format,
            redacted(self._dest_path),
            self._format,
            self._options.alpha,
            tuple(arrays),
            self.plan,
            "threads" if self._processes is None else "processes",
            self._warnings(),
        )

    def run(self, observe: events.Observer) -> Report:
        """Do it all. Raises an error of `leakycli.errors`; nothing is published then."""
        try:
            try:
                return self._worked(observe)
            except OSError as error:
                if isinstance(error, (LeakyError, BrokenPipeError)):
                    raise
                raise storage_error(error, error.filename or self._dest_path, "cannot finish") from None
            except (CorruptError, UnsupportedError) as error:
                raise type(error)(self._named(str(error))) from None
        except StorageError as error:
            raise self._mendable(error) from None
        except BaseException as error:
            if self._publication is not None and self._publication.kept and not isinstance(error, LeakyError):
                error.add_note(self._publication.kept_text)
            raise

    def _named(self, text: str) -> str:
        """A message with the destination's name in place of that under which it is written."""
        if self._publication is not None and isinstance(self._publication.partial, str):
            for beside in (".folder", ".spool", ".journal", ""):
                text = text.replace(f"{shown(self._publication.partial)}{beside}", shown(self._publication.dest))
        return text

    def _mendable(self, error: StorageError) -> StorageError:
        """`error`, and what to do about it."""
        text = self._named(str(error))
        if self._publication is not None and error.errno in (errno.ENOSPC, errno.EDQUOT):
            left = 1 - self._worked_bytes / self.plan.bytes_in if self.plan.bytes_in else 1
            text += self._publication.no_space(*self._space(everything=True), left, self._format == "npy")
        if self._publication is not None and self._publication.kept:
            text += f"; {self._publication.kept_text}"
        return type(error)(text)

    def _worked(self, observe: events.Observer) -> Report:
        started, clock = datetime.now(UTC), time.perf_counter()
        observe(events.Started(self._source_path, self.plan.bytes_in))
        identity = self._source.opened
        with contextlib.ExitStack() as stack:
            past = None
            if self._publication is not None:
                stack.enter_context(self._publication)
                past = self._publication.past
                self._check_same(past)
                if (report := self._finished_before(past)) is not None:
                    observe(events.Finished(self._source_path))
                    return report
                self._publication.check_space(*self._space(), 1 - (past.share if past else 0), self._format == "npy")
            if past is not None and past.published is not None and self._publication is not None and self._publication.published(past):
                results, written = self._kept_results(past), past.published["bytes"]
                self._target_warnings = tuple(past.published["warnings"])
            else:
                with formats.unchanged(self._source, self._source_path):
                    results, written = self._written(past, stack, observe)
                    if not formats.is_unchanged(self._source):
                        raise formats.changed(self._source_path)
                    self._check_losses(results)
                    if self._options.verify and self._publication is not None:
                        self._verify(self._publication.partial)
            report = self._report(results, identity, written, (started, time.perf_counter() - clock), past is not None)
            self._publish(report, stack)
        observe(events.Finished(self._source_path))
        return report

    def _written(self, past: Past | None, stack: contextlib.ExitStack, observe: events.Observer) -> tuple[dict[str, ArrayResult], int]:
        """Write all of the destination, or what is missing; returns the results of what was transformed and the destination's bytes."""
        path: str | Remote = self._publication.partial if self._publication is not None else "-"
        there = self._publication is not None and self._publication.unnamed
        target = formats.create_target(path, self._format, self._options.layout, past is not None, self._options.fsync, there)
        stack.enter_context(contextlib.closing(target))
        if self._publication is not None and (journal := self._publication.journal) is not None:
            self._publication.flush_folder()
            if not formats.is_stream(self._source_path):
                self._journal = journal
            journal.begin(self._fingerprint(), self.plan.bytes_in, target.ensure, anew=past is None)
        results = self._transform(target, past, observe)
        written = target.finish()
        target.ensure()
        self._target_warnings = tuple(target.warnings)
        return results, written

    def _fingerprint(self) -> dict[str, Any]:
        """What must be the same for a run to be gone on from."""
        fields = {"source": self._source.opened, "format": self._format, "provenance": self._options.provenance}
        # What was done of chunks that have gone, or have come, since would stay, and its statistics with it.
        transformed = [member for member in self._source.members if member.key in self._members]
        stored = {member.key: str(found) for member in transformed if (found := self._source.stored(member)) is not None}
        fields |= {"chunks_stored": stored} if stored else {}
        fingerprint: dict[str, Any] = plain(fields | {"parameters": self._options.parameters()})
        return fingerprint

    def _check_same(self, past: Past | None) -> None:
        """Raise UsageError, saying what differs, where the unfinished run was another."""
        if past is None:
            return
        then, now = _flat(past.fingerprint), _flat(self._fingerprint())
        for name in sorted(then.keys() | now.keys()):
            if then.get(name) != now.get(name):
                raise UsageError(
                    f"{shown(self._dest_path)}: the unfinished run was another: {name} was {then.get(name)}, and is {now.get(name)}; "
                    "give the same again, or begin anew with --overwrite (without --resume)"
                )

    def _finished_before(self, past: Past | None) -> Report | None:
        """The report of the destination where it is there, and known to be this run's result; None where there is something to do.

        Raises UsageError where it is something else and must not be replaced.
        """
        assert self._publication is not None
        if not self._options.resume or not self._publication.finished(past):
            return None
        try:
            report = Report.from_dict(json.loads(formats.read(self._located(f"{self._dest_path}.report.json")) or b""))
            same = report.source.identity == plain(self._source.opened) and report.parameters == plain(self._options.parameters())
            if same and report.destination.identity == {"sampled_blake2b": formats.fingerprint(self._located(self._dest_path))}:
                return report
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            pass
        if not self._options.overwrite or formats.is_url(self._dest_path):
            way = "remove it, or choose another name" if formats.is_url(self._dest_path) else "give --overwrite to replace it"
            raise UsageError(f"{shown(self._dest_path)}: exists, and no report says that it is what this run gives; {way}")
        return None

    def _space(self, everything: bool = False) -> tuple[int, int]:
        """Bytes of the result, and of what is spooled on the way; what will be compressed is left out, or counted whole."""
        space = spooled = 0
        for array in self.plan.arrays:
            chunking = self._results[array.name].chunking
            if everything or (not array.ordered_out and (chunking is None or chunking.codecs == "none")):
                space += array.bytes_out
            if isinstance(array, GridPlan) and array.spool:
                spooled += array.bytes_in if array.ordered_in else array.bytes_out
        return space, spooled

    def _transform(self, target: Target, past: Past | None, observe: events.Observer) -> dict[str, ArrayResult]:
        """Write every member in turn; returns the results of those that are transformed, by key."""
        results: dict[str, ArrayResult] = {}
        planned = {array.name: array for array in self.plan.arrays}
        with contextlib.ExitStack() as stack:
            stack.enter_context(stopping.guarded())
            executor = self._processes or stack.enter_context(local_executor(self.plan.workers, self.plan.regions))
            spool = stack.enter_context(self._spool())
            for member in self._source.members:
                plan, rule = planned.get(member.key), self._members.get(member.key)
                if plan is None and (self._format == "npy" or _family(self._format) != _family(self._source.format)):
                    continue
                if past is not None and (kept := past.members.get(member.key)) is not None:
                    target.restore(None if plan is None else self._results[member.key], self._source, member, rule, kept["target"])
                    self._pipelines[member.key] = kept["pipeline"]
                    if rule is not None:
                        results[member.key] = ArrayResult.from_json(rule, kept["result"])
                    if plan is not None:
                        self._tell(plan, plan.bytes_in, plan.bytes_out, observe)
                    continue
                if plan is None:
                    target.copy(self._source, member)
                else:
                    result = self._array(plan, rule, member, target, (past, executor, spool), observe)
                    if rule is not None and result is not None:
                        results[member.key] = result
                self._note_member(member, target, results.get(member.key))
        return results

    def _array(
        self,
        plan: ArrayPlan[Any],
        rule: Rule | None,
        member: Member,
        target: Target,
        means: tuple[Past | None, Executor, str],
        observe: events.Observer,
    ) -> ArrayResult | None:
        """Read, transform (None where `rule` is None) and write one array; from where an earlier run came to, where that can be."""
        past, executor, spool = means
        reached, state = None, None
        if rule is not None and past is not None and past.reached is not None and past.reached["key"] == member.key:
            recut = plan.recut(past.reached["cut"])
            if recut is not None and recut.memory(self.plan.workers) <= max(self.plan.memory.budget, plan.memory(self.plan.workers)):
                plan, state = recut, Begun(past.reached["writer"])
                reached = past.reached["position"], ArrayResult.from_json(rule, past.reached["result"])
                share = past.reached["bytes"] - self._worked_bytes
                self._tell(plan, share, share * plan.itemsize_out // plan.itemsize_in, observe)
        with (
            contextlib.closing(self._source.reader(member)) as reader,
            contextlib.closing(target.writer(self._results[member.key], self._source, member, rule, state)) as writer,
        ):
            names = {getattr(end, "pipeline", None) for end in (reader, writer)} - {None}
            self._pipelines[member.key] = " and ".join(sorted(map(str, names)))
            ends = fitting_reader(plan, reader, spool), fitting_writer(plan, writer, spool, state is not None)
            try:
                if rule is not None:
                    return self._run(plan, rule, ends, (executor, reached), observe)
                copy_array(plan, ends)
                return None
            except LossError as error:
                raise LossError(f"{place(self._source_path)}{error}") from None

    def _run(
        self,
        plan: ArrayPlan[Any],
        rule: Rule,
        ends: tuple[Reader[Any], Writer[Any]],
        means: tuple[Executor, tuple[int, ArrayResult] | None],
        observe: events.Observer,
    ) -> ArrayResult:
        executor, reached = means

        def done(region: Span | Box, so_far: ArrayResult) -> None:
            sizes = region.size * plan.itemsize_in, region.size * plan.itemsize_out
            self._worked_bytes += sizes[0]
            if self._journal is not None and plan.count > 1:
                # Copies, taken when nothing is half done: a signal may end the run at any moment.
                position, state, copied, worked = plan.position(region), ends[1].state(), so_far.copy(), self._worked_bytes
                self._journal.reached(
                    lambda: {
                        "key": plan.name,
                        "cut": plan.cut,
                        "position": position,
                        "writer": state,
                        "result": copied.to_json(),
                        "bytes": worked,
                    }
                )

            observe(events.RegionDone(self._source_path, plan.name, *sizes))

        return run(plan, rule, ends, executor, self.plan.workers, done, reached)

    def _tell(self, plan: ArrayPlan[Any], bytes_in: int, bytes_out: int, observe: events.Observer) -> None:
        """Of what an earlier run has done."""
        self._worked_bytes += bytes_in
        observe(events.RegionDone(self._source_path, plan.name, bytes_in, bytes_out))

    def _note_member(self, member: Member, target: Target, result: ArrayResult | None) -> None:
        """In the journal: that it is finished."""
        if self._journal is not None:
            state, pipeline, worked = target.state(), self._pipelines.get(member.key, ""), self._worked_bytes
            self._journal.member(
                lambda: {
                    "key": member.key,
                    "target": state,
                    "pipeline": pipeline,
                    "result": None if result is None else result.to_json(),
                    "bytes": worked,
                }
            )

    def _kept_results(self, past: Past) -> dict[str, ArrayResult]:
        """What an earlier run that finished every member has told of them."""
        self._pipelines = {key: kept["pipeline"] for key, kept in past.members.items()}
        return {key: ArrayResult.from_json(rule, past.members[key]["result"]) for key, rule in self._members.items()}

    @contextlib.contextmanager
    def _spool(self) -> Iterator[str]:
        """Where an array that has to be spooled goes."""
        if not any(isinstance(array, GridPlan) and array.spool for array in self.plan.arrays):
            yield ""
        elif self._publication is not None:
            # It may be gone on from, and else is removed with all that is beside the destination.
            yield self._publication.spool
        else:
            import tempfile

            with tempfile.TemporaryDirectory(prefix="leakycli-") as folder:
                yield os.path.join(folder, "spool.npy")

    def _check_losses(self, results: dict[str, ArrayResult]) -> None:
        if not self._options.strict:
            return
        for member in self._source.members:
            lost = results[member.key].losses if member.key in results else Losses()
            if lost.overflowed or lost.clipped:
                raise LossError(
                    f"{place(self._source_path, member.name)}{counted(lost.overflowed, 'element')} overflowed and {lost.clipped} "
                    f"{'was' if lost.clipped == 1 else 'were'} clipped; nothing was written (--strict); choose a wider --dtype"
                )

    def _verify(self, partial: str | Remote) -> None:
        from leakycli.engine.verify import compare_sources

        with contextlib.closing(formats.open_source(partial)) as found:
            comparison = compare_sources(
                (self._source_path, self._source),
                (partial if isinstance(partial, str) else self._dest_path, found),
                self._options,
                run_plan=self.plan,
                processes=self._processes,
            )
        if not comparison.equal:
            raise DifferenceError(f"{comparison.message()}; nothing was published")

    def _temporary(self, report: str) -> str:
        """Where a report is written first. Only the one beside the destination is guarded by its lock; others are told by the process."""
        own = self._publication is not None and report == f"{self._dest_path}.report.json"
        return self._publication.temporary(report) if own and self._publication else f"{report}.{os.getpid()}.partial"

    def _publish(self, report: Report, stack: contextlib.ExitStack) -> None:
        text = report.to_json()
        for path in self._reports:
            temporary = self._temporary(path)
            there = self._publication is not None and self._publication.unnamed
            if not there:
                stack.callback(remove, temporary)
            try:
                if not there:
                    remove(temporary)
                with open(temporary, "w" if there else "x", encoding="utf-8") as file:
                    file.write(text)
                    if self._options.fsync:
                        file.flush()
                        os.fsync(file.fileno())
                if self._publication is None:
                    os.replace(temporary, path)
                else:
                    self._publication.companion(temporary, path)
            except OSError as error:
                raise storage_error(error, path, "cannot write") from None
        if self._publication is not None:
            self._publication.publish({"bytes": report.destination.bytes, "warnings": self._target_warnings})

    def _report(
        self, results: dict[str, ArrayResult], identity: dict[str, Any], written: int, when: tuple[datetime, float], resumed: bool
    ) -> Report:
        arrays = tuple(
            report
            for member in self._source.members
            if (member.key in results or self._format != "npy") and (report := self._array_report(member, results.get(member.key)))
        )
        read = identity.get("bytes", self.plan.bytes_in)
        seconds = when[1]
        fingerprint = {"sampled_blake2b": formats.fingerprint(self._publication.result)} if self._publication else None
        planned = self.plan
        cost = Cost(
            started=when[0].isoformat(timespec="seconds"),
            seconds=round(seconds, 6),
            bytes_read=read,
            bytes_written=written,
            throughput=round((read + written) / seconds, 1),
            workers=planned.workers,
            engine="threads" if self._processes is None else "processes",
            codec_pipeline=", ".join(sorted({array.codec_pipeline for array in arrays if array.codec_pipeline})) or None,
            memory_bound=planned.memory.bound,
            memory_projected=planned.memory.projected,
            memory_measured=system.peak_resident() + (self._processes.peak_resident() if self._processes is not None else 0),
        )
        return Report(
            version=__version__,
            command=self._options.command,
            parameters=self._options.parameters(),
            source=Endpoint(redacted(self._source_path), self._source.format, read, identity or None),
            destination=Endpoint(redacted(self._dest_path), self._format, written, fingerprint),
            arrays=arrays,
            cost=cost,
            resumed=resumed,
            verified=self._options.verify,
            warnings=(*self._warnings(), *self._target_warnings),
        )

    def _array_report(self, member: Member, result: ArrayResult | None) -> ArrayReport | None:
        """What became of a member; None where it is no array, or one of which nothing is known."""
        if member.array is not None:
            pipeline = self._pipelines.get(member.key) or None
            return _array_report(member.array, self._members.get(member.key), result, self._results.get(member.key), pipeline)
        if (outline := member.outline) is not None:
            return ArrayReport.copied(member.name, outline.shape, "C", outline.dtype, outline.chunking)
        return None


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """The values in nested objects, by their paths."""
    if not isinstance(value, dict):
        return {name: value}
    return {path: inner for key, item in value.items() for path, inner in _flat(item, f"{name}.{key}" if name else key).items()}


def _family(format: str) -> str:
    """A format apart from how it is packed."""
    return format.removesuffix(".zip")


def _array_report(
    array: ArrayInfo, rule: Rule | None, result: ArrayResult | None, written: ArrayInfo | None, pipeline: str | None
) -> ArrayReport:
    order = "F" if array.fortran else "C"
    chunking = (written or array).chunking
    if rule is None or result is None:
        return ArrayReport.copied(array.name, array.shape, order, array.dtype.name, chunking)
    stride = sample_stride(rule, array.size)
    return ArrayReport(
        name=array.name,
        action="transformed",
        shape=array.shape,
        order=order,
        chunks=None if chunking is None else chunking.chunks,
        shards=None if chunking is None else chunking.shards,
        codecs=None if chunking is None else chunking.codecs,
        codec_pipeline=pipeline,
        dtype_before=array.dtype.name,
        dtype_after=rule.dtype.name,
        factor=rule.factor,
        before=Statistics.of(result.before),
        after=Statistics.of(result.after),
        losses=result.losses,
        histogram_before=Distribution.of(result.histogram_before, stride),
        histogram_after=Distribution.of(result.histogram_after, stride),
    )
