"""How the elements of an array are distributed: a sample at a fixed stride, and the quantiles and the histogram that it gives.

The sample is a multiset of input values, so that the order in which it comes does not matter. That of the output is the function of it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leakycli.function.kernel import Kernel
from leakycli.function.rule import Rule
from leakycli.function.stats import BlockStats, Number, Summary

Array = NDArray[Any]

#: An array of up to so many elements is in its sample whole. Samples of larger ones have `MOST` at most: to sort more took a tenth of the
#: time of the work itself.
WHOLE = 1 << 20
MOST = 1 << 18

#: The quantiles: their names in per cent, and per mille.
QUANTILES = {"0": 0, "0.1": 1, "1": 10, "5": 50, "25": 250, "50": 500, "75": 750, "95": 950, "99": 990, "99.9": 999, "100": 1000}

#: Bins of a histogram, at least and at most; between the two as many as the root of the sample's elements.
BINS = 10, 100

#: How many times wider than the range of one side the bins may reach which both sides share.
SHARED = 10


def stride(size: int) -> int:
    """Every how manieth element of an array of `size` is in its sample: a prime, so that it does not keep to one channel of several."""
    if size <= WHOLE:
        return 1
    least = -(-size // MOST)
    return next(n for n in range(least, 2 * least) if all(n % k for k in range(2, math.isqrt(n) + 1)))


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts as `numpy.histogram` gives them for `edges`; below, above: beyond the edges, infinities among them.

    sampled: elements that were looked at, NaN and missing ones left out: all those counted.
    """

    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    below: int = 0
    above: int = 0
    sampled: int = 0


@dataclass(frozen=True, slots=True)
class Distribution:
    """Quantiles by their names in per cent (values that occur; those of 0 and 100 are the extremes), and a histogram."""

    quantiles: dict[str, Number]
    histogram: Histogram

    def to_json(self) -> list[Any]:
        """All that it holds, as JSON can keep it to the bit."""
        return [self.quantiles, *(getattr(self.histogram, field.name) for field in fields(Histogram))]

    @classmethod
    def from_json(cls, held: list[Any]) -> Distribution:
        """One that holds what `to_json` gave."""
        quantiles, edges, counts, *rest = held
        return cls(quantiles, Histogram(tuple(edges), tuple(counts), *rest))


