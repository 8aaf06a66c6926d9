"""Run a plan: regions in flight on an executor, never more than the window; results folded in plan order; the first error cancels."""

from __future__ import annotations

import mmap
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Literal

import numpy as np
from numpy.typing import NDArray

from leakycli import stopping
from leakycli.engine.plan import ArrayPlan, R, window
from leakycli.errors import LossError
from leakycli.formats.base import Reader, Writer
from leakycli.function.kernel import NanError
from leakycli.function.onepass import OnePass, Patterns, UnitResult, constant, sample_stride
from leakycli.function.records import Record
from leakycli.function.rule import Losses, Rule
from leakycli.function.summary import Histogram, Summary
from leakycli.regions import Index

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class RegionResult(Record):
    """What one task gave: the results of its units in order, its histograms (before, after) or patterns, what reader and writer are to
    commit."""

    units: tuple[UnitResult, ...]
    histograms: tuple[Histogram, Histogram]
    patterns: Patterns | None
    tokens: tuple[Any, ...]
    payloads: tuple[Any, ...]


@dataclass(slots=True)
class ArrayResult:
    """What is known of an array after its last region; before it, with `patterns` that wait for `settle` where it goes by table."""

    before: Summary
    after: Summary
    losses: Losses
    histogram_before: Histogram
    histogram_after: Histogram
    patterns: Patterns | None = None

    @classmethod
    def none(cls, rule: Rule) -> ArrayResult:
        """Of no elements."""
        return cls(Summary(), Summary(), Losses(), Histogram(rule.source), Histogram(rule.dtype))

    def copy(self) -> ArrayResult:
        """One that does not change with this."""
        patterns = None if self.patterns is None else self.patterns.copy()
        return replace(self, histogram_before=self.histogram_before.copy(), histogram_after=self.histogram_after.copy(), patterns=patterns)

    def to_json(self) -> list[Any]:
        """All that it holds but for the types; numbers come back the same to the bit."""
        parts = [[getattr(part, field.name) for field in fields(part)] for part in (self.before, self.after, self.losses)]
        patterns = None if self.patterns is None else self.patterns.to_json()
        return [*parts, self.histogram_before.to_json(), self.histogram_after.to_json(), patterns]

    @classmethod
    def from_json(cls, rule: Rule, held: list[Any]) -> ArrayResult:
        """One that holds what `to_json` gave."""
        before, after, losses, *histograms, patterns = held
        of_each = [Histogram.from_json(*pair) for pair in zip((rule.source, rule.dtype), histograms, strict=True)]
        waiting = None if patterns is None else Patterns.from_json(rule, patterns)
        return cls(Summary(*before), Summary(*after), Losses(*losses), of_each[0], of_each[1], waiting)

    def fold(self, result: RegionResult) -> None:
        """Take in the next region, in plan order. Unit by unit, so that how units were joined into regions leaves no trace."""
        for unit in result.units:
            self.before = self.before.merge(unit.before)
            self.after = self.after.merge(unit.after)
            self.losses += unit.losses
        self.histogram_before.merge(result.histograms[0])
        self.histogram_after.merge(result.histograms[1])
        if self.patterns is None:
            self.patterns = result.patterns
        elif result.patterns is not None:
            self.patterns.merge(result.patterns)

    def settle(self) -> None:
        """After the last region: take in what the patterns tell."""
        if self.patterns is not None:
            unit, histograms = self.patterns.results()
            self.patterns = None
            self.fold(RegionResult((unit,), histograms, None, (), ()))

    def fold_missing(self, rule: Rule, fill: Any, size: int) -> None:
        """Take in, last and as one term, those of the array's `size` elements that are not stored: all of them are `fill`."""
        if missing := size - self.before.count:
            sampled = max(missing // sample_stride(rule, size), 1)
            unit, histograms = constant(rule, fill, missing)
            if sampled != missing:
                histograms = constant(rule, fill, sampled)[1]
            self.fold(RegionResult((unit,), histograms, None, (), ()))


class RegionTask(Generic[R]):
    """Reads, transforms and writes one region. Picklable; each thread that runs it keeps buffers of its own in it."""

    def __init__(self, plan: ArrayPlan[R], rule: Rule, reader: Reader[R], writer: Writer[R]) -> None:
        self._parts: tuple[ArrayPlan[R], Rule, Reader[R], Writer[R]] = plan, rule, reader, writer
        self._local = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._parts

    def __call__(self, region: R, fetched: Array | None) -> RegionResult:
        """Raises LossError, naming the element, where a NaN has no integer; else what reader and writer raise."""
        plan, rule, reader, writer = self._parts
        one_pass, buffer, results = self._buffers()
        order: Literal["C", "F"] = "F" if writer.info.fortran else "C"
        units, tokens, payloads, at = [], [], [], 0
        with np.errstate(all="ignore"):
            for part in plan.parts(region):
                if fetched is not None:
                    buffer = fetched[at:]
                    at += part.size * plan.itemsize_in
                x, token = reader.read(part, buffer)
                size, shape = part.size, part.shape
                y = results[:size] if shape == (size,) else results[:size].reshape(shape, order=order)
                for selection, start, ends in plan.units(part):
                    piece = x[selection]
                    try:
                        one_pass.add(piece, y[selection], start)
                    except NanError as error:
                        raise LossError(_nan_message(reader, rule, plan.index(part, selection, piece.shape, error.position))) from None
                    if ends:
                        units.append(one_pass.unit())
                tokens.append(token)
                payloads.append(writer.write(part, y))
        return RegionResult(tuple(units), *one_pass.take(), tuple(tokens), tuple(payloads))

    def close(self) -> None:
        """Close reader and writer; for a copy in another process, which opened them for itself."""
        for end in self._parts[2:]:
            end.close()

    def _buffers(self) -> tuple[OnePass, Array, Array]:
        plan, rule, reader, writer = self._parts
        if not hasattr(self._local, "buffers"):
            part = plan.largest_part
            buffer = _aligned(0 if reader.sequential else part * plan.itemsize_in)
            results = _aligned(part * plan.itemsize_out).view(writer.info.dtype)
            self._local.buffers = OnePass(rule, plan.size), buffer, results
        buffers: tuple[OnePass, Array, Array] = self._local.buffers
        return buffers


def _aligned(size: int) -> Array:
    """A buffer of `size` bytes that begins at a page. The system copies into others at half the speed."""
    page = mmap.PAGESIZE
    buffer = np.empty(size + page, np.uint8)
    start = -buffer.ctypes.data % page
    return buffer[start : start + size]


def _nan_message(reader: Reader[R], rule: Rule, where: int | Index) -> str:
    index = ", ".join(map(str, reader.info.index(where) if isinstance(where, int) else where))
    name = f"array {reader.info.name!r}: " if reader.info.name else ""
    return f"{name}NaN at index [{index}] has no value in {rule.dtype.name}; say what it becomes (--nan N) or choose a floating dtype"


def run(
    plan: ArrayPlan[R],
    rule: Rule,
    ends: tuple[Reader[R], Writer[R]],
    executor: Executor,
    workers: int,
    done: Callable[[R, ArrayResult], None],
    begun: tuple[int, ArrayResult] | None = None,
) -> ArrayResult:
    """Transform one array from the reader to the writer (`ends`), calling `done` after each region in plan order, with all so far.

    executor: of threads where the reader is sequential. begun: the position from which to go on, and what the regions before it gave.
    Raises the error of the first region, in plan order, that has one; the regions after it are cancelled, and none is running any
    more when this returns or raises.
    """
    reader, writer = ends
    task = RegionTask(plan, rule, reader, writer)
    start, result = begun or (0, ArrayResult.none(rule))
    pending: deque[tuple[R, Array | None, Future[RegionResult]]] = deque()
    spare: list[Array] = []
    # Decoding is the longest thing that must go in order; what else must, as commits, is not to wait for it, nor it for them.
    fetcher = ThreadPoolExecutor(1, thread_name_prefix="leakycli-fetch") if reader.sequential and reader.decodes and workers > 1 else None
    fetch: Future[None] | None = None

    def take_oldest() -> None:
        region, fetched, future = pending[0]
        region_result = future.result()
        reader.commit(list(region_result.tokens))
        writer.commit(list(region_result.payloads))
        result.fold(region_result)
        pending.popleft()
        if fetched is not None:
            spare.append(fetched)
        done(region, result)

    try:
        if start and reader.cumulative:
            _read_again(plan, reader, start)
        for region in plan.regions(start):
            stopping.check()
            if len(pending) >= window(workers):
                take_oldest()
            fetched = None
            if reader.sequential:
                size = region.size * plan.itemsize_in
                # The last region may be shorter than the buffers that wait to be used again.
                fetched = (spare.pop() if spare else np.empty(size, np.uint8))[:size]
            if fetched is not None and fetcher is not None:
                fetch = fetcher.submit(_fetch, reader, region, fetched, fetch)
                pending.append((region, fetched, executor.submit(_when_fetched, fetch, task, region, fetched)))
                continue
            if fetched is not None:
                reader.fetch(region, fetched)
            pending.append((region, fetched, executor.submit(task, region, fetched)))
        while pending:
            stopping.check()
            take_oldest()
        reader.finish()
        writer.finish()
        result.settle()
        if (chunking := reader.info.chunking) is not None:
            result.fold_missing(rule, 0 if chunking.fill is None else chunking.fill, plan.size)
    finally:
        if fetcher is not None:
            fetcher.shutdown(cancel_futures=True)
        futures = [future for _, _, future in pending]
        wait([future for future in futures if not future.cancel()])
    return result


def _fetch(reader: Reader[R], region: R, buffer: Array, before: Future[None] | None) -> None:
    """Fetch a region, if the one before it was: after an error there is nothing to go on from."""
    if before is not None:
        before.result()
    reader.fetch(region, buffer)


def _when_fetched(fetch: Future[None], task: RegionTask[R], region: R, fetched: Array) -> RegionResult:
    fetch.result()
    return task(region, fetched)


def _read_again(plan: ArrayPlan[R], reader: Reader[R], stop: int) -> None:
    """Read the regions before the position `stop`, which a reader that must read all of an array has not read in this process."""
    for region in plan.regions():
        stopping.check()
        if plan.position(region) > stop:
            return
        buffer = np.empty(region.size * plan.itemsize_in, np.uint8)
        if reader.sequential:
            reader.fetch(region, buffer)
        for part in plan.parts(region):
            _, token = reader.read(part, buffer)
            reader.commit([token])
            buffer = buffer[part.size * plan.itemsize_in :]
