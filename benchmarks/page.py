"""`docs/performance.md`, out of what was measured."""

from __future__ import annotations

import math
from typing import Any

HEAD = """# Performance

Written by `python -m benchmarks --write docs`; every number on this page was measured by it, and nothing is edited by hand.

Whole processes, in turn with their peer, after one run each that does not count; medians, and the least and the largest ratio of a pair.
The page cache is warm, the destination is removed before and after each run, nobody flushes to disk. The ratio is leakycli's time over
the peer's: below 1 leakycli is faster. What leakycli does beside the peer's work: full statistics and histograms of input and output,
a report, a journal, and a result that appears whole or not at all. Results are compared with the peer's, value by value.
Floors do less: they copy, in one process, or take the source through the codecs and back on as many threads as there are processors,
with nothing computed between. Memory is accepted
where the measured peak keeps to the bound and to the projected one; the goal is that the projected is at most 15 % above the measured.

The scripts for TensorStore and Dask changed with the second edition. They send a request for each write unit, keep four in flight and
compute in place, as a careful user would write them. Ratios to them on earlier pages are not comparable.

"""


def text(results: list[dict[str, Any]]) -> str:
    return HEAD + "\n".join(_section(result) for result in results)


def _section(result: dict[str, Any]) -> str:
    lines = [f"## Python {result['versions']['Python']}", ""]
    lines += [f"{result['date']}. {result['machine']}.", ""]
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
    if slower := [
        f"{row['name']} ({row['ratio']:.2f} x the time of {row['peer']})" for row in result["rows"] if row["ratio"] > 1 and not row["floor"]
    ]:
        lines += ["", f"Slower than the peer: {', '.join(slower)}."]
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
