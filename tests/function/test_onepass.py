"""One pass over the units of an array: whichever way it is cut up and its bytes are ordered, the result and the statistics stay."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from leakycli.engine.plan import UNIT_BYTES, FlatPlan
from leakycli.function.kernel import PIECE, TABLE_FROM, NanError, transform
from leakycli.function.onepass import (
    LONG_STRIDE,
    SAMPLE_ALL,
    SAMPLE_MANY,
    STRIDE,
    OnePass,
    Patterns,
    UnitResult,
    by_table,
    sample_stride,
    scratch_bytes,
)
from leakycli.function.rule import Losses, Rule
from leakycli.function.summary import Histogram, Summary, summarise

Array = NDArray[Any]

FLOATS = ("float16", "float32", "float64")
SOURCES = (*FLOATS, "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
OUTPUTS = ("float16", "float32", "float64", "int32", "int64")

#: Large enough for the table and for a strided histogram; the arrays that are passed in its name may be much smaller.
LARGE = SAMPLE_ALL + 1


def in_order(x: Array, order: str) -> Array:
    """A copy with its bytes in the order "<" or ">"."""
    return x.astype(x.dtype.newbyteorder(">" if order == ">" else "<"))


def native(x: Array) -> Array:
    return x.astype(x.dtype.newbyteorder("="))


def rule_for(source: str, dtype: str, alpha: float = 0.3) -> Rule:
    return Rule.of(source, alpha, dtype, None if dtype in FLOATS else -9)


def arrays(source: str, max_size: int) -> st.SearchStrategy[Array]:
    """Arrays of any bit patterns of the type."""
    width = np.dtype(source).itemsize
    return st.binary(max_size=max_size * width).map(lambda b: np.frombuffer(b[: len(b) // width * width], source))


def random_array(source: str, size: int, seed: int = 1) -> Array:
    """Random bit patterns, or in a quarter of the array small numbers, so that means and deviations stay numbers."""
    generator = np.random.default_rng(seed)
    width = np.dtype(source).itemsize
    x = generator.integers(0, 256, size * width, np.uint8).view(source).copy()
    x[::4] = (50 * generator.standard_normal(x[::4].size)).astype(np.int8)
    return x


@dataclass
class Passed:
    """What a pass over all units of an array gave."""

    y: Array
    units: list[UnitResult]
    histograms: tuple[Histogram, Histogram]

    @property
    def losses(self) -> Losses:
        return sum((unit.losses for unit in self.units), Losses())

    @property
    def summaries(self) -> tuple[Summary, Summary]:
        before = after = Summary()
        for unit in self.units:
            before, after = before.merge(unit.before), after.merge(unit.after)
        return before, after


def pass_over(x: Array, rule: Rule, cuts: Sequence[int], size: int, order: str = "<", start: int = 0) -> Passed:
    """`x`, cut up at `cuts`, the part at `start` of an array of `size` elements, into an output in byte order `order`."""
    one_pass = OnePass(rule, size)
    y = in_order(np.full(x.size, 77, rule.dtype), order)
    edges = [0, *sorted(cuts), x.size]
    units = [one_pass(x[a:b], y[a:b], start + a) for a, b in pairwise(edges)]
    return Passed(y, *told(one_pass, units))


def told(one_pass: OnePass, units: list[UnitResult]) -> tuple[list[UnitResult], tuple[Histogram, Histogram]]:
    """All that a pass tells, by units or by patterns."""
    histograms, patterns = one_pass.take()
    if patterns is None:
        return units, histograms
    assert all(unit == UnitResult(Summary(), Summary(), Losses()) for unit in units)
    unit, histograms = Patterns.from_json(one_pass.rule, patterns.to_json()).results()
    return [unit], histograms


def expected_histogram(x: Array, stride: int, start: int = 0) -> Histogram:
    histogram = Histogram(x.dtype)
    histogram.add(np.array([v for i, v in enumerate(x) if (start + i) % stride == 0], x.dtype))
    return histogram


def summary_of(x: Array) -> Summary:
    if not x.size:
        return Summary()
    with np.errstate(all="ignore"):
        return summarise(x, np.empty(x.size, np.bool_), np.empty(x.size, np.float64))


def assert_same(found: Histogram, expected: Histogram) -> None:
    assert (found.bins(), found.sampled) == (expected.bins(), expected.sampled)


def assert_close(found: Summary, expected: Summary) -> None:
    """Counts and extremes equal, moments within what float32's own sums allow."""

    def exact_part(s: Summary) -> tuple[Any, ...]:
        return s.count, s.negative, s.zero, s.positive, s.nan, s.neginf, s.posinf, s.minimum, s.maximum

    assert exact_part(found) == exact_part(expected)
    if expected.deviation is not None:
        scale = math.hypot(expected.mean, expected.deviation)
        assert abs(found.mean - expected.mean) <= 1e-5 * scale + 1e-322
        assert found.deviation == pytest.approx(expected.deviation, rel=2e-5, abs=1e-12 * scale)


