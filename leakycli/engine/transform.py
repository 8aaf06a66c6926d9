"""Run a plan: regions in flight on an executor, never more than the window; results folded in plan order; the first error cancels."""

from __future__ import annotations

import base64
import json
import mmap
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal

import numpy as np
from numpy.typing import NDArray

from leakycli import stopping
from leakycli.engine.executors import threads
from leakycli.engine.plan import ArrayPlan, R, window
from leakycli.errors import LossError
from leakycli.formats.base import Mask, Reader, Writer
from leakycli.function.kernel import Kernel
from leakycli.function.rule import Rule
from leakycli.function.sample import Distribution, Sample, stride
from leakycli.function.stats import BlockStats, Losses, NanError
from leakycli.regions import Index

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class RegionResult:
    """What one task gave: its statistics, its part of the sample, what reader and writer are to commit."""

    stats: BlockStats
    samples: tuple[Array, ...]
    tokens: tuple[Any, ...]
    payloads: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ArrayResult:
    """What is known of an array: statistics and distributions of input and output, and what the cast lost."""

    stats: BlockStats
    before: Distribution
    after: Distribution

    def to_json(self) -> list[Any]:
        """All that it holds; numbers come back the same to the bit."""
        return [part.to_json() for part in (self.stats, self.before, self.after)]

    @classmethod
    def from_json(cls, held: list[Any]) -> ArrayResult:
        """One that holds what `to_json` gave."""
        stats, before, after = held
        return cls(BlockStats.from_json(stats), Distribution.from_json(before), Distribution.from_json(after))


