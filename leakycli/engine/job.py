"""One source on its way to one destination."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from leakycli import formats, stopping, system
from leakycli._version import __version__
from leakycli.destination import journal
from leakycli.destination.base import Destination
from leakycli.destination.file import FileDestination, UnnamedDestination
from leakycli.destination.journal import Journal, Past, Published, Reached
from leakycli.destination.names import check_distinct, check_reports
from leakycli.destination.stdout import StandardOutput
from leakycli.engine import events
from leakycli.engine.executors import local_executor
from leakycli.engine.plan import ArrayPlan, FlatPlan, GridPlan, Memory, Plan
from leakycli.engine.route import array_plan, copy_array, fitting_reader, fitting_writer, result_info
from leakycli.engine.transform import ArrayResult, Progress, run
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
from leakycli.formats import ArrayInfo, Begun, Chunking, Mask, Member, Reader, Source, Target, Writer
from leakycli.formats.flat import SpoolingWriter
from leakycli.function.kernel import NAME, kernel_bytes
from leakycli.function.rule import Rule
from leakycli.function.sample import result_bytes, sample_bytes, stride
from leakycli.function.stats import Losses
from leakycli.options import Options, ignored, place
from leakycli.regions import Box, Presence, Span
from leakycli.report import renderer
from leakycli.report.json import plain
from leakycli.report.model import ArrayReport, Cost, Endpoint, Report, Statistics, Versions
from leakycli.report.saved import saved_report

if TYPE_CHECKING:
    from leakycli.stores.remote import Remote

#: What requests take beside a region, as a multiple of its bytes in and out: bodies as they come in and go out, and copies of those.
REQUESTS = 1.0

#: Bytes that what is copied takes until the report is written, with its part in the report.
COPIED = 4 << 10

#: Bytes of a `.npy` up to which a run is not worth resuming: its result is made without a name and a journal, where the system allows that.
SMALL = 1 << 20


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
    kernel: str
    warnings: tuple[str, ...]

    @property
    def workers(self) -> int:
        return self.plan.workers

    @property
    def memory(self) -> Memory:
        return self.plan.memory


class Job:
    """One source on its way to one destination: opened, checked and planned when made, before anything is written."""

    def __init__(self, source: str, dest: str, options: Options) -> None:
        # A Zarr store is one thing, with or without a slash at its end.
        dest = dest.rstrip("/") if dest.rstrip("/").lower().endswith(".zarr") else dest
        self._source_path, self._dest_path, self._options = source, dest, options
        self._journal: Journal | None = None
        self._spooling: SpoolingWriter | None = None
        self._worked_bytes = 0
        self._found: dict[str, Any] = {}
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
            if report != "none":
                renderer(report)
        stdout = self._dest_path == "-"
        for given, name in ((options.strict, "--strict"), (options.verify, "--verify"), (options.resume, "--resume")):
            if given and stdout:
                raise UsageError(f"{name} cannot take back what went to standard output; name a file")
        if stdout and os.isatty(1):
            raise UsageError("standard output is a terminal, where binary data is of no use; redirect it or name a file")
        if options.fsync and stdout:
            raise UsageError("--fsync is for files; what goes to standard output is not on a disk yet")
        stream = formats.is_stream(self._source_path)
        for given, name in ((options.verify, "--verify"), (options.resume, "--resume")):
            if given and stream:
                raise UsageError(f"{name} reads the source again, which a stream ({shown(self._source_path)}) does not allow")
        self._destination = self._destination_of(self._dest_path)
        self._destination.resumable &= not stream
        self._reports = self._report_paths()
        for report in self._reports:
            self._check_report(report)
        written = {path for report in self._reports for path in self._destination.report_paths(report, self._is_own(report))}
        check_reports((report for report in self._reports if not self._is_own(report)), self._destination.touched)
        check_distinct(self._source_path, dict.fromkeys((*self._destination.touched, *sorted(written))))

    def _destination_of(self, dest: str) -> Destination:
        options = self._options
        if dest == "-":
            return StandardOutput()
        if formats.is_url(dest):
            from leakycli.destination.object_store import ObjectStoreDestination

            return ObjectStoreDestination(dest, options.storage_options, options.resume, options.fsync)
        like = None if formats.is_url(self._source_path) or formats.is_stream(self._source_path) else self._source_path
        if self._format == "npy" and self._is_small():
            return UnnamedDestination(dest, options.parents, like)
        packed = self._format == "zarr.zip"
        return FileDestination(dest, options.overwrite, options.parents, options.resume, options.fsync, like, packed)

    def _is_own(self, report: str) -> bool:
        """Whether `report` is the one beside the destination, which its lock guards."""
        return self._dest_path != "-" and report == f"{self._dest_path}.report.json"

    def _is_small(self) -> bool:
        """Whether all is done at once, so that there is nothing to keep of a run that does not end."""
        options = self._options
        kept = options.overwrite or options.resume or options.fsync or options.verify or set(options.reports) - {"none"}
        return hasattr(os, "O_TMPFILE") and not kept and formats.is_small_file(self._source_path, SMALL)

    def _report_paths(self) -> tuple[str, ...]:
        """Where reports go: beside the destination, and where asked for; each once, however it was written."""
        given = [path for path in self._options.reports if path != "none"]
        beside = [] if self._dest_path == "-" or "none" in self._options.reports else [f"{self._dest_path}.report.json"]
        if not given:
            return tuple(beside)
        return tuple({os.path.realpath(path): path for path in reversed(beside + given)}.values())[::-1]

    def _check_report(self, path: str) -> None:
        """Refuse to replace what is no report of ours."""
        if formats.is_url(path):
            if not formats.is_url(self._dest_path):
                raise UsageError(f"{shown(path)}: a report goes to a URL only where the destination does (--report)")
            text = formats.read(self._located(path))
            if text is not None and renderer(path).MARKER not in text[:200]:
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
                    ours = renderer(path).MARKER in file.read(200)
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
                if self._dest_path == "-"
                else (f"{shown(self._dest_path)} takes one", "give DEST a name in .npz or .zarr")
            )
            raise UsageError(f"{shown(self._source_path)}: holds several arrays and {takes}; {way}, or choose one with --only: {names}")
        rules = {}
        for member in chosen:
            if member.array is not None:
                rule = self._options.rule(member.array, self._source_path)
                mask = self._source.mask(member, rule)
                # Only a Zarr says what is missing in it: elsewhere no result can look so.
                into_zarr = self._format.startswith("zarr")
                rules[member.key] = rule if mask is None else mask.rule if into_zarr else replace(mask.rule, fill=None)
        return rules

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
            scratch, once, beside = 0, 0, REQUESTS * self._remote
            if rule is not None:
                scratch = kernel_bytes(rule, array.chunking is None and result.chunking is None)
                once = sample_bytes(rule, array.size)
                if self._options.verify:
                    from leakycli.engine.verify import comparing_bytes

                    scratch += comparing_bytes(rule)
                    # What was written is read again, beside what it should be.
                    beside += result.dtype.itemsize / (array.dtype.itemsize + result.dtype.itemsize)
            arrays.append(
                array_plan(
                    member.key,
                    (array, result),
                    self._ordered(member, result),
                    scratch,
                    self._stored(member),
                    beside,
                    self._remote,
                    once,
                )
            )
        try:
            read = (member for member in self._source.members if self._format != "npy" or member.key in self._members)
            held = max((member.memory for member in read), default=0)
            # Of each array until the report is written.
            held += sum(result_bytes(array.size) for array in arrays if array.name in self._members)
            held += COPIED * sum(member.key not in self._members for member in self._source.members if self._format != "npy")
            return self._options.plan(tuple(arrays), self._remote, held)
        except UsageError as error:
            raise UsageError(f"{shown(self._source_path)}: {error}") from None

    def _carried(self, member: Member) -> bool:
        return formats.carries(self._format, self._options.layout, self._source, member)

    def _stored(self, member: Member) -> Callable[[], Presence | None]:
        return lambda: self._source.stored(member)

    def _ordered(self, member: Member, result: ArrayInfo) -> tuple[bool, bool]:
        """Whether source and destination must go front to back. The checksum of a stored member is that of its bytes in order."""
        into = formats.compresses(self._format, self._options.layout, self._source, member) or not self._destination.revocable
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
        destination, left = self._destination, self._destination.partial
        if (
            destination.resumable
            and isinstance(left, str)
            and os.path.lexists(left)
            and not (self._options.resume or self._options.overwrite)
        ):
            raise UsageError(
                f"{shown(self._dest_path)}: an unfinished run left {shown(left)}; continue with --resume, or start again with --overwrite"
            )
        folders = [os.path.dirname(path) or "." for path in self._reports if not formats.is_url(path)]
        if destination.revocable and not formats.is_url(self._dest_path):
            folders.append(os.path.dirname(destination.dest) or ".")
            destination.check_space(*self._space(), 1.0, self._format == "npy")
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
            NAME,
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
            if not isinstance(error, LeakyError):
                if self._destination.complete:
                    error.add_note(f"{shown(self._destination.dest)} is complete")
                elif self._destination.kept:
                    error.add_note(self._destination.kept_text)
            raise

    def _named(self, text: str) -> str:
        """A message with the destination's name in place of that under which it is written."""
        partial = self._destination.partial
        if not isinstance(partial, str) or partial == "-" or self._destination.complete:
            return text
        return re.sub(rf"{re.escape(shown(partial))}(?!\.(?:folder|spool|journal)\b)", lambda _: shown(self._destination.dest), text)

    def _mendable(self, error: StorageError) -> StorageError:
        """`error`, and what to do about it."""
        text = self._named(str(error))
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            left = 1 - self._worked_bytes / self.plan.bytes_in if self.plan.bytes_in else 1
            text += self._destination.no_space(*self._space(everything=True), left, self._format == "npy")
        if self._destination.kept:
            text += f"; {self._destination.kept_text}"
        return type(error)(text)

    def _worked(self, observe: events.Observer) -> Report:
        started, clock = datetime.now(UTC), time.perf_counter()
        observe(events.Started(self._source_path, self.plan.bytes_in))
        destination = self._destination
        with contextlib.ExitStack() as stack:
            # From the first step of publishing, or of leaving, to the last, signals wait.
            hold = stack.enter_context(stopping.Hold())
            stack.enter_context(destination)
            stack.callback(hold.begin)
            past = destination.past
            with self._reading_journal():
                self._check_same(past)
            if (report := self._finished_before()) is not None:
                observe(events.Finished(self._source_path, already=True))
                return report
            destination.check_space(*self._space(), 1 - (past.share if past else 0), self._format == "npy")
            identity = self._identity()
            if past is not None and (done := destination.published) is not None:
                with self._reading_journal():
                    results, written = self._kept_results(past), done.bytes
                self._check_unchanged(done)
                for array in self.plan.arrays:
                    self._tell(array, array.bytes_in, array.bytes_out, observe)
                self._target_warnings = done.warnings
            else:
                with formats.unchanged(self._source, self._source_path):
                    results, written = self._written(past, stack, observe)
                    if self._source.identity(self._used()) != identity:
                        raise formats.changed(self._source_path)
                self._check_losses(results)
            if self._options.verify and destination.revocable and not destination.named:
                with formats.unchanged(self._source, self._source_path):
                    self._verify(destination.partial)
            report = self._report(results, identity, written, (started, time.perf_counter() - clock), past is not None)
            texts = {path: renderer(path).render(report) for path in self._reports}
            hold.begin()
            for path, text in texts.items():
                destination.report(path, text, self._is_own(path))
            destination.publish(report.destination.identity, report.destination.bytes, self._target_warnings)
        observe(events.Finished(self._source_path))
        return report

    def _check_unchanged(self, done: Published) -> None:
        """Raise UsageError where the result of an earlier run, which is complete, is not what that run made."""
        result = self._destination.result
        if plain(formats.fingerprint(result)) != done.digest:
            named = shown(result) if isinstance(result, str) else shown(self._destination.dest)
            raise UsageError(f"{named}: was changed since it was completed; begin anew with --overwrite (without --resume)")

    @contextlib.contextmanager
    def _reading_journal(self) -> Iterator[None]:
        """Within, what a journal says is used: it may have been made up."""
        try:
            yield
        except LeakyError:
            raise
        except journal.MALFORMED:
            raise journal.malformed(shown(self._destination.dest)) from None

    def _used(self) -> tuple[Member, ...]:
        """The members that the run reads."""
        return tuple(member for member in self._source.members if member.key in self._results or self._copied_as_is(member))

    def _copied_as_is(self, member: Member) -> bool:
        """Whether a member is taken over as it is stored."""
        return member.key not in self._results and self._format != "npy" and _family(self._format) == _family(self._source.format)

    def _identity(self) -> dict[str, Any]:
        """What tells the source from a changed one, as it was opened."""
        if not self._found:
            self._found = self._source.identity(self._used())
            if any(self._found.get(name) != value for name, value in self._source.opened.items()):
                raise formats.changed(self._source_path)
        return self._found

    def _written(self, past: Past | None, stack: contextlib.ExitStack, observe: events.Observer) -> tuple[dict[str, ArrayResult], int]:
        """Write all of the destination, or what is missing; returns the results of what was transformed and the destination's bytes."""
        destination = self._destination
        spools = any(isinstance(array, GridPlan) and array.spool for array in self.plan.arrays)
        destination.prepare(self._fingerprint(), self.plan.bytes_in, spools)
        target = formats.create_target(destination.partial, self._format, self._options.layout, past is not None, self._options.fsync)
        stack.enter_context(contextlib.closing(target))

        def ensure() -> int:
            if self._spooling is not None and self._options.fsync:
                self._spooling.flush()
            target.ensure()
            return destination.extent()

        if destination.journal is not None:
            if destination.resumable:
                self._journal = destination.journal
            destination.journal.work(ensure)
        results = self._transform(target, past, observe)
        written = target.finish()
        ensure()
        self._target_warnings = tuple(target.warnings)
        return results, written

    def _fingerprint(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        fields = {"source": self._identity(), "format": self._format, "provenance": self._options.provenance}
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
        differing = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
        if differing:
            said = ", ".join(f"{name} was {shown(str(then.get(name)))}, and is {shown(str(now.get(name)))}" for name in differing[:8])
            raise UsageError(
                f"{shown(self._dest_path)}: the unfinished run was another: {said}; "
                "give the same again, or begin anew with --overwrite (without --resume)"
            )

    def _finished_before(self) -> Report | None:
        """The report of the destination where it is there, and known to be this run's result; None where there is something to do.

        Raises UsageError where it is something else and must not be replaced.
        """
        if not self._options.resume or not self._destination.finished:
            return None
        own = next((path for path in self._reports if path.lower().endswith(".json")), f"{self._dest_path}.report.json")
        report, why = saved_report(self._located(own)), "no report says that it is what this run gives"
        if report is not None:
            then = {"source": report.source.identity, "parameters": report.parameters}
            now = plain({"source": self._identity(), "parameters": self._options.parameters()})
            found = formats.fingerprint(self._located(self._dest_path))
            differs = next((name for name, value in _flat(now).items() if _flat(then).get(name) != value), None)
            if differs is None and then == now and report.destination.identity == found:
                return report
            if differs is not None:
                why = f"its report is of another run ({differs} differs), and so no report says that it is what this run gives"
            elif then == now:
                why = "it was changed since its report was written, and so no report says that it is what this run gives"
        if not self._options.overwrite or formats.is_url(self._dest_path):
            way = "remove it, or choose another name" if formats.is_url(self._dest_path) else "give --overwrite to replace it"
            raise UsageError(f"{shown(self._dest_path)}: exists, and {why}; {way}")
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
            if everything and array.name in self._members:
                # The journal holds the sample, in base64.
                spooled += -(-array.size // stride(array.size)) * array.itemsize_in * 4 // 3
        return space, spooled

    def _transform(self, target: Target, past: Past | None, observe: events.Observer) -> dict[str, ArrayResult]:
        """Write every member in turn; returns the results of those that are transformed, by key."""
        results: dict[str, ArrayResult] = {}
        planned = {array.name: array for array in self.plan.arrays}
        with contextlib.ExitStack() as stack:
            stack.enter_context(stopping.guarded())
            executor = stack.enter_context(local_executor(self.plan.workers, self.plan.regions))
            spool = stack.enter_context(self._spool())
            for member in self._source.members:
                plan, rule = planned.get(member.key), self._members.get(member.key)
                if plan is None and not self._copied_as_is(member):
                    continue
                with self._reading_journal():
                    kept = None if past is None else past.member(member.key)
                    if kept is not None:
                        target.restore(None if plan is None else self._results[member.key], self._source, member, rule, kept.target)
                        self._pipelines[member.key] = kept.pipeline
                        if rule is not None:
                            results[member.key] = _told_result(kept.result, self._results[member.key])
                if kept is not None:
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
        start, state = None, None
        with self._reading_journal():
            reached = None if past is None else past.reached
            if rule is not None and past is not None and reached is not None and reached.key == member.key:
                recut = plan.recut(reached.cut)
                if recut is not None and recut.memory(self.plan.workers) <= max(self.plan.memory.budget, plan.memory(self.plan.workers)):
                    if type(reached.position) is not int or not 0 <= reached.position <= max(plan.size, plan.count):
                        raise ValueError("no position of the plan")
                    plan, state = recut, Begun(reached.writer)
                    start = reached.position, Progress(rule, plan.size)
                    start[1].restore(past.results())
                    if isinstance(plan, FlatPlan) and start[1].stats.before.count != reached.position:
                        raise ValueError("statistics of other elements")
                    share = reached.bytes - self._worked_bytes
                    self._tell(plan, share, share * plan.itemsize_out // plan.itemsize_in, observe)
        with contextlib.ExitStack() as stack:
            reader = stack.enter_context(contextlib.closing(self._source.reader(member)))
            with self._reading_journal() if state is not None else contextlib.nullcontext():
                writer = target.writer(self._results[member.key], self._source, member, rule, state)
            stack.enter_context(contextlib.closing(writer))
            names = {getattr(end, "pipeline", None) for end in (reader, writer)} - {None}
            self._pipelines[member.key] = " and ".join(sorted(map(str, names)))
            ends = fitting_reader(plan, reader, spool), fitting_writer(plan, writer, spool, state is not None)
            self._spooling = ends[1] if isinstance(ends[1], SpoolingWriter) else None
            try:
                if rule is not None:
                    mask = self._source.mask(member, rule) if self._format.startswith("zarr") else None
                    return self._run(plan, rule, ends, (executor, start), observe, mask if mask is not None and mask.active else None)
                copy_array(plan, ends)
                return None
            except LossError as error:
                raise LossError(f"{place(self._source_path)}{error}") from None

    def _run(
        self,
        plan: ArrayPlan[Any],
        rule: Rule,
        ends: tuple[Reader[Any], Writer[Any]],
        means: tuple[Executor, tuple[int, Progress] | None],
        observe: events.Observer,
        mask: Mask | None,
    ) -> ArrayResult:
        executor, reached = means

        def done(region: Span | Box, so_far: Progress) -> None:
            sizes = region.size * plan.itemsize_in, region.size * plan.itemsize_out
            self._worked_bytes += sizes[0]
            if self._journal is not None and plan.count > 1:
                # Copies, taken when nothing is half done: a signal may end the run at any moment.
                position, state, worked, held = plan.position(region), ends[1].state(), self._worked_bytes, so_far.held()
                self._journal.reached(Reached(plan.name, plan.cut, position, state, None, worked), held)

            observe(events.RegionDone(self._source_path, plan.name, *sizes))

        chunking = ends[0].info.chunking
        progress = run(plan, rule, ends, executor, self.plan.workers, done, reached, mask=mask)
        return progress.finish(0 if chunking is None or chunking.fill is None else chunking.fill)

    def _tell(self, plan: ArrayPlan[Any], bytes_in: int, bytes_out: int, observe: events.Observer) -> None:
        """Of what an earlier run has done."""
        self._worked_bytes += bytes_in
        observe(events.RegionDone(self._source_path, plan.name, bytes_in, bytes_out, resumed=True))

    def _note_member(self, member: Member, target: Target, result: ArrayResult | None) -> None:
        """In the journal: that it is finished."""
        if self._journal is not None:
            state, pipeline, worked = target.state(), self._pipelines.get(member.key, ""), self._worked_bytes
            self._journal.member(member.key, state, pipeline, lambda: None if result is None else result.to_json(), worked)

    def _kept_results(self, past: Past) -> dict[str, ArrayResult]:
        """What an earlier run that finished every member has told of them."""
        results = {}
        for key in past.finished:
            kept = past.member(key)
            assert kept is not None
            self._pipelines[key] = kept.pipeline
            if key in self._members:
                results[key] = _told_result(kept.result, self._results[key])
        if results.keys() != self._members.keys():
            raise ValueError("a member is missing")
        return results

    @contextlib.contextmanager
    def _spool(self) -> Iterator[str]:
        """Where an array that has to be spooled goes."""
        if not any(isinstance(array, GridPlan) and array.spool for array in self.plan.arrays):
            yield ""
        elif (path := self._destination.spool()) is not None:
            # It may be used again, and else is removed with all that is beside the destination.
            yield path
        else:
            import tempfile

            with tempfile.TemporaryDirectory(prefix="leakycli-") as folder:
                yield os.path.join(folder, "spool.npy")

    def _check_losses(self, results: dict[str, ArrayResult]) -> None:
        if not self._options.strict:
            return
        for member in self._source.members:
            lost = results[member.key].stats.losses if member.key in results else Losses()
            if lost.overflowed or lost.clipped or lost.masked:
                masked = f", {counted(lost.masked, 'valid element')} would look missing" if lost.masked else ""
                raise LossError(
                    f"{place(self._source_path, member.name)}{counted(lost.overflowed, 'element')} overflowed and {lost.clipped} "
                    f"{'was' if lost.clipped == 1 else 'were'} clipped{masked}; nothing was written (--strict); choose a wider --dtype"
                )

    def _verify(self, partial: str | Remote) -> None:
        from leakycli.engine.verify import compare_sources

        with contextlib.closing(formats.open_source(partial)) as found:
            comparison = compare_sources(
                (self._source_path, self._source),
                (partial if isinstance(partial, str) else self._dest_path, found),
                self._options,
                run_plan=self.plan,
            )
        if not comparison.equal:
            raise DifferenceError(f"{comparison.message()}; nothing was published")

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
        fingerprint = formats.fingerprint(self._destination.result) if self._destination.identifiable else None
        planned = self.plan
        cost = Cost(
            started=when[0].isoformat(timespec="seconds"),
            seconds=round(seconds, 6),
            bytes_read=read,
            bytes_written=written,
            throughput=round((read + written) / seconds, 1) if seconds > 0 else 0.0,
            workers=planned.workers,
            engine="threads",
            kernel=NAME,
            codec_path=", ".join(sorted({array.codec_path for array in arrays if array.codec_path})) or None,
            memory_bound=planned.memory.bound,
            memory_projected=planned.memory.projected,
            memory_measured=system.peak_resident(),
        )
        return Report(
            version=__version__,
            command=self._options.command,
            parameters=self._options.parameters(),
            source=Endpoint(redacted(self._source_path), self._source.format, read, identity or None),
            destination=Endpoint(redacted(self._dest_path), self._format, written, fingerprint),
            arrays=arrays,
            cost=cost,
            versions=Versions.here(),
            resumed=resumed,
            verified=self._options.verify,
            warnings=(*self._warnings(), *self._target_warnings, *_masked(arrays)),
        )

    def _array_report(self, member: Member, result: ArrayResult | None) -> ArrayReport | None:
        """What became of a member; None where it is no array, or one of which nothing is known."""
        if member.array is not None:
            pipeline = self._pipelines.get(member.key) or None
            return _array_report(member.array, self._members.get(member.key), result, self._results.get(member.key), pipeline)
        if (outline := member.outline) is not None:
            return ArrayReport.copied(member.name, outline.shape, "C", outline.dtype, outline.chunking)
        return None


def _told_result(held: Any, array: ArrayInfo) -> ArrayResult:
    """The result of an array, out of a journal. Raises one of `journal.MALFORMED` where it is none."""
    result = ArrayResult.from_json(held)
    if json.loads(json.dumps(result.to_json())) != held or result.stats.before.count != array.size:
        raise ValueError("no result")
    return result


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """The values in nested objects, by their paths."""
    if not isinstance(value, dict):
        return {name: value}
    return {path: inner for key, item in value.items() for path, inner in _flat(item, f"{name}.{key}" if name else key).items()}


def _masked(arrays: tuple[ArrayReport, ...]) -> Iterator[str]:
    """Warnings of valid elements that have become what marks a missing one."""
    for array in arrays:
        if array.losses is not None and array.losses.masked:
            where = f"array {shown(array.name)}: " if array.name else ""
            yield f"{where}{array.losses.masked} valid elements have become the fill value, and look missing"


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
    return ArrayReport(
        name=array.name,
        action="transformed",
        shape=array.shape,
        order=order,
        chunks=None if chunking is None else chunking.chunks,
        shards=None if chunking is None else chunking.shards,
        codecs=None if chunking is None else chunking.codecs,
        codec_path=pipeline,
        dtype_before=array.dtype.name,
        dtype_after=rule.dtype.name,
        factor=rule.factor,
        before=Statistics.of(result.stats.before, result.before),
        after=Statistics.of(result.stats.after, result.after),
        losses=result.stats.losses,
    )
