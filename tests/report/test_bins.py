"""From bins by binary exponent to quantiles and a histogram: nothing is lost, whatever the values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from leakycli.report import bins
from leakycli.report.figure import Axis


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=2, max_size=12, unique=True).map(sorted),
    st.lists(st.integers(1, 1000), min_size=12, max_size=12),
    st.integers(0, 50),
)
def test_every_element_is_in_a_bin_below_or_above(values: list[float], counts: list[int], zeros: int) -> None:
    pairs = [(low, high, count) for low, high, count in zip(values, values[1:], counts, strict=False) if low >= 0 or high <= 0]
    made = sorted([*pairs, *([(0.0, 0.0, zeros)] if zeros else [])])
    total = sum(count for _, _, count in made)
    edges = bins.edges((made, made))[0]
    inside, below, above = bins.counts(made, edges)
    assert sum(inside) + below + above == total
    assert min((*inside, below, above)) >= 0
    assert list(edges) == sorted(edges)
    assert all(map(math.isfinite, edges))
    quantiles = bins.quantiles(made, values[0], values[-1]) if made else None
    if quantiles is not None:
        assert list(quantiles.values()) == sorted(quantiles.values())
        assert (quantiles["0"], quantiles["100"]) == (values[0], values[-1])
        # At the ends of float64 the sample's range is that of its bins.
        assert all(math.isfinite(value) for value in quantiles.values())


def exponent_bins(x: NDArray[np.float64]) -> list[tuple[float, float, int]]:
    """A quarter of an octave each, as version 1 has them."""
    mantissas, exponents = np.frexp(np.abs(x[x != 0]))
    lower = np.ldexp(np.floor(mantissas * 8) / 8, exponents)
    upper = np.ldexp((np.floor(mantissas * 8) + 1) / 8, exponents)
    negative = x[x != 0] < 0
    pairs = np.where(negative, [-upper, -lower], [lower, upper])
    found, counts = np.unique(pairs, axis=1, return_counts=True)
    return [(float(low), float(high), int(count)) for (low, high), count in zip(found.T, counts, strict=True)]


@pytest.mark.parametrize("mean", [0, 3, -5])
def test_quantiles_are_as_exact_as_the_bins(mean: float) -> None:
    x = np.random.default_rng(0).normal(mean, 1, 100_000)
    found = bins.quantiles(exponent_bins(x), x.min(), x.max())
    assert found is not None
    for name, value in found.items():
        assert value == pytest.approx(np.quantile(x, float(name) / 100), rel=0.2, abs=0.01)


def test_bins_are_equal_unless_most_would_be_in_one() -> None:
    rng = np.random.default_rng(0)
    (normal,) = bins.edges((exponent_bins(rng.normal(0, 1, 10_000)),))
    assert Axis(normal).equal
    (wide,) = bins.edges((exponent_bins(np.exp(rng.normal(0, 4, 10_000))),))
    assert not Axis(wide).equal
    inside, _, _ = bins.counts(exponent_bins(np.exp(rng.normal(0, 4, 10_000))), wide)
    assert max(inside) < 2_000


def test_edges_are_shared_where_ranges_are_alike() -> None:
    x = np.random.default_rng(0).normal(0, 1, 10_000)
    before, after = bins.edges((exponent_bins(x), exponent_bins(np.where(x > 0, x, 0.2 * x))))
    assert before == after
    before, after = bins.edges((exponent_bins(x), exponent_bins(100 * x)))
    assert before != after