def assert_passed(found: Passed, x: Array, rule: Rule, stride: int, start: int = 0) -> None:
    """The result, losses, summaries and histograms of the 1-D native `x` taken as a whole."""
    y = np.empty(x.shape, rule.dtype)
    lost = transform(x, y, rule)
    assert native(found.y).tobytes() == y.tobytes()
    assert found.losses == lost
    for summary, values in zip(found.summaries, (x, y), strict=True):
        assert_close(summary, summary_of(values))
    for histogram, values in zip(found.histograms, (x, y), strict=True):
        assert_same(histogram, expected_histogram(values, stride, start))


orders = st.sampled_from("<>")


@pytest.mark.parametrize("source", SOURCES)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(OUTPUTS), order=orders, order_out=orders, alpha=st.sampled_from([0.3, 0.0, -2.0, 1.0, 1.5]))
def test_any_cuts_and_byte_orders_give_what_the_whole_gives(
    source: str, data: st.DataObject, dtype: str, order: str, order_out: str, alpha: float
) -> None:
    x = data.draw(arrays(source, 40))
    cuts = data.draw(st.lists(st.integers(0, x.size), max_size=4))
    rule = rule_for(source, dtype, alpha)
    found = pass_over(in_order(x, order), rule, cuts, max(x.size, 1), order_out)
    assert_passed(found, x, rule, 1)


@pytest.mark.parametrize("source", ["float32", "float64", "int32", "uint64"])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(OUTPUTS), order=orders, start=st.integers(0, 300))
def test_a_large_array_has_every_127th_element_of_its_flat_index_in_its_histogram(
    source: str, data: st.DataObject, dtype: str, order: str, start: int
) -> None:
    assert STRIDE == 127
    x = random_array(source, 800)
    cuts = data.draw(st.lists(st.integers(0, x.size), max_size=6))
    rule = rule_for(source, dtype)
    assert_passed(pass_over(in_order(x, order), rule, cuts, LARGE, order, start), x, rule, 127, start)


@pytest.mark.parametrize("source", ["float16", "int8", "uint8", "int16", "uint16"])
@settings(max_examples=5, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(OUTPUTS), order=orders, order_out=orders)
def test_an_array_by_table_has_all_its_elements_in_its_histogram(
    source: str, data: st.DataObject, dtype: str, order: str, order_out: str
) -> None:
    x = random_array(source, 300)
    cuts = data.draw(st.lists(st.integers(0, x.size), max_size=4))
    rule = rule_for(source, dtype)
    assert_passed(pass_over(in_order(x, order), rule, cuts, LARGE, order_out, start=5), x, rule, 1)


@pytest.mark.parametrize(("source", "dtype"), [("float32", "float32"), ("float64", "float32"), ("int16", "float16"), ("float32", "int64")])
@pytest.mark.parametrize("order", ["<", ">"])
def test_units_of_several_pieces_give_what_the_whole_gives(source: str, dtype: str, order: str) -> None:
    x = random_array(source, 2 * PIECE + 123 if source != "int16" else TABLE_FROM - 1)
    rule = rule_for(source, dtype)
    found = pass_over(in_order(x, order), rule, [PIECE + 5, x.size - 3], x.size, order)
    assert_passed(found, x, rule, 1)


