"""Mergeable statistics of an array: counts by sign, extremes, mean and deviation, and a histogram.

A `Summary` is taken of fixed pieces of an array and merged. Counts and extremes merge exactly; mean and M2 (the sum of squared
deviations from the mean) merge by Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances"
(1979). That is floating point, so it is not associative: merge in a fixed order for the same bits every time.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leakycli.function.records import Record

Array = NDArray[Any]
Number = int | float

#: Elements summed in the input's own precision before the partial sums go on in float64. Below 10,000 OpenBLAS stays in the
#: calling thread, so that the sum has the same bits for any number of threads.
_ROW = 4096


@dataclass(frozen=True, slots=True)
class Summary(Record):
    """Statistics of some elements. `count` is their number, of which negative + zero + positive + nan make up all.

    ±0 count as zero; ±inf as negative or positive, and once more in neginf, posinf. minimum and maximum are over all but NaN (None where
    there are none) and exact: an int for integers. centre, m2 and exponent are over the finite elements, 0 where there are none: their mean
    is centre * 2^exponent and the sum of their squared deviations m2 * 4^exponent. The exponent is 0 but for values near the ends
    of float64, whose squares it could not hold.
    """

    count: int = 0
    negative: int = 0
    zero: int = 0
    positive: int = 0
    nan: int = 0
    neginf: int = 0
    posinf: int = 0
    minimum: Number | None = None
    maximum: Number | None = None
    centre: float = 0.0
    m2: float = 0.0
    exponent: int = 0

    @property
    def mean(self) -> float:
        """Mean of the finite elements, 0 where there are none."""
        return _scaled(self.centre, self.exponent)

    @property
    def finite(self) -> int:
        return self.count - self.nan - self.neginf - self.posinf

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the finite elements (ddof 0); None where there are none."""
        return _scaled(math.sqrt(self.m2 / self.finite), self.exponent) if self.finite else None

    def repeated(self, times: int) -> Summary:
        """The summary of so many elements that are all the one of this."""
        counts = {name: times * getattr(self, name) for name in ("count", "negative", "zero", "positive", "nan", "neginf", "posinf")}
        return replace(self, **counts, m2=0.0)

    def merge(self, other: Summary) -> Summary:
        """The summary of both together, `other` coming after."""
        if not other.count:
            return self
        if not self.count:
            return other
        return Summary(
            self.count + other.count,
            self.negative + other.negative,
            self.zero + other.zero,
            self.positive + other.positive,
            self.nan + other.nan,
            self.neginf + other.neginf,
            self.posinf + other.posinf,
            other.minimum if self.minimum is None else self.minimum if other.minimum is None else min(self.minimum, other.minimum),
            other.maximum if self.maximum is None else self.maximum if other.maximum is None else max(self.maximum, other.maximum),
            *_merge_moments(self, other),
        )


