"""The report: strict JSON of a fixed form, by a schema that ships; what was saved is read again, of version 1 too; nothing is believed.

Golden files hold the form to the byte. To renew them after a wanted change: `LEAKYCLI_RENEW_GOLDEN=1 python -m pytest tests/report`, then
read the diff.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import numpy as np
import pytest

import leakycli
from leakycli import CorruptError, Report
from leakycli.report import model
from leakycli.report.json import parse
from tests.kit import reports
from tests.kit.golden import GOLDEN, golden
from tests.kit.schema import SCHEMA, validate


def fixed(report: Report) -> Report:
    """`report` without what differs from run to run."""
    plain = reports.report()
    return dataclasses.replace(
        report,
        version="1.2.3",
        source=dataclasses.replace(report.source, path="in.npy", identity=plain.source.identity),
        destination=dataclasses.replace(report.destination, path="out.npy"),
        cost=plain.cost,
        versions=plain.versions,
        command=("leakycli", "apply", "in.npy", "out.npy"),
    )


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """A real run on 32 numbers and 32 NaN that become one: all means and squares are exact, so every machine gives the same digits."""
    x = np.concatenate([np.arange(-16, 15) * 0.75, [-0.0], np.full(32, np.nan)]).astype(">f8").reshape(8, 8)
    np.save(tmp_path / "in.npy", x)
    return fixed(leakycli.apply(tmp_path / "in.npy", tmp_path / "out.npy", alpha=0.25, dtype="int32", nan=-64))


def test_json_is_the_golden_file(report: Report) -> None:
    golden("report.json", report.to_json())


def test_the_file_holds_the_report_that_apply_returns(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.arange(-3, 3, dtype="f4"))
    report = leakycli.apply(str(tmp_path / "in.npy"), str(tmp_path / "out.npy"))
    assert (tmp_path / "out.npy.report.json").read_text() == report.to_json()
    assert leakycli.read_report(tmp_path / "out.npy.report.json").to_json() == report.to_json()


@pytest.mark.parametrize("made", [reports.report(), reports.many(12), reports.report(reports.odd(), warnings=("w",))])
def test_what_is_written_is_read_again(made: Report) -> None:
    for text in (made.to_json(), made.to_json(indent=None)):
        read = parse(text, "x.json")
        assert read.to_json() == made.to_json()
        assert read.arrays == made.arrays
        validate(json.loads(text))


def test_a_list_of_numbers_is_on_one_line_and_an_array_on_few() -> None:
    text = reports.many(100).to_json()
    assert text.count("\n") < 100 * 20
    assert "\n" not in reports.many(100).to_json(indent=None)


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("indent", [None, 2])
def test_json_is_strict_whatever_the_numbers_and_names(indent: int | None) -> None:
    name = "a\x00\udcff\n\"'[red]é</script>"
    array = dataclasses.replace(reports.odd(name), factor=math.inf)
    assert array.after is not None
    array = dataclasses.replace(array, after=dataclasses.replace(array.after, mean=math.nan))
    made = dataclasses.replace(
        reports.report(array, warnings=(name,)), cost=dataclasses.replace(reports.report().cost, throughput=math.inf)
    )
    text = made.to_json(indent)
    text.encode("utf-8")
    values = json.loads(text, parse_constant=refuse)
    validate(values)
    assert values["arrays"][0]["before"]["min"] == "-Infinity"
    assert values["arrays"][0]["after"]["mean"] == "NaN"
    assert values["arrays"][0]["name"].startswith("a\x00\\udcff")
    assert parse(text, "x").arrays[0].factor == math.inf
    assert values == json.loads(made.to_json(None if indent else 2))


def test_integer_extremes_are_exact(tmp_path: Path) -> None:
    info = np.iinfo("i8")
    np.save(tmp_path / "in.npy", np.array([info.min, info.max, 2**53 + 1]))
    report = leakycli.apply(tmp_path / "in.npy", tmp_path / "out.npy", alpha=1, dtype="int64")
    for values in (json.loads(report.to_json()), json.loads(parse(report.to_json(), "x").to_json())):
        for side in ("before", "after"):
            assert (values["arrays"][0][side]["min"], values["arrays"][0][side]["max"]) == (info.min, info.max)


def test_an_array_without_elements_has_no_extremes_or_mean(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.zeros((0, 3), "f4"))
    report = leakycli.apply(tmp_path / "in.npy", tmp_path / "out.npy")
    before = json.loads(report.to_json())["arrays"][0]["before"]
    assert (before["count"], before["min"], before["max"], before["mean"], before["std"]) == (0, None, None, None, None)
    assert str(report)


def test_every_field_has_its_place_in_the_schema() -> None:
    places = {
        "endpoint": model.Endpoint,
        "losses": get_args(get_type_hints(model.ArrayReport)["losses"])[0],
        "histogram": model.Distribution,
        "statistics": model.Statistics,
        "array": model.ArrayReport,
        "cost": model.Cost,
        "versions": model.Versions,
    }
    for name, kind in places.items():
        assert list(SCHEMA["$defs"][name]["properties"]) == [field.name for field in dataclasses.fields(kind)], name
    own = [field.name for field in dataclasses.fields(Report)]
    assert list(SCHEMA["properties"]) == ["schema_version", "tool", *own]
    assert SCHEMA["properties"]["schema_version"] == {"const": model.SCHEMA_VERSION}


def test_a_report_of_version_1_is_read() -> None:
    old = json.loads((GOLDEN / "version1.json").read_text())
    report = leakycli.read_report(GOLDEN / "version1.json")
    validate(json.loads(report.to_json()))
    (array,), (was,) = report.arrays, old["arrays"]
    assert array.before is not None
    assert (array.before.count, array.before.nan, array.before.max) == (64, 32, 10.5)
    assert array.before.mean == was["before"]["mean"]
    assert (report.losses.nan_replaced, report.losses.masked) == (32, 0)
    histogram, quantiles = array.before.histogram, array.before.quantiles
    assert histogram is not None
    assert quantiles is not None
    assert histogram.sampled == was["histogram_before"]["sampled"]
    assert histogram.binned == sum(count for _, _, count in was["histogram_before"]["bins"])
    # As exact as its bins, a quarter of an octave: the numbers are -12 to 10.5 in steps of 0.75.
    assert quantiles["0"] == -12
    assert quantiles["100"] == 10.5
    assert quantiles["50"] == pytest.approx(-0.75, abs=0.75)
    assert "NaN" in str(report)


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(schema_version=3), "schema_version"),
        (lambda r: r.update(schema_version=True), "schema_version"),
        (lambda r: r.pop("cost"), "cost: is missing"),
        (lambda r: r.update(arrays={}), "arrays: expected a list, found an object"),
        (lambda r: r.update(warnings=["x", 3]), "warnings[1]: expected a string, found 3"),
        (lambda r: r.update(resumed="no"), "resumed: expected true or false"),
        (lambda r: r["parameters"].update(alpha="NaN"), "alpha"),
        (lambda r: r["parameters"].pop("alpha"), "alpha"),
        (lambda r: r["cost"].update(seconds=None), "cost.seconds: expected a number"),
        (lambda r: r["cost"].update(seconds=10**400), "cost.seconds: expected a number"),
        (lambda r: r["cost"].update(bytes_read=10**400), "cost.bytes_read: expected a whole number"),
        (lambda r: r["cost"].update(bytes_read=1.5), "cost.bytes_read: expected a whole number"),
        (lambda r: r["arrays"][0].update(action="eaten"), "arrays[0]: the action"),
        (lambda r: r["arrays"][0].update(shape=[-1]), "arrays[0]: a length is negative"),
        (lambda r: r["arrays"][0].update(before=None), "arrays[0]: a transformed array has"),
        (lambda r: r["arrays"][0]["before"].update(count=65), "do not add up"),
        (lambda r: r["arrays"][0]["before"].update(nan=-32), "a count is negative"),
        (lambda r: r["arrays"][0]["before"].update(mean="much"), "arrays[0].before.mean: expected a number"),
    ],
)
def test_a_tampered_report_is_refused_and_its_fault_named(version: int, change: Change, said: str) -> None:
    values = json.loads((GOLDEN / {1: "version1.json", 2: "report.json"}[version]).read_text())
    Report.from_dict(values)
    change(values)
    with pytest.raises(CorruptError) as caught:
        Report.from_dict(values)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: h.update(edges=h["edges"][1:]), "edges do not fit"),
        (lambda h: h.update(edges=[*h["edges"][1:], h["edges"][0]]), "the edges do not rise"),
        (lambda h: h["edges"].__setitem__(-1, "Infinity"), "the edges do not rise"),
        (lambda h: h["counts"].__setitem__(0, -1), "a count is negative"),
        (lambda h: h["counts"].__setitem__(0, "9"), "counts[0]: expected a whole number"),
    ],
)
def test_a_tampered_histogram_is_refused(change: Change, said: str) -> None:
    values = reports.report().to_dict()
    values = json.loads(json.dumps(values))
    change(values["arrays"][0]["before"]["histogram"])
    with pytest.raises(CorruptError, match=said.replace("[", r"\[")):
        Report.from_dict(values)


@pytest.mark.parametrize("bins", [[[0, 1]], [[1, 0, 5]], [[0, 2, 1], [1, 3, 1]], [["NaN", 1, 1]], [[0, 1, 1e30]], 7])
def test_tampered_bins_of_version_1_are_refused(bins: Any) -> None:
    values = json.loads((GOLDEN / "version1.json").read_text())
    values["arrays"][0]["histogram_before"]["bins"] = bins
    with pytest.raises(CorruptError, match="histogram_before"):
        Report.from_dict(values)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", "null", "{}", '{"schema_version": 1}', "[" * 100_000, '{"schema_version": NaN}', "9" * 5000, "\xff", '{"a": 1e999}'],
)
def test_what_is_no_report_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text, encoding="latin-1")
    with pytest.raises(CorruptError, match=r"r\.json: ") as caught:
        leakycli.read_report(tmp_path / "r.json")
    assert "\n" not in str(caught.value)