class Progress:
    """What is known of an array so far. It does not matter in which order or grouping its regions are added."""

    def __init__(self, rule: Rule, size: int) -> None:
        """size: elements of the array."""
        self.rule, self.size = rule, size
        self.stats = BlockStats()
        self.sample = Sample(rule, size)
        self._recorded = self._recording = 0

    def add(self, result: RegionResult) -> None:
        self.stats += result.stats
        for values in result.samples:
            self.sample.add(values)

    def held(self) -> Callable[[], dict[str, Any]]:
        """What `restore` needs to know of all so far, and of the sample what came since the journal's line before.

        The journal calls the last it was given when it writes a line. A later call to this means that the line was written.
        """
        self._recorded = max(self._recorded, self._recording)
        stats, start, stop = self.stats, self._recorded, self.sample.count

        def record() -> dict[str, Any]:
            self._recording = stop
            values = base64.b64encode(self.sample.since(start, stop)).decode()
            return {"stats": stats.to_json(), "sample": values, "sample_from": start}

        return record

    def restore(self, lines: Iterable[dict[str, Any]]) -> None:
        """Take what an earlier run held, as each of its journal's lines has it. Raises ValueError or TypeError for anything else."""
        stats: Any = None
        for line in lines:
            if line["sample_from"] == 0:
                self.sample = Sample(self.rule, self.size)
            if line["sample_from"] != self.sample.count:
                raise ValueError("a part of the sample is missing")
            self.sample.restore(base64.b64decode(line["sample"], validate=True))
            stats = line["stats"]
        self.stats = BlockStats.from_json(stats)
        if json.loads(json.dumps(self.stats.to_json())) != stats:
            raise ValueError("no statistics")
        if self.stats.before.count > self.size:
            raise ValueError("more elements than the array has")
        self._recorded = self.sample.count

    def finish(self, fill: Any) -> ArrayResult:
        """After the last region. fill: what the elements are that are not stored."""
        if missing := self.size - self.stats.before.count:
            kernel, x, y = Kernel(self.rule), np.array([fill], self.rule.source), np.empty(1, self.rule.dtype)
            kernel.add(x, y)
            self.stats += kernel.take() * missing
        return ArrayResult(self.stats, *self.sample.distributions(self.stats, fill))


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where an interrupted run came to in an array: the position of its next region, and what the regions before that gave."""

    position: int
    progress: Progress


class RegionTask(Generic[R]):
    """Reads, transforms and writes one region; each thread that runs it keeps buffers of its own in it."""

    def __init__(
        self, plan: ArrayPlan[R], rule: Rule, reader: Reader[R], writer: Writer[R], statistics: bool = True, mask: Mask | None = None
    ) -> None:
        self._parts: tuple[ArrayPlan[R], Rule, Reader[R], Writer[R]] = plan, rule, reader, writer
        self._statistics, self._mask = statistics, mask
        self._stride = stride(plan.size)
        self._local = threading.local()

    def __call__(self, region: R, fetched: Array | None) -> RegionResult:
        """Raises LossError, naming the element, where a NaN has no integer; else what reader and writer raise."""
        plan, rule, reader, writer = self._parts
        kernel, buffer, results = self._buffers()
        order: Literal["C", "F"] = "F" if writer.info.fortran else "C"
        samples, tokens, payloads, at, masked = [], [], [], 0, 0
        for part in plan.parts(region):
            if fetched is not None:
                buffer = fetched[at:]
                at += part.size * plan.itemsize_in
            x, token = reader.read(part, buffer)
            size, shape = part.size, part.shape
            y = results[:size] if shape == (size,) else results[:size].reshape(shape, order=order)
            for selection, start in plan.units(part):
                piece = x[selection]
                if self._statistics and (values := self._sample(piece, start)).size:
                    samples.append(values)
                try:
                    kernel.add(piece, y[selection])
                except NanError as error:
                    raise LossError(_nan_message(reader, rule, plan.index(part, selection, piece.shape, error.position))) from None
                if self._mask is not None:
                    masked += self._mask.apply(piece, y[selection])
            tokens.append(token)
            payloads.append(writer.write(part, y))
        stats = kernel.take()
        if masked:
            stats = replace(stats, losses=stats.losses + Losses(masked=masked))
        return RegionResult(stats, tuple(samples), tuple(tokens), tuple(payloads))

    def _sample(self, x: Array, start: int) -> Array:
        """The elements of a unit, or of a piece of one, that are in the sample. start: the flat index of its first element."""
        first = -start % self._stride
        if x.flags.c_contiguous:
            return x.reshape(-1)[first :: self._stride].astype(self._parts[1].source)
        return x[np.unravel_index(np.arange(first, x.size, self._stride), x.shape)].astype(self._parts[1].source, copy=False)

    def _buffers(self) -> tuple[Kernel, Array, Array]:
        plan, rule, reader, writer = self._parts
        if not hasattr(self._local, "buffers"):
            part = plan.largest_part
            buffer = _aligned(0 if reader.sequential else part * plan.itemsize_in)
            results = _aligned(part * plan.itemsize_out).view(writer.info.dtype)
            self._local.buffers = Kernel(rule, self._statistics), buffer, results
        buffers: tuple[Kernel, Array, Array] = self._local.buffers
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
    reader: Reader[R],
    writer: Writer[R],
    executor: Executor,
    workers: int,
    done: Callable[[R, Progress], None],
    resumed: Resumed | None = None,
    statistics: bool = True,
    mask: Mask | None = None,
) -> Progress:
    """Transform one array from the reader to the writer, calling `done` after each region in plan order, with all so far.

    executor: of threads.
    resumed: what an earlier run has done; None for a new one.
    statistics: whether those and the sample are taken.
    mask: what is done about missing elements beside the transform, None for nothing.

    Raises the error of the first region, in plan order, that has one; the regions after it are cancelled, and none is running any more
    when this returns or raises.
    """
    task = RegionTask(plan, rule, reader, writer, statistics, mask)
    start, progress = (0, Progress(rule, plan.size)) if resumed is None else (resumed.position, resumed.progress)
    most = window(workers, reader.sequential or writer.sequential)
    pending: deque[tuple[R, Array | None, Future[RegionResult]]] = deque()
    spare: list[Array] = []
    # Decoding is the longest thing that must go in order; what else must, as commits, is not to wait for it, nor it for them.
    fetcher = threads(1, "leakycli-fetch") if reader.sequential and reader.decodes and workers > 1 else None
    fetch: Future[None] | None = None

    def take_oldest() -> None:
        region, fetched, future = pending[0]
        region_result = future.result()
        reader.commit(list(region_result.tokens))
        writer.commit(list(region_result.payloads))
        progress.add(region_result)
        pending.popleft()
        if fetched is not None:
            spare.append(fetched)
        done(region, progress)

    try:
        if start and reader.cumulative:
            _read_again(plan, reader, start)
        for region in plan.regions(start):
            stopping.check()
            if len(pending) >= most:
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
    finally:
        if fetcher is not None:
            fetcher.shutdown(cancel_futures=True)
        futures = [future for _, _, future in pending]
        wait([future for future in futures if not future.cancel()])
    return progress


def _fetch(reader: Reader[R], region: R, buffer: Array, before: Future[None] | None) -> None:
    """Fetch a region, if the one before it was: after an error there is nothing to continue."""
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
