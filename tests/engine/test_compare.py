"""What differs between two arrays, against a count element by element."""

from __future__ import annotations

import math
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from leakycli.engine.compare import Difference, difference

Array = NDArray[Any]

FLOATS = ("float16", "float32", "float64")
TYPES = (*FLOATS, "int8", "uint8", "int32", "int64", "uint64")


def patterns(dtype: str) -> st.SearchStrategy[int]:
    """Bit patterns, close neighbours and the ends of the type often among them."""
    width = 8 * np.dtype(dtype).itemsize
    sign = 1 << (width - 1)
    known = [0, 1, 2, sign - 1, sign, sign + 1, sign + 2, 2 * sign - 1]
    if dtype in FLOATS:
        infinity = int(np.array(np.inf, dtype).view(f"u{width // 8}"))
        known += [infinity - 1, infinity, infinity + 1, sign + infinity - 1, sign + infinity, sign + infinity + 1]
    return st.sampled_from(known) | st.integers(0, 2 * sign - 1)


@st.composite
def pairs(draw: st.DrawFn, dtype: str, max_size: int = 12) -> tuple[Array, Array]:
    """(expected, found), equal in most places."""
    bits = f"u{np.dtype(dtype).itemsize}"
    expected = draw(st.lists(patterns(dtype), max_size=max_size))
    found = [draw(st.just(pattern) | st.just(pattern) | patterns(dtype)) for pattern in expected]
    return np.array(expected, bits).view(dtype), np.array(found, bits).view(dtype)


def place(pattern: int, width: int, kind: str) -> int:
    """Where a bit pattern stands in the order of its type's numbers; both zeros stand at 0."""
    sign = 1 << (width - 1)
    if kind == "f":
        return -(pattern - sign) if pattern >= sign else pattern
    return pattern - 2 * sign if kind == "i" and pattern >= sign else pattern


def plain_difference(expected: Array, found: Array, start: int) -> Difference | None:
    width, kind = 8 * expected.itemsize, expected.dtype.kind
    bits = f"u{expected.itemsize}"
    count, first, largest, steps = 0, -1, 0.0 if kind == "f" else 0, 0
    for at, (a, b, p, q) in enumerate(
        zip(expected.tolist(), found.tolist(), expected.view(bits).tolist(), found.view(bits).tolist(), strict=True)
    ):
        if p == q or (a != a and b != b):
            continue
        count += 1
        first = at if first < 0 else first
        gap = abs(a - b)
        largest = max(largest, math.inf if gap != gap else gap)
        steps = max(steps, abs(place(p, width, kind) - place(q, width, kind)))
    if not count:
        return None
    return Difference(count, start + first, expected[first].item(), found[first].item(), largest, steps)


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), start=st.integers(0, 10**12))
def test_any_difference_is_that_of_a_plain_count(dtype: str, data: st.DataObject, start: int) -> None:
    expected, found = data.draw(pairs(dtype))
    # By text, in which NaN equals NaN.
    assert repr(difference(expected, found, start)) == repr(plain_difference(expected, found, start))


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_differences_of_parts_merge_to_that_of_the_whole(dtype: str, data: st.DataObject) -> None:
    expected, found = data.draw(pairs(dtype))
    cuts = sorted(data.draw(st.lists(st.integers(0, expected.size), max_size=4)))
    edges = [0, *cuts, expected.size]
    parts = [difference(expected[a:b], found[a:b], a) for a, b in pairwise(edges)]
    known = [part for part in parts if part is not None]
    merged = reduce(Difference.merge, known) if known else None
    assert repr(merged) == repr(difference(expected, found))


@pytest.mark.parametrize("dtype", TYPES)
def test_equal_arrays_do_not_differ(dtype: str) -> None:
    x = np.arange(256, dtype=np.uint8).repeat(8).view(dtype)
    assert difference(x, x.copy()) is None
    assert difference(x[:0], x[:0]) is None


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_equals_any_nan(dtype: str) -> None:
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}")
    nans = np.array([np.nan, -np.nan, np.nan], dtype)
    others = nans.copy()
    others.view(bits)[:] += np.array([1, 2, 3], bits)
    assert difference(nans, others) is None
    others[1] = 1
    found = difference(nans, others, 10)
    assert found is not None
    assert (found.count, found.position, found.found, found.max_abs) == (1, 11, 1.0, math.inf)
    assert math.isnan(found.expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_nan_or_infinity_against_a_number_is_infinitely_far(dtype: str) -> None:
    for a, b in ((1, np.nan), (np.nan, 1), (np.inf, 1), (1, -np.inf), (np.inf, -np.inf), (np.inf, np.nan)):
        found = difference(np.array([0, a], dtype), np.array([0.5, b], dtype))
        assert found is not None
        assert (found.count, found.position, found.max_abs) == (2, 0, math.inf)


@pytest.mark.parametrize("dtype", FLOATS)
def test_steps_add_up_across_zero(dtype: str) -> None:
    least = np.finfo(dtype).smallest_subnormal
    found = difference(np.array([-2 * least, 0, 1], dtype), np.array([3 * least, 0, 1], dtype))
    assert found == Difference(1, 0, float(-2 * least), float(3 * least), float(5 * least), 5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_two_zeros_differ_by_no_step(dtype: str) -> None:
    found = difference(np.array([1, 0.0], dtype), np.array([1, -0.0], dtype), 3)
    assert found == Difference(1, 4, 0.0, -0.0, 0.0, 0)


@pytest.mark.parametrize("dtype", FLOATS)
def test_neighbours_differ_by_one_step(dtype: str) -> None:
    x = np.array([1, 65504, -2.5], dtype)
    found = difference(x, np.nextafter(x, np.array(0, dtype)))
    assert found is not None
    assert (found.count, found.max_ulp) == (3, 1)
    assert found.max_abs == float(x[1]) - float(np.nextafter(x, np.array(0, dtype))[1])


@pytest.mark.parametrize(("dtype", "low", "high"), [("int64", -(2**63), 2**63 - 1), ("uint64", 0, 2**64 - 1), ("int8", -128, 127)])
def test_extremes_of_integers_are_their_exact_difference_apart(dtype: str, low: int, high: int) -> None:
    found = difference(np.array([low, high - 1], dtype), np.array([high, high], dtype))
    assert found == Difference(2, 0, low, high, high - low, high - low)
    assert isinstance(found.max_abs, int)


def test_merging_keeps_the_first_position_and_the_largest_differences() -> None:
    first, later = Difference(2, 5, 1.0, 1.5, 0.5, 9), Difference(3, 40, -1.0, 2.0, 3.0, 4)
    assert first.merge(later) == Difference(5, 5, 1.0, 1.5, 3.0, 9)