@pytest.mark.parametrize("source", ["float16", "uint8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_units_of_several_pieces_by_table_give_what_the_whole_gives(source: str, order: str) -> None:
    x = random_array(source, 2 * PIECE + 123)
    rule = rule_for(source, "float32")
    assert_passed(pass_over(in_order(x, order), rule, [PIECE + 5, x.size - 3], x.size, order), x, rule, 1)


@pytest.mark.parametrize("size", [500, TABLE_FROM])
@pytest.mark.parametrize("source", SOURCES)
def test_statistics_have_the_same_bits_in_either_byte_order(source: str, size: int) -> None:
    x = random_array(source, 500)
    rule = rule_for(source, "float32")
    little, big = (pass_over(in_order(x, order), rule, [100, 333], size, order) for order in "<>")
    assert little.units == big.units
    for a, b in zip(little.histograms, big.histograms, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("size", [1000, TABLE_FROM])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_source_is_left_as_it_was(size: int, order: str) -> None:
    for source in ("float16", "float32", "int16"):
        x = in_order(random_array(source, 1000), order)
        x.flags.writeable = False
        before = x.tobytes()
        pass_over(x, rule_for(source, "float64"), [], size, ">")
        assert x.tobytes() == before


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("position", [0, 70, PIECE - 1, PIECE, 2 * PIECE + 9])
def test_nan_without_an_integer_is_named_by_its_position_in_the_unit(source: str, order: str, position: int) -> None:
    x = np.ones(3 * PIECE, source)
    x[position] = x[-1] = np.nan
    one_pass = OnePass(Rule.of(source, 0.2, "int32"), x.size)
    x = in_order(x, order)
    y = in_order(np.zeros(x.size, np.int32), order)
    one_pass(np.ones(9, x.dtype), y[:9], 0)
    with pytest.raises(NanError) as caught:
        one_pass(x, y, 9)
    assert caught.value.position == position


@pytest.mark.parametrize("size", [5, TABLE_FROM])
def test_minus_infinity_with_alpha_zero_is_named_as_nan_is(size: int) -> None:
    x = np.array([1, -1, -np.inf, np.nan], np.float16)
    with pytest.raises(NanError) as caught:
        OnePass(Rule.of("float16", 0, "int64"), size)(x, np.empty(4, np.int64), 0)
    assert caught.value.position == 2


@pytest.mark.parametrize("dtype", OUTPUTS)
@pytest.mark.parametrize("source", SOURCES)
def test_being_made_ready_gives_no_warning(source: str, dtype: str) -> None:
    # pytest turns any into an error.
    OnePass(rule_for(source, dtype), LARGE).take()


@pytest.mark.parametrize("size", [50, TABLE_FROM])
def test_histograms_start_anew_once_taken(size: int) -> None:
    x = random_array("float16", 50)
    rule = rule_for("float16", "float32")
    one_pass, y = OnePass(rule, size), np.empty(50, np.float32)
    one_pass(x, y, 0)
    first = told(one_pass, [])[1]
    one_pass(x[:20], y[:20], 0)
    second = told(one_pass, [])[1]
    assert_same(first[0], expected_histogram(x, 1))
    assert_same(second[0], expected_histogram(x[:20], 1))
    assert_same(second[1], expected_histogram(y[:20], 1))
    assert all(histogram.sampled == 0 and not histogram.bins() for histogram in told(one_pass, [])[1])


@pytest.mark.parametrize("size", [0, TABLE_FROM])
def test_an_empty_unit_gives_nothing(size: int) -> None:
    one_pass = OnePass(rule_for("float16", "float32"), size)
    nothing = one_pass(np.empty(0, np.float16), np.empty(0, np.float32), 0)
    assert nothing == UnitResult(Summary(), Summary(), Losses())
    assert [histogram.sampled for histogram in told(one_pass, [])[1]] == [0, 0]


def test_table_and_stride_are_chosen_by_the_array_alone() -> None:
    half, single = Rule.of("float16"), Rule.of("float32")
    assert [by_table(half, n) for n in (0, TABLE_FROM - 1, TABLE_FROM)] == [False, False, True]
    assert not by_table(single, 1 << 40)
    assert [sample_stride(single, n) for n in (0, SAMPLE_ALL, SAMPLE_ALL + 1)] == [1, 1, STRIDE]
    assert [sample_stride(single, n) for n in (SAMPLE_MANY, SAMPLE_MANY + 1, 1 << 40)] == [STRIDE, LONG_STRIDE, LONG_STRIDE]
    assert sample_stride(half, 1 << 40) == 1


def peak_of_pass(rule: Rule, size: int) -> int:
    """Bytes at most allocated by a pass over two units, as the plan cuts them, of an array of `size` elements."""
    unit = min(size, UNIT_BYTES // rule.source.itemsize)
    x, y = in_order(random_array(rule.source.name, unit), ">"), in_order(np.empty(unit, rule.dtype), ">")
    tracemalloc.start()
    try:
        one_pass = OnePass(rule, size)
        one_pass(x, y, 0)
        one_pass.take()
        one_pass(x, y, unit)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("source", SOURCES)
def test_memory_stays_within_what_is_stated(source: str) -> None:
    beyond = {}
    for dtype in OUTPUTS:
        rule = rule_for(source, dtype)
        for size in (1000, TABLE_FROM - 1, SAMPLE_ALL, LARGE):
            peak, stated = peak_of_pass(rule, size), scratch_bytes(rule, size)
            if peak > stated:
                beyond[dtype, size] = peak, stated
    assert not beyond


@pytest.mark.parametrize("source", SOURCES)
def test_statistics_are_the_same_in_parts_and_by_whole_units(source: str) -> None:
    rule, size = rule_for(source, "float32"), 4 * (UNIT_BYTES // np.dtype(source).itemsize)
    x, y = random_array(source, size), np.empty(size, np.float32)
    sides = []
    for ordered in (False, True):
        plan, one_pass, units = FlatPlan.of("", size, (x.itemsize, 4), 0, (ordered, False)), OnePass(rule, size), []
        with np.errstate(all="ignore"):
            for region in plan.regions():
                for part in plan.parts(region):
                    one_pass.add(x[part.start : part.stop], y[part.start : part.stop], part.start)
                    units += [one_pass.unit() for *_, ends in plan.units(part) if ends]
        sides.append(units)
    assert len(sides[0]) == 4
    assert sides[0] == sides[1]
