"""What drawings of distributions share: the axis that a histogram's edges make, its ticks, and how tall the bars are.

Every bin is as wide as any other on the axis. Where bins widen away from zero the axis is therefore logarithmic on both sides of it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from leakycli.report.model import Distribution, Statistics


@dataclass(frozen=True)
class Axis:
    """The axis along the `edges` of a histogram."""

    edges: tuple[float, ...]

    @property
    def equal(self) -> bool:
        """Whether all bins are as wide as each other in value, too."""
        return self._widest <= 3 * (self.edges[-1] / 2 - self.edges[0] / 2) / (len(self.edges) - 1)

    @property
    def _widest(self) -> float:
        return max(b / 2 - a / 2 for a, b in pairwise(self.edges))

    def position(self, value: float) -> float:
        """Where `value` is, from 0 at the left end to 1 at the right."""
        edges, n = self.edges, len(self.edges) - 1
        if value <= edges[0]:
            return 0.0
        if value >= edges[-1]:
            return 1.0
        i = bisect_right(edges, value) - 1
        # Halves, as a difference may overflow.
        width = edges[i + 1] / 2 - edges[i] / 2
        within = (value / 2 - edges[i] / 2) / width if width else 0.0
        return min(max((i + within) / n, 0.0), 1.0)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """About `most` round values on the axis: position and label of each, from left to right."""
        values = self._linear(most) if self.equal else self._logarithmic(most)
        step = min((b - a for a, b in pairwise(values)), default=0.0)
        return [(self.position(value), label(value, step if self.equal else 0.0)) for value in values]

    def _linear(self, most: int) -> list[float]:
        low, high = self.edges[0], self.edges[-1]
        rough = (high / most - low / most) or 1.0
        power = math.floor(math.log10(rough))
        step = next(s for m in (1, 2, 5, 10, 20) if (s := float(f"{m}e{power}")) >= rough * 0.999)
        if not math.isfinite(step):
            return [low, high]
        first, last = math.ceil(low / step), math.floor(high / step)
        # Past 2^53 steps from zero there is nothing round between the ends.
        return [i * step for i in range(first, last + 1)] if last - first <= 2 * most else [low, high]

    def _logarithmic(self, most: int) -> list[float]:
        low, high = self.edges[0], self.edges[-1]
        powers = [float(f"1e{n}") for n in range(-323, 309)]
        inside = [v for p in powers for v in (p, -p) if low <= v <= high]
        # The farthest first: those about zero are many, and close together.
        chosen: list[tuple[float, float]] = []
        for value in ([0.0] if low <= 0 <= high else []) + sorted(inside, key=abs, reverse=True):
            at = self.position(value)
            if all(abs(at - other) >= 0.9 / most for other, _ in chosen):
                chosen.append((at, value))
        return [value for _, value in sorted(chosen)]


def label(value: float, step: float) -> str:
    """`value` with as many digits as tell it from its neighbours, `step` away."""
    if not value:
        return "0"
    digits = max(1, math.floor(math.log10(abs(value))) - math.floor(math.log10(step)) + 1) if step else 6
    text = f"{value:.{min(max(digits, 1), 17)}g}"
    # 2e+03 is no shorter than 2000.
    return f"{value:.0f}" if "e" in text and 1 <= abs(value) < 1e6 else text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def shares(distribution: Distribution) -> list[float]:
    """The share of all binned elements in each bin."""
    total = distribution.binned or 1
    return [count / total for count in distribution.counts]


def heights(of_bins: Sequence[float], columns: int) -> list[float]:
    """The mean of `of_bins` in each of so many equal columns along the axis."""
    n, found = len(of_bins), [0.0] * columns
    for i, height in enumerate(of_bins):
        left, right = i * columns / n, (i + 1) * columns / n
        for column in range(int(left), min(math.ceil(right), columns)):
            found[column] += height * (min(right, column + 1) - max(left, column))
    return found


def ceiling(*of_each: Sequence[float]) -> float:
    """The share that a bar of full height stands for. One or two bins that would flatten all others go beyond it."""
    tallest = max((max(of_bins, default=0.0) for of_bins in of_each), default=0.0)
    rest = max((sorted(of_bins)[-3] if len(of_bins) > 2 else 0.0 for of_bins in of_each), default=0.0)
    return 2 * rest if 0 < 6 * rest < tallest else tallest or 1.0


def drawable(statistics: Statistics | None) -> Distribution | None:
    """The histogram where there is something in it to draw."""
    if statistics is None or statistics.histogram is None or not any(statistics.histogram.counts):
        return None
    return statistics.histogram