class Sample:
    """Every `stride`-th element of an array, as its units come."""

    def __init__(self, rule: Rule, size: int) -> None:
        """size: elements of the array."""
        self._rule = rule
        self.stride = stride(size)
        self._values = np.empty(-(-size // self.stride), rule.source)
        self.count = 0

    def add(self, values: Array) -> None:
        self._values[self.count : self.count + values.size] = values
        self.count += values.size

    def since(self, start: int, stop: int) -> bytes:
        """The values from number `start` up to `stop`, as `restore` takes them."""
        return self._values[start:stop].astype(self._values.dtype.newbyteorder("<"), copy=False).tobytes()

    def restore(self, held: bytes) -> None:
        """Add what `since` gave."""
        self.add(np.frombuffer(held, self._values.dtype.newbyteorder("<")))

    def distributions(self, stats: BlockStats, fill: Any) -> tuple[Distribution, Distribution]:
        """Of the input and the output. stats: of the whole array. fill: what the elements are that were not read, if any.

        The sample is of no use afterwards.
        """
        rule, values = self._rule, self._values[: self.count]
        # Elements of units that are not stored are in the sample by their number only.
        times = self._values.size - self.count
        values.sort()  # NaN comes last
        x = _present(rule, values)
        more = _present(rule, np.array([fill] if times else [], rule.source))
        before = _Sorted(_numbers(x), _numbers(more), times)
        after = _Sorted(_results(rule, x), _results(rule, more), times)
        edges = _edges(before, after)
        return _distribution(before, edges[0], stats.before), _distribution(after, edges[1], stats.after)


def _present(rule: Rule, x: Array) -> Array:
    """Sorted elements, without those that stand for no value."""
    for value in rule.missing:
        if math.isnan(value):
            x = _numbers(x)
        else:
            first, last = np.searchsorted(x, rule.source.type(value)), np.searchsorted(x, rule.source.type(value), "right")
            x = np.delete(x, slice(first, last)) if last > first else x
    return x


def _numbers(x: Array) -> Array:
    """Sorted elements, without NaN."""
    return x[: x.size - int(np.count_nonzero(np.isnan(x)))] if x.dtype.kind == "f" else x


def _results(rule: Rule, x: Array) -> Array:
    """The function of sorted elements, sorted, without NaN."""
    y = np.empty(x.size, rule.dtype)
    Kernel(rule, statistics=False).add(x, y)
    if rule.dtype.kind == "f":
        nans = np.isnan(y)
        y = y[~nans] if nans.any() else y  # alpha 0 makes one of -inf, which comes first
    if not rule.monotone or _numbers(x).size < y.size:
        y.sort()
    return y


class _Sorted:
    """Sorted numbers `x`, and among them one that occurs so many `times` more."""

    def __init__(self, x: Array, more: Array, times: int) -> None:
        """more: the one, if any."""
        self.x = x
        self.times = times if more.size else 0
        self.more = more[0] if more.size else None
        self.at = self.position(float(self.more)) if self.more is not None else 0
        self.size = x.size + self.times

    def __getitem__(self, number: int) -> Number:
        if number < self.at or self.more is None:
            value = self.x[number]
        else:
            value = self.more if number < self.at + self.times else self.x[number - self.times]
        plain: Number = value.item()
        return plain + 0  # no -0.0

    def position(self, value: float, right: bool = False) -> int:
        """How many of `x` are below `value`, or with `right` not above."""
        # Not numpy's search, which would copy all of x to float64.
        return (bisect_right if right else bisect_left)(self.x, value, key=float)

    def below(self, value: float, right: bool = False) -> int:
        """How many of all are below `value`, or with `right` not above."""
        counts = self.more is not None and (float(self.more) < value or (right and float(self.more) == value))
        return self.position(value, right) + self.times * counts

    def quantile(self, mille: int, start: int, stop: int) -> Number:
        """Of the numbers from `start` up to `stop`: the smallest that so many thousandths of them do not exceed."""
        return self[start + max(-(-(stop - start) * mille // 1000) - 1, 0)]

    def range(self) -> tuple[float, float] | None:
        """From the quantile of 0.1 to that of 99.9 % of the finite numbers."""
        start, stop = self.below(-math.inf, right=True), self.below(math.inf)
        if start == stop:
            return None
        return float(self.quantile(1, start, stop)), float(self.quantile(999, start, stop))


def _edges(before: _Sorted, after: _Sorted) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Edges of the bins of both: the same, unless that would leave one with few bins."""
    ranges = before.range(), after.range()
    bins = min(max(math.isqrt(before.size), BINS[0]), BINS[1])
    if ranges[0] is None or ranges[1] is None:
        return tuple(() if r is None else _equal(*r, bins) for r in ranges)  # type: ignore[return-value]
    low, high = min(r[0] for r in ranges if r), max(r[1] for r in ranges if r)
    # Halves: the difference of the largest numbers is none.
    narrowest = min(r[1] / 2 - r[0] / 2 for r in ranges if r)
    if high / 2 - low / 2 <= SHARED * narrowest or low == high:
        shared = _equal(low, high, bins)
        return shared, shared
    return _equal(*ranges[0], bins), _equal(*ranges[1], bins)


def _equal(low: float, high: float, bins: int) -> tuple[float, ...]:
    if low == high:
        half = max(0.5, abs(low) / 1024)
        low, high = max(low - half, -1.7e308), min(high + half, 1.7e308)
    width = high / bins - low / bins
    # The difference of the largest numbers is none.
    few = math.isfinite(high - low)
    inner = (low + k * width if few else low * (1 - k / bins) + high * (k / bins) for k in range(1, bins))
    return low, *inner, high


def _distribution(numbers: _Sorted, edges: tuple[float, ...], summary: Summary) -> Distribution:
    if not numbers.size or summary.minimum is None or summary.maximum is None:
        return Distribution({}, Histogram())
    quantiles = {name: numbers.quantile(mille, 0, numbers.size) for name, mille in QUANTILES.items()}
    quantiles |= {"0": summary.minimum, "100": summary.maximum}
    if not edges:
        infinite = numbers.below(-math.inf, right=True)
        return Distribution(quantiles, Histogram((), (), infinite, numbers.size - infinite, numbers.size))
    places = [*(numbers.below(edge) for edge in edges[:-1]), numbers.below(edges[-1], right=True)]
    counts = tuple(b - a for a, b in pairwise(places))
    return Distribution(quantiles, Histogram(edges, counts, places[0], numbers.size - places[-1], numbers.size))


def sample_bytes(rule: Rule, size: int) -> int:
    """Bytes of memory that the sample of an array of `size` elements takes, its results and what of it waits in regions included."""
    return -(-size // stride(size)) * (2 * rule.source.itemsize + rule.dtype.itemsize) if size else 0