def _scaled(value: float, exponent: int) -> float:
    """value * 2^exponent; what rounding brought just beyond float64's largest number is that number."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(sys.float_info.max, value)


#: A mean, the sum of squared deviations from it, and the exponent of both, as in `Summary`.
Moments = tuple[float, float, int]


def _merge_moments(a: Summary, b: Summary) -> Moments:
    finite, other_finite = a.finite, b.finite
    if not other_finite:
        return a.centre, a.m2, a.exponent
    if not finite:
        return b.centre, b.m2, b.exponent
    exponent, mean, m2, other_mean, other_m2 = 0, a.centre, a.m2, b.centre, b.m2
    if a.exponent or b.exponent:
        # A part that is all zeros is so at any exponent.
        exponent = max((s.exponent for s in (a, b) if s.centre or s.m2), default=0)
        # What becomes too small for the larger exponent is too small to count.
        (mean, m2), (other_mean, other_m2) = (
            (math.ldexp(s.centre, s.exponent - exponent), math.ldexp(s.m2, 2 * (s.exponent - exponent))) for s in (a, b)
        )
    share = other_finite / (finite + other_finite)
    delta = other_mean - mean
    return mean + delta * share, m2 + other_m2 + delta * delta * finite * share, exponent


def summarise(x: Array, mask: NDArray[np.bool_], scratch: Array) -> Summary:
    """The summary of the native 1-D array `x` (not empty). mask (bool) and scratch (float64) are overwritten, each at least x's size."""
    mask, low, high = mask[: x.size], np.minimum.reduce(x), np.maximum.reduce(x)
    nan = neginf = posinf = 0
    finite = x
    # One NaN makes both extremes NaN, so that clean data pays for no search.
    if x.dtype.kind == "f" and not (math.isfinite(low) and math.isfinite(high)):
        finite = x[np.isfinite(x)]
        nan = int(np.count_nonzero(np.isnan(x)))
        neginf, posinf = int(np.count_nonzero(x == -np.inf)), int(np.count_nonzero(x == np.inf))
        # Not fmin and fmax: a signalling NaN comes through them.
        numbers = x[~np.isnan(x)]
        low, high = (np.minimum.reduce(numbers), np.maximum.reduce(numbers)) if numbers.size else (low, high)
    positive = int(np.count_nonzero(np.greater(x, 0, out=mask)))
    zero = int(np.count_nonzero(np.equal(x, 0, out=mask)))
    if low == high and finite is x:
        # Constant data: exact, and common.
        exponent = _exponent(abs(float(low)))
        moments = math.ldexp(float(low), -exponent) + 0.0, 0.0, exponent
    else:
        moments = _moments(finite, scratch) if finite.size else (0.0, 0.0, 0)
    known = nan < x.size
    negative = x.size - nan - zero - positive
    minimum, maximum = (number(low), number(high)) if known else (None, None)
    return Summary(x.size, negative, zero, positive, nan, neginf, posinf, minimum, maximum, *moments)


def number(value: Any) -> Number:
    """A numpy scalar as a Python number, -0.0 as 0.0."""
    plain: Number = value.item()
    return plain + 0


def _moments(x: Array, scratch: Array) -> Moments:
    """The moments of finite `x`, float32 to a relative error of about 1e-7, other types in float64."""
    if x.dtype == np.float32:
        (total,), (squares,) = _sums(x)
        if _are_plain(x.size, total, squares):
            return total / x.size, squares - total * (total / x.size), 0
        if _LEAST_SQUARE < squares / x.size < _MOST_SQUARE:
            mean = np.float32(total / x.size)
            deviations = scratch.view(np.float32)[: x.size]
            np.subtract(x, mean, out=deviations)
            if _LEAST_SQUARE < (shifted := _shifted(deviations, float(mean)))[1] / x.size < _MOST_SQUARE:
                return *shifted, 0
    wide = scratch[: x.size]
    np.copyto(wide, x)
    exponent = _exponent(max(-float(np.minimum.reduce(wide)), float(np.maximum.reduce(wide))))
    if exponent:
        np.ldexp(wide, -exponent, out=wide)
    centre = _sums(wide)[0][0] / wide.size
    np.subtract(wide, centre, out=wide)
    return *_shifted(wide, centre), exponent


def _exponent(largest: float) -> int:
    """The power of two to divide by, exactly, so that neither sums nor squares of such numbers leave the range of float64."""
    return math.frexp(largest)[1] if largest and not 1e-100 < largest < 1e100 else 0


def _shifted(deviations: Array, centre: float) -> tuple[float, float]:
    """(mean, M2) from deviations about `centre`."""
    (total,), (squares,) = _sums(deviations)
    return centre + total / deviations.size, max(squares - total * total / deviations.size, 0.0)


#: Mean squares between which float32's own sums hold: beyond, they come out infinite, or no longer normal.
_LEAST_SQUARE, _MOST_SQUARE = 1e-20, 1e30


