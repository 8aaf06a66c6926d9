"""Progress: how far, how fast over the last seconds, how long still; on a terminal, in logs, as JSON, in a notebook. Time is made here."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import leakycli
from leakycli import Finished, RegionDone, Started, progress

MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress.time, "monotonic", made)  # type: ignore[attr-defined]
    return made


def work(observe: progress.Progress, clock: Clock, seconds: int, each: int = 10 * MIB, source: str = "in.npy") -> None:
    for _ in range(seconds):
        clock.now += 1
        observe(RegionDone(source, "", each, each))


def test_the_rate_is_that_of_the_last_seconds(clock: Clock) -> None:
    observe = progress.Progress()
    observe(Started("in.npy", 1000 * MIB))
    work(observe, clock, 30)
    assert observe.rate == 20 * MIB
    assert observe.left == 70
    work(observe, clock, 30, 5 * MIB)
    assert observe.rate == pytest.approx(10 * MIB)
    assert observe.parts() == ["45 %", "450 MiB of 1000 MiB", "10 MiB/s", "1 min 50 s left"]


def test_what_an_interrupted_run_did_makes_no_rate(clock: Clock) -> None:
    observe = progress.Progress()
    observe(Started("in.npy", 1000 * MIB))
    clock.now += 0.001
    observe(RegionDone("in.npy", "", 900 * MIB, 900 * MIB, resumed=True))
    assert observe.rate == 0
    assert observe.parts() == ["90 %", "900 MiB of 1000 MiB"]
    work(observe, clock, 5)
    assert observe.rate == pytest.approx(20 * MIB, rel=0.01)
    assert observe.left == pytest.approx(5, rel=0.01)


def test_a_batch_is_followed_as_a_whole(clock: Clock) -> None:
    observe = progress.Progress(4)
    for i in range(2):
        observe(Started(f"{i}.npy", 50 * MIB))
        work(observe, clock, 5, source=f"{i}.npy")
        observe(Finished(f"{i}.npy"))
    observe(Started("2.npy", 20 * MIB))
    work(observe, clock, 1)
    assert observe.share == pytest.approx(0.625)
    assert observe.parts() == ["2 of 4", "62 %", "110 MiB read", "20 MiB/s", "7.00 s left"]
    observe.finish()
    assert observe.share == 0.75


def test_lines_come_every_ten_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.observer("auto") as observe:
        observe(Started("in\x1b.npy", 1000 * MIB))
        work(observe, clock, 25)
        observe(Finished("in.npy"))
    assert capsys.readouterr().err.splitlines() == [
        "in\\x1b.npy: 10 %, 100 MiB of 1000 MiB, 20 MiB/s, 1 min 30 s left",
        "in\\x1b.npy: 20 %, 200 MiB of 1000 MiB, 20 MiB/s, 1 min 20 s left",
    ]


@pytest.mark.parametrize(("kind", "quiet", "piped"), [("none", False, False), ("json", True, False), ("auto", False, True)])
def test_silence_is_kept(clock: Clock, capsys: pytest.CaptureFixture[str], kind: str, quiet: bool, piped: bool) -> None:
    with progress.observer(kind, quiet, piped=piped) as observe:
        observe(Started("in.npy", 1000 * MIB))
        work(observe, clock, 50)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("columns", [5, 20, 40, 80, 200])
def test_a_bar_fits_its_line(clock: Clock, monkeypatch: pytest.MonkeyPatch, columns: int, encoding: str) -> None:
    stderr = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("COLUMNS", str(columns))
    with progress.observer("bar", sources=12) as observe:
        observe(Started("a folder/with a long name of its own/in.npy", 1000 * MIB))
        work(observe, clock, 50)
        observe.clear()
        work(observe, clock, 1)
    stderr.seek(0)
    text = stderr.read()
    assert text.endswith("\r\x1b[K")
    assert text.count("\r\x1b[K") == 2
    lines = [line.removesuffix("\x1b[K") for line in text.split("\r")]
    assert max(map(len, lines)) < columns
    assert lines[-2].endswith("4 %  510 MiB read  20 MiB/s  19 min 09 s left"[-(columns - 1) :]) or columns < 80
    if columns >= 80:
        assert "0 of 12" in lines[-2]
        assert ("━" if encoding == "utf-8" else "#") in lines[-2]


def test_a_short_run_shows_no_bar(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.observer("bar") as observe:
        observe(Started("in.npy", MIB))
        clock.now += 0.4
        observe(RegionDone("in.npy", "", MIB, MIB))
        observe(Finished("in.npy"))
    assert capsys.readouterr().err == ""


def test_events_as_json(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.observer("json", sources=2) as observe:
        observe(Started("in.npy", 100))
        observe(RegionDone("in.npy", "x", 60, 30, resumed=True))
        observe(Finished("in.npy"))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert lines == [
        {"event": "started", "source": "in.npy", "bytes_in": 100, "done": 0, "total": 100, "sources_done": 0, "sources": 2},
        {"event": "region_done", "source": "in.npy", "array": "x", "bytes_in": 60, "bytes_out": 30, "resumed": True}
        | {"done": 60, "total": 100, "sources_done": 0, "sources": 2},
        {"event": "finished", "source": "in.npy", "already": False, "done": 0, "total": 0, "sources_done": 1, "sources": 2},
    ]


def test_a_notebook_shows_one_bar_that_changes(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, made: Any) -> None:
            shown.append(made._repr_html_())

    def display(made: Any, display_id: bool) -> Handle:
        assert display_id
        assert shown == []
        shown.append(made._repr_html_())
        return Handle()

    module = types.ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    for name, found in (("ipykernel", module), ("IPython", module), ("IPython.display", module)):
        monkeypatch.setitem(sys.modules, name, found)
    observe = progress.notebook()
    observe(Started("<b>.npy", 20 * MIB))
    work(observe, clock, 2)
    observe(Finished("<b>.npy"))
    assert shown[0] == '<progress value="0.500" max="1"></progress> &lt;b&gt;.npy: 50 %, 10 MiB of 20 MiB, 20 MiB/s, 1.00 s left'
    assert len(shown) == 3
    assert 'value="1.000"' in shown[-1]


def test_python_shows_progress_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "in.npy", np.zeros(10))
    seen: list[Any] = []

    class Seen(progress.Progress):
        def show(self, event: Any, now: float) -> None:
            seen.append(event)

        def close(self) -> None:
            seen.append("closed")

    monkeypatch.setattr(progress, "notebook", Seen)
    leakycli.apply(tmp_path / "in.npy", tmp_path / "out.npy", progress=True)
    assert [type(event) for event in seen] == [Started, RegionDone, Finished, str]


def test_a_resumed_run_says_what_was_done_before(small_regions: Path) -> None:
    np.save("in.npy", np.arange(40_000.0))
    seen: list[Any] = []

    def stop(event: Any) -> None:
        seen.append(event)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leakycli.apply("in.npy", "out.npy", observe=stop, workers=1)
    seen.clear()
    leakycli.apply("in.npy", "out.npy", observe=seen.append, workers=1, resume=True)
    resumed = [event.bytes_in for event in seen if isinstance(event, RegionDone) and event.resumed]
    assert sum(resumed) > 0
    assert sum(event.bytes_in for event in seen if isinstance(event, RegionDone)) == 320_000


def on_terminal(command: list[str], folder: Path) -> str:
    """What a command shows on a terminal."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        command, cwd=folder, stdout=other, stderr=other, stdin=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    )
    os.close(other)
    shown = b""
    while True:
        try:
            part = os.read(main, 1 << 16)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(main)
    assert process.wait(60) == 0
    return shown.decode()


def test_a_bar_leaves_nothing_behind_on_a_real_terminal(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.zeros(100_000))
    code = (
        "import leakycli.progress as p, leakycli.cli; p.BAR_AFTER = p.BAR_EVERY = 0;"
        "raise SystemExit(leakycli.cli._run(['apply', 'in.npy', 'out.npy']))"
    )
    shown = on_terminal([sys.executable, "-c", code], tmp_path)
    bar, _, report = shown.rpartition("\r\x1b[K")
    assert "100 %" in bar
    assert report.startswith("\x1b[1min.npy -> out.npy")
