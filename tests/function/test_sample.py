"""The sample and what follows from it, against sorting and counting all elements anew."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from leakycli.function import sample as sample_module
from leakycli.function.kernel import Kernel
from leakycli.function.rule import Rule
from leakycli.function.sample import QUANTILES, Distribution, Sample, sample_bytes, stride
from leakycli.function.stats import BlockStats

Array = NDArray[Any]

SIDES = ("before", "after")


def transformed(rule: Rule, x: Array) -> tuple[Array, BlockStats]:
    kernel, y = Kernel(rule), np.empty(x.size, rule.dtype)
    kernel.add(x, y)
    return y, kernel.take()


def distributions(rule: Rule, x: Array, unstored: int = 0, fill: Any = 0) -> tuple[Distribution, Distribution]:
    """Of `x` and as many more elements that are `fill`, which are not in the sample."""
    whole = np.concatenate([x, np.full(unstored, fill, x.dtype)])
    _, stats = transformed(rule, whole)
    taken = Sample(rule, whole.size)
    for part in np.array_split(x, 3):
        taken.add(part)
    return taken.distributions(stats, fill)


def check(found: Distribution, x: Array, missing: Array) -> None:
    """Against all elements, by plain counting."""
    numbers = x[~missing]
    if x.dtype.kind == "f":
        numbers = numbers[~np.isnan(numbers)]
    histogram = found.histogram
    assert histogram.sampled == numbers.size == sum(histogram.counts) + histogram.below + histogram.above
    if not numbers.size:
        assert found.quantiles == {}
        return
    in_order = np.sort(numbers)
    assert list(found.quantiles) == list(QUANTILES)
    for name, value in found.quantiles.items():
        number = min(max(math.ceil(numbers.size * QUANTILES[name] / 1000) - 1, 0), numbers.size - 1)
        assert value == in_order[number].item()
    wide = numbers.astype(np.float64)
    if histogram.edges:
        edges = np.array(histogram.edges)
        assert (np.diff(edges) > 0).all()
        inside = wide[(wide >= edges[0]) & (wide <= edges[-1])]
        counts = [int(((inside >= a) & (inside < b)).sum()) for a, b in pairwise(edges)]
        counts[-1] += int((inside == edges[-1]).sum())
        assert histogram.counts == tuple(counts)
        assert (histogram.below, histogram.above) == ((wide < edges[0]).sum(), (wide > edges[-1]).sum())
    else:
        assert np.isinf(wide).all()


FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf])
RULES = st.sampled_from([("float32", None, 0.2), ("float32", 7, -0.5), ("float16", None, 0.0), ("int32", -3, 0.3), ("int64", 5, -2.0)])


@given(st.lists(FLOATS, max_size=60), RULES, st.integers(0, 5), FLOATS, st.sampled_from([(), (1.0,), (math.nan, -1.0)]))
def test_quantiles_and_histogram_are_those_of_all_elements(
    given_values: list[float], to: tuple[str, int | None, float], unstored: int, fill: float, missing: tuple[float, ...]
) -> None:
    dtype, nan, alpha = to
    made = Rule.of("float32", alpha, dtype, nan if "int" in dtype else None)
    rule = Rule(made.alpha, made.source, made.dtype, made.nan, missing)
    x = np.array(given_values, np.float32)
    found = distributions(rule, x, unstored, np.float32(fill))
    whole = np.concatenate([x, np.full(unstored, fill, np.float32)])
    y, _ = transformed(rule, whole)
    absent = np.zeros(whole.size, bool)
    for value in missing:
        absent |= np.isnan(whole) if math.isnan(value) else whole == value
    check(found[0], whole, absent)
    check(found[1], y, absent)
    assert [Distribution.from_json(json.loads(json.dumps(side.to_json()))) for side in found] == list(found)


@pytest.mark.parametrize("source", ["int64", "uint64", "int8", "float16", "float64"])
def test_of_every_type(source: str) -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(0, 256, 8000, dtype=np.uint8).view(source)
    rule = Rule.of(source, 0.2)
    found = distributions(rule, x)
    y, _ = transformed(rule, x)
    for side, elements in zip(found, (x, y), strict=True):
        check(side, elements, np.zeros(elements.size, bool))


def test_one_far_value_does_not_flatten_the_histogram() -> None:
    x = np.random.default_rng(1).normal(100, 1, 100_000).astype(np.float32)
    x[777] = 1e30
    before = distributions(Rule.of("float32"), x)[0].histogram
    assert before.above >= 1
    assert max(before.counts) < 0.05 * x.size
    assert len(before.counts) == 100
    assert 96 < before.edges[0] < before.edges[-1] < 104


def test_both_sides_share_their_edges_where_the_range_allows() -> None:
    x = np.random.default_rng(1).standard_normal(10_000).astype(np.float32)
    for alpha, shared in ((0.2, True), (0.01, True), (1.0, True), (-0.5, True), (1e6, False)):
        before, after = (side.histogram for side in distributions(Rule.of("float32", alpha), x))
        assert (before.edges == after.edges) == shared
        # Neither is left with a few bins that hold everything.
        assert all(sum(count > 0 for count in side.counts) >= 10 for side in (before, after))


@pytest.mark.parametrize("value", [0.0, 5.0, -1e30, 1.7e308, -1.7e308, 5e-324])
def test_constant_data_have_a_bin(value: float) -> None:
    histogram = distributions(Rule.of("float64", 1.0), np.full(50, value))[0].histogram
    assert sum(histogram.counts) == 50
    assert all(map(math.isfinite, histogram.edges))


def test_the_whole_range_of_float64_has_bins() -> None:
    x = np.linspace(-1, 1, 1001) * 1.79e308
    histogram = distributions(Rule.of("float64", 1.0), x)[0].histogram
    assert all(map(math.isfinite, histogram.edges))
    assert min(histogram.counts) > 20


def test_strides_are_primes_and_samples_of_one_size() -> None:
    assert [stride(size) for size in (0, 1, 1 << 20)] == [1, 1, 1]
    for size in ((1 << 20) + 1, 10**7, 3 << 28, 10**12):
        step = stride(size)
        assert all(step % k for k in range(2, math.isqrt(step) + 1))
        assert (1 << 17) < -(-size // step) <= 1 << 18
        assert sample_bytes(Rule.of("float32"), size) == 12 * -(-size // step)


def test_the_sample_is_every_nth_of_the_array_however_it_is_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """As a report shows: of a `.npy` in regions, in and out of order, by one worker or several."""
    import leakycli
    from leakycli import Options

    monkeypatch.setattr(sample_module, "WHOLE", 1000)
    monkeypatch.setattr(sample_module, "MOST", 1000)
    x = np.random.default_rng(2).standard_normal(3_000_000).astype(np.float32)
    np.save(tmp_path / "in.npy", x)
    np.savez_compressed(tmp_path / "in.npz", x=x)
    step = stride(x.size)
    assert step > 3000
    expected = np.sort(x[::step])
    for name, workers in (("in.npy", 1), ("in.npy", 3), ("in.npz", 2)):
        options = Options(workers=workers, overwrite=True)
        before = leakycli.apply(str(tmp_path / name), str(tmp_path / f"out{name[2:]}"), options).arrays[0].before
        assert before is not None
        assert before.histogram.sampled == expected.size
        assert before.quantiles["50"] == expected[math.ceil(expected.size / 2) - 1]
