"""`Report`: the one result object of a run. Its JSON form is in `json`, what people look at in `terminal` and `html`.

`SCHEMA_VERSION` rises when a reader of an older version could misread a newer one; fields may be added without that. docs/report.md
explains every field, schema.json describes them for programs.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from leakycli.errors import CorruptError, visible
from leakycli.formats.base import Chunking
from leakycli.function import sample
from leakycli.function.stats import Losses, Summary
from leakycli.report import bins, decode, words
from leakycli.report.renderers import load

SCHEMA_VERSION = 2

#: Percentages of the quantiles that a report holds, as their keys.
QUANTILES = bins.QUANTILES

#: What a report says became of an array.
ACTIONS = ("transformed", "copied")


@dataclass(frozen=True, slots=True, repr=False)
class Distribution:
    """A histogram, as `numpy.histogram` gives it: `counts[i]` sampled elements from `edges[i]` to `edges[i + 1]`.

    edges: one more than counts, rising. Equal bins, or bins that widen away from zero where the values ask for it.
    below, above: sampled elements outside the edges.
    sampled: elements looked at, but for NaN and missing ones, which are in no bin.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    above: int
    sampled: int

    def problem(self) -> str | None:
        if len(self.edges) != len(self.counts) + 1 and (self.edges or self.counts):
            return f"{len(self.edges)} edges do not fit {len(self.counts)} counts"
        if not all(map(math.isfinite, self.edges)) or any(a > b for a, b in pairwise(self.edges)):
            return "the edges do not rise"
        if min((*self.counts, self.below, self.above, self.sampled)) < 0:
            return "a count is negative"
        return None

    @property
    def binned(self) -> int:
        """Elements in the bins, below and above."""
        return sum(self.counts) + self.below + self.above

    def __repr__(self) -> str:
        ends = f", {self.edges[0]:g} to {self.edges[-1]:g}" if self.edges else ""
        return f"<Distribution of {self.sampled:,} sampled elements: {len(self.counts)} bins{ends}>"


@dataclass(frozen=True, slots=True)
class Statistics:
    """An array in numbers.

    count: all elements; missing + negative + zero + positive + nan of them.
    missing: elements equal to the array's own "no value" number; they are in no other statistic.
    negative, positive: with -inf, +inf. zero: with -0.0.
    min, max: over all but NaN; exact, an int for integers. None where there are none.
    mean, std: over the finite elements; std with ddof 0. None where there are none.
    quantiles: of the sampled elements, by percentage, as in {"50": median}. None or empty where they are not known.
    histogram: of the sampled elements. None where it is not known.
    """

    count: int
    missing: int
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
    quantiles: dict[str, int | float] | None
    histogram: Distribution | None

    def problem(self) -> str | None:
        counts = (self.missing, self.negative, self.zero, self.positive, self.nan)
        if min((*counts, self.neginf, self.posinf)) < 0:
            return "a count is negative"
        if sum(counts) != self.count:
            return "missing, negative, zero, positive and nan do not add up to count"
        if self.quantiles and set(self.quantiles) != set(QUANTILES):
            return f"quantiles are of the percentages {', '.join(QUANTILES)}"
        return None

    @classmethod
    def of(cls, s: Summary, d: sample.Distribution) -> Statistics:
        h = d.histogram
        return cls(
            s.count,
            s.missing,
            s.negative,
            s.zero,
            s.positive,
            s.nan,
            s.neginf,
            s.posinf,
            s.minimum,
            s.maximum,
            s.mean,
            s.std,
            d.quantiles,
            Distribution(h.edges, h.counts, h.below, h.above, h.sampled),
        )


