"""The statistics of the pass against exact arithmetic on data that is hard for sums, and merging in any order."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakycli.function.stats import BlockStats, Summary
from tests.kit.kernels import INPUTS, RUNS, Run, both, plain, random_bits, values, work


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> Run:
    return RUNS[request.param]


def exact(numbers: Any) -> tuple[float, float]:
    """Mean and deviation by fractions, each rounded once (the root but for its last bit)."""
    whole = [Fraction(number) for number in numbers.tolist()]
    mean = sum(whole) / len(whole)
    variance = sum((number - mean) ** 2 for number in whole) / len(whole)
    scaled = variance * Fraction(4) ** 1200
    return float(mean), float(Fraction(math.isqrt(int(scaled)), 2**1200))


def close(found: float | None, wanted: float, tolerance: float, unit: float) -> bool:
    assert found is not None
    return abs(Fraction(found) - Fraction(wanted)) <= Fraction(tolerance) * max(abs(Fraction(wanted)), Fraction(unit))


RNG = np.random.default_rng(11)
COUNT = 5000

HOSTILE = {
    "float32, mean 1e8, deviation 1": (np.float32(1e8) + RNG.standard_normal(COUNT)).astype(np.float32),
    "float32, mean 1e6, deviation 1": (1e6 + RNG.standard_normal(COUNT)).astype(np.float32),
    "float32 with spikes": np.where(RNG.random(COUNT) < 0.001, 1e30, RNG.standard_normal(COUNT)).astype(np.float32),
    "float32, the first a spike": np.r_[3e38, RNG.standard_normal(COUNT)].astype(np.float32),
    "float32 subnormal": (RNG.standard_normal(COUNT) * 1e-42).astype(np.float32),
    "float64, mean 1e12, deviation 1e-3": 1e12 + 1e-3 * RNG.standard_normal(COUNT),
    "float64 near its largest": RNG.choice([1.7e308, -1.7e308, 1.6e308], COUNT),
    "float64 beyond 2^300": RNG.standard_normal(COUNT) * 1e200,
    "float64 below 2^-300": RNG.standard_normal(COUNT) * 1e-200,
    "float64 subnormal": RNG.standard_normal(COUNT) * 1e-315,
    "float64, the smallest": np.full(COUNT, 5e-324),
    "float64 of all sizes": RNG.standard_normal(COUNT) * 10.0 ** RNG.integers(-300, 300, COUNT),
    "float16": RNG.standard_normal(COUNT).astype(np.float16) * np.float16(1000),
    "float16 far from 0": (60000 + 40 * RNG.standard_normal(COUNT)).astype(np.float16),
    "int64 far from 0": 2**62 + RNG.integers(0, 1000, COUNT),
    "int64 far below 0": -(2**63) + RNG.integers(0, 1000, COUNT),
    "int64 of all sizes": RNG.integers(-(2**63), 2**63 - 1, COUNT, endpoint=True),
    "uint64 far from 0": np.uint64(2**64 - 1001) + RNG.integers(0, 1000, COUNT).astype(np.uint64),
    "uint32": RNG.integers(2**32 - 50, 2**32, COUNT).astype(np.uint32),
    "int16": RNG.integers(32000, 32003, COUNT).astype(np.int16),
    "uint8": RNG.integers(0, 256, COUNT).astype(np.uint8),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_data(run: Run, name: str) -> None:
    x = HOSTILE[name]
    _, stats = both(work(x.dtype.name, x.dtype.name if x.dtype.kind == "f" else "float64", 1.0), x, run)
    assert stats is not None
    found, (mean, std) = stats.before, exact(x)
    tolerance = 1e-12 if x.dtype.kind != "f" or x.itemsize == 8 else 1e-6
    if name == "float64, mean 1e12, deviation 1e-3":
        tolerance = 1e-11  # digits that the data have
    unit = max(abs(float(value)) for value in (x.min(), x.max()))
    assert close(found.mean, mean, tolerance, 0), (found.mean, mean)
    assert close(found.std, std, tolerance, unit * 1e-17), (found.std, std)
    assert (found.minimum, found.maximum) == (x.min().item(), x.max().item())
    if x.dtype.kind == "f":
        assert stats.after == found  # alpha is 1


def test_constant_data_has_no_deviation(run: Run) -> None:
    for value in (0.1, 1e8, -3e38, 1e-40):
        _, stats = both(work("float32", "float32", 1.0), np.full(70_000, value, np.float32), run)
        assert stats is not None
        assert (stats.before.mean, stats.before.std) == (float(np.float32(value)), 0.0)


def test_counts(run: Run) -> None:
    x = np.array([np.nan, -np.inf, np.inf, 0.0, -0.0, 5.0, -2.0, -1e-45, 9.0, np.nan, 7.0], np.float32)
    x = np.concatenate([np.ones(40, np.float32), x])
    todo = work("float32", "float32", 0.2, missing=(7.0, 9.0), fill=5.0)
    _, stats = both(todo, x, run)
    assert stats is not None
    before, after = stats.before, stats.after
    assert (before.count, before.missing, before.nan, before.neginf, before.posinf) == (51, 2, 2, 1, 1)
    assert (before.negative, before.zero, before.positive, before.finite) == (3, 2, 42, 45)
    assert (before.minimum, before.maximum) == (-np.inf, np.inf)
    assert (after.negative, after.zero, after.positive) == (2, 3, 42)
    assert after.missing == 2
    assert (stats.losses.underflowed, stats.losses.overflowed, stats.losses.masked) == (1, 0, 1)
    _, stats = both(work("float32", "float32", 0.2, missing=(float("nan"),)), x, run)
    assert stats is not None
    assert (stats.before.missing, stats.before.nan, stats.before.finite) == (2, 0, 47)
    assert stats.before.mean == pytest.approx(math.fsum(x[np.isfinite(x)].astype(float)) / 47)


def test_extremes_have_no_negative_zero(run: Run) -> None:
    _, stats = both(work("float32", "float32", 0.2), np.full(20, -0.0, np.float32), run)
    assert stats is not None
    for side in (stats.before, stats.after):
        assert [math.copysign(1, value) for value in (side.minimum or 0.0, side.maximum or 0.0, side.mean or 0.0)] == [1, 1, 1]


def test_losses(run: Run) -> None:
    x = np.array([1e6, -1e6, 1e-9, -1e-9, np.inf, -np.inf, 3.0, np.nan], np.float32)
    _, stats = both(work("float32", "float16", 1.0), x, run)
    assert stats is not None
    assert (stats.losses.overflowed, stats.losses.underflowed) == (2, 2)
    _, stats = both(work("float32", "int32", 1.0, nan=0), np.r_[x, np.float32(3e9)], run)
    assert stats is not None
    assert (stats.losses.clipped, stats.losses.nan_replaced, stats.losses.underflowed) == (3, 1, 2)
    _, stats = both(work("float32", "int32", 1.0, nan=0, missing=(float("nan"), 3e9)), np.r_[x, np.float32(3e9)], run)
    assert stats is not None
    assert (stats.losses.clipped, stats.losses.nan_replaced, stats.losses.underflowed) == (2, 0, 2)


@pytest.mark.parametrize("source", INPUTS)
def test_statistics_are_those_of_the_values(run: Run, source: str) -> None:
    """Against plain counting and `math.fsum`, over more than a block, with NaN and infinities among them."""
    rng = np.random.default_rng(7)
    for x in (plain(rng, source, 70_001), random_bits(rng, source, 3001)):
        _, stats = both(work(source, "float32"), x, run)
        assert stats is not None
        found, v = stats.before, values(source, x)
        numbers = v[np.isfinite(v)]
        assert found.count == x.size
        assert (found.nan, found.zero, found.positive) == (np.isnan(v).sum(), (v == 0).sum(), (v > 0).sum())
        assert found.finite == numbers.size
        known = v[~np.isnan(v)]
        assert (found.minimum, found.maximum) == (known.min(), known.max())
        if abs(float(numbers.max())) < 1e300:
            size = math.fsum(np.abs(numbers.astype(np.float64)))
            assert found.mean == pytest.approx(math.fsum(numbers.astype(np.float64)) / numbers.size, abs=1e-12 * size / numbers.size)


@given(st.integers(0, 2**32), st.lists(st.integers(0, 3000), max_size=6), st.randoms(use_true_random=False))
def test_merging_leaves_no_trace(seed: int, cuts: list[int], shuffled: Any) -> None:
    """Calls that begin at the same places give the same bits, in whatever order and grouping they are added."""
    x = random_bits(np.random.default_rng(seed), "float64", 3000)
    bounds = sorted({0, 3000, *cuts})
    parts: list[BlockStats] = []
    for start, stop in pairwise(bounds):
        parts += [stats for stats in [both(work("float64", "float32"), x[start:stop], RUNS["reference"])[1]] if stats is not None]
    in_order = sum(parts, BlockStats())
    shuffled.shuffle(parts)
    while len(parts) > 1:
        at = shuffled.randrange(len(parts) - 1)
        parts[at : at + 2] = [parts[at + 1] + parts[at]]
    assert parts[0] == in_order
    assert Summary.from_json(json.loads(json.dumps(in_order.before.to_json()))) == in_order.before


def test_blocks_of_a_call_are_those_of_calls(run: Run) -> None:
    x = random_bits(np.random.default_rng(3), "float32", 200_000)
    _, whole = both(work("float32", "float16"), x, run)
    parts = [both(work("float32", "float16"), x[at : at + (1 << 16)], run)[1] for at in range(0, x.size, 1 << 16)]
    assert sum((part for part in parts if part is not None), BlockStats()) == whole


def test_a_repeated_summary_is_that_of_the_repeated_elements(run: Run) -> None:
    _, one = both(work("float32", "float16", 0.1), np.array([-1234.5], np.float32), run)
    _, many = both(work("float32", "float16", 0.1), np.full(1000, -1234.5, np.float32), run)
    assert one is not None
    assert many is not None
    assert (one.before * 1000).mean == many.before.mean
    assert (one * 1000).after == many.after
    assert one * 0 == BlockStats()


def test_nothing_has_no_mean() -> None:
    nothing = Summary()
    assert (nothing.mean, nothing.std, nothing.minimum) == (None, None, None)
    assert Summary.from_json(nothing.to_json()) == nothing
