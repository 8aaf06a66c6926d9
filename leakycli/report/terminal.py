"""What is shown in a terminal: a report, a preview, what `info` found. Also the plain values that `--json` prints for the latter two.

Everything that comes from a file (names, mostly) is shown escaped, for the terminal as for rich's markup.
"""

from __future__ import annotations

from dataclasses import asdict
from math import prod
from typing import TYPE_CHECKING, Any, TextIO

from leakycli.errors import CorruptError, LeakyError, shown, visible
from leakycli.formats import FORMATS
from leakycli.report.model import ArrayReport, Report, Statistics

if TYPE_CHECKING:
    from rich.console import Console

    from leakycli.api import SourceInfo
    from leakycli.engine.preview import PlannedArray, Preview
    from leakycli.engine.verify import Comparison
    from leakycli.formats import ArrayInfo, Member, Usage

_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = 24


def render_report(report: Report, stream: TextIO) -> None:
    """A whole report: for each array a table of before and after, then losses, cost and warnings."""
    from rich.table import Table

    console = _console(stream)
    _say(console, f"{visible(report.source.path)} -> {visible(report.destination.path)}")
    for array in report.arrays:
        name = f"{visible(array.name)}: " if array.name else ""
        if array.losses is None:
            _say(console, f"{name}{_shape(array.shape)} {array.dtype_before}, copied")
            continue
        _say(console, f"{name}{_shape(array.shape)} {_types(array)}, alpha {report.parameters['alpha']:g}")
        table = Table(box=None, pad_edge=False)
        table.add_column("", style="dim")
        table.add_column("before", justify="right")
        table.add_column("after", justify="right")
        for label, before, after in _rows(array):
            table.add_row(label, before, after)
        if stream.encoding and stream.encoding.lower().startswith("utf"):
            table.add_row("distribution", _spark(array.before, array), _spark(array.after, array))
        console.print(table)
        lost = [f"{count:,} {kind.replace('_', ' ')}" for kind, count in asdict(array.losses).items() if count]
        _say(console, f"lost in the cast: {', '.join(lost) if lost else 'nothing'}")
    cost = report.cost
    _say(
        console,
        f"{_bytes(cost.bytes_read)} read, {_bytes(cost.bytes_written)} written in {cost.seconds:.2f} s ({_bytes(cost.throughput)}/s), "
        f"workers {cost.workers}, peak memory {_bytes(cost.memory_measured)} of {_bytes(cost.memory_bound)}"
        + (f", codecs by {cost.codec_pipeline}" if cost.codec_pipeline else "")
        + (", verified" if report.verified else ""),
    )
    for warning in report.warnings:
        _say(console, f"warning: {visible(warning)}")


def line(report: Report) -> str:
    """A report in one line, for one of many."""
    count = sum(prod(array.shape) for array in report.arrays if array.action == "transformed")
    lost = [f"{number:,} {kind.replace('_', ' ')}" for kind, number in asdict(report.losses).items() if number]
    return (
        f"{visible(report.source.path)} -> {visible(report.destination.path)}: {_counted(count, 'element')}"
        + (f", lost: {', '.join(lost)}" if lost else "")
        + "".join(f"; warning: {visible(warning)}" for warning in report.warnings)
    )


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
    console = _console(stream)
    _say(
        console,
        f"{values['source']} ({values['source_format']}) -> {values['destination']} ({values['destination_format']}), "
        f"alpha {values['alpha']:g} (dry run: nothing is written)",
    )
    for array in values["arrays"]:
        name = f"{array['name']}: " if array["name"] else ""
        copied = array["action"] == "copied"
        types = (array["dtype_before"], array["dtype_after"])
        chunks = f", {_chunks(array)}, {array['codecs']}" if "chunks" in array else f", {array['order']} order"
        _say(
            console,
            f"{name}{_shape(tuple(array['shape']))} {types[0] if types[0] == types[1] else ' -> '.join(types)}{chunks}, "
            + ("copied" if copied else f"{_counted(array['elements'], 'element')} in {_counted(array['regions'], 'region')}"),
        )
    _say(console, f"{_bytes(values['bytes_in'])} to read, {_bytes(values['bytes_out'])} to write, workers {values['workers']}")
    _say(console, f"peak memory {_bytes(values['memory_projected'])} projected, bound {_bytes(values['memory_bound'])}")
    for warning in values["warnings"]:
        _say(console, f"warning: {warning}")


