"""Numbers, sizes and losses in words: one way to say each, for the terminal and the page."""

from __future__ import annotations

import unicodedata
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leakycli.function.stats import Losses
    from leakycli.report.model import ArrayReport, Cost, Statistics

#: Runs shorter than this many seconds have no rate: it would be that of the start-up.
_RATE_FROM = 0.1

#: What losses are called where their names would not do.
LOSSES = {"nan_replaced": "NaN replaced", "masked": "became the missing value"}


def number(value: float | None) -> str:
    """Floats to 6 digits, integers whole."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def percent(part: float, whole: float) -> str:
    """To a tenth of a per cent; what is not nothing is never shown as nothing, nor what is not all as all."""
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 0.1:
        return "< 0.1 %"
    if part < whole and share > 99.9:
        return "> 99.9 %"
    return f"{share:.1f} %"


def size(count: float) -> str:
    """Bytes in binary units, as in "512 MiB"."""
    if count < 1024:
        return f"{count:.0f} byte{'' if count == 1 else 's'}"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        count /= 1024
        if count < 1023.95 or unit == "PiB":
            break
    text = f"{count:.1f}".removesuffix(".0")
    return f"{text} {unit}"


def counted(count: int, what: str) -> str:
    """As in "1 element", "2,000 elements"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def elements(count: int) -> str:
    """As in "1 element"."""
    return counted(count, "element")


def duration(seconds: float) -> str:
    """As in "8 ms", "1.24 s", "12.3 s", "4 min 20 s", "2 h 03 min"."""
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def rate(moved: float, seconds: float) -> str:
    """Bytes read and written a second; empty for a run too short to have one."""
    return f"{size(moved / seconds)}/s" if seconds >= _RATE_FROM else ""


def workers(count: int) -> str:
    """As in "2 workers"."""
    return counted(count, "worker")


def moment(iso: str) -> str:
    """A time as a report holds it, for reading: "2026-01-02 03:04:05 UTC"."""
    return iso.replace("T", " ", 1).replace("+00:00", " UTC")


def shape(lengths: tuple[int, ...]) -> str:
    """As in "8 x 8"."""
    return " x ".join(map(str, lengths)) if lengths else "0-d"


def types(array: ArrayReport) -> str:
    """As in "float64 -> int32"."""
    same = array.dtype_before == array.dtype_after
    return array.dtype_before if same else f"{array.dtype_before} -> {array.dtype_after}"


def layout(array: ArrayReport) -> str:
    """How a chunked result is laid out; empty for one that is not."""
    if array.chunks is None:
        return ""
    shards = f" in shards {shape(array.shards)}" if array.shards else ""
    return f"chunks {shape(array.chunks)}{shards}, codecs {array.codecs}"


def lost_words(losses: Losses | None) -> str:
    """What a cast lost, as in "2 underflowed, 32 NaN replaced"."""
    counts = asdict(losses).items() if losses else ()
    return ", ".join(f"{count:,} {LOSSES.get(kind, kind)}" for kind, count in counts if count) or "nothing"


def signs(s: Statistics) -> list[tuple[str, int]]:
    """The counts that make up all elements, by what they are called; those that are rarely met only where they are."""
    rows = [("negative", s.negative), ("zero", s.zero), ("positive", s.positive)]
    rare = [("missing", s.missing), ("NaN", s.nan), ("-inf", s.neginf), ("+inf", s.posinf)]
    return rows + [(name, count) for name, count in rare if count]


def values(s: Statistics) -> list[tuple[str, float | None]]:
    """The numbers of an array from its minimum to its deviation."""
    q = s.quantiles or {}
    middle = [(name, q[key]) for name, key in (("25 %", "25"), ("median", "50"), ("75 %", "75")) if key in q]
    return [("min", s.min), *middle, ("max", s.max), ("mean", s.mean), ("std", s.std)]


def paired(before: list[tuple[str, int]], after: list[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """Rows of two columns; what only one of them has is 0 in the other."""
    names = list(dict(before) | dict(after))
    order = ["negative", "zero", "positive", "missing", "NaN", "-inf", "+inf"]
    return [(name, dict(before).get(name, 0), dict(after).get(name, 0)) for name in sorted(names, key=order.index)]


def sampled(array: ArrayReport) -> str:
    """Which elements the histograms and the quantiles are of; empty where there are none."""
    pairs = [(name, s, s.histogram) for name, s in (("before", array.before), ("after", array.after)) if s is not None]
    drawn = [(name, s, d) for name, s, d in pairs if d is not None]
    if not drawn:
        return ""
    _, s, d = drawn[0]
    of = (
        f"all {elements(array.elements)}"
        if d.sampled >= s.count - s.nan - s.missing
        else f"a sample, {d.sampled:,} of {elements(array.elements)}"
    )
    outside = [f"{percent(d.below + d.above, d.binned)} {name}" for name, _, d in drawn if d.below + d.above]
    return f"distribution of {of}" + (f"; outside the axis: {', '.join(outside)}" if outside else "")


def cost_words(cost: Cost, verified: bool, resumed: bool) -> str:
    """What a run took, in one line."""
    speed = rate(cost.bytes_read + cost.bytes_written, cost.seconds)
    parts = [
        f"{size(cost.bytes_read)} read",
        f"{size(cost.bytes_written)} written",
        duration(cost.seconds) + (f" ({speed})" if speed else ""),
        workers(cost.workers),
        f"peak memory {size(cost.memory_measured)} of {size(cost.memory_bound)}",
        f"codecs by {cost.codec_path}" if cost.codec_path else "",
        "verified" if verified else "",
        "resumed" if resumed else "",
    ]
    return ", ".join(filter(None, parts))


def width(text: str) -> int:
    """Columns of a terminal that `text` takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def shortened(text: str, columns: int, ellipsis: str = "...") -> str:
    """`text` in at most so many columns; the middle of a longer one is left out."""
    if width(text) <= columns:
        return text
    room = max(columns - len(ellipsis), 0)
    head, tail = room // 2, room - room // 2
    return _fitting(text, head) + ellipsis[:columns] + _fitting(text[::-1], tail)[::-1]


def _fitting(text: str, columns: int) -> str:
    """The longest beginning of `text` that takes no more than so many columns."""
    end, taken = 0, 0
    while end < len(text) and taken + width(text[end]) <= columns:
        taken += width(text[end])
        end += 1
    return text[:end]