@dataclass(frozen=True, slots=True)
class ArrayReport:
    """What became of one array.

    action: "transformed", or "copied" (then there is nothing from factor on).
    shape: in elements. order: of its elements in memory, "C" or "F".
    chunks, shards, codecs: of a chunked result, shapes in elements; None else.
    codec_path: which codecs ran, "leakycli" or "zarr" with the reason in parentheses; None without chunks.
    factor: alpha as rounded to the type that was computed in.
    """

    name: str
    action: str
    shape: tuple[int, ...]
    order: str
    chunks: tuple[int, ...] | None
    shards: tuple[int, ...] | None
    codecs: str | None
    codec_path: str | None
    dtype_before: str
    dtype_after: str
    factor: float | None
    before: Statistics | None
    after: Statistics | None
    losses: Losses | None

    def problem(self) -> str | None:
        if self.action not in ACTIONS:
            return f"the action is one of {', '.join(ACTIONS)}"
        if self.action == "transformed" and (self.before is None or self.after is None or self.losses is None):
            return "a transformed array has before, after and losses"
        if min((0, *self.shape, *(self.chunks or ()), *(self.shards or ()))) < 0:
            return "a length is negative"
        return None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @classmethod
    def copied(cls, name: str, shape: tuple[int, ...], order: str, dtype: str, chunking: Chunking | None = None) -> ArrayReport:
        """The report of an array that was taken over as it is."""
        chunks, shards, codecs = (None, None, None) if chunking is None else (chunking.chunks, chunking.shards, chunking.codecs)
        return cls(name, "copied", shape, order, chunks, shards, codecs, None, dtype, dtype, None, None, None, None)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Source or destination.

    path: as given, without credentials.
    bytes: as stored.
    identity: what identifies it: a source when it was read, a destination as it was written.
    """

    path: str
    format: str
    bytes: int
    identity: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Cost:
    """What the run took.

    started: date and time, ISO 8601, UTC. seconds: of the whole run.
    bytes_read, bytes_written: as stored. throughput: both together, in bytes a second.
    workers: as planned. engine: "threads" or "processes".
    kernel: which implementation of the function ran. codec_path: see `ArrayReport`, of all arrays.
    memory_bound, memory_projected, memory_measured: bytes of peak resident memory: allowed, planned, met.
    """

    started: str
    seconds: float
    bytes_read: int
    bytes_written: int
    throughput: float
    workers: int
    engine: str
    kernel: str | None
    codec_path: str | None
    memory_bound: int
    memory_projected: int
    memory_measured: int


@dataclass(frozen=True, slots=True)
class Versions:
    """Versions of what ran. zarr: None where it was not needed. system: its name, release and machine."""

    python: str
    numpy: str
    zarr: str | None
    system: str

    @classmethod
    def here(cls) -> Versions:
        import numpy

        # Not the module `platform`, which takes longer to load than a small file to work on.
        system = os.uname()
        zarr = getattr(sys.modules.get("zarr"), "__version__", None)
        python = ".".join(map(str, sys.version_info[:3]))
        return cls(python, numpy.__version__, zarr, f"{system.sysname} {system.release} {system.machine}")


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """A run, whole: what was done, what the arrays hold before and after, what it took.

    command: as typed; None from Python.
    parameters: what decides the result, see `Options`.
    verified: the result was read back and compared. resumed: an interrupted run was resumed.
    """

    version: str
    command: tuple[str, ...] | None
    parameters: dict[str, Any]
    source: Endpoint
    destination: Endpoint
    arrays: tuple[ArrayReport, ...]
    cost: Cost
    versions: Versions | None
    resumed: bool
    verified: bool
    warnings: tuple[str, ...]

    def problem(self) -> str | None:
        alpha = self.parameters.get("alpha")
        if not isinstance(alpha, (int, float)) or not abs(alpha) <= sys.float_info.max:
            return "parameters.alpha is no finite number"
        return None

    @property
    def losses(self) -> Losses:
        """The losses of all arrays together."""
        return sum((array.losses for array in self.arrays if array.losses), Losses())

    @property
    def transformed(self) -> tuple[ArrayReport, ...]:
        return tuple(array for array in self.arrays if array.action == "transformed")

    @property
    def elements(self) -> int:
        """Elements of the transformed arrays."""
        return sum(array.elements for array in self.transformed)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        found: dict[str, Any] = load("json").values(self)
        return found

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Report:
        """The report that `to_dict` gave, in this version or an earlier one. Raises CorruptError on anything else."""
        version = values.get("schema_version") if type(values) is dict else None
        if version == 1 and type(version) is int:
            old: Report = load("version1").upgraded(values)
            return old
        if version != SCHEMA_VERSION or type(version) is not int:
            known = f"version 1 or {SCHEMA_VERSION}"
            raise CorruptError(f"not a report of leakycli that this version reads (schema_version is not {known})")
        return decode.decode(cls, values)

    def to_json(self, indent: int | None = 2) -> str:
        """Strict JSON: one line where `indent` is None, else a few lines an array, ending in a newline."""
        form = load("json")
        text: str = form.line(self) if indent is None else form.render(self)
        return text

    def __repr__(self) -> str:
        ends = f"{visible(self.source.path)} -> {visible(self.destination.path)}"
        arrays = f"{len(self.transformed)} of {len(self.arrays)} arrays transformed, {self.elements:,} elements"
        warned = f", {len(self.warnings)} warnings" if self.warnings else ""
        return f"<Report: {ends}\n {arrays}, {self.cost.seconds:.2f} s; lost: {words.lost_words(self.losses)}{warned}>"

    def __str__(self) -> str:
        return str(load("terminal").report_text(self))

    def _repr_html_(self) -> str:
        return str(load("html").card(self))
