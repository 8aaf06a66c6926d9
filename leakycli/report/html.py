"""A report as one HTML page: no script, no request, the same bytes for the same report. Names are escaped by the template.

`report.html.j2` is the page; here are the numbers that it places.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from leakycli.errors import visible
from leakycli.report import figure, words
from leakycli.report.figure import Axis
from leakycli.report.model import ArrayReport, Distribution, Report, Statistics

if TYPE_CHECKING:
    from jinja2 import Environment

#: Near the beginning of every file of this kind.
MARKER = b'<meta name="generator" content="leakycli'

#: Size of a figure's plot, and of a small one in a table, in the units of its drawing.
WIDTH, HEIGHT = 440, 150
SMALL_WIDTH, SMALL_HEIGHT = 96, 24

#: Arrays that `card` shows, which a notebook keeps in its file.
CARD_ARRAYS = 20


def render(report: Report) -> str:
    """The page."""
    return _template("report.html.j2", report, report.arrays)


def card(report: Report) -> str:
    """The report as a part of a page: for notebooks."""
    return _template("card.html.j2", report, report.arrays[:CARD_ARRAYS])


def _template(name: str, report: Report, arrays: tuple[ArrayReport, ...]) -> str:
    shown = [_array(array, i) for i, array in enumerate(arrays, 1)]
    text: str = (
        _environment()
        .get_template(name)
        .render(report=report, arrays=shown, left_out=len(report.arrays) - len(shown), headline=_headline(report), made=_made(report))
    )
    return text


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("leakycli.report", "."),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cost": words.cost_words, "moment": words.moment}
    environment.globals |= {"width": WIDTH, "height": HEIGHT, "small_width": SMALL_WIDTH, "small_height": SMALL_HEIGHT}
    return environment


def _shown(value: Any) -> Any:
    """What the template places, without control characters and secrets in URLs; it escapes what HTML means by it."""
    if type(value) is not str or (value.isprintable() and "://" not in value):
        return value
    return visible(value)


def _headline(report: Report) -> list[tuple[str, str, str]]:
    """The figures that matter most: what it is, the figure, and a remark."""
    cost, done = report.cost, len(report.transformed)
    copied = len(report.arrays) - done
    speed = words.rate(cost.bytes_read + cost.bytes_written, cost.seconds)
    lost = report.losses
    total = sum(getattr(lost, name) for name in lost.__dataclass_fields__)
    arrays = f"in {done:,} array{'' if done == 1 else 's'}" + (f", {copied:,} copied" if copied else "")
    losses = (f"{total:,}", words.lost_words(lost)) if total else ("nothing", "rounding is not a loss")
    return [
        ("elements transformed", f"{report.elements:,}", arrays),
        ("lost in the cast", *losses),
        ("time", words.duration(cost.seconds), f"{speed} read and written" if speed else words.workers(cost.workers)),
        ("written", words.size(cost.bytes_written), f"{words.size(cost.bytes_read)} read"),
        ("peak memory", words.size(cost.memory_measured), f"of {words.size(cost.memory_bound)} allowed"),
    ]


def _made(report: Report) -> list[tuple[str, str]]:
    """How the result was made: names and values."""
    cost, versions = report.cost, report.versions
    ends = (("source", report.source), ("destination", report.destination))
    rows = [("parameters", ", ".join(f"{name} {_value(value)}" for name, value in _given(report).items()))]
    rows += [(name, f"{end.path} ({end.format}, {words.size(end.bytes)})") for name, end in ends]
    identities = [(f"{of} {name}", value) for of, end in ends for name, value in (end.identity or {}).items()]
    rows += [(name.replace("_", " "), words.shortened(_value(value), 64)) for name, value in identities]
    kernel = f", kernel {cost.kernel}" if cost.kernel else ""
    codecs = f", codecs by {cost.codec_path}" if cost.codec_path else ""
    rows += [("work", f"{words.workers(cost.workers)} ({cost.engine}){kernel}{codecs}")]
    memory = (("projected", cost.memory_projected), ("measured", cost.memory_measured), ("allowed", cost.memory_bound))
    rows += [("peak memory", ", ".join(f"{words.size(size)} {name}" for name, size in memory))]
    rows += [("started", words.moment(cost.started))]
    ran = ""
    if versions is not None:
        zarr = f", zarr {versions.zarr}" if versions.zarr else ""
        ran = f", Python {versions.python}, numpy {versions.numpy}{zarr}; {versions.system}"
    rows += [("versions", f"leakycli {report.version}{ran}")]
    return [*rows, ("run again", _command(report))]


def _given(report: Report) -> dict[str, Any]:
    """The parameters that say something."""
    return {name: value for name, value in report.parameters.items() if value is not None and value is not False and value not in ([], ())}


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)[:200]


def _command(report: Report) -> str:
    """What to type for the same result."""
    if report.command is not None:
        return shlex.join(report.command)
    options = "".join(f", {name}={tuple(value) if isinstance(value, list) else value!r}" for name, value in _given(report).items())
    return f"leakycli.apply({report.source.path!r}, {report.destination.path!r}{options})"


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot: its axis and what is drawn over it. Positions in units of the drawing, from the top left."""

    drawn: tuple[tuple[str, str], ...]  # name, path
    ticks: tuple[tuple[float, str], ...]
    zero: float | None
    scale: str
    cut: tuple[tuple[float, str], ...]  # bars that go beyond the top: position, label
    strips: tuple[tuple[str, dict[str, float]], ...]  # name, positions of quantiles
    logarithmic: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """One array as the page shows it."""

    id: str
    name: str
    title: str
    layout: str
    array: ArrayReport
    lost: str
    counts: tuple[tuple[str, str, str, str, str], ...]
    values: tuple[tuple[str, str, str], ...]
    plots: tuple[Plot, ...]
    small: tuple[tuple[str, str], ...]
    caption: str
    description: str
    negative: str
    missing: int