def _are_plain(size: int, total: float, squares: float) -> bool:
    """Whether their sum and sum of squares hold the moments of `size` elements well enough."""
    return _LEAST_SQUARE < squares / size < _MOST_SQUARE and squares - total * (total / size) > 0.1 * squares


_ONES = {np.dtype(name): np.ones(_ROW, name) for name in ("float32", "float64")}


def _sums(*arrays: Array) -> list[list[float]]:
    """Sums of the 1-D arrays, float32 or float64, of one size, and sums of squares: rows in their precision by BLAS, then float64."""
    size, dtype = arrays[0].size, arrays[0].dtype
    count, rest = divmod(size, _ROW)
    ones = _ONES[dtype]
    rows = np.empty((2, len(arrays), count + bool(rest)), dtype)
    for x, totals, squares in zip(arrays, *rows, strict=True):
        if rest:
            tail = x[size - rest :]
            totals[count], squares[count] = np.vecdot(tail, ones[:rest]), np.vecdot(tail, tail)
            x, totals, squares = x[: size - rest], totals[:count], squares[:count]
        if count:
            whole = x.reshape(count, _ROW)
            np.vecdot(whole, ones, out=totals)
            np.vecdot(whole, whole, out=squares)
    found: list[list[float]] = np.add.reduce(rows, axis=2, dtype=np.float64).tolist()
    return found


class PlainPair:
    """Summaries of an array and its result, taken together piece by piece where the pieces are plain; see `add`."""

    def __init__(self, dtype: np.dtype[Any], factor: float, size: int) -> None:
        """factor: not negative, what elements that are not positive are multiplied by. size: elements of the largest piece."""
        self._factor = dtype.type(factor)
        # Results of what is not beyond these are finite, or so near to it that their squares are not: those are not plain.
        self._most = float(np.finfo(dtype).max)
        self._least = -self._most / max(factor, 1.0)
        self._mask = np.empty(size, np.bool_)
        self._clear()

    def _clear(self) -> None:
        self._count = self._positive = self._zero_x = self._zero_y = 0
        self._low, self._high = math.inf, -math.inf
        self._total_x = self._squares_x = self._total_y = self._squares_y = 0.0

    def add(self, x: Array, y: Array) -> bool:
        """Take in a piece `x` and its result `y`; False, and nothing done, where it is not plain.

        Plain is what the usual case allows: one floating type, a function that is monotone (so that extremes go to extremes, and y
        has the signs of x but for what underflowed), all elements finite, and a deviation that is not small beside the mean. Every
        call gives up the interpreter's lock and takes it again, so that with two threads their number counts as much as what they do.
        """
        low, high, size = float(np.minimum.reduce(x)), float(np.maximum.reduce(x)), x.size
        # One NaN makes both extremes NaN, for which no comparison holds.
        if not (self._least <= low and high <= self._most):
            return False
        (total_x, total_y), (squares_x, squares_y) = _sums(x, y)
        if not (_are_plain(size, total_x, squares_x) and _are_plain(size, total_y, squares_y)):
            return False
        mask = self._mask[:size]
        np.greater(x, 0, out=mask)
        self._positive += int(np.count_nonzero(mask))
        np.equal(y, 0, out=mask)
        if zeros := int(np.count_nonzero(mask)):
            self._zero_y += zeros
            np.equal(x, 0, out=mask)
            self._zero_x += int(np.count_nonzero(mask))
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._total_x, self._squares_x = self._total_x + total_x, self._squares_x + squares_x
        self._total_y, self._squares_y = self._total_y + total_y, self._squares_y + squares_y
        self._count += size
        return True

    def take(self) -> tuple[Summary, Summary]:
        """The summaries of all pieces since the last time."""
        if not self._count:
            return Summary(), Summary()
        pair = (
            self._summary(self._zero_x, self._low, self._high, self._total_x, self._squares_x),
            self._summary(self._zero_y, self._result(self._low), self._result(self._high), self._total_y, self._squares_y),
        )
        self._clear()
        return pair

    def _result(self, x: float) -> float:
        return x if x > 0 else float(self._factor.dtype.type(x) * self._factor)

    def _summary(self, zero: int, low: float, high: float, total: float, squares: float) -> Summary:
        mean = total / self._count
        counts = self._count, self._count - zero - self._positive, zero, self._positive, 0, 0, 0
        return Summary(*counts, low + 0.0, high + 0.0, mean, squares - total * mean)


