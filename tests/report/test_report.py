"""The report: strict JSON with a fixed form, and what the terminal shows of it. Golden files hold both to the byte.

To renew them after a wanted change: `LEAKYCLI_RENEW_GOLDEN=1 python -m pytest tests/report/test_report.py`, then read the diff.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import leakycli
from leakycli.function.sample import Histogram
from leakycli.function.stats import Losses
from leakycli.report.model import ArrayReport, Cost, Endpoint, Report, Statistics
from leakycli.report.terminal import line, render_report

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str, found: str) -> None:
    path = GOLDEN / name
    if os.environ.get("LEAKYCLI_RENEW_GOLDEN"):
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def fixed(report: Report) -> Report:
    """`report` without what differs from run to run."""
    cost = Cost("2026-01-02T03:04:05+00:00", 1.5, 304, 240, 362.7, 2, "avx2", None, 512 << 20, 60 << 20, 50 << 20)
    identity = {"bytes": 304, "mtime_ns": 0, "inode": 0, "header": "00"}
    return dataclasses.replace(
        report,
        version="1.2.3",
        source=dataclasses.replace(report.source, path="in.npy", identity=identity),
        destination=dataclasses.replace(report.destination, path="out.npy"),
        cost=cost,
        command=("leakycli", "apply", "in.npy", "out.npy"),
    )


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """A real run on 32 numbers and 32 NaN that become one: all means and squares are exact, so every machine gives the same digits."""
    x = np.concatenate([np.arange(-16, 15) * 0.75, [-0.0], np.full(32, np.nan)]).astype(">f8").reshape(8, 8)
    np.save(tmp_path / "in.npy", x)
    options = leakycli.Options(alpha=0.25, dtype="int32", nan=-64)
    return fixed(leakycli.apply(str(tmp_path / "in.npy"), str(tmp_path / "out.npy"), options))


def test_json_is_the_golden_file(report: Report) -> None:
    golden("report.json", report.to_json())


def test_terminal_is_the_golden_file(report: Report) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    render_report(dataclasses.replace(report, warnings=("look [red]here[/red] \x1b[31m",)), shown)
    shown.write(f"{line(report)}\n")
    shown.seek(0)
    golden("report.txt", shown.read())


def test_terminal_without_unicode_draws_no_bars(report: Report) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    render_report(report, shown)
    shown.seek(0)
    assert "distribution" not in shown.read()


def test_the_file_holds_the_report_that_apply_returns(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.arange(-3, 3, dtype="f4"))
    report = leakycli.apply(str(tmp_path / "in.npy"), str(tmp_path / "out.npy"))
    assert (tmp_path / "out.npy.report.json").read_text() == report.to_json()


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


def statistics(value: Any) -> Statistics:
    histogram = Histogram((1.0, 2.0), (1,), 0, 0, 1)
    return Statistics(1, 0, 0, 0, 1, 0, 0, 0, value, value, value, value, {"0": value, "100": 1}, histogram)


@pytest.mark.parametrize("indent", [None, 2])
def test_json_is_strict_whatever_the_numbers_and_names(indent: int | None) -> None:
    odd = "a\x00\udcff\n\"'[red]é</script>"
    array = ArrayReport(
        name=odd,
        action="transformed",
        shape=(),
        order="C",
        chunks=None,
        shards=None,
        codecs=None,
        codec_pipeline=None,
        dtype_before="float64",
        dtype_after="float64",
        factor=math.inf,
        before=statistics(-math.inf),
        after=statistics(math.nan),
        losses=Losses(),
    )
    end = Endpoint(odd, "npy", 1, None)
    cost = Cost("", math.inf, 0, 0, math.nan, 1, "avx2", None, 1, 1, 1)
    report = Report("0", None, {"alpha": 0.2}, end, end, (array,), cost, False, False, (odd,))
    text = report.to_json(indent)
    text.encode("utf-8")
    values = json.loads(text, parse_constant=refuse)
    assert values["schema_version"] == 2
    assert values["arrays"][0]["before"]["min"] == "-Infinity"
    assert values["arrays"][0]["after"]["mean"] == "NaN"
    assert values["arrays"][0]["before"]["quantiles"] == {"0": "-Infinity", "100": 1}
    assert values["arrays"][0]["before"]["histogram"] == {"edges": [1.0, 2.0], "counts": [1], "below": 0, "above": 0, "sampled": 1}
    assert values["arrays"][0]["name"].startswith("a\x00\\udcff")
    assert values == json.loads(report.to_json(None if indent else 2))


def test_integer_extremes_are_exact(tmp_path: Path) -> None:
    info = np.iinfo("i8")
    np.save(tmp_path / "in.npy", np.array([info.min, info.max, 2**53 + 1]))
    report = leakycli.apply(str(tmp_path / "in.npy"), str(tmp_path / "out.npy"), leakycli.Options(alpha=1, dtype="int64"))
    values = json.loads(report.to_json())["arrays"][0]
    assert (values["before"]["min"], values["before"]["max"]) == (info.min, info.max)
    assert (values["after"]["min"], values["after"]["max"]) == (info.min, info.max)


def test_an_array_without_elements_has_no_extremes_or_mean(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.zeros((0, 3), "f4"))
    report = leakycli.apply(str(tmp_path / "in.npy"), str(tmp_path / "out.npy"))
    before = json.loads(report.to_json())["arrays"][0]["before"]
    assert (before["count"], before["min"], before["max"], before["mean"], before["std"]) == (0, None, None, None, None)