def _chunks(array: dict[str, Any]) -> str:
    return f"chunks {_shape(tuple(array['chunks']))}" + (f" in shards {_shape(tuple(array['shards']))}" if array["shards"] else "")


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
    console = _console(stream)
    size = _bytes(values["bytes"]) if values["bytes"] is not None else "a stream" if FORMATS[values["format"]].single else "size not known"
    _say(console, f"{values['path']}: {values['format']}, {size}")
    nested = FORMATS[values["format"]].nested
    lines = {array["name"]: _array_line(array) for array in values["arrays"]}
    lines |= {bad["name"]: f"{bad['kind']}: {bad['problem']}" for bad in values["unsupported"]}
    lines |= {other: "group" if nested else "no array" for other in values["others"] if other or not nested}
    for name in sorted(lines, key=lambda name: name.split("/")) if nested else lines:
        depth, label = (name.count("/"), name.rpartition("/")[2]) if nested else (0, name)
        _say(console, f"  {'  ' * depth}{f'{label}: ' if label else ''}{lines[name]}")
    for warning in values["warnings"]:
        _say(console, f"warning: {warning}")


def _array_line(array: dict[str, Any]) -> str:
    swapped = ", byte-swapped" if array["byte_order"] == "swapped" else ""
    line = f"{_shape(tuple(array['shape']))} {array['dtype']}, "
    if "chunks" not in array:
        return f"{line}{array['order']} order{swapped}, {_counted(array['elements'], 'element')}, {_bytes(array['bytes'])}"
    line += _chunks(array)
    units = "shards" if array["shards"] else "chunks"
    if array["units_stored"] is None:
        # There is no listing behind its URL.
        return f"{line}, {array['codecs']}{swapped}, {_bytes(array['bytes'])}"
    return (
        f"{line}, {array['codecs']}{swapped}, {array['units_stored']:,} of {array['units']:,} {units} stored, "
        f"{_bytes(array['bytes_stored'])} of {_bytes(array['bytes'])}"
    )


def comparison_values(comparison: Comparison) -> dict[str, Any]:
    """What `verify` found as plain JSON values."""
    from leakycli.report.model import plain

    values = asdict(comparison)
    values["source"], values["destination"] = visible(comparison.source), visible(comparison.destination)
    result: dict[str, Any] = plain({"equal": comparison.equal} | values)
    return result


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            # rich would end the process here, with exit code 1.
            raise BrokenPipeError

    return Plain(file=stream, highlight=False, soft_wrap=True)


def _say(console: Console, line: str) -> None:
    # Whatever of it came from a file cannot steer the terminal.
    console.print(visible(line), markup=False, emoji=False)


def _rows(array: ArrayReport) -> list[tuple[str, str, str]]:
    assert array.before is not None
    assert array.after is not None
    before, after = asdict(array.before), asdict(array.after)
    rows = [(key, f"{before[key]:,}", f"{after[key]:,}") for key in ("count", "negative", "zero", "positive")]
    rows += [(key, f"{before[key]:,}", f"{after[key]:,}") for key in ("missing", "nan", "neginf", "posinf") if before[key] or after[key]]
    return rows + [(key, _number(before[key]), _number(after[key])) for key in ("min", "max", "mean", "std")]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _spark(side: Statistics | None, array: ArrayReport) -> str:
    """The histogram in a line of bars, over the range of the edges of before and after; what lies beyond is left out."""
    reach = [edge for one in (array.before, array.after) if one is not None and one.histogram.edges for edge in one.histogram.edges]
    if side is None or not side.histogram.edges:
        return ""
    low, high = min(reach), max(reach)
    width = (high / _COLUMNS - low / _COLUMNS) or 1.0
    heights = [0.0] * _COLUMNS
    edges = side.histogram.edges
    for lower, upper, count in zip(edges, edges[1:], side.histogram.counts, strict=False):
        # In columns, so that nothing overflows. A bin is spread over those that it covers; one within a column counts there.
        left, right = (edge / width - low / width for edge in (lower, upper))
        first, last = min(int(left), _COLUMNS - 1), min(int(right), _COLUMNS - 1)
        for column in range(first, last + 1):
            share = (min(right, column + 1) - max(left, column)) / (right - left) if last > first else 1.0
            heights[column] += count * max(share, 0.0)
    top = max(heights) or 1.0
    return "".join(_BARS[min(int(h / top * 8), 7)] if h else " " for h in heights)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{n}" for n in shape) if shape else "0-d"


def _types(array: ArrayReport) -> str:
    same = array.dtype_before == array.dtype_after
    return array.dtype_before if same else f"{array.dtype_before} -> {array.dtype_after}"


def _bytes(size: float) -> str:
    for factor, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= factor:
            return f"{size / factor:.1f} {name}"
    return f"{size:.0f} bytes"