def _array(array: ArrayReport, number: int) -> Shown:
    before, after = array.before, array.after
    name = array.name
    title = f"{words.shape(array.shape)} {words.types(array).replace('->', '→')}"
    losses = words.lost_words(array.losses)
    lost = "" if losses == "nothing" else losses
    shared = (f"a{number}", name, title, words.layout(array), array, lost)
    if before is None or after is None:
        return Shown(*shared, (), (), (), (), "", "", "", 0)
    counted = words.paired(words.signs(before), words.signs(after))
    counts = tuple((n, f"{b:,}", words.percent(b, before.count), f"{a:,}", words.percent(a, after.count)) for n, b, a in counted)
    known = dict(_values(after))
    values = tuple((n, words.number(value), words.number(known.get(n))) for n, value in _values(before))
    drawn = (_plots(before, after), _small(before, after), words.sampled(array).capitalize(), _description(before, after))
    return Shown(*shared, counts, values, *drawn, words.percent(before.negative, before.count), before.missing)


def _values(s: Statistics) -> list[tuple[str, float | None]]:
    q = s.quantiles or {}
    middle = [("median" if key == "50" else f"{key} %", value) for key, value in q.items() if key not in ("0", "100")]
    return [("min", s.min), *middle, ("max", s.max), ("mean", s.mean), ("std", s.std)]


def _description(before: Statistics, after: Statistics) -> str:
    """A figure in words, for those who do not see it."""
    said = []
    for name, s in (("Before", before), ("After", after)):
        q = s.quantiles or {}
        half = (
            f", median {words.number(q['50'])}, half of the elements from {words.number(q['25'])} to {words.number(q['75'])}" if q else ""
        )
        said.append(f"{name}: from {words.number(s.min)} to {words.number(s.max)}{half}.")
    return " ".join(said)


def _plots(before: Statistics, after: Statistics) -> tuple[Plot, ...]:
    """One plot for both where their histograms have the same edges, else one each."""
    given = [(name, s, d) for name, s in (("before", before), ("after", after)) if (d := figure.drawable(s)) is not None]
    if len({d.edges for _, _, d in given}) == 1:
        return (_plot(given),)
    return tuple(_plot([one]) for one in given)


def _plot(given: Sequence[tuple[str, Statistics, Distribution]]) -> Plot:
    edges = given[0][2].edges
    axis, bars = Axis(edges), len(edges) - 1
    heights = [figure.shares(d) for _, _, d in given]
    top = figure.ceiling(*heights)
    tallest = [max(of_bin) for of_bin in zip(*heights, strict=True)]
    cut = [(_x((i + 0.5) / bars), words.percent(h, 1)) for i, h in enumerate(tallest) if h > top]
    strips = [
        (name, {key: _x(axis.position(s.quantiles[key])) for key in ("5", "25", "50", "75", "95")}) for name, s, _ in given if s.quantiles
    ]
    return Plot(
        drawn=tuple((name, _steps(h, top, WIDTH, HEIGHT)) for (name, _, _), h in zip(given, heights, strict=True)),
        ticks=tuple((_x(position), text) for position, text in axis.ticks(6)),
        zero=_x(axis.position(0.0)) if edges[0] < 0 < edges[-1] else None,
        scale=words.percent(top, 1),
        cut=tuple(cut),
        strips=tuple(strips),
        logarithmic=not axis.equal,
    )


def _x(position: float) -> float:
    return round(position * WIDTH, 1)


def _steps(heights: Sequence[float], top: float, width: int, height: int) -> str:
    """The outline of bars as a path, from the left end of the axis to the right."""
    step, parts, last = width / len(heights), [f"M0 {height}"], height
    for i, h in enumerate(heights):
        # A bar that is not empty can be seen.
        y = height - min(height, max(math.ceil(height * h / top), 1)) if h else height
        if y != last:
            parts.append(f"H{_short(i * step)}V{y}")
            last = y
    return "".join(parts) + f"H{width}V{height}Z"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _small(before: Statistics, after: Statistics) -> tuple[tuple[str, str], ...]:
    """Both histograms for the table of arrays, each to its own height."""
    found = []
    for name, s in (("before", before), ("after", after)):
        if (d := figure.drawable(s)) is not None:
            heights = figure.heights(figure.shares(d), min(32, len(d.counts)))
            found.append((name, _steps(heights, figure.ceiling(heights), SMALL_WIDTH, SMALL_HEIGHT)))
    return tuple(found)
