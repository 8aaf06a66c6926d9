"""Reports of version 1, which had histograms in bins by binary exponent and no quantiles, missing elements or versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from leakycli.function.stats import Losses
from leakycli.report import bins
from leakycli.report.decode import decode
from leakycli.report.model import ArrayReport, Cost, Distribution, Endpoint, Report, Statistics


@dataclass(frozen=True, slots=True)
class _Statistics:
    count: int
    negative: int
    zero: int
    positive: int
    nan: int
    neginf: int
    posinf: int
    min: int | float | None
    max: int | float | None
    mean: float | None
    std: float | None


@dataclass(frozen=True, slots=True)
class _Distribution:
    stride: int
    sampled: int
    bins: tuple[tuple[float, ...], ...]

    def problem(self) -> str | None:
        if any(len(b) != 3 or not b[0] <= b[1] or not 0 <= b[2] < 1 << 64 for b in self.bins):
            return "a bin is [lower, upper, count]"
        if any(a[1] > b[0] for a, b in zip(self.bins, self.bins[1:], strict=False)):
            return "the bins do not rise"
        return None


@dataclass(frozen=True, slots=True)
class _Array:
    name: str
    action: str
    shape: tuple[int, ...]
    order: str
    chunks: tuple[int, ...] | None
    shards: tuple[int, ...] | None
    codecs: str | None
    codec_pipeline: str | None
    dtype_before: str
    dtype_after: str
    factor: float | None
    before: _Statistics | None
    after: _Statistics | None
    losses: Losses | None
    histogram_before: _Distribution | None
    histogram_after: _Distribution | None


@dataclass(frozen=True, slots=True)
class _Cost:
    started: str
    seconds: float
    bytes_read: int
    bytes_written: int
    throughput: float
    workers: int
    engine: str
    codec_pipeline: str | None
    memory_bound: int
    memory_projected: int
    memory_measured: int


@dataclass(frozen=True, slots=True)
class _Report:
    version: str
    command: tuple[str, ...] | None
    parameters: dict[str, Any]
    source: Endpoint
    destination: Endpoint
    arrays: tuple[_Array, ...]
    cost: _Cost
    resumed: bool
    verified: bool
    warnings: tuple[str, ...]


def upgraded(values: dict[str, Any]) -> Report:
    """The report that a document of version 1 holds. Raises CorruptError where it is none."""
    old = decode(_Report, values)
    new = Report(
        old.version,
        old.command,
        old.parameters,
        old.source,
        old.destination,
        tuple(map(_array, old.arrays)),
        _cost(old.cost),
        None,
        old.resumed,
        old.verified,
        old.warnings,
    )
    # The checks of the present version, on top.
    return Report.from_dict(new.to_dict())


def _cost(old: _Cost) -> Cost:
    return Cost(
        old.started,
        old.seconds,
        old.bytes_read,
        old.bytes_written,
        old.throughput,
        old.workers,
        old.engine,
        None,
        old.codec_pipeline,
        old.memory_bound,
        old.memory_projected,
        old.memory_measured,
    )


def _array(old: _Array) -> ArrayReport:
    both = (_bins(old.histogram_before), _bins(old.histogram_after))
    edges = bins.edges(both)
    before = _statistics(old.before, old.histogram_before, both[0], edges[0])
    after = _statistics(old.after, old.histogram_after, both[1], edges[1])
    layout = (old.chunks, old.shards, old.codecs, old.codec_pipeline)
    return ArrayReport(
        old.name, old.action, old.shape, old.order, *layout, old.dtype_before, old.dtype_after, old.factor, before, after, old.losses
    )


def _bins(old: _Distribution | None) -> list[tuple[float, float, int]]:
    return [] if old is None else [(lower, upper, int(count)) for lower, upper, count in old.bins]


def _statistics(
    old: _Statistics | None, histogram: _Distribution | None, held: list[tuple[float, float, int]], edges: tuple[float, ...]
) -> Statistics | None:
    if old is None:
        return None
    found = None if histogram is None else Distribution(edges, *bins.counts(held, edges), histogram.sampled)
    counts = (old.count, 0, old.negative, old.zero, old.positive, old.nan, old.neginf, old.posinf)
    quantiles = bins.quantiles(held, old.min, old.max)
    return Statistics(*counts, old.min, old.max, old.mean, old.std, quantiles, found)
