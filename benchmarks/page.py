"""The pages on speed, out of what was measured: a short story, all tables, pictures, and the figures of the README."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

NOTE = "Written by `python -m benchmarks --write docs`. Every number was measured by it, and nothing is edited by hand."

STORY = """# Performance

{note}

On {machine}, {date}, Python {python}.{remark}

Times are medians of whole processes, each in turn with its peer, from a warm page cache. Beside the peer's
work leakycli also computes statistics and histograms of input and output, writes a report and a journal, and
publishes the result in one step.

![leakycli's time as a share of the other program's time](performance.svg)

| work | leakycli | the other program | | peak memory |
|---|---|---|---|---|
{rows}

{figures}

## Where leakycli is slower

{slower}

## As the work grows

{growth}

## Measure it yourself

```text
pip install '.[bench]'
python -m benchmarks --size 512 --runs 3
```

`python -m benchmarks --help` explains the options. The full run works on arrays of up to 16 GiB and takes long.
Leave the machine alone meanwhile. Seconds differ between machines; ratios differ less.

[All measurements](performance-tables.md) has each row with its spread, the limits that the project sets
itself, and how it was measured.
"""

TABLES = """# All measurements

{note} [Performance](performance.md) is the short version.

- **Runs.** Whole processes, in turn with their peer, after one run each that does not count. Times are
  medians. The spread is the least and the largest ratio of a pair.
- **Conditions.** The page cache is warm. The destination is removed before and after each run. Nobody flushes
  to disk. Results are compared with the peer's, value by value.
- **Ratio.** leakycli's time divided by the peer's: below 1 leakycli is faster.
- **Floors** do less than leakycli. They copy in one process, or take the source through the codecs and back
  on as many threads as there are processors, and compute nothing.
- **Memory** is accepted where the measured peak keeps to the bound and to the projected peak. The goal is a
  projected peak at most 15 % above the measured one.
- **Peers.** The scripts for TensorStore and Dask send a request for each write unit, keep four in flight and
  compute in place, as a careful user would write them. They changed with the second edition, so ratios on
  earlier pages are not comparable.

"""


def newest(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The result of the newest Python."""
    return max(results, key=lambda result: [int(part) for part in result["versions"]["Python"].split(".")])


def story(results: list[dict[str, Any]]) -> str:
    """The short page, from the result of the newest Python."""
    result = newest(results)
    rows = [row for row in result["rows"] if not row["floor"]]
    slower = [row for row in rows if row["ratio"] > 1]
    lines = [f"- {row['name']}: {compared(row['ratio'])} of {row['peer']}." for row in slower]
    grown = next((found["versions"]["Python"] for found in (result, *results) if found["growth"]), None)
    picture = f"Both axes are logarithmic (Python {grown}).\n\n![seconds by amount of work](performance-{grown}.svg)"
    return STORY.format(
        note=NOTE,
        machine=result["machine"],
        date=result["date"],
        python=result["versions"]["Python"],
        remark=f" {result['note']}" if result.get("note") else "",
        rows="\n".join(
            f"| {row['name']} | {row['seconds']:.2f} s | {row['peer']}: {row['peer_seconds']:.2f} s | {compared(row['ratio'])} | "
            f"{_mib(row['memory'])}, {row['peer']} {_mib(row['peer_memory'])} |"
            for row in rows
        ),
        figures="\n".join(figures(results)),
        slower="\n".join(lines) or "In no row.",
        growth=picture if grown else "Not measured.",
    )


def compared(ratio: float) -> str:
    """In words: "8.3 x faster", or "1.31 x the time"."""
    return f"{1 / ratio:.1f} x faster" if ratio < 0.95 else f"{ratio:.2f} x the time"


