"""Reports made by hand, so that what is drawn of them depends on nothing but the renderers."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

from leakycli.function.stats import Losses
from leakycli.report.model import QUANTILES, ArrayReport, Cost, Distribution, Endpoint, Report, Statistics, Versions

#: Of a standard normal distribution, at QUANTILES.
_NORMAL = (-4.8, -3.09023, -2.32635, -1.64485, -0.67449, 0.0, 0.67449, 1.64485, 2.32635, 3.09023, 4.9)


def normal(scale: float = 1.0, leak: float = 1.0) -> Statistics:
    """A million numbers, normal on the right of zero and `leak` times as far away on the left."""
    edges = tuple(round(-3.0 + i * 0.06, 2) for i in range(101))
    counts = []
    for low, high in pairwise(edges):
        counts.append(round(500_000 * (_up_to(high, leak) - _up_to(low, leak))))
    spread = dict(zip(QUANTILES, (scale * (q if q > 0 else q * leak) for q in _NORMAL), strict=True))
    scaled = tuple(round(edge * scale, 6) for edge in edges)
    outside = 1_000_000 - sum(counts)
    below = outside // 2 if leak == 1 else 0
    histogram = Distribution(scaled, tuple(counts), below, outside - below, 1_000_000)
    return Statistics(
        count=4_000_000,
        missing=0,
        negative=1_999_000,
        zero=1_000,
        positive=2_000_000,
        nan=0,
        neginf=0,
        posinf=0,
        min=-4.9 * scale * leak,
        max=5.1 * scale,
        mean=0.3989 * (1 - leak) * scale,
        std=0.9 * scale,
        quantiles=spread,
        histogram=histogram,
    )


def _up_to(value: float, leak: float) -> float:
    return 1 + math.erf((value if value > 0 else value / leak) / math.sqrt(2))


def array(name: str = "", scale: float = 1.0) -> ArrayReport:
    """An array of two million normal numbers, with alpha 0.2."""
    return ArrayReport(
        name=name,
        action="transformed",
        shape=(2000, 2000),
        order="C",
        chunks=None,
        shards=None,
        codecs=None,
        codec_path=None,
        dtype_before="float32",
        dtype_after="float16",
        factor=0.2,
        before=normal(scale),
        after=normal(scale, 0.2),
        losses=Losses(),
    )


def odd(name: str = "odd") -> ArrayReport:
    """An array that has everything that is rarely met: missing elements, NaN, infinities, a tall bar, losses, chunks."""
    edges = tuple(float(i) for i in range(-5, 6))
    before = Distribution(edges, (1, 2, 3, 5, 7, 940, 12, 9, 5, 3), 3, 3, 1000)
    after = Distribution(edges, (0, 0, 0, 0, 18, 940, 12, 9, 5, 3), 0, 3, 1000)
    quantiles = dict.fromkeys(QUANTILES, 0.0) | {"0": -1e30, "0.1": -5.0, "99": 4.0, "99.9": 5.0, "100": 1e30}
    statistics = Statistics(1000, 10, 18, 938, 32, 2, 1, 1, -math.inf, math.inf, 0.015625, 0.5, quantiles, before)
    return replace(
        array(name),
        shape=(10, 100),
        chunks=(5, 100),
        shards=(10, 100),
        codecs="zstd:5",
        before=statistics,
        after=replace(statistics, histogram=after, mean=0.03125),
        losses=Losses(1, 2, 3, 4, 5),
    )


def copied(name: str = "labels") -> ArrayReport:
    return ArrayReport.copied(name, (1000,), "C", "int64")


def report(*arrays: ArrayReport, warnings: tuple[str, ...] = ()) -> Report:
    """A report of those arrays."""
    return Report(
        version="1.2.3",
        command=("leakycli", "apply", "in dir/in.npy", "out.npy"),
        parameters={"alpha": 0.2, "dtype": "float16", "nan": None, "strict": False, "only": [], "skip": []},
        source=Endpoint("in dir/in.npy", "npy", 16_000_128, {"bytes": 16_000_128, "mtime_ns": 1, "header": "93" * 100}),
        destination=Endpoint("out.npy", "npy", 8_000_128, {"sampled_blake2b": "7d1ce39d708405fbf733b2d4ea488a41"}),
        arrays=arrays or (array(),),
        cost=Cost(
            "2026-01-02T03:04:05+00:00", 1.5, 16_000_128, 8_000_128, 16e6, 2, "threads", "numpy", None, 512 << 20, 60 << 20, 50 << 20
        ),
        versions=Versions("3.13.1", "2.4.0", None, "Linux 6.1 x86_64"),
        resumed=False,
        verified=True,
        warnings=warnings,
    )


def many(count: int) -> Report:
    """A report of `count` arrays, of which each tenth was copied and each seventh is odd."""
    made = (odd if i % 7 == 3 else copied if i % 10 == 9 else array for i in range(count))
    return report(*(make(f"blocks.{i}.attention.layer_norm.weight") for i, make in enumerate(made)))
