"""A unit gives the same bits and statistics however it lies in memory, and in whichever pieces it comes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from leakycli.function import kernel as kernel_module
from leakycli.function.kernel import Kernel, kernel_bytes
from leakycli.function.rule import Rule
from leakycli.function.stats import NanError
from leakycli.regions import stretches
from tests.kit.kernels import random_bits

Array = NDArray[Any]

SHAPE = (60, 50, 90)


def fortran(x: Array) -> Array:
    return np.asfortranarray(x)


def within(x: Array) -> Array:
    """A part of a larger array."""
    larger = np.zeros(tuple(n + 3 for n in x.shape), x.dtype)
    part = larger[tuple(slice(1, n + 1) for n in x.shape)]
    part[...] = x
    return part


def swapped(x: Array) -> Array:
    return x.astype(x.dtype.newbyteorder())


LAYOUTS: list[Callable[[Array], Array]] = [
    np.ascontiguousarray,
    fortran,
    within,
    swapped,
    lambda x: within(swapped(x)),
    lambda x: x[::-1][::-1],
]


@pytest.mark.parametrize("source", ["float32", "float16", "int64"])
@pytest.mark.parametrize("of_x", LAYOUTS)
@pytest.mark.parametrize("of_y", [np.ascontiguousarray, fortran, within, lambda y: within(swapped(y))])
def test_a_unit_gives_the_same_wherever_it_lies(source: str, of_x: Callable[[Array], Array], of_y: Callable[[Array], Array]) -> None:
    x = random_bits(np.random.default_rng(1), source, 270_000).reshape(SHAPE)
    rule = Rule.of(source, 0.3, "float32")
    plain, wanted = Kernel(rule), np.empty(SHAPE, np.float32)
    plain.add(x, wanted)
    laid_out, y = of_x(x), of_y(np.zeros(SHAPE, np.float32))
    before = laid_out.tobytes()
    kernel = Kernel(rule)
    kernel.add(laid_out, y)
    assert np.array_equal(y, wanted, equal_nan=True)
    assert kernel.take() == plain.take()
    assert laid_out.tobytes() == before


def test_a_nan_is_named_by_its_place_in_c_order() -> None:
    for layout in LAYOUTS:
        x = np.ones(SHAPE, np.float32)
        x[59, 3, 4] = x[58, 49, 89] = np.nan
        with pytest.raises(NanError) as caught:
            Kernel(Rule.of("float32", 0.2, "int32")).add(layout(x), np.zeros(SHAPE, np.int32))
        assert caught.value.position == int(np.ravel_multi_index((58, 49, 89), SHAPE))


@given(st.lists(st.integers(0, 6), max_size=4), st.data())
def test_stretches_cover_a_range_in_c_order(shape: list[int], data: st.DataObject) -> None:
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    start = data.draw(st.integers(0, x.size))
    stop = data.draw(st.integers(start, x.size)) if shape else 1
    found = [(x[selection].reshape(-1), size) for selection, size in stretches(tuple(shape), start if shape else 0, stop)]
    assert all(values.size == size for values, size in found)
    assert np.concatenate([[], *(values for values, _ in found)]).tolist() == list(range(start if shape else 0, stop))


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize(("source", "dtype"), [("float32", "float32"), ("float64", "float16"), ("uint8", "float64"), ("int64", "int64")])
def test_memory_stays_within_what_is_stated(source: str, dtype: str, contiguous: bool) -> None:
    rule = Rule.of(source, 0.2, dtype)
    x, y = np.ones((2, 1 << 20), source), np.empty((2, 1 << 20), dtype)
    if not contiguous:
        x, y = fortran(x), fortran(y)[::-1]
    tracemalloc.start()
    try:
        kernel = Kernel(rule)
        kernel.add(x, y)
        kernel.take()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= kernel_bytes(rule, contiguous)
    assert kernel_module.NAME == "reference" or peak < 8 << 20
