"""From bins by binary exponent, as version 1 of the report has them, to quantiles and a histogram of about 100 equal bins.

Such bins are a quarter of an octave wide. Inside one, elements are taken to lie evenly: quantiles and counts are that exact.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: (lower, upper, elements), from the most negative to the most positive; zero is (0, 0, elements).
Bins = Sequence[tuple[float, float, int]]

#: Percentages of the quantiles that a report holds, as their keys.
QUANTILES = ("0", "0.1", "1", "5", "25", "50", "75", "95", "99", "99.9", "100")

#: Bins of a histogram.
BINS = 100

_MAX = sys.float_info.max


def _knots(bins: Bins) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values, rising, and how many elements lie up to each: a line between two of them is a bin or a gap."""
    values, reached, total = [], [], 0
    for lower, upper, count in bins:
        values += [max(lower, -_MAX), min(upper, _MAX)]
        reached += [total, total + count]
        total += count
    return np.array(values), np.array(reached, np.float64)


def quantiles(bins: Bins, minimum: float | None, maximum: float | None) -> dict[str, float] | None:
    """The quantiles of the elements in `bins`, none beyond the exact `minimum` and `maximum`."""
    values, reached = _knots(bins)
    if not values.size or minimum is None or maximum is None:
        return None
    low, high = max(float(minimum), -_MAX), min(float(maximum), _MAX)
    # Where nothing is counted the reached numbers stay the same: the last such knot begins the next bin.
    found = [_at(values, reached, float(q) / 100 * reached[-1]) for q in QUANTILES]
    return {name: min(max(value, low), high) for name, value in zip(QUANTILES, (low, *found[1:-1], high), strict=True)}


def _at(values: NDArray[np.float64], reached: NDArray[np.float64], rank: float) -> float:
    """The value below which `rank` elements lie."""
    i = min(int(np.searchsorted(reached, rank, "right")), values.size - 1)
    share = (rank - reached[i - 1]) / (reached[i] - reached[i - 1]) if reached[i] > reached[i - 1] else 1.0
    share = min(max(float(share), 0.0), 1.0)
    # Not by a difference, which may overflow.
    return float(values[i - 1] * (1 - share) + values[i] * share)


def edges(pair: tuple[Bins, ...]) -> tuple[tuple[float, ...], ...]:
    """Edges of a histogram for each of several arrays: the same for all where their ranges are alike, else each its own.

    Bins are equal, or widen away from zero where most elements would be in one of them.
    """
    ranges = [_range(bins) for bins in pair]
    scales = [_scale(bins) for bins in pair]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    widths = [high / 2 - low / 2 for low, high in ranges]
    if high / 2 - low / 2 <= min(1.5 * max(widths), 20 * min(widths)):
        return (_cut(low, high, max(scales)),) * len(pair)
    return tuple(_cut(*own, scale) for own, scale in zip(ranges, scales, strict=True))


def _range(bins: Bins) -> tuple[float, float]:
    """From the 0.1 % to the 99.9 % quantile; all of it where that is a single value."""
    values, reached = _knots(bins)
    if not values.size:
        return 0.0, 1.0
    low, high = (_at(values, reached, share * reached[-1]) for share in (0.001, 0.999))
    if low == high:
        low, high = float(values[0]), float(values[-1])
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _scale(bins: Bins) -> tuple[float, float]:
    """The 10 % quantile and the median of the magnitudes of the elements that are not zero; 0 where there are none."""
    magnitudes = sorted((min(abs(lower), abs(upper)), max(abs(lower), abs(upper)), count) for lower, upper, count in bins if lower or upper)
    values, reached = _knots(magnitudes)
    return (_at(values, reached, 0.1 * reached[-1]), _at(values, reached, 0.5 * reached[-1])) if values.size else (0.0, 0.0)


def _cut(low: float, high: float, magnitudes: tuple[float, float]) -> tuple[float, ...]:
    """Edges from `low` to `high`. magnitudes: see `_scale`; where the median is small beside the range, bins are equal in asinh(x / scale),
    the scale being the smaller of the two."""
    (scale, median), share = magnitudes, np.arange(BINS + 1) / BINS
    farthest = max(abs(low), abs(high))
    if not 0 < median < farthest / 200:
        return tuple(np.maximum.accumulate(low * (1 - share) + high * share).tolist())
    # No more than 12 decades, below which all is one bin.
    scale = max(scale, farthest * 1e-12)
    first, last = np.arcsinh(low / scale), np.arcsinh(high / scale)
    inner = scale * np.sinh(first * (1 - share) + last * share)
    return (low, *inner[1:-1].tolist(), high)


def counts(bins: Bins, edges: tuple[float, ...]) -> tuple[tuple[int, ...], int, int]:
    """The elements of `bins` between `edges`, below them and above them."""
    at = np.array(edges)
    zeros = sum(count for lower, upper, count in bins if lower == upper == 0)
    values, reached = _knots([b for b in bins if not b[0] == b[1] == 0])
    total = int(reached[-1]) if reached.size else 0
    up_to = np.rint(_up_to(at, values, reached)).astype(np.int64) if total else np.zeros(at.size, np.int64)
    inside = np.diff(up_to)
    below, above = int(up_to[0]), total - int(up_to[-1])
    if zeros:
        i = int(np.searchsorted(at, 0.0, "right")) - 1
        if i < 0:
            below += zeros
        elif at[-1] < 0:
            above += zeros
        else:
            inside[min(i, inside.size - 1)] += zeros
    return tuple(inside.tolist()), below, above


def _up_to(at: NDArray[np.float64], values: NDArray[np.float64], reached: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many elements lie up to each of `at`. (`numpy.interp` takes a slope, which overflows between subnormals.)"""
    scale = 0.5 if np.abs(values).max() > 1e300 else 1.0
    at, values = at * scale, values * scale
    i = np.clip(np.searchsorted(values, at, "right"), 1, values.size - 1)
    width = values[i] - values[i - 1]
    with np.errstate(over="ignore"):  # beyond the last of them
        share = np.clip(np.divide(at - values[i - 1], width, out=np.ones(at.size), where=width > 0), 0, 1)
    return np.where(at < values[0], 0.0, reached[i - 1] + share * (reached[i] - reached[i - 1]))
