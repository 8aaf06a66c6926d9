"""Write the result of every task in turn, and record in the journal what is done."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from leakycli import formats, stopping
from leakycli.destination.journal import Journal, Past, Reached
from leakycli.engine import events
from leakycli.engine.executors import local_executor
from leakycli.engine.plan import ArrayPlan, FlatPlan
from leakycli.engine.reporting import TaskResult, Written
from leakycli.engine.request import Request
from leakycli.engine.resuming import reading_journal, recorded_result
from leakycli.engine.route import copy_array, fitting_reader, fitting_writer
from leakycli.engine.tasks import ArrayTask, CopyTask, Work
from leakycli.engine.transform import ArrayResult, Progress, Resumed, run
from leakycli.errors import LossError, place
from leakycli.formats import Begun, Reader, Target, Writer
from leakycli.formats.flat import SpoolingWriter
from leakycli.function.rule import Rule
from leakycli.regions import Box, Span


class Meter:
    """How many bytes of the source are done; tells the observer."""

    def __init__(self, source: str, observe: events.Observer) -> None:
        self.bytes_in = 0
        self._source, self._observe = source, observe

    def add(self, array: str, bytes_in: int, bytes_out: int, resumed: bool = False) -> None:
        """resumed: by an interrupted run, some time ago."""
        self.bytes_in += bytes_in
        self._observe(events.RegionDone(self._source, array, bytes_in, bytes_out, resumed))


@dataclass(frozen=True, slots=True)
class _Start:
    """Where the work on an array begins: its plan, and of an interrupted run where that came to and the state of its writer."""

    plan: ArrayPlan[Any]
    resumed: Resumed | None = None
    writer: Begun | None = None


class Writing:
    """The writing of one destination."""

    def __init__(self, request: Request, work: Work, past: Past | None, meter: Meter) -> None:
        """past: what an interrupted run has done; None for a new one."""
        self._request, self._work, self._past, self._meter = request, work, past, meter
        self._journal: Journal | None = request.destination.journal if request.destination.resumable else None
        self._finished: dict[str, TaskResult] = {}
        self._spooling: SpoolingWriter | None = None

    def run(self, fingerprint: dict[str, Any]) -> Written:
        """Write all, or what is missing. fingerprint: what must be the same for a run to be resumed."""
        request, destination = self._request, self._request.destination
        destination.prepare(fingerprint, self._work.plan.bytes_in, self._work.spools)
        target = formats.create_target(
            destination.partial, request.format, request.options.layout, self._past is not None, request.options.fsync
        )
        with contextlib.closing(target):

            def ensure() -> int:
                if self._spooling is not None and request.options.fsync:
                    self._spooling.flush()
                target.ensure()
                return destination.extent()

            if destination.journal is not None:
                destination.journal.work(ensure)
            self._write_all(target)
            size = target.finish()
            ensure()
            return Written(self._finished, size, tuple(target.warnings))

    def _write_all(self, target: Target) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(stopping.guarded())
            executor = stack.enter_context(local_executor(self._work.plan.workers, self._work.plan.regions))
            spool = stack.enter_context(self._spool())
            for task in self._work.tasks:
                if self._restored(task, target):
                    continue
                if isinstance(task, CopyTask):
                    target.copy(self._request.source, task.member)
                    self._finished[task.key] = TaskResult(None, "")
                else:
                    self._finished[task.key] = self._array(task, target, executor, spool)
                self._record(task.key, target)

    def _restored(self, task: ArrayTask | CopyTask, target: Target) -> bool:
        """Whether an interrupted run has finished the task; its result is then taken from the journal."""
        past = self._past
        if past is None:
            return False
        array = task if isinstance(task, ArrayTask) else None
        rule = None if array is None else array.rule
        with reading_journal(self._request):
            kept = past.member(task.key)
            result = recorded_result(past, task.key, array.array.size if array is not None and rule is not None else None)
            if kept is None or result is None:
                return False
            target.restore(None if array is None else array.result, self._request.source, task.member, rule, kept.target)
            self._finished[task.key] = result
        if array is not None:
            self._meter.add(task.key, array.plan.bytes_in, array.plan.bytes_out, resumed=True)
        return True

    def _record(self, key: str, target: Target) -> None:
        """In the journal: that the task is finished."""
        if self._journal is not None:
            done = self._finished[key]
            result = done.result
            self._journal.member(
                key, target.state(), done.pipeline, lambda: None if result is None else result.to_json(), self._meter.bytes_in
            )

    def _array(self, task: ArrayTask, target: Target, executor: Executor, spool: str) -> TaskResult:
        """Read, transform (where there is a rule) and write one array; from where an interrupted run came to, where that can be."""
        request = self._request
        start = self._start(task)
        with contextlib.ExitStack() as stack:
            reader = stack.enter_context(contextlib.closing(request.source.reader(task.member)))
            with reading_journal(request) if start.writer is not None else contextlib.nullcontext():
                writer = target.writer(task.result, request.source, task.member, task.rule, start.writer)
            stack.enter_context(contextlib.closing(writer))
            names = {getattr(side, "pipeline", None) for side in (reader, writer)} - {None}
            pipeline = " and ".join(sorted(map(str, names)))
            fitted = fitting_writer(start.plan, writer, spool, start.writer is not None)
            self._spooling = fitted if isinstance(fitted, SpoolingWriter) else None
            try:
                if task.rule is not None:
                    result = self._transform(task, task.rule, start, fitting_reader(start.plan, reader, spool), fitted, executor)
                    return TaskResult(result, pipeline)
                copy_array(start.plan, fitting_reader(start.plan, reader, spool), fitted)
                return TaskResult(None, pipeline)
            except LossError as error:
                raise LossError(f"{place(request.source_path)}{error}") from None

    def _start(self, task: ArrayTask) -> _Start:
        plan, past, workers = task.plan, self._past, self._work.plan.workers
        with reading_journal(self._request):
            reached = None if past is None else past.reached
            if past is None or reached is None or reached.key != task.key or task.rule is None:
                return _Start(plan)
            recut = plan.recut(reached.cut)
            if recut is None or recut.memory(workers) > max(self._work.plan.memory.budget, plan.memory(workers)):
                return _Start(plan)
            if type(reached.position) is not int or not 0 <= reached.position <= max(plan.size, plan.count):
                raise ValueError("no position of the plan")
            progress = Progress(task.rule, recut.size)
            progress.restore(past.results())
            if isinstance(recut, FlatPlan) and progress.stats.before.count != reached.position:
                raise ValueError("statistics of other elements")
            share = reached.bytes - self._meter.bytes_in
            self._meter.add(task.key, share, share * plan.itemsize_out // plan.itemsize_in, resumed=True)
            return _Start(recut, Resumed(reached.position, progress), Begun(reached.writer))

    def _transform(
        self, task: ArrayTask, rule: Rule, start: _Start, reader: Reader[Any], writer: Writer[Any], executor: Executor
    ) -> ArrayResult:
        plan = start.plan

        def done(region: Span | Box, so_far: Progress) -> None:
            if self._journal is not None and plan.count > 1:
                # Copies, taken when nothing is half done: a signal may end the run at any moment.
                position, state, held = plan.position(region), writer.state(), so_far.held()
                worked = self._meter.bytes_in + region.size * plan.itemsize_in
                self._journal.reached(Reached(task.key, plan.cut, position, state, None, worked), held)
            self._meter.add(task.key, region.size * plan.itemsize_in, region.size * plan.itemsize_out)

        progress = run(plan, rule, reader, writer, executor, self._work.plan.workers, done, start.resumed, mask=task.mask)
        chunking = reader.info.chunking
        return progress.finish(0 if chunking is None or chunking.fill is None else chunking.fill)

    @contextlib.contextmanager
    def _spool(self) -> Iterator[str]:
        """Where an array that has to be spooled goes."""
        if not self._work.spools:
            yield ""
        elif (path := self._request.destination.spool()) is not None:
            # It may be used again, and else is removed with all that is beside the destination.
            yield path
        else:
            import tempfile

            with tempfile.TemporaryDirectory(prefix="leakycli-") as folder:
                yield os.path.join(folder, "spool.npy")