#: Elements put into bins at once: bounds the temporaries.
_HISTOGRAM_PIECE = 1 << 14


class PatternSummary:
    """Summaries and histograms of an array whose values are `values[i]`, known by how often each i occurs."""

    def __init__(self, values: Array) -> None:
        self._values = values
        with np.errstate(invalid="ignore"):  # signalling NaN
            self._wide = values.astype(np.float64)
        self._nan = np.isnan(self._wide)
        self._neginf, self._posinf = self._wide == -np.inf, self._wide == np.inf
        self._finite = np.isfinite(self._wide)
        self._negative, self._zero, self._positive = self._wide < 0, self._wide == 0, self._wide > 0

    def summarise(self, occurrences: NDArray[np.int64]) -> Summary:
        """The summary of the elements counted in `occurrences` (one count per value)."""

        def total(which: NDArray[np.bool_]) -> int:
            return int(np.add.reduce(occurrences, where=which))

        met = occurrences > 0
        known = self._values[met & ~self._nan]
        finite = np.flatnonzero(met & self._finite)
        weight, wide = occurrences[finite].astype(np.float64), self._wide[finite]
        mean, m2, exponent = 0.0, 0.0, 0
        if finite.size:
            exponent = _exponent(float(np.abs(wide).max()))
            wide = np.ldexp(wide, -exponent)
            n = float(np.add.reduce(weight))
            mean = float(np.add.reduce(weight * wide)) / n
            m2 = float(np.add.reduce(weight * np.square(wide - mean)))
        return Summary(
            int(np.add.reduce(occurrences)),
            total(self._negative),
            total(self._zero),
            total(self._positive),
            total(self._nan),
            total(self._neginf),
            total(self._posinf),
            number(known.min()) if known.size else None,
            number(known.max()) if known.size else None,
            mean,
            m2,
            exponent,
        )


class Bin(NamedTuple):
    """A bin of a histogram: so many sampled `elements` from `lower` up to `upper` (the end nearer to 0 included); zero is [0, 0]."""

    lower: float
    upper: float
    elements: int


