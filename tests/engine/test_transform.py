"""A run whose source must be decoded in order: the fetches go ahead in a thread of their own, and nothing of that can be seen."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import leakycli
from leakycli import Options
from leakycli.engine.executors import local_executor
from leakycli.engine.plan import FlatPlan
from leakycli.engine.transform import Progress, run
from leakycli.errors import CorruptError, LossError
from leakycli.formats import ArrayInfo
from leakycli.formats.npy import NpyTarget
from leakycli.function.rule import Rule
from leakycli.regions import Span
from tests.formats.test_conformance import NOWHERE
from tests.kit.observers import At

Array = NDArray[Any]

UNIT = 1 << 19  # elements of float32


class Decoding:
    """A reader of an array in memory, which says where and when it is fetched from."""

    sequential, decodes, cumulative = True, True, False

    def __init__(self, x: Array) -> None:
        self.info = ArrayInfo("", x.shape, x.dtype)
        self.x = x
        self.fetched: list[Span] = []
        self.committed = threading.Event()

    def fetch(self, region: Span, buffer: Array) -> None:
        self.fetched.append(region)
        buffer[:] = self.x[region.start : region.stop].view(np.uint8)

    def read(self, span: Span, buffer: Array) -> tuple[Array, None]:
        return np.frombuffer(buffer, self.x.dtype, span.size), None

    def commit(self, payloads: list[Any]) -> None:
        self.committed.set()

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


def ran(reader: Decoding, path: Path, dtype: str = "f4", workers: int = 2) -> Progress:
    rule = Rule.of(reader.info.dtype, dtype=dtype)
    info = ArrayInfo("", reader.info.shape, rule.dtype)
    plan = FlatPlan.of("", info.size, (reader.info.dtype.itemsize, rule.dtype.itemsize), ordered=(True, False))
    writer = NpyTarget(str(path)).writer(info, *NOWHERE)
    with local_executor(workers, plan.count) as executor:
        return run(plan, rule, reader, writer, executor, workers, lambda region, result: None)


def test_what_is_committed_does_not_wait_for_what_is_fetched(tmp_path: Path) -> None:
    class Waits(Decoding):
        def fetch(self, region: Span, buffer: Array) -> None:
            if region.start >= 2 * UNIT:
                assert self.committed.wait(30), "the first region was not committed while the third was fetched"
            super().fetch(region, buffer)

    reader = Waits(np.random.default_rng(1).standard_normal(6 * UNIT + 5, "f4"))
    ran(reader, tmp_path / "out.npy")
    assert [region.start for region in reader.fetched] == list(range(0, 6 * UNIT + 5, UNIT))
    assert np.load(tmp_path / "out.npy").tobytes() == leakycli.leaky_relu(reader.x).tobytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_one_worker_is_one_thread(tmp_path: Path, workers: int) -> None:
    class Noting(Decoding):
        def fetch(self, region: Span, buffer: Array) -> None:
            super().fetch(region, buffer)
            threads.add(threading.current_thread())

    threads: set[threading.Thread] = set()
    ran(Noting(np.ones(4 * UNIT, "f4")), tmp_path / "out.npy", workers=workers)
    assert (threads == {threading.current_thread()}) == (workers == 1)


def test_the_first_error_in_plan_order_is_raised_and_nothing_is_fetched_after_one(tmp_path: Path) -> None:
    class Ends(Decoding):
        def fetch(self, region: Span, buffer: Array) -> None:
            super().fetch(region, buffer)
            if region.start >= 2 * UNIT:
                raise CorruptError("it ends early")

    x = np.ones(8 * UNIT, "f4")
    reader = Ends(x)
    with pytest.raises(CorruptError, match=r"^it ends early$"):
        ran(reader, tmp_path / "a.npy")
    assert [region.start for region in reader.fetched] == [0, UNIT, 2 * UNIT]
    x[UNIT + 7] = np.nan
    reader = Ends(x)
    with pytest.raises(LossError, match=rf"NaN at index \[{UNIT + 7}\]"):
        ran(reader, tmp_path / "b.npy", "i4")


@pytest.mark.parametrize("broken", [False, True])
def test_no_thread_is_left(tmp_path: Path, broken: bool) -> None:
    class Slow(Decoding):
        def fetch(self, region: Span, buffer: Array) -> None:
            time.sleep(0.05)
            super().fetch(region, buffer)

    reader = Slow(np.full(4 * UNIT, np.nan if broken else 1, "f4"))
    before = threading.active_count()
    if broken:
        with pytest.raises(LossError):
            ran(reader, tmp_path / "out.npy", "i4")
    else:
        ran(reader, tmp_path / "out.npy")
    assert threading.active_count() == before
    count = len(reader.fetched)
    time.sleep(0.2)
    assert len(reader.fetched) == count


def test_a_stop_in_the_middle_is_gone_on_from(small_regions: Path) -> None:
    x = np.random.default_rng(3).standard_normal(1 << 16, "f4")
    np.savez_compressed("in.npz", x=x)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leakycli.apply("in.npz", "out.npz", Options(workers=2), observe=At(9, stop))
    leakycli.apply("in.npz", "out.npz", Options(workers=2, resume=True))
    with np.load("out.npz") as found:
        assert found["x"].tobytes() == leakycli.leaky_relu(x).tobytes()