def figures(results: list[dict[str, Any]]) -> list[str]:
    """The two lines that the README takes over; none where their rows were not measured."""
    result = newest(results)
    rows = {(row["name"], row["peer"]): row for row in result["rows"]}
    copy, script = rows.get(("npy float32", "cp")), rows.get(("npy float32", "numpy script"))
    size = re.search(r"--size (\d+)", result["command"])
    if copy is None or script is None or size is None:
        return []
    return [
        f"- **Speed**: a float32 `.npy` of {int(size[1]) / 1024:g} GiB takes {copy['seconds']:.1f} s, where `cp` takes "
        f"{copy['peer_seconds']:.1f} s and the usual numpy script {script['peer_seconds']:.1f} s.",
        f"- **Memory**: {_mib(script['memory'])} at the peak, where the script needs {_mib(script['peer_memory'])}.",
    ]


def tables(results: list[dict[str, Any]]) -> str:
    """The page with every row."""
    return TABLES.format(note=NOTE) + "\n".join(_section(result) for result in results)


def write(results: list[dict[str, Any]], folder: Path, readme: Path | None = None) -> None:
    """Write the pages and pictures to `folder`, and the figures into `readme`, between its markers."""
    (folder / "performance.md").write_text(story(results), encoding="utf-8")
    (folder / "performance-tables.md").write_text(tables(results), encoding="utf-8")
    (folder / "performance.svg").write_text(bars(newest(results)["rows"]), encoding="utf-8")
    for result in results:
        if result["growth"]:
            (folder / f"performance-{result['versions']['Python']}.svg").write_text(plot(result["growth"]), encoding="utf-8")
    if readme is not None and (lines := figures(results)):
        text = readme.read_text(encoding="utf-8")
        place = re.compile(r"(<!-- measured -->\n).*?(<!-- end -->)", re.DOTALL)
        readme.write_text(place.sub(lambda found: found[1] + "\n".join([*lines, ""]) + found[2], text), encoding="utf-8")


def _section(result: dict[str, Any]) -> str:
    lines = [f"## Python {result['versions']['Python']}", ""]
    lines += [" ".join(filter(None, (f"{result['date']}. {result['machine']}.", result.get("note")))), ""]
    lines += [", ".join(f"{name} {version}" for name, version in result["versions"].items()) + ".", ""]
    lines += [f"`{result['command']}`", ""]
    lines += ["| work | against | leakycli | peer | ratio | spread | accepted | goal | | peak memory: leakycli, projected, peer | memory |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|---|"]
    for row in result["rows"]:
        memory = ", ".join(_mib(row[name]) for name in ("memory", "projected", "peer_memory"))
        name = row["name"] + (f" ({row['size_ratio']:.3f} x its size)" if row.get("size_ratio") else "")
        lines.append(
            f"| {name} | {row['peer']} | {row['seconds']:.2f} s | {row['peer_seconds']:.2f} s | {row['ratio']:.2f} | "
            f"{row['spread'][0]:.2f} to {row['spread'][1]:.2f} | {_limit(row['accepted'])} | {_limit(row['goal'])} | "
            f"{verdict(row['ratio'], row['accepted'], row['goal'])} | {memory} | {fits(row['memory'], row['projected'], row['bound'])} |"
        )
    lines.append("")
    lines += [f"- {line}" for line in (*result["singles"], *mean(result["rows"]))]
    if result["growth"]:
        lines += [
            "",
            "### As the work grows",
            "",
            "| work | amount | seconds | microseconds for each (bytes: for each MiB) | peak memory |",
        ]
        lines += ["|---|---|---|---|---|"]
        for row in result["growth"]:
            unit = 1 << 20 if row["what"].startswith("bytes") else 1
            each = row["seconds"] / row["amount"] * unit * 1e6
            lines.append(f"| {row['what']} | {row['amount']:,} | {row['seconds']:.2f} | {each:,.0f} | {_mib(row['memory'])} |")
        lines += ["", f"![seconds by amount](performance-{result['versions']['Python']}.svg)"]
    return "\n".join([*lines, ""])


