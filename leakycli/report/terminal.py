"""What a terminal shows: a report, a plan, what `info` found. Also the plain values that `--json` prints for the latter two.

Everything that comes from a file (names, mostly) is shown escaped. Colour is used on a terminal only, unless NO_COLOR is set or TERM is
"dumb"; what Unicode draws is drawn in ASCII where the stream's encoding has no more.
"""

from __future__ import annotations

import os
import textwrap
from dataclasses import asdict, dataclass
from itertools import zip_longest
from math import prod
from typing import TYPE_CHECKING, Any, TextIO

from leakycli.errors import CorruptError, LeakyError, shown, visible
from leakycli.formats import FORMATS
from leakycli.report import figure, words
from leakycli.report.figure import Axis
from leakycli.report.model import ArrayReport, Report

if TYPE_CHECKING:
    from leakycli.api import SourceInfo
    from leakycli.engine.preview import PlannedArray, Preview
    from leakycli.engine.verify import Comparison
    from leakycli.formats import ArrayInfo, Member, Usage
    from leakycli.report.model import Distribution

#: Rows of a histogram.
ROWS = 6

_STYLES = {"bold": "1", "dim": "2", "before": "36", "after": "33", "lost": "31", "warning": "33"}


@dataclass(frozen=True, slots=True)
class Screen:
    """What a stream can show: its width in columns, whether it has colours, and more than ASCII."""

    columns: int = 80
    colour: bool = False
    unicode: bool = True

    @classmethod
    def of(cls, stream: TextIO) -> Screen:
        # Imported here: in a module's first lines it would load compression libraries for every run.
        import shutil

        environ = os.environ
        shown = stream.isatty() and environ.get("TERM") != "dumb"
        colour = not environ.get("NO_COLOR") and (shown or bool(environ.get("FORCE_COLOR")))
        encoding = (stream.encoding or "").lower().replace("-", "")
        return cls(max(shutil.get_terminal_size().columns, 20), colour, encoding.startswith("utf"))

    def paint(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colour and text.strip() else text

    @property
    def ellipsis(self) -> str:
        return "…" if self.unicode else "..."

    @property
    def levels(self) -> str:
        """How a cell of a bar is drawn, from nothing to full."""
        return " ▁▂▃▄▅▆▇█" if self.unicode else " .:#"

    @property
    def shades(self) -> str:
        """How a bar of one row is drawn, from nothing to full."""
        return " ▁▂▃▄▅▆▇█" if self.unicode else " .:-=+*#@"


def render_report(report: Report, stream: TextIO, paths: tuple[str, ...] = ()) -> None:
    """A whole report: one array as a card, several as a table. paths: where the report was written."""
    stream.write(report_text(report, Screen.of(stream), paths))


def report_text(report: Report, screen: Screen | None = None, paths: tuple[str, ...] = ()) -> str:
    """What `render_report` writes."""
    screen = screen or Screen()
    lines = [screen.paint(f"{visible(report.source.path)} -> {visible(report.destination.path)}", "bold")]
    alpha = f"alpha {report.parameters['alpha']:g}"
    if len(report.arrays) == 1 and report.transformed:
        lines += _card(report.arrays[0], alpha, screen)
    else:
        lines += [*_wrapped(_count(report, alpha), screen), "", *_table(report.arrays, screen), ""]
    lost = words.lost_words(report.losses)
    lines += _wrapped(f"lost in the cast: {lost}", screen, "lost" if lost != "nothing" else "")
    lines += _wrapped(words.cost_words(report.cost, report.verified, report.resumed), screen)
    lines += [f"report: {visible(path)}" for path in paths]
    lines += [f"{screen.paint('warning:', 'warning')} {visible(warning)}" for warning in report.warnings]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def line(report: Report) -> str:
    """A report in one line, for one of many."""
    lost = words.lost_words(report.losses)
    return (
        f"{visible(report.source.path)} -> {visible(report.destination.path)}: {words.elements(report.elements)}"
        + (f", lost: {lost}" if lost != "nothing" else "")
        + "".join(f"; warning: {visible(warning)}" for warning in report.warnings)
    )


def _wrapped(text: str, screen: Screen, style: str = "") -> list[str]:
    """`text` in lines that end between its parts, never between a number and its unit."""
    bound = text.replace(" ", "\0").replace(",\0", ", ").replace(";\0", "; ")
    lines = textwrap.wrap(bound, screen.columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [screen.paint(line.replace("\0", " "), style) if style else line.replace("\0", " ") for line in lines]


def _count(report: Report, alpha: str) -> str:
    done, copied = len(report.transformed), len(report.arrays) - len(report.transformed)
    rest = f", {copied} copied" if copied else ""
    return f"{done} array{'' if done == 1 else 's'} transformed, {alpha}{rest}, {words.elements(report.elements)}"


def _card(array: ArrayReport, alpha: str, screen: Screen) -> list[str]:
    """One array: its numbers on the left, its distribution on the right, or below where there is no room."""
    name = f"{visible(array.name)}: " if array.name else ""
    lines = _wrapped(f"{name}{words.shape(array.shape)} {words.types(array)}, {alpha}", screen)
    if (layout := words.layout(array)) and len(layout) <= screen.columns:
        lines.append(screen.paint(visible(layout), "dim"))
    numbers = _numbers(array, screen)
    beside = screen.columns - _NUMBERS - 3
    if beside < 30:
        drawing = _drawing(array, screen, screen.columns)
        return [*lines, "", *(text for text, _ in numbers), *(["", *drawing] if drawing else []), *_caption(array, screen)]
    drawing = _drawing(array, screen, beside)
    rows = zip_longest(numbers, drawing, fillvalue=None)
    joined = []
    for left, right in rows:
        text, width = left or ("", 0)
        joined.append(f"{text}{' ' * (_NUMBERS + 3 - width)}{right}" if right else text)
    return [*lines, "", *joined, *_caption(array, screen)]


#: Columns of the table of numbers: a name, before, after.
_NAME, _VALUE = 9, 12
_NUMBERS = _NAME + 2 * _VALUE + 1


def _numbers(array: ArrayReport, screen: Screen) -> list[tuple[str, int]]:
    """The table of an array's numbers: each line and its width."""
    assert array.before is not None
    assert array.after is not None
    before, after = array.before, array.after
    counted = words.paired(words.signs(before), words.signs(after))
    rows = [(name, words.percent(b, before.count), words.percent(a, after.count)) for name, b, a in counted]
    known = dict(words.values(after))
    rows += [(name, words.number(value), words.number(known.get(name))) for name, value in words.values(before)]
    head = " " * _NAME + " ".join(screen.paint(f"{name:>{_VALUE}}", name) for name in ("before", "after"))
    return [
        (head, _NUMBERS),
        *((f"{screen.paint(f'{name:{_NAME}}', 'dim')}{b:>{_VALUE}} {a:>{_VALUE}}", max(_NUMBERS, _width(b, a))) for name, b, a in rows),
    ]


def _width(before: str, after: str) -> int:
    return _NAME + max(len(before), _VALUE) + 1 + max(len(after), _VALUE)


def _drawing(array: ArrayReport, screen: Screen, columns: int) -> list[str]:
    """Two histograms, before over after, each to its own height, on one axis where they have the same edges."""
    given = (("before", figure.drawable(array.before)), ("after", figure.drawable(array.after)))
    drawn = [(name, d) for name, d in given if d is not None]
    if not drawn:
        return []
    margin = 7
    bars = min(columns - margin - 1, 100)
    of_bins = {name: figure.shares(d) for name, d in drawn}
    shared = len({d.edges for _, d in drawn}) == 1
    lines = []
    for i, (name, d) in enumerate(drawn):
        top = figure.ceiling(of_bins[name])
        # What a bar of full height stands for is said under the name.
        beginnings = [screen.paint(f"{name:{margin}}", name), screen.paint(f"{words.percent(top, 1):{margin}}", "dim")]
        for row, text in enumerate(_bars(figure.heights(of_bins[name], bars), top, screen)):
            lines.append((beginnings[row] if row < 2 else " " * margin) + screen.paint(text.rstrip(), name))
        if not shared or i == len(drawn) - 1:
            lines += [" " * margin + text for text in _axis(Axis(d.edges), bars, screen)]
    return lines


def _bars(heights: list[float], top: float, screen: Screen) -> list[str]:
    """The rows of a histogram, from the top. A bar beyond `top` is marked."""
    levels = len(screen.levels) - 1
    steps = [max(round(h / top * ROWS * levels), 1) if h else 0 for h in heights]
    rows = []
    for row in range(ROWS - 1, -1, -1):
        cells = [screen.levels[min(max(step - row * levels, 0), levels)] for step in steps]
        if row == ROWS - 1:
            cells = [_beyond(screen) if step > ROWS * levels else cell for cell, step in zip(cells, steps, strict=True)]
        rows.append("".join(cells))
    return rows


def _beyond(screen: Screen) -> str:
    return "▲" if screen.unicode else "^"


def _axis(axis: Axis, columns: int, screen: Screen) -> list[str]:
    """The axis and its labels, which do not touch."""
    line, tick = ("─", "┬") if screen.unicode else ("-", "+")
    marks, labels, end = [line] * columns, [" "] * (columns + 1), -1
    for position, text in axis.ticks(max(columns // 7, 2)):
        at = min(int(position * columns), columns - 1)
        start = min(max(at - len(text) // 2, 0), columns + 1 - len(text))
        if start > end and start >= 0:
            marks[at] = tick
            labels[start : start + len(text)] = text
            end = start + len(text)
    return ["".join(marks), "".join(labels).rstrip()]


def _caption(array: ArrayReport, screen: Screen) -> list[str]:
    """What the histogram is of, and what does not fit into it."""
    text = words.sampled(array)
    drawn = [d for s in (array.before, array.after) if (d := figure.drawable(s))]
    cut = [max(shares) for d in drawn if max(shares := figure.shares(d)) > figure.ceiling(shares)]
    if cut:
        text += f"; bars marked {_beyond(screen)} go up to {words.percent(max(cut), 1)}"
    if any(not Axis(d.edges).equal for d in drawn):
        text += "; logarithmic axis"
    return _wrapped(text, screen, "dim") if text else []


#: Columns of the table of arrays, and those that go first where there is no room for all.
_COLUMNS = ("array", "shape", "type", "negative", "min", "median", "max", "before", "after", "lost")
_OPTIONAL = ("median", "min", "max", "negative", "shape", "type", "before")
_RIGHT = {"negative", "min", "median", "max"}


def _table(arrays: tuple[ArrayReport, ...], screen: Screen) -> list[str]:
    """One row an array: what it is, how it is distributed before and after, what was lost. As many columns as there is room for."""
    rows = [_cells(array, screen) for array in arrays]
    names, widths = list(_COLUMNS), {name: max(words.width(name), *(words.width(row[name]) for row in rows)) for name in _COLUMNS}

    def room() -> int:
        return screen.columns - sum(widths[name] for name in names) - 2 * (len(names) - 1)

    if room() < 0:
        for row in rows:
            row["lost"] = row["lost in all"]
        widths["lost"] = max(4, *(len(row["lost"]) for row in rows))
    for name in _OPTIONAL:
        if widths["array"] + min(room(), 0) < min(24, widths["array"]):
            names.remove(name)
    widths["array"] += min(room(), 0)
    lines = [screen.paint("  ".join(_cell(name, widths[name], name) for name in names), "dim")]
    for row in rows:
        cells = {name: words.shortened(row[name], widths[name], screen.ellipsis) for name in names}
        lines.append("  ".join(_cell(text, widths[name], name, screen) for name, text in cells.items()))
    return lines


def _cell(text: str, columns: int, name: str, screen: Screen | None = None) -> str:
    """`text` in so many columns, as the column of this name has it."""
    pad = " " * (columns - words.width(text))
    if screen is not None and name in ("before", "after", "lost") and text != "copied":
        text = screen.paint(text, name)
    return pad + text if name in _RIGHT else text + pad


def _cells(array: ArrayReport, screen: Screen) -> dict[str, str]:
    """All cells of an array's row by the names of their columns."""
    cells = dict.fromkeys(("negative", "min", "median", "max", "before", "after"), "")
    cells |= {"array": visible(array.name) or "-", "shape": words.shape(array.shape), "type": words.types(array)}
    if array.before is None or array.losses is None:
        return cells | {"lost": "copied", "lost in all": "copied"}
    lost, in_all = words.lost_words(array.losses), sum(asdict(array.losses).values())
    cells |= {"lost": lost if in_all else "", "lost in all": f"{in_all:,}" if in_all else ""}
    cells |= {"negative": words.percent(array.before.negative, array.before.count)}
    cells |= {name: words.number(value) for name, value in words.values(array.before) if name in cells}
    drawn = [(name, figure.drawable(s)) for name, s in (("before", array.before), ("after", array.after))]
    return cells | {name: _spark(d, 10, screen) for name, d in drawn if d is not None}


def _spark(distribution: Distribution, columns: int, screen: Screen) -> str:
    """A histogram of one row."""
    heights, levels = figure.heights(figure.shares(distribution), columns), len(screen.shades) - 1
    top = figure.ceiling(heights)
    return "".join(screen.shades[min(max(round(h / top * levels), 1), levels)] if h else " " for h in heights)


def plan_values(preview: Preview) -> dict[str, Any]:
    """What a run would do as plain JSON values; sizes in bytes."""
    plan = preview.plan
    return {
        "source": visible(preview.source),
        "destination": visible(preview.destination),
        "source_format": preview.source_format,
        "destination_format": preview.destination_format,
        "alpha": preview.alpha,
        "bytes_in": plan.bytes_in,
        "bytes_out": plan.bytes_out,
        "regions": plan.regions,
        "workers": plan.workers,
        "kernel": preview.kernel,
        "memory_bound": plan.memory.bound,
        "memory_projected": plan.memory.projected,
        "arrays": [_planned(array) for array in preview.arrays],
        "warnings": [visible(warning) for warning in preview.warnings],
    }


def _planned(array: PlannedArray) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": visible(array.name),
        "action": array.action,
        "shape": list(array.shape),
        "order": array.order,
        "dtype_before": array.dtype_before,
        "dtype_after": array.dtype_after,
        "factor": array.factor,
        "elements": prod(array.shape),
        "part_elements": array.part_elements,
        "regions": array.regions,
    }
    if (chunking := array.chunking) is not None:
        shards = None if chunking.shards is None else list(chunking.shards)
        values |= {"chunks": list(chunking.chunks), "shards": shards, "codecs": chunking.codecs}
    return values


def render_plan(values: dict[str, Any], stream: TextIO) -> None:
    """What `plan_values` says."""
    _say(
        stream,
        f"{values['source']} ({values['source_format']}) -> {values['destination']} ({values['destination_format']}), "
        f"alpha {values['alpha']:g} (dry run: nothing is written)",
    )
    for array in values["arrays"]:
        name = f"{array['name']}: " if array["name"] else ""
        copied = array["action"] == "copied"
        types = (array["dtype_before"], array["dtype_after"])
        chunks = f", {_chunks(array)}, {array['codecs']}" if "chunks" in array else f", {array['order']} order"
        _say(
            stream,
            f"{name}{words.shape(tuple(array['shape']))} {types[0] if types[0] == types[1] else ' -> '.join(types)}{chunks}, "
            + ("copied" if copied else f"{words.elements(array['elements'])} in {words.counted(array['regions'], 'region')}"),
        )
    _say(stream, f"{words.size(values['bytes_in'])} to read, {words.size(values['bytes_out'])} to write, workers {values['workers']}")
    _say(stream, f"peak memory {words.size(values['memory_projected'])} projected, bound {words.size(values['memory_bound'])}")
    for warning in values["warnings"]:
        _say(stream, f"warning: {warning}")


def _chunks(array: dict[str, Any]) -> str:
    return f"chunks {words.shape(tuple(array['chunks']))}" + (
        f" in shards {words.shape(tuple(array['shards']))}" if array["shards"] else ""
    )


def info_values(path: str, found: SourceInfo) -> dict[str, Any]:
    """What `info` found as plain JSON values; bytes is None for a stream, and where there is no listing."""
    return {
        "path": visible(path),
        "format": found.format,
        "bytes": found.bytes,
        "arrays": [
            {
                "name": visible(array.name),
                "shape": list(array.shape),
                "dtype": array.dtype.name,
                "byte_order": "native" if array.dtype.isnative else "swapped",
                "order": "F" if array.fortran else "C",
                "elements": array.size,
                "bytes": array.nbytes,
            }
            | _chunked(array, found.usage.get(member.key))
            for member in found.members
            if (array := member.array) is not None
        ],
        "unsupported": [
            {"name": visible(m.name), "kind": _kind(m.problem), "problem": _bare(m, path)} for m in found.members if m.problem is not None
        ],
        "others": [visible(m.key) for m in found.members if m.array is None and m.problem is None],
        "warnings": [visible(warning) for warning in found.warnings],
    }


def _kind(problem: LeakyError) -> str:
    return "damaged" if isinstance(problem, CorruptError) else "not supported"


def _bare(member: Member, path: str) -> str:
    """The problem of a member, without the names that are shown beside it."""
    return visible(str(member.problem)).removeprefix(f"{shown(path)}: ").removeprefix(f"member {shown(member.key)}: ")


def _chunked(array: ArrayInfo, usage: Usage | None) -> dict[str, Any]:
    if array.chunking is None:
        return {}
    return {
        "chunks": list(array.chunking.chunks),
        "shards": None if array.chunking.shards is None else list(array.chunking.shards),
        "codecs": array.chunking.codecs,
        "units_stored": None if usage is None else usage.stored,
        "units": None if usage is None else usage.units,
        "bytes_stored": None if usage is None else usage.bytes,
    }


def render_info(values: dict[str, Any], stream: TextIO) -> None:
    """What `info_values` says; a hierarchy as a tree."""
    own = FORMATS[values["format"]]
    size = words.size(values["bytes"]) if values["bytes"] is not None else "a stream" if own.single else "size not known"
    _say(stream, f"{values['path']}: {own.name}, {size}")
    lines = {array["name"]: _array_line(array) for array in values["arrays"]}
    lines |= {bad["name"]: f"{bad['kind']}: {bad['problem']}" for bad in values["unsupported"]}
    lines |= {other: "group" if own.nested else "no array" for other in values["others"] if other or not own.nested}
    for name in sorted(lines, key=lambda name: name.split("/")) if own.nested else lines:
        depth, label = (name.count("/"), name.rpartition("/")[2]) if own.nested else (0, name)
        _say(stream, f"  {'  ' * depth}{f'{label}: ' if label else ''}{lines[name]}")
    for warning in values["warnings"]:
        _say(stream, f"warning: {warning}")


def render_infos(found: list[dict[str, Any]], stream: TextIO) -> None:
    """Several `info_values` as one table: a row for each source, and for each array of those that hold more than one."""
    rows = [("source", "shape", "type", "stored as", "elements", "size")]
    for values in found:
        arrays, size = values["arrays"], "" if values["bytes"] is None else words.size(values["bytes"])
        if len(arrays) == 1 and not arrays[0]["name"]:
            rows.append((values["path"], *_info_cells(arrays[0]), size))
            continue
        holds = words.counted(len(arrays), "array")
        rows.append((values["path"], "", "", f"{values['format']}, {holds}", f"{sum(a['elements'] for a in arrays):,}", size))
        stored = [array.get("bytes_stored") for array in arrays]
        sizes = [words.size(array["bytes"] if kept is None else kept) for array, kept in zip(arrays, stored, strict=True)]
        rows += [(f"  {array['name']}", *_info_cells(array), size) for array, size in zip(arrays, sizes, strict=True)]
        rows += [(f"  {bad['name']}", "", "", f"{bad['kind']}: {bad['problem']}", "", "") for bad in values["unsupported"]]
    screen = Screen.of(stream)
    widths = [max(words.width(row[i]) for row in rows) for i in range(6)]
    for number, row in enumerate(rows):
        pads = [" " * (width - words.width(text)) for text, width in zip(row, widths, strict=True)]
        cells = [pad + text if i > 3 else text + pad for i, (text, pad) in enumerate(zip(row, pads, strict=True))]
        line = "  ".join(cells).rstrip()
        if number:
            _say(stream, line)
        else:
            stream.write(f"{screen.paint(line, 'dim')}\n")
    for values in found:
        for warning in values["warnings"]:
            _say(stream, f"warning: {warning}")


def _info_cells(array: dict[str, Any]) -> tuple[str, str, str, str]:
    layout = f"{_chunks(array)}, {array['codecs']}" if "chunks" in array else f"{array['order']} order"
    swapped = ", byte-swapped" if array["byte_order"] == "swapped" else ""
    return words.shape(tuple(array["shape"])), array["dtype"], layout + swapped, f"{array['elements']:,}"


def _array_line(array: dict[str, Any]) -> str:
    swapped = ", byte-swapped" if array["byte_order"] == "swapped" else ""
    line = f"{words.shape(tuple(array['shape']))} {array['dtype']}, "
    if "chunks" not in array:
        return f"{line}{array['order']} order{swapped}, {words.elements(array['elements'])}, {words.size(array['bytes'])}"
    line += _chunks(array)
    units = "shards" if array["shards"] else "chunks"
    if array["units_stored"] is None:
        # There is no listing behind its URL.
        return f"{line}, {array['codecs']}{swapped}, {words.size(array['bytes'])}"
    return (
        f"{line}, {array['codecs']}{swapped}, {array['units_stored']:,} of {array['units']:,} {units} stored, "
        f"{words.size(array['bytes_stored'])} of {words.size(array['bytes'])}"
    )


def comparison_values(comparison: Comparison) -> dict[str, Any]:
    """What `verify` found as plain JSON values."""
    from leakycli.report.json import plain

    values = asdict(comparison)
    values["source"], values["destination"] = visible(comparison.source), visible(comparison.destination)
    result: dict[str, Any] = plain({"equal": comparison.equal} | values)
    return result


def _say(stream: TextIO, line: str) -> None:
    # Whatever of it came from a file cannot steer the terminal.
    stream.write(f"{visible(line)}\n")
