"""The conformance kit: what every reader, writer and executor must do. A new one is added to test_conformance.py, and that is all."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leakycli.formats import Reader, Writer
from leakycli.regions import Box, Grid, Span, spans

Array = NDArray[Any]


def flat(x: Array) -> Array:
    """The elements in memory order."""
    return x.reshape(-1, order="F" if x.flags.f_contiguous and not x.flags.c_contiguous else "C")


def same(found: Array, expected: Array) -> bool:
    return found.dtype == expected.dtype and found.tobytes() == expected.tobytes()


def cuts(size: int) -> list[list[Span]]:
    """Several ways to cut `size` elements into regions, each covering every element once."""
    return [list(spans(0, size, step)) for step in sorted({1 + size // 7, 1 + size // 2, max(size, 1)})]


def check_reader(opened: Callable[[], Reader[Span]], expected: Array) -> None:
    """`opened` gives a new reader of an array that holds `expected`."""
    elements = flat(expected)
    for regions in cuts(expected.size):
        reader = opened()
        assert reader.info.shape == expected.shape
        assert reader.info.dtype == expected.dtype
        for region in regions:
            _check_region(reader, region, elements)
        reader.finish()
        reader.close()
        reader.close()  # twice is no error
    reader = opened()
    if not reader.sequential:
        _check_any_order_any_thread(reader, elements)
    reader.close()


def _check_region(reader: Reader[Span], region: Span, elements: Array) -> None:
    itemsize = elements.itemsize
    fetched = None
    if reader.sequential:
        fetched = np.empty(region.size * itemsize, np.uint8)
        reader.fetch(region, fetched)
    tokens = []
    for span in spans(region.start, region.stop, 1 + region.size // 3):
        at = (span.start - region.start) * itemsize
        # A buffer may be larger than the span.
        buffer = np.empty(span.size * itemsize + 5, np.uint8) if fetched is None else fetched[at:]
        found, token = reader.read(span, buffer)
        assert same(found, elements[span.start : span.stop])
        tokens.append(token)
    reader.commit(tokens)


def _check_any_order_any_thread(reader: Reader[Span], elements: Array) -> None:
    regions = list(spans(0, elements.size, 1 + elements.size // 23))

    def read(span: Span) -> bool:
        found, _ = reader.read(span, np.empty(span.size * elements.itemsize, np.uint8))
        return same(found, elements[span.start : span.stop])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, regions[::-1] + regions))


def check_writer(opened: Callable[[], Writer[Span]], written: Callable[[], Array], expected: Array) -> None:
    """`opened` gives a writer to a new target for an array like `expected`; `written` completes the target and reads it by other means."""
    elements = flat(expected)
    for regions in cuts(expected.size):
        writer = opened()
        assert writer.info.shape == expected.shape
        for region in regions:
            payloads = []
            for span in spans(region.start, region.stop, 1 + region.size // 3):
                # The caller's memory is its own again after the call.
                scratch = elements[span.start : span.stop].copy()
                payloads.append(writer.write(span, scratch))
                scratch.view(np.uint8)[:] = 0xA5
            writer.commit(payloads)
        writer.finish()
        writer.close()
        writer.close()
        found = written()
        assert found.shape == expected.shape
        assert same(flat(found), elements)
    writer = opened()
    _write_any_order_any_thread(writer, elements)
    writer.finish()
    writer.close()
    assert same(flat(written()), elements)


def _write_any_order_any_thread(writer: Writer[Span], elements: Array) -> None:
    """Threads write last regions first; the commits come in order."""
    regions = list(spans(0, elements.size, 1 + elements.size // 23))

    def write(span: Span) -> Any:
        return writer.write(span, elements[span.start : span.stop])

    with ThreadPoolExecutor(4) as pool:
        payloads = list(pool.map(write, regions[::-1]))[::-1]
    for payload in payloads:
        writer.commit([payload])


def _boxes(grid: Grid, slabs: bool = False) -> list[list[Box]]:
    """Several ways to cut a grid into boxes of whole units: one by one (or thinnest slabs), joined, all at once."""
    slowest = (grid.counts[-1] if grid.reverse else grid.counts[0]) if grid.counts else 1
    least = max(grid.size // max(slowest, 1), 1) if slabs else 1
    ways = []
    for most in (least, 3 * least, max(grid.size, 1)):
        joined = grid.joined(most)
        coarse = Grid(grid.shape, tuple(u * k for u, k in zip(grid.unit, joined, strict=True)), grid.reverse)
        ways.append([coarse.box(coarse.index(number)) for number in range(coarse.size)])
    return ways


def _part(expected: Array, box: Box, fortran: bool) -> Array:
    """A copy of what is in `box`, in that memory order."""
    return np.array(expected[box.slices or ...], order="F" if fortran else "C")


def _same_values(found: Array, expected: Array) -> bool:
    return found.shape == expected.shape and same(np.ascontiguousarray(found), np.ascontiguousarray(expected))


def check_box_reader(opened: Callable[[], Reader[Box]], expected: Array, grid: Grid, ordered: bool = False) -> None:
    """`opened` gives a new reader, by boxes of `grid`, of an array that holds `expected`.

    ordered: the plan gives it slabs, front to back; so it does to all that are sequential.
    """
    probe = opened()
    sequential = probe.sequential
    probe.close()
    for boxes in _boxes(grid, slabs=sequential or ordered):
        reader = opened()
        assert (reader.info.shape, reader.info.dtype) == (expected.shape, expected.dtype)
        for box in boxes:
            # A buffer may be larger than the box, and holds anything; what is fetched has just its size.
            buffer = np.full(box.size * expected.itemsize + (0 if sequential else 5), 0xA5, np.uint8)
            if sequential:
                reader.fetch(box, buffer)
            found, token = reader.read(box, buffer)
            assert _same_values(found, expected[box.slices or ...])
            # It is viewed in the buffer: the memory that was planned for.
            assert not found.size or np.may_share_memory(found, buffer)
            reader.commit([token])
        reader.finish()
        reader.close()
        reader.close()
    if sequential:
        return
    reader = opened()

    def read(box: Box) -> bool:
        found, _ = reader.read(box, np.empty(box.size * expected.itemsize, np.uint8))
        return _same_values(found, expected[box.slices or ...])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, _boxes(grid)[0][::-1] + _boxes(grid)[1]))
    reader.close()


def check_box_writer(
    opened: Callable[[], Writer[Box]],
    written: Callable[[], Array],
    expected: Array,
    grid: Grid,
    *,
    ordered: bool = False,
) -> None:
    """`opened` gives a writer to a new target, by boxes of `grid`.

    `written` completes the target and reads it by other means. ordered: the plan gives it slabs, front to back; so it does to all that are
    sequential.
    """
    probe = opened()
    sequential = probe.sequential
    slabs = sequential or ordered
    for boxes in _boxes(grid, slabs):
        probe.close()
        writer = probe = opened()
        assert writer.info.shape == expected.shape
        for box in boxes:
            scratch = _part(expected, box, writer.info.fortran)
            payload = writer.write(box, scratch)
            # The caller's memory is its own again after the call.
            scratch.fill(77)
            writer.commit([payload])
        writer.finish()
        writer.close()
        writer.close()
        assert _same_values(written(), expected)
    writer = opened()
    boxes = _boxes(grid, slabs)[0]

    def write(box: Box) -> Any:
        return writer.write(box, _part(expected, box, writer.info.fortran))

    # Threads write the last boxes first; the commits come in order.
    with ThreadPoolExecutor(4) as pool:
        payloads = list(pool.map(write, boxes[::-1]))[::-1]
    for payload in payloads:
        writer.commit([payload])
    writer.finish()
    writer.close()
    assert _same_values(written(), expected)


class BoomError(Exception):
    pass


def check_executor(made: Callable[[], Executor]) -> None:
    """`made` gives a new executor of the `concurrent.futures` kind."""
    with made() as executor:
        futures = [executor.submit(pow, n, 2) for n in range(50)]
        assert [future.result(30) for future in futures] == [n * n for n in range(50)]
        assert list(executor.map(abs, [-1, 2, -3])) == [1, 2, 3]

    with made() as executor:
        future = executor.submit(_fail)
        # An error belongs to its future: it neither escapes from submit nor stops the others.
        error = future.exception(30)
        assert isinstance(error, BoomError)
        assert error.args == ("here",)
        assert executor.submit(pow, 3, 2).result(30) == 9
        seen: list[object] = []
        future.add_done_callback(seen.append)
        assert seen == [future]
    try:
        executor.submit(pow, 2, 2)
    except RuntimeError:
        pass
    else:
        raise AssertionError("an executor that is shut down takes no tasks")
    _check_cancel(made())


def _fail() -> None:
    raise BoomError("here")


def _hold(folder: str) -> str:
    """Say that it runs, and wait until it is released."""
    Path(folder, "started").touch()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if Path(folder, "release").exists():
            return "released"
        time.sleep(0.002)
    return "timed out"


def _check_cancel(executor: Executor) -> None:
    """What waits can be cancelled; what runs is waited for."""
    with tempfile.TemporaryDirectory() as folder:
        if type(executor).__name__ == "InlineExecutor":
            Path(folder, "release").touch()
        futures = [executor.submit(_hold, folder) for _ in range(20)]
        end = time.monotonic() + 30
        while not Path(folder, "started").exists():
            assert time.monotonic() < end
            time.sleep(0.002)
        cancelled = [future for future in futures if future.cancel()]
        Path(folder, "release").touch()
        executor.shutdown(wait=True, cancel_futures=True)
    for future in futures:
        assert future.done()
        if future in cancelled:
            try:
                future.result()
            except CancelledError:
                continue
            raise AssertionError("a cancelled future has no result")
        assert future.result() == "released"