class Histogram:
    """How many elements have a given sign, binary exponent and first two bits of mantissa.

    Such a bin is what floats with the same leading bits have in common, so that a shift finds it and the bins never move. Integers
    are binned by their value as float64 (rounded towards zero). `sampled` counts the elements looked at, NaN and ±inf among them.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._float = dtype if dtype.kind == "f" else np.dtype("float64")
        self._bits = np.dtype(f"u{self._float.itemsize}")
        mantissa = np.finfo(self._float).nmant
        self._shift = self._bits.type(mantissa - 2)
        self._size = 1 << (8 * self._float.itemsize - (mantissa - 2))
        self._counts = np.zeros(self._size, np.int64)
        self._zeros = 0
        self.sampled = 0

    def add(self, x: Array, occurrences: NDArray[np.int64] | None = None) -> None:
        """Count the elements of the 1-D `x`, each `occurrences` times (once by default)."""
        for at in range(0, x.size, _HISTOGRAM_PIECE):
            piece = slice(at, at + _HISTOGRAM_PIECE)
            self._add(x[piece], None if occurrences is None else occurrences[piece])

    def _add(self, x: Array, occurrences: NDArray[np.int64] | None) -> None:
        values = _towards_zero(x) if x.dtype.kind != "f" else np.ascontiguousarray(x)
        index = (values.view(self._bits) >> self._shift).astype(np.intp)
        zero = values == 0
        if occurrences is None:
            self._counts += np.bincount(index[~zero] if zero.any() else index, minlength=self._size)
            self._zeros += int(np.count_nonzero(zero))
            self.sampled += x.size
        else:
            # Weights are float64: exact, a region has far less than 2^53 elements.
            weights = np.where(zero, 0, occurrences)
            self._counts += np.bincount(index, weights=weights, minlength=self._size).astype(np.int64)
            self._zeros += int(np.add.reduce(occurrences, where=zero))
            self.sampled += int(np.add.reduce(occurrences))

    def __reduce__(self) -> tuple[Any, ...]:
        return Histogram.from_json, (self._dtype, self.to_json())

    def copy(self) -> Histogram:
        """One that does not change with this."""
        copied = Histogram.__new__(Histogram)
        copied.__dict__.update(self.__dict__, _counts=self._counts.copy())
        return copied

    def to_json(self) -> list[Any]:
        """All that it holds but for its type."""
        met = np.flatnonzero(self._counts)
        return [met.tolist(), self._counts[met].tolist(), self._zeros, self.sampled]

    @classmethod
    def from_json(cls, dtype: np.dtype[Any], held: list[Any]) -> Histogram:
        """One of that type that holds what `to_json` gave."""
        histogram = cls(dtype)
        met, counts, histogram._zeros, histogram.sampled = held
        histogram._counts[met] = counts
        return histogram

    def merge(self, other: Histogram) -> None:
        self._counts += other._counts
        self._zeros += other._zeros
        self.sampled += other.sampled

    def bins(self) -> list[Bin]:
        """The bins that are not empty, from the most negative to the most positive; NaN and ±inf have none."""
        edges, half = _edges(self._float), self._size // 2
        met = np.flatnonzero(self._counts)
        # The last four numbers of each half are infinities and NaN.
        up, down = met[met < half - 4], met[(met >= half) & (met < 2 * half - 4)][::-1]
        near, far = edges[down - half], edges[down - half + 1]
        zero = [Bin(0.0, 0.0, self._zeros)] if self._zeros else []
        return _bins(-far, 0.0 - near, self._counts[down]) + zero + _bins(edges[up], edges[up + 1], self._counts[up])


def _bins(lower: NDArray[np.float64], upper: NDArray[np.float64], elements: NDArray[np.int64]) -> list[Bin]:
    return list(map(Bin, lower.tolist(), upper.tolist(), elements.tolist()))


@cache
def _edges(dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """The lower edges of the positive bins of a floating type, and the upper one of the last."""
    bits, shift = np.dtype(f"u{dtype.itemsize}"), np.finfo(dtype).nmant - 2
    last = (1 << (8 * dtype.itemsize - shift - 1)) - 4
    edges = (np.arange(last, dtype=bits) << bits.type(shift)).view(dtype).astype(np.float64)
    # Beyond the largest finite value the next edge, a power of two, exists in float64 but for float64's own.
    return np.append(edges, 2.0 * edges[-4] if dtype.itemsize < 8 else math.inf)


def _towards_zero(x: Array) -> NDArray[np.float64]:
    """Integers as float64, never larger in magnitude than they are (and so never in a bin beyond their type's range)."""
    wide = x.astype(np.float64)
    if x.dtype.itemsize == 8:
        # Past 2^53 a conversion rounds to the nearest; clearing the bits that it drops leaves nothing to round.
        magnitude = np.where(x < 0, -x.astype(np.int64), x).astype(np.uint64) if x.dtype.kind == "i" else x
        cleared = np.where(magnitude >= 1 << 53, magnitude & np.uint64((1 << 64) - (1 << 11)), magnitude)
        wide = np.copysign(cleared.astype(np.float64), wide)
    return wide