def mean(rows: list[dict[str, Any]]) -> list[str]:
    """A line on the geometric mean of the ratios to TensorStore, where there are some."""
    logs = [math.log(row["ratio"]) for row in rows if row["peer"] == "TensorStore"]
    if not logs:
        return []
    found = math.exp(sum(logs) / len(logs))
    return [f"Geometric mean of {len(logs)} ratios to TensorStore: {found:.2f} (accepted 0.6, goal 0.5): {verdict(found, 0.6, 0.5)}"]


def verdict(ratio: float, accepted: float | None, goal: float | None) -> str:
    if goal is not None and ratio <= goal:
        return "goal"
    if accepted is None:
        return ""
    return "accepted" if ratio <= accepted else "**short**"


def fits(measured: int, projected: int | None, bound: int | None) -> str:
    if projected is None or bound is None:
        return ""
    if measured > min(projected, bound):
        return "**short**"
    return "goal" if projected <= 1.15 * measured else "accepted"


def _limit(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:g}" if ratio >= 1 else f"{ratio:.3g}"


def _mib(size: int | None) -> str:
    return f"{size / (1 << 20):,.0f} MiB" if size else "-"


def plot(growth: list[dict[str, Any]]) -> str:
    """Seconds by amount of work, both as logarithms; a slope of one decade a decade is a cost that is linear."""
    series = list(dict.fromkeys(row["what"] for row in growth))
    points = [(math.log10(row["amount"]), math.log10(row["seconds"]), row["what"]) for row in growth]
    right = math.ceil(max(x for x, _, _ in points))
    low, high = math.floor(min(y for _, y, _ in points)), math.ceil(max(y for _, y, _ in points))

    def at(x: float, y: float) -> tuple[float, float]:
        return 60 + 560 * x / right, 20 + 300 * (high - y) / (high - low)

    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="660" height="380" font-family="sans-serif" font-size="11">']
    parts.append('<rect width="660" height="380" fill="#fff"/>')
    for x in range(right + 1):
        px, _ = at(x, low)
        parts.append(f'<path d="M{px:.0f} 20V320" stroke="#ddd"/><text x="{px:.0f}" y="335" text-anchor="middle">10^{x}</text>')
    for y in range(low, high + 1):
        _, py = at(0, y)
        parts.append(f'<path d="M60 {py:.0f}H620" stroke="#ddd"/><text x="54" y="{py + 4:.0f}" text-anchor="end">10^{y} s</text>')
    for number, name in enumerate(series):
        colour = ("#1b6ca8", "#c0571f", "#3a7d34", "#888")[number % 4]
        places = [at(x, y) for x, y, what in points if what == name]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in places]
        parts.append(f'<text x="{70 + 145 * number}" y="362" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def bars(rows: list[dict[str, Any]]) -> str:
    """A bar for each row but floors: leakycli's time as a share of the peer's, with a line where they are equal."""
    shown = [row for row in rows if not row["floor"]]
    step, left, width = 22, 250, 380
    scale = width / max([1.1, *(row["ratio"] for row in shown)])
    height = 40 + step * len(shown)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="700" height="{height}" font-family="sans-serif" font-size="11">']
    parts.append(f'<rect width="700" height="{height}" fill="#fff"/>')
    for i, row in enumerate(shown):
        y, length = 10 + step * i, row["ratio"] * scale
        colour = "#1b6ca8" if row["ratio"] <= 1 else "#c0571f"
        parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{row["name"]}, against {row["peer"]}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="16" fill="{colour}"/>')
        parts.append(
            f'<text x="{left + length + 5:.1f}" y="{y + 12}" stroke="#fff" stroke-width="3" paint-order="stroke">{row["ratio"]:.2f}</text>'
        )
    x, bottom = left + scale, 14 + step * len(shown)
    parts.append(f'<path d="M{x:.1f} 4V{bottom}" stroke="#444" stroke-dasharray="3 3"/>')
    parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">as long as the other</text>')
    return "\n".join([*parts, "</svg>", ""])
