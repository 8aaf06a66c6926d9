"""Summaries and histograms against exact arithmetic: Python's fractions for the moments, a recount value by value for the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from leakycli.function.summary import Histogram, Number, PatternSummary, Summary, number, summarise

Array = NDArray[Any]

FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
TYPES = FLOATS + INTEGERS
BINNED_APART = (*FLOATS, "int8", "uint16", "int64", "uint64")  # the other integers are binned as these are

#: Relative error allowed of mean (against the root mean square) and deviation.
TOLERANCE = {"float32": 1e-5}


def summary_of(x: Array) -> Summary:
    with np.errstate(all="ignore"):
        return summarise(x, np.ones(x.size, np.bool_), np.full(x.size, np.nan))


def bit_patterns(dtype: str) -> st.SearchStrategy[int]:
    """Bit patterns of the type, among them its zeros, its ends, infinities and NaN."""
    kind = np.dtype(dtype)
    bits = np.dtype(f"u{kind.itemsize}")
    if kind.kind == "f":
        limits = np.finfo(kind)
        positive = np.array([0, 1, np.inf, np.nan, limits.max, limits.tiny, limits.smallest_subnormal, 1.25, 1.75, 2, 3], kind)
        # NaN comes as a quiet and as a signalling one.
        signalling = (np.array(np.inf, kind).view(bits) + bits.type(1)).view(kind)
        known = np.concatenate([positive, -positive, [signalling, -signalling]])
    else:
        info = np.iinfo(kind)
        known = np.array([info.min, info.min + 1, 0, 1, 3, 4, info.max - 1, info.max], kind)
    return st.sampled_from(known.view(bits).tolist()) | st.integers(0, (1 << 8 * kind.itemsize) - 1)


def arrays(dtype: str, min_size: int = 1, max_size: int = 30) -> st.SearchStrategy[Array]:
    bits = f"u{np.dtype(dtype).itemsize}"
    return st.lists(bit_patterns(dtype), min_size=min_size, max_size=max_size).map(lambda drawn: np.array(drawn, bits).view(dtype))


def root(square: Fraction) -> float:
    """The square root, as right as float64 can hold it, in all of its range."""
    scale = max(0, 200 - (square.numerator.bit_length() - square.denominator.bit_length()))
    scale += scale % 2
    return float(Fraction(math.isqrt((square.numerator << scale) // square.denominator), 1 << scale // 2))


class Exact:
    """Moments of numbers, of the finite ones, in fractions."""

    def __init__(self, values: Sequence[Number]) -> None:
        finite = [Fraction(v) for v in values if math.isfinite(v)]
        n = max(len(finite), 1)
        mean = sum(finite, Fraction()) / n
        variance = sum(((v - mean) ** 2 for v in finite), Fraction()) / n
        self.finite = len(finite)
        self.mean = float(mean)
        self.deviation = root(variance)
        self.rms = root(mean**2 + variance)


def assert_moments(found: Summary, exact: Exact, tolerance: float) -> None:
    assert found.finite == exact.finite
    if not exact.finite:
        assert (found.mean, found.deviation) == (0.0, None)
        return
    # So near to 0 float64 itself goes in steps.
    step = 2 * 5e-324
    assert abs(found.mean - exact.mean) <= tolerance * exact.rms + step
    assert found.deviation is not None
    assert abs(found.deviation - exact.deviation) <= tolerance * exact.deviation + 1e-15 * exact.rms + step


def assert_exact_parts(found: Summary, values: Sequence[Number]) -> None:
    """Counts and extremes, recounted."""
    known = [v for v in values if v == v]
    assert found.count == len(values)
    assert found.negative == sum(v < 0 for v in known)
    assert found.zero == sum(v == 0 for v in known)
    assert found.positive == sum(v > 0 for v in known)
    assert found.nan == len(values) - len(known)
    assert found.neginf == sum(v == -math.inf for v in known)
    assert found.posinf == sum(v == math.inf for v in known)
    assert (found.minimum, found.maximum) == ((min(known), max(known)) if known else (None, None))
    for extreme in (found.minimum, found.maximum):
        assert extreme is None or type(extreme) is type(values[0])
        assert extreme != 0 or math.copysign(1, extreme) == 1


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_array_is_summarised_as_exact_arithmetic_has_it(dtype: str, data: st.DataObject) -> None:
    x = data.draw(arrays(dtype))
    found = summary_of(x)
    assert found.negative + found.zero + found.positive + found.nan == found.count
    assert_exact_parts(found, x.tolist())
    assert_moments(found, Exact(x.tolist()), TOLERANCE.get(dtype, 1e-12))


@pytest.mark.parametrize("dtype", FLOATS)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), centre=st.floats(-1e4, 1e4), log_spread=st.integers(-12, 0))
def test_a_small_deviation_about_a_large_mean_is_not_lost(dtype: str, data: st.DataObject, centre: float, log_spread: int) -> None:
    offsets = data.draw(st.lists(st.floats(-1, 1), min_size=2, max_size=40))
    x = (centre + 10.0**log_spread * np.array(offsets)).astype(dtype)
    assert_moments(summary_of(x), Exact(x.tolist()), TOLERANCE.get(dtype, 1e-12))


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_extremes_of_64_bit_integers_are_exact(dtype: str) -> None:
    info = np.iinfo(dtype)
    found = summary_of(np.array([info.max - 1, info.min, info.max, info.min + 1], dtype))
    assert (found.minimum, found.maximum) == (int(info.min), int(info.max))
    assert isinstance(found.minimum, int)
    assert isinstance(found.maximum, int)


def reference(x: Array) -> tuple[float, float]:
    """(mean, deviation) of the finite elements, summed without rounding from deviations that are exact or nearly so."""
    values = x[np.isfinite(x)].astype(np.float64)
    mean = math.fsum(values) / values.size
    return mean, math.sqrt(math.fsum(np.square(values - mean)) / values.size)


def normal(mean: float, deviation: float, dtype: str, size: int = 65536) -> Array:
    return (mean + deviation * np.random.default_rng(11).standard_normal(size)).astype(dtype)


LARGE = {
    "standard normal": normal(0, 1, "float32"),
    "mean 1e4, deviation 1e-2": normal(1e4, 1e-2, "float32"),
    "mean -1e4, deviation 1e-2": normal(-1e4, 1e-2, "float32"),
    "mean 3, deviation 1": normal(3, 1, "float32"),
    "around 1e30": normal(2e30, 1e30, "float32"),
    "around 1e37": normal(2e37, 1e37, "float32"),
    "close together at 1e30": normal(1e30, 1e25, "float32"),
    "around 1e-30": normal(2e-30, 1e-30, "float32"),
    # Their squares are subnormal in float32.
    "around 1e-21": normal(3e-22, 3e-22, "float32", 50),
    "subnormal": normal(0, 1e-40, "float32"),
    "one far from the others": np.append(normal(0, 1e-3, "float32", 9999), np.float32(1e6)),
    "one far from many": np.append(np.full(65535, 1, np.float32), np.float32(3e38)),
    "not whole rows": normal(5, 1e-3, "float32", 4096 * 3 + 1),
    "a row less one": normal(5, 1e-3, "float32", 4095),
    "half precision": normal(100, 1, "float16"),
    "half precision at its end": normal(6e4, 100, "float16"),
    "double": normal(1e8, 1e-2, "float64"),
    "near-constant double": normal(1, 1e-12, "float64"),
    "bytes": np.random.default_rng(2).integers(0, 256, 50_000, np.uint8),
    "int64 of all sizes": np.random.default_rng(2).integers(-(2**63), 2**63 - 1, 50_000),
    "uint64 at its end": np.random.default_rng(2).integers(2**64 - 2**40, 2**64 - 1, 50_000, np.uint64, endpoint=True),
}


@pytest.mark.parametrize("name", sorted(LARGE))
def test_mean_and_deviation_of_large_arrays_are_right(name: str) -> None:
    x = LARGE[name]
    mean, deviation = reference(x)
    found = summary_of(x)
    assert found.deviation == pytest.approx(deviation, rel=1e-5, abs=0)
    assert abs(found.mean - mean) <= 1e-6 * math.hypot(mean, deviation)


@pytest.mark.parametrize("name", sorted(name for name, x in LARGE.items() if x.dtype.kind == "f"))
def test_nan_and_infinities_leave_the_moments_of_the_finite_ones_alone(name: str) -> None:
    x = np.insert(LARGE[name], [0, 10, 30, 50], [np.nan, np.inf, -np.inf, np.nan])
    mean, deviation = reference(x)
    found = summary_of(x)
    assert (found.nan, found.neginf, found.posinf, found.minimum, found.maximum) == (2, 1, 1, -math.inf, math.inf)
    assert found.deviation == pytest.approx(deviation, rel=1e-5, abs=0)
    assert abs(found.mean - mean) <= 1e-6 * math.hypot(mean, deviation)


@pytest.mark.parametrize("size", [1, 4096, 10_000])
@pytest.mark.parametrize("value", [0.1, -0.1, 1e4, 1e-30, -3e38, 0.0])
def test_constant_arrays_have_their_value_as_mean_and_no_deviation(value: float, size: int) -> None:
    for dtype in ("float32", "float64"):
        x = np.full(size, value, dtype)
        found = summary_of(x)
        assert found.mean == pytest.approx(float(x[0]), rel=1e-15, abs=0)
        assert found.deviation is not None
        assert found.deviation <= 1e-15 * abs(value)


@pytest.mark.parametrize("dtype", FLOATS)
def test_all_nan_has_no_extremes_and_no_deviation(dtype: str) -> None:
    assert summary_of(np.full(5, np.nan, dtype)) == Summary(count=5, nan=5)


@pytest.mark.parametrize("size", [3, 40, 5000])
@pytest.mark.parametrize("dtype", FLOATS)
def test_signalling_nan_does_not_reach_the_extremes(dtype: str, size: int) -> None:
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}")
    x = np.ones(size, dtype)
    x[0], x[-1] = -5, 7
    x.view(bits)[1] = np.array(np.inf, dtype).view(bits) + bits.type(1)
    found = summary_of(x)
    assert (found.nan, found.minimum, found.maximum) == (1, -5.0, 7.0)


@pytest.mark.parametrize("dtype", FLOATS)
def test_all_infinite_has_extremes_and_no_deviation(dtype: str) -> None:
    found = summary_of(np.array([np.inf, -np.inf, np.inf], dtype))
    assert found == Summary(count=3, negative=1, positive=2, neginf=1, posinf=2, minimum=-math.inf, maximum=math.inf)
    assert found.deviation is None


def test_negative_zero_is_zero() -> None:
    found = summary_of(np.array([-0.0, -0.0]))
    assert (found.zero, found.negative) == (2, 0)
    assert str(found.minimum) == str(found.maximum) == str(number(np.float32(-0.0))) == "0.0"


ENDS = [[1e300, 1.1e300, 1.3e300], [1e300, -1e300], [1.7e308, -1.7e308], [1e200, 1.5e200]]
ENDS += [[1e-300, 1.1e-300, 1.3e-300], [1e-300, -1e-300], [1e-200, 1.5e-200]]
# Parts that differ in size, zeros among them.
ENDS += [[0.0, 1e-300, 2e-300], [1e-300, 0.0, 0.0], [0.0, 1e300], [1e300, 1e-300], [1.0, 1e200]]


@pytest.mark.parametrize("values", ENDS, ids=str)
def test_means_near_the_ends_of_float64_are_right(values: list[float]) -> None:
    exact = Exact(values)
    assert summary_of(np.array(values)).mean == pytest.approx(exact.mean, rel=1e-15, abs=1e-15 * exact.rms)
    merged = reduce(Summary.merge, [summary_of(np.array([v])) for v in values])
    assert merged.mean == pytest.approx(exact.mean, rel=1e-15, abs=1e-15 * exact.rms)


@pytest.mark.parametrize("values", ENDS, ids=str)
def test_deviations_near_the_ends_of_float64_are_right(values: list[float]) -> None:
    exact = Exact(values)
    assert summary_of(np.array(values)).deviation == pytest.approx(exact.deviation, rel=1e-12, abs=0)
    merged = reduce(Summary.merge, [summary_of(np.array([v])) for v in values])
    assert merged.deviation == pytest.approx(exact.deviation, rel=1e-12, abs=0)


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("value", [np.finfo(np.float64).max, np.nextafter(np.finfo(np.float64).max, 0)])
def test_the_largest_numbers_there_are_do_not_overflow(value: float, size: int) -> None:
    x = np.tile([value, -value], size)
    one_sided = np.append(np.full(2 * size - 1, np.finfo(np.float64).max), value)
    for found in (summary_of(x), summary_of(x[::2].copy()).merge(summary_of(x[1::2].copy())), by_pattern(x[:2], [size, size])):
        assert abs(found.mean) <= 1e-15 * value
        assert found.deviation == pytest.approx(value, rel=1e-12, abs=0)
    for found in (summary_of(one_sided), by_pattern(one_sided[-2:], [2 * size - 1, 1])):
        assert found.mean == pytest.approx(value, rel=1e-12, abs=0)


def test_folding_many_units_of_the_largest_numbers_does_not_overflow() -> None:
    largest = float(np.finfo(np.float64).max)
    # Rounding takes the root mean square past the largest number at some lengths only.
    for pairs in range(1, 40):
        folded = reduce(Summary.merge, [summary_of(np.array([v])) for v in pairs * [largest, -largest]])
        assert abs(folded.mean) <= 1e-15 * largest
        assert folded.deviation == pytest.approx(largest, rel=1e-12, abs=0)


@pytest.mark.parametrize("values", [[1e140, 2e140], [1e-140, 2e-140], [1e101, 3e101], [1e-101, 3e-101]], ids=str)
def test_deviations_are_right_as_far_as_their_squares_reach(values: list[float]) -> None:
    assert summary_of(np.array(values)).deviation == pytest.approx(Exact(values).deviation, rel=1e-12, abs=0)


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_merging_the_summaries_of_parts_gives_that_of_the_whole(dtype: str, data: st.DataObject) -> None:
    parts = data.draw(st.lists(arrays(dtype, 0, 8), min_size=1, max_size=5))
    values = np.concatenate(parts).tolist()
    merged = reduce(Summary.merge, [summary_of(part) if part.size else Summary() for part in parts])
    if not values:
        assert merged == Summary()
        return
    assert_exact_parts(merged, values)
    assert_moments(merged, Exact(values), TOLERANCE.get(dtype, 1e-12))


@pytest.mark.parametrize("name", sorted(LARGE))
def test_merging_keeps_the_deviation_of_large_arrays(name: str) -> None:
    x = LARGE[name]
    mean, deviation = reference(x)
    merged = reduce(Summary.merge, [summary_of(part) for part in np.array_split(x, 13)])
    assert merged.deviation == pytest.approx(deviation, rel=1e-5, abs=0)
    assert abs(merged.mean - mean) <= 1e-6 * math.hypot(mean, deviation)


def test_merging_with_nothing_changes_nothing() -> None:
    some = summary_of(np.array([1.0, np.nan, -3.0]))
    assert some.merge(Summary()) == some
    assert Summary().merge(some) == some
    assert Summary().merge(Summary()) == Summary()


def test_merging_with_what_has_no_finite_elements_keeps_the_moments() -> None:
    some, lost = summary_of(np.array([1.0, 4.0])), summary_of(np.array([np.nan, np.inf]))
    for merged in (some.merge(lost), lost.merge(some)):
        assert (merged.mean, merged.deviation, merged.finite) == (2.5, 1.5, 2)
        assert (merged.count, merged.minimum, merged.maximum) == (4, 1.0, math.inf)


def by_pattern(values: Array, occurrences: Sequence[int]) -> Summary:
    with np.errstate(all="ignore"):
        return PatternSummary(values).summarise(np.array(occurrences, np.int64))


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_summary_by_pattern_is_that_of_the_elements(dtype: str, data: st.DataObject) -> None:
    values = data.draw(arrays(dtype, 1, 12))
    occurrences = data.draw(st.lists(st.integers(0, 4), min_size=values.size, max_size=values.size))
    found, elements = by_pattern(values, occurrences), np.repeat(values, occurrences)
    if not elements.size:
        assert found == Summary()
        return
    assert_exact_parts(found, elements.tolist())
    assert_moments(found, Exact(elements.tolist()), 1e-12)


@pytest.mark.parametrize("values", ENDS, ids=str)
def test_means_by_pattern_near_the_ends_of_float64_are_right(values: list[float]) -> None:
    exact = Exact(3 * values)
    found = by_pattern(np.array(values), [3] * len(values))
    assert found.mean == pytest.approx(exact.mean, rel=1e-15, abs=1e-15 * exact.rms)


@pytest.mark.parametrize("mean", [0, 100, 6e4])
def test_summary_by_pattern_of_large_arrays_is_right(mean: float) -> None:
    x = normal(mean, 1 if mean < 1e3 else 200, "float16", 300_000)
    patterns = np.arange(1 << 16, dtype=np.uint16)
    found = by_pattern(patterns.view(np.float16), np.bincount(x.view(np.uint16), minlength=1 << 16).tolist())
    expected_mean, expected_deviation = reference(x)
    assert found.deviation == pytest.approx(expected_deviation, rel=1e-12, abs=0)
    assert found.mean == pytest.approx(expected_mean, rel=1e-12, abs=1e-12)
    assert_exact_parts(found, x.tolist())


def holds(lower: float, upper: float, value: Number) -> bool:
    """Whether a bin takes the value: the end nearer to 0 is its own, 0 has a bin to itself. Integers are compared as they are."""
    if lower == upper:
        return value == 0
    if value > 0:
        return lower >= 0 and lower <= value < upper
    return value < 0 and upper <= 0 and lower < value <= upper


def assert_bins(histogram: Histogram, values: Sequence[Number]) -> None:
    """Every finite value in one bin, no bin empty, out of order or across another, and each as narrow as promised."""
    bins = histogram.bins()
    for b in bins:
        assert b.elements == sum(holds(b.lower, b.upper, v) for v in values), b
        assert b.elements > 0
        assert (b.lower, b.upper) == (0, 0) if b.lower == b.upper else b.lower < b.upper
    for here, after in pairwise(bins):
        assert here.upper <= after.lower
    assert sum(b.elements for b in bins) == sum(math.isfinite(v) for v in values)
    assert histogram.sampled == len(values)


def histogram_of(x: Array, occurrences: Sequence[int] | None = None) -> Histogram:
    histogram = Histogram(x.dtype)
    histogram.add(x, None if occurrences is None else np.array(occurrences, np.int64))
    return histogram


@pytest.mark.parametrize("dtype", BINNED_APART)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_every_finite_element_is_in_exactly_one_bin(dtype: str, data: st.DataObject) -> None:
    x = data.draw(arrays(dtype, 0))
    assert_bins(histogram_of(x), x.tolist())


@pytest.mark.parametrize("dtype", BINNED_APART)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_histogram_by_occurrences_is_that_of_the_elements(dtype: str, data: st.DataObject) -> None:
    values = data.draw(arrays(dtype, 1, 12))
    occurrences = data.draw(st.lists(st.integers(0, 4), min_size=values.size, max_size=values.size))
    assert_bins(histogram_of(values, occurrences), np.repeat(values, occurrences).tolist())


@pytest.mark.parametrize("dtype", BINNED_APART)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_merged_histograms_are_that_of_both_together(dtype: str, data: st.DataObject) -> None:
    first, second, third = (data.draw(arrays(dtype, 0, 12)) for _ in range(3))
    merged = histogram_of(first)
    merged.add(second)
    merged.merge(histogram_of(third))
    assert_bins(merged, [*first.tolist(), *second.tolist(), *third.tolist()])


@pytest.mark.parametrize("dtype", FLOATS)
def test_all_finite_bins_together_cover_the_type_in_quarters_of_powers_of_two(dtype: str) -> None:
    limits = np.finfo(dtype)
    edges = [math.ldexp(1 + quarter / 4, e) for e in range(limits.minexp, limits.maxexp) for quarter in range(4)]
    found = [b for b in histogram_of(np.array(edges, dtype)).bins() if b.lower > 0]
    assert [b.lower for b in found] == edges
    assert [b.upper for b in found[:-1]] == edges[1:]
    # 2 to the maxexp: float64 itself has no such number.
    assert found[-1].upper == (math.inf if dtype == "float64" else math.ldexp(1, limits.maxexp))


@pytest.mark.parametrize(
    ("dtype", "value", "lower", "upper"),
    [
        ("int64", 2**63 - 1, 1.75 * 2**62, 2.0**63),
        ("int64", -(2**63) + 1, -(2.0**63), -1.75 * 2**62),
        ("int64", -(2**63), -1.25 * 2**63, -(2.0**63)),
        ("uint64", 2**64 - 1, 1.75 * 2**63, 2.0**64),
        ("uint64", 2**63, 2.0**63, 1.25 * 2**63),
        ("int64", 5 * 2**60 - 1, 2.0**62, 1.25 * 2**62),
        ("uint64", 5 * 2**61 - 1, 2.0**63, 1.25 * 2**63),
        ("int64", 2**54 - 1, 1.75 * 2**53, 2.0**54),
        ("int64", 2**53, 2.0**53, 1.25 * 2**53),
        ("int8", -128, -160.0, -128.0),
        ("uint8", 255, 224.0, 256.0),
    ],
)
def test_integers_at_the_edges_are_in_the_bin_their_exact_value_is_in(dtype: str, value: int, lower: float, upper: float) -> None:
    (only,) = histogram_of(np.array([value], dtype)).bins()
    assert (only.lower, only.upper, only.elements) == (lower, upper, 1)


def test_nan_and_infinities_are_sampled_and_in_no_bin() -> None:
    histogram = histogram_of(np.array([np.nan, -np.nan, np.inf, -np.inf], np.float16))
    assert (histogram.bins(), histogram.sampled) == ([], 4)


def test_both_zeros_share_a_bin_of_their_own() -> None:
    histogram = histogram_of(np.array([0.0, -0.0, 5e-324, -5e-324, -0.0]))
    assert [(b.lower == b.upper, b.elements) for b in histogram.bins()] == [(False, 1), (True, 3), (False, 1)]


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_a_strided_sample_counts_those_elements_only(dtype: str) -> None:
    x = normal(0, 100, dtype, 10_000)
    histogram = Histogram(x.dtype)
    histogram.add(x[5::31])
    assert_bins(histogram, x[5::31].tolist())


def test_large_samples_are_counted_whole() -> None:
    x = normal(0, 3, "float32", 200_000)
    histogram = histogram_of(x)
    for b in histogram.bins():
        inside = (x >= b.lower) & (x < b.upper) if b.lower >= 0 else (x > b.lower) & (x <= b.upper)
        assert b.elements == np.count_nonzero(inside)
    assert sum(b.elements for b in histogram.bins()) == histogram.sampled == x.size
