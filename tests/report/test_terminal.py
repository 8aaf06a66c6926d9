"""What a terminal shows of a report, as golden files: wide and narrow, without colours, without Unicode."""

from __future__ import annotations

import dataclasses
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from leakycli import Report
from leakycli.report import words
from leakycli.report.figure import Axis, ceiling, heights, shares
from leakycli.report.model import Distribution
from leakycli.report.terminal import Screen, line, report_text
from tests.kit import reports
from tests.kit.golden import golden

ONE = reports.report()
ODD = reports.report(reports.odd("a [red]name[/red] \x1b[31m"), warnings=("look [red]here[/red] \x1b[31m",))
MANY = reports.many(12)
PATHS = ("out.npy.report.json",)


@pytest.mark.parametrize(("name", "report"), [("one", ONE), ("odd", ODD), ("many", MANY)])
@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("unicode", [True, False])
def test_the_screen_is_the_golden_file(name: str, report: Report, columns: int, unicode: bool) -> None:
    text = report_text(report, Screen(columns, unicode=unicode), PATHS)
    golden(f"{name}-{columns}{'' if unicode else '-ascii'}.txt", text)
    assert text.isascii() or unicode
    assert "\x1b" not in text
    long = [
        row for row in text.splitlines() if words.width(row) > columns and not row.startswith(("in dir/", "a [red]", "warning:", "report:"))
    ]
    assert not long


def test_one_array_fits_on_a_screen_of_24_lines() -> None:
    assert report_text(ONE, Screen(80), PATHS).count("\n") <= 23
    assert report_text(ODD, Screen(80), PATHS).count("\n") <= 27


def test_many_arrays_are_a_row_each() -> None:
    few, more = (report_text(reports.many(count), Screen(80)).count("\n") for count in (10, 310))
    assert more - few == 300


def test_colours_are_around_the_same_text() -> None:
    coloured = report_text(ODD, Screen(80, colour=True), PATHS)
    assert "\x1b[36m" in coloured
    assert re.sub(r"\x1b\[\d*m", "", coloured) == report_text(ODD, Screen(80), PATHS)


def on_terminal(tmp_path: Path, **env: str) -> str:
    """What `leakycli report` shows on a terminal of 80 columns."""
    (tmp_path / "r.json").write_text(ONE.to_json())
    main, other = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "leakycli", "report", "r.json"],
        cwd=tmp_path,
        env={**kept, "TERM": "xterm", "COLUMNS": "80", "PYTHONUTF8": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **env},
        stdout=other,
        stderr=other,
        stdin=subprocess.DEVNULL,
    )
    os.close(other)
    shown = b""
    with open(main, "rb", buffering=0) as terminal:
        while True:
            try:
                part = terminal.read(1 << 16)
            except OSError:
                break
            if not part:
                break
            shown += part
    assert process.wait(60) == 0
    return shown.decode().replace("\r\n", "\n")


def test_a_real_terminal_has_colours(tmp_path: Path) -> None:
    assert on_terminal(tmp_path) == report_text(ONE, Screen(80, colour=True))


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_is_to_have_none_has_no_colours(tmp_path: Path, env: dict[str, str]) -> None:
    assert on_terminal(tmp_path, **env) == report_text(ONE, Screen(80))


def test_an_ascii_locale_gets_ascii(tmp_path: Path) -> None:
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "", "NO_COLOR": "1"}
    assert on_terminal(tmp_path, **env) == report_text(ONE, Screen(80, unicode=False))


def test_a_line_of_a_batch_says_what_was_lost() -> None:
    assert line(ODD) == (
        "in dir/in.npy -> out.npy: 1,000 elements, lost: 1 overflowed, 2 underflowed, 3 clipped, 4 NaN replaced, "
        "5 became the missing value; warning: look [red]here[/red] \\x1b[31m"
    )
    assert line(ONE) == "in dir/in.npy -> out.npy: 4,000,000 elements"


def test_the_representation_is_short_and_print_shows_the_card() -> None:
    assert len(repr(reports.many(300))) < 300
    assert len(repr(reports.many(300)).splitlines()) < 4
    assert str(ONE) == report_text(ONE)
    histogram = ONE.arrays[0].before and ONE.arrays[0].before.histogram
    assert repr(histogram) == "<Distribution of 1,000,000 sampled elements: 100 bins, -3 to 3>"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (512 << 20, "512 MiB"),
        (1_500_000, "1.4 MiB"),
        (1023.99 * 1024, "1 MiB"),
    ],
)
def test_sizes_are_binary(count: float, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 7, "0.0 %"), (7, 7, "100.0 %"), (1, 10**9, "< 0.1 %"), (10**9 - 1, 10**9, "> 99.9 %"), (1, 4, "25.0 %"), (0, 0, "0.0 %")],
)
def test_something_is_never_shown_as_nothing_nor_not_all_as_all(part: int, whole: int, text: str) -> None:
    assert words.percent(part, whole) == text


def test_a_short_run_has_no_rate() -> None:
    cost = dataclasses.replace(ONE.cost, seconds=0.05)
    assert "/s" not in words.cost_words(cost, False, False)
    assert "15.3 MiB/s" in words.cost_words(ONE.cost, False, False)
    assert [words.duration(s) for s in (0.05, 1.234, 12.34, 260, 7380)] == ["50 ms", "1.23 s", "12.3 s", "4 min 20 s", "2 h 03 min"]


def test_the_axis_of_equal_bins_is_linear() -> None:
    axis = Axis(tuple(float(i) for i in range(-10, 11)))
    assert axis.ticks(5) == [(0.0, "-10"), (0.25, "-5"), (0.5, "0"), (0.75, "5"), (1.0, "10")]
    assert axis.position(-99) == 0
    assert axis.position(2.5) == pytest.approx(0.625)


def test_the_axis_of_bins_that_widen_is_logarithmic() -> None:
    axis = Axis((-1000.0, -100.0, -10.0, -1.0, 1.0, 10.0, 100.0, 1000.0))
    assert not axis.equal
    ticks = {text: position for position, text in axis.ticks(7)}
    assert ticks["0"] == 0.5
    assert ticks["100"] == pytest.approx(6 / 7)


@pytest.mark.parametrize(
    "edges",
    [
        (0.0, 0.0),
        (0.0, 5e-324),
        (-1.7e308, 0.0, 1.7e308),
        (1e12, 1e12 + 1e-3),
        (99999998.0, 1e8, 100000002.0),
        (-5e-324, 0.0, 1e308),
        (1.0, 1.0, 1.0),
    ],
)
def test_any_edges_have_an_axis(edges: tuple[float, ...]) -> None:
    axis = Axis(edges)
    ticks = axis.ticks(5)
    assert all(0 <= position <= 1 for position, _ in ticks)
    assert len({text for _, text in ticks}) == len({position for position, _ in ticks})
    assert sum(shares(Distribution(edges, (1,) * (len(edges) - 1), 0, 0, len(edges) - 1))) == pytest.approx(1)


def test_heights_hold_all_elements_in_any_number_of_columns() -> None:
    distribution = Distribution(tuple(map(float, range(101))), tuple(range(100)), 25, 25, 5000)
    for columns in (1, 7, 33, 100, 250):
        assert sum(heights(shares(distribution), columns)) * 100 / columns == pytest.approx(4950 / 5000)


def test_one_tall_bar_does_not_flatten_the_others() -> None:
    assert ceiling([0.01, 0.95, 0.02, 0.01]) == 0.02
    assert ceiling([0.2, 0.3, 0.5]) == 0.5
    assert ceiling([1.0]) == 1.0
    assert ceiling([]) == 1.0
