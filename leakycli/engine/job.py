"""One source on its way to one destination: check, plan, transform, verify, publish."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from typing import Any

from leakycli import formats, stopping
from leakycli.destination.journal import Past
from leakycli.engine import events, resuming
from leakycli.engine.plan import GridPlan, Plan
from leakycli.engine.preview import Preview, previewed
from leakycli.engine.reporting import Clock, Written, reported
from leakycli.engine.request import opened
from leakycli.engine.tasks import planned
from leakycli.engine.writing import Meter, Writing
from leakycli.errors import (
    CorruptError,
    DifferenceError,
    LeakyError,
    LossError,
    StorageError,
    UnsupportedError,
    UsageError,
    counted,
    place,
    shown,
    storage_error,
)
from leakycli.function.sample import stride
from leakycli.options import Options
from leakycli.report import renderer
from leakycli.report.model import Report


class Job:
    """One source on its way to one destination: opened, checked and planned when made, before anything is written."""

    def __init__(self, source: str, dest: str, options: Options) -> None:
        """Raises an error of `leakycli.errors` where the run cannot be done."""
        self._found: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            self.request = stack.enter_context(opened(source, dest, options))
            with formats.unchanged(self.request.source, source):
                self.work = planned(self.request)
            self._stack = stack.pop_all()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def plan(self) -> Plan:
        return self.work.plan

    def check(self) -> None:
        """What a run finds out when it begins to write, found out without writing. Raises StorageError, UsageError."""
        request, destination = self.request, self.request.destination
        left, wanted = destination.partial, request.options.resume or request.options.overwrite
        if destination.resumable and not wanted and isinstance(left, str) and os.path.lexists(left):
            raise UsageError(
                f"{shown(request.dest_path)}: an unfinished run left {shown(left)}; continue with --resume, or start again with --overwrite"
            )
        folders = [os.path.dirname(path) or "." for path in request.reports if not formats.is_url(path)]
        if destination.revocable and not formats.is_url(request.dest_path):
            folders.append(os.path.dirname(destination.dest) or ".")
            destination.check_space(*self._space(), 1.0, request.format.preallocated)
        for folder in dict.fromkeys(folders):
            nearest = folder
            while not os.path.isdir(nearest) and nearest != (above := os.path.dirname(nearest) or "."):
                nearest = above
            if not os.access(nearest, os.W_OK | os.X_OK):
                raise storage_error(OSError(errno.EACCES, os.strerror(errno.EACCES)), nearest, "cannot write to the folder")

    def preview(self) -> Preview:
        """What a run would do."""
        return previewed(self.request, self.work)

    def run(self, observe: events.Observer) -> Report:
        """Do it all. Raises an error of `leakycli.errors`; nothing is published then."""
        destination = self.request.destination
        meter = Meter(self.request.source_path, observe)
        try:
            try:
                return self._run(meter, observe)
            except OSError as error:
                if isinstance(error, (LeakyError, BrokenPipeError)):
                    raise
                raise storage_error(error, error.filename or self.request.dest_path, "cannot finish") from None
            except (CorruptError, UnsupportedError) as error:
                raise type(error)(self._named(str(error))) from None
        except StorageError as error:
            raise self._explained(error, meter) from None
        except BaseException as error:
            if not isinstance(error, LeakyError):
                if destination.complete:
                    error.add_note(f"{shown(destination.dest)} is complete")
                elif destination.kept:
                    error.add_note(destination.kept_text)
            raise

    def _run(self, meter: Meter, observe: events.Observer) -> Report:
        request, destination, clock = self.request, self.request.destination, Clock()
        observe(events.Started(request.source_path, self.plan.bytes_in))
        with contextlib.ExitStack() as stack:
            # From the first step of publishing, or of leaving, to the last, signals wait.
            hold = stack.enter_context(stopping.Hold())
            stack.enter_context(destination)
            stack.callback(hold.begin)
            past = destination.past
            if past is not None:
                with resuming.reading_journal(request):
                    resuming.check_same(request, past, self._fingerprint())
            if (report := self._finished_before()) is not None:
                observe(events.Finished(request.source_path, already=True))
                return report
            written = self._written_before(past, meter) or self._write(past, meter)
            if request.options.verify and destination.revocable and not destination.named:
                with formats.unchanged(request.source, request.source_path):
                    self._verify()
            report = reported(request, self.work, written, self._identity(), clock, past is not None)
            texts = {path: renderer(path).render(report) for path in request.reports}
            hold.begin()
            for path, text in texts.items():
                destination.report(path, text, request.is_own(path))
            destination.publish(report.destination.identity, report.destination.bytes, written.warnings)
        observe(events.Finished(request.source_path))
        return report

    def _finished_before(self) -> Report | None:
        """The report of a destination that is complete and this run's result; None where there is something to do."""
        if not self.request.options.resume or not self.request.destination.finished:
            return None
        return resuming.finished_report(self.request, self._identity)

    def _written_before(self, past: Past | None, meter: Meter) -> Written | None:
        """What an earlier run has written, where that is all, and is unchanged."""
        done = self.request.destination.published
        if past is None or done is None:
            return None
        with resuming.reading_journal(self.request):
            written = resuming.recorded(self.work, past, done)
        resuming.check_unchanged(self.request, done)
        for array in self.plan.arrays:
            meter.add(array.name, array.bytes_in, array.bytes_out, resumed=True)
        return written

    def _write(self, past: Past | None, meter: Meter) -> Written:
        """Write the destination, or what is missing of it."""
        request = self.request
        request.destination.check_space(*self._space(), 1 - (past.share if past else 0), request.format.preallocated)
        identity = self._identity()
        with formats.unchanged(request.source, request.source_path):
            written = Writing(request, self.work, past, meter).run(self._fingerprint())
            if request.source.identity(self.work.members) != identity:
                raise formats.changed(request.source_path)
        if request.options.strict:
            self._check_losses(written)
        return written

    def _verify(self) -> None:
        from leakycli.engine.verify import Side, compare_result

        partial = self.request.destination.partial
        with contextlib.closing(formats.open_source(partial)) as found:
            path = partial if isinstance(partial, str) else self.request.dest_path
            comparison = compare_result(self.request, self.work, Side(path, found))
        if not comparison.equal:
            raise DifferenceError(f"{comparison.message()}; nothing was published")

    def _check_losses(self, written: Written) -> None:
        for task in self.work.transformed:
            result = written.finished[task.key].result
            if result is not None and ((lost := result.stats.losses).overflowed or lost.clipped or lost.masked):
                masked = f", {counted(lost.masked, 'valid element')} would look missing" if lost.masked else ""
                raise LossError(
                    f"{place(self.request.source_path, task.member.name)}{counted(lost.overflowed, 'element')} overflowed and "
                    f"{lost.clipped} {'was' if lost.clipped == 1 else 'were'} clipped{masked}; nothing was written (--strict); "
                    "choose a wider --dtype"
                )

    def _identity(self) -> dict[str, Any]:
        """What tells the source from a changed one, as it was opened."""
        if not self._found:
            source = self.request.source
            self._found = source.identity(self.work.members)
            if any(self._found.get(name) != value for name, value in source.opened.items()):
                raise formats.changed(self.request.source_path)
        return self._found

    def _fingerprint(self) -> dict[str, Any]:
        return resuming.fingerprint(self.request, self.work, self._identity())

    def _space(self, everything: bool = False) -> tuple[int, int]:
        """Bytes of the result, and of what is spooled on the way; what will be compressed is left out, or counted whole."""
        space = spooled = 0
        for task in self.work.arrays:
            chunking, plan = task.result.chunking, task.plan
            if everything or (not plan.ordered_out and (chunking is None or chunking.codecs == "none")):
                space += plan.bytes_out
            if isinstance(plan, GridPlan) and plan.spool:
                spooled += plan.bytes_in if plan.ordered_in else plan.bytes_out
            if everything and task.rule is not None:
                # The journal holds the sample, in base64.
                spooled += -(-plan.size // stride(plan.size)) * plan.itemsize_in * 4 // 3
        return space, spooled

    def _named(self, text: str) -> str:
        """A message with the destination's name in place of that under which it is written."""
        destination = self.request.destination
        partial = destination.partial
        if not isinstance(partial, str) or partial == "-" or destination.complete:
            return text
        return re.sub(rf"{re.escape(shown(partial))}(?!\.(?:folder|spool|journal)\b)", lambda _: shown(destination.dest), text)

    def _explained(self, error: StorageError, meter: Meter) -> StorageError:
        """`error`, and what to do about it."""
        text, destination = self._named(str(error)), self.request.destination
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            left = 1 - meter.bytes_in / self.plan.bytes_in if self.plan.bytes_in else 1
            text += destination.no_space(*self._space(everything=True), left, self.request.format.preallocated)
        if destination.kept:
            text += f"; {destination.kept_text}"
        return type(error)(text)
