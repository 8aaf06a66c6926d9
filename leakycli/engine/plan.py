"""The plan of a run: integers in, a frozen `Plan` out. No file is opened here and no clock read, so a dry run costs nothing.

The projected peak of resident memory, in bytes, is

    baseline + ALLOWANCE + results + workers x (part in + part out + codecs + scratch) + window x (fetched + payload) + sample

where the baseline has all that is known of the source (which write units are stored), results are what is kept of each array until the
report is written, a part is what is read at once (a piece of a flat array, a region of a chunk grid), codecs is what a chunked format
takes beside it (`Codecs`), and the window's term is there only for a side that must be read or written in order, whose regions wait in
memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import Any, Generic, TypeVar

from leakycli.errors import UsageError
from leakycli.regions import Box, Grid, Index, Presence, Span, spans
from leakycli.tuning import DEFAULT, Tuning

#: Elements of a flat array that are read, transformed and written while they are in the cache: whole blocks of the statistics.
PIECE = 1 << 17

#: Units in a region of a flat array, at most: few enough to stop quickly. Between `Tuning.region_units` and that there are some `_REGIONS`
#: of them: the workers do not end at the same moment, and large ones make that worse.
_MOST_UNITS = 16
_REGIONS = 64

#: Bytes of the objects that describe one chunk of a region.
CHUNK_BYTES = 2 << 10

#: The default memory bound, in bytes.
DEFAULT_BOUND = 512 << 20

#: What the process grows by apart from the arrays: modules loaded on the way, thread stacks, the report. In bytes.
ALLOWANCE = 6 << 20

R = TypeVar("R", Span, Box)

#: What selects a unit from what was read at once.
Selection = tuple[slice | EllipsisType, ...]


@dataclass(frozen=True, slots=True)
class ArrayPlan(ABC, Generic[R]):
    """How one array is worked through. itemsizes and scratch are in bytes; ordered: must be read, written front to back.

    scratch: bytes of each worker; once: bytes for the array, whatever the workers.
    """

    name: str
    itemsize_in: int
    itemsize_out: int
    scratch: int
    ordered_in: bool
    ordered_out: bool
    once: int = field(default=0, kw_only=True)
    tuning: Tuning = field(default=DEFAULT, kw_only=True, repr=False)

    @property
    @abstractmethod
    def size(self) -> int:
        """Elements of the array."""

    @property
    @abstractmethod
    def worked(self) -> int:
        """Elements that are read, transformed and written: those of units that are not stored are not."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of regions, or of as many as there may be."""

    @property
    def bytes_in(self) -> int:
        return self.worked * self.itemsize_in

    @property
    def bytes_out(self) -> int:
        return self.worked * self.itemsize_out

    @abstractmethod
    def regions(self, start: int = 0) -> Iterator[R]:
        """The regions, in plan order, from the position `start` on; together they cover every element that is worked on exactly once."""

    @abstractmethod
    def position(self, region: R) -> int:
        """Where the regions after `region` begin."""

    @property
    @abstractmethod
    def cut(self) -> list[Any]:
        """How it is cut into regions, as JSON has it: positions mean the same in two plans whose cut is the same."""

    def recut(self, cut: list[Any]) -> ArrayPlan[R] | None:
        """The plan with that cut; None where it cannot have it."""
        return self if self.cut == cut else None

    @abstractmethod
    def parts(self, region: R) -> Iterator[R]:
        """What is read, and written, at once: parts that cover what is worked on in `region` exactly once."""

    @abstractmethod
    def units(self, part: R) -> Iterator[tuple[Selection, int]]:
        """The units that `part` holds, or pieces of: what selects each from it, and how many elements come before it in plan order."""

    @abstractmethod
    def index(self, part: R, selection: Selection, shape: Index, position: int) -> int | Index:
        """Where the element at `position` (in C order) of a unit of that `shape` is: its index, or its place in the flat buffer."""

    @property
    @abstractmethod
    def largest_part(self) -> int:
        """Elements of the largest part."""

    @abstractmethod
    def memory(self, workers: int) -> int:
        """Bytes that `workers` threads on this array take beyond the baseline."""

    def fitted(self, workers: int, budget: int) -> ArrayPlan[R]:
        """The plan whose regions are as large as is good for so many workers within a `budget` of bytes, or as small as they may be."""
        return self


@dataclass(frozen=True, slots=True)
class FlatPlan(ArrayPlan[Span]):
    """An array that goes through its flat buffer. elements, part, unit and region are in elements."""

    elements: int
    part: int
    unit: int
    region: int

    @classmethod
    def of(
        cls,
        name: str,
        size: int,
        itemsizes: tuple[int, int],
        scratch: int = 0,
        ordered: tuple[bool, bool] = (False, False),
        tuning: Tuning = DEFAULT,
    ) -> FlatPlan:
        """The plan for an array of `size` elements; itemsizes and ordered (must go front to back) are (in, out)."""
        unit = tuning.unit_bytes // itemsizes[0]
        # What goes in order waits in memory by regions, of one unit each, and is compressed in pieces that are better large. Else a piece
        # is read, worked on and written while it is in the cache.
        part = unit if any(ordered) else min(PIECE, unit)
        region = unit * (1 if any(ordered) else max(min(size // (_REGIONS * unit), _MOST_UNITS), tuning.region_units))
        return cls(name, *itemsizes, scratch, *ordered, size, part, unit, region, tuning=tuning)

    @property
    def size(self) -> int:
        return self.elements

    @property
    def worked(self) -> int:
        return self.elements

    @property
    def count(self) -> int:
        return -(-self.elements // self.region)

    def regions(self, start: int = 0) -> Iterator[Span]:
        return spans(start, self.elements, self.region)

    def position(self, region: Span) -> int:
        return region.stop

    @property
    def cut(self) -> list[Any]:
        return [self.unit, self.region]

    def parts(self, region: Span) -> Iterator[Span]:
        return spans(region.start, region.stop, self.part)

    def units(self, part: Span) -> Iterator[tuple[Selection, int]]:
        yield (...,), part.start

    def index(self, part: Span, selection: Selection, shape: Index, position: int) -> int:
        return part.start + position

    @property
    def largest_part(self) -> int:
        return min(self.part, self.elements)

    def memory(self, workers: int) -> int:
        each = self.largest_part * (self.itemsize_in + self.itemsize_out) + self.scratch
        waiting = min(self.region, self.elements) * (self.ordered_in * self.itemsize_in + self.ordered_out * self.itemsize_out)
        return workers * each + window(workers) * waiting + self.once


@dataclass(frozen=True, slots=True)
class Codecs:
    """Memory for reading and writing a region by chunks, without its elements.

    share: a multiple of the region's bytes, in and out, for copies of all of it.
    fixed: bytes for the write units that are read and written.
    sizes: elements of a chunk on each side that is chunked; each takes `CHUNK_BYTES`.
    """

    share: float = 0.0
    fixed: int = 0
    sizes: tuple[int, ...] = ()

    def memory(self, elements: int, itemsizes: int) -> int:
        """Bytes for a region of so many elements that have so many bytes, in and out together."""
        return int(elements * itemsizes * self.share) + self.fixed + sum(-(-elements // size) * CHUNK_BYTES for size in self.sizes)


@dataclass(frozen=True, slots=True)
class GridPlan(ArrayPlan[Box]):
    """An array that goes by its chunk grid, whose units are the write units of the side that is chunked.

    joined: units in a region along each axis. slabs: a region is to be a run of the flat buffer of a side that is not chunked; ordered
    sides need that. stored: the units that are worked on, None for all. apart: units are read and written one by one, not by regions.
    spool: an ordered side is too large for slabs, and goes through a temporary file.
    """

    grid: Grid
    joined: Index
    slabs: bool
    stored: Presence | None
    codecs: Codecs
    apart: bool = False
    spool: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        grid: Grid,
        itemsizes: tuple[int, int],
        scratch: int,
        ordered: tuple[bool, bool],
        slabs: bool,
        stored: Presence | None,
        codecs: Codecs,
        apart: bool = False,
    ) -> GridPlan:
        """The plan with the smallest regions; `fitted` makes them larger. grid: with `reverse` where the flat side is in Fortran order."""
        plan = cls(name, *itemsizes, scratch, *ordered, grid, (1,) * len(grid.shape), slabs, stored, codecs, apart)
        return replace(plan, joined=grid.joined(plan._slab())) if slabs else plan

    def _slab(self) -> int:
        """Units in the thinnest slab: one along the slowest axis, all along the others."""
        counts = self.grid.counts
        return max(self.grid.size // (counts[-1] if self.grid.reverse else counts[0]), 1) if counts and self.grid.size else 1

    @property
    def size(self) -> int:
        return Box((0,) * len(self.grid.shape), self.grid.shape).size

    @property
    def worked(self) -> int:
        if self.stored is None or self.stored.count == self.grid.size:
            return self.size
        return min(self.stored.count * self._unit_size(), self.size)

    def _unit_size(self) -> int:
        return min(Box((0,) * len(self.grid.unit), self.grid.unit).size, self.size)

    @property
    def count(self) -> int:
        grid = Grid(self.grid.shape, tuple(u * k for u, k in zip(self.grid.unit, self.joined, strict=True)))
        return grid.size if self.stored is None else min(grid.size, self.stored.count)

    def regions(self, start: int = 0) -> Iterator[Box]:
        number = self._next(start)
        while number is not None:
            index = self.grid.index(number)
            first = tuple(i - i % k for i, k in zip(index, self.joined, strict=True))
            region = self.grid.box(first, self.joined)
            yield region
            number = self._next(self.position(region))

    def position(self, region: Box) -> int:
        """One more than the number of its last unit."""
        return self.grid.number(tuple(-(-b // u) - 1 for b, u in zip(region.stop, self.grid.unit, strict=True))) + 1

    @property
    def cut(self) -> list[Any]:
        return [list(self.joined), self.slabs, self.spool]

    def recut(self, cut: list[Any]) -> GridPlan | None:
        joined, *others = cut
        return replace(self, joined=tuple(joined)) if others == self.cut[1:] else None

    def _next(self, number: int) -> int | None:
        if self.stored is not None:
            return self.stored.first(number)
        return number if number < self.grid.size else None

    def parts(self, region: Box) -> Iterator[Box]:
        if self.stored is None:
            yield from (self.grid.box(self.grid.index(n)) for n in self.grid.units(region)) if self.apart else (region,)
            return
        # The numbers of a region's units have no gaps.
        first, stop = self.grid.number(tuple(i // u for i, u in zip(region.start, self.grid.unit, strict=True))), self.position(region)
        present, number = [], self.stored.first(first)
        while number is not None and number < stop:
            present.append(number)
            number = self.stored.first(number + 1)
        if len(present) == stop - first and not self.apart:
            yield region
        else:
            yield from (self.grid.box(self.grid.index(n)) for n in present)

    def units(self, part: Box) -> Iterator[tuple[Selection, int]]:
        for number in self.grid.units(part):
            index = self.grid.index(number)
            yield self.grid.box(index).within(part) or (...,), self.grid.offset(index)

    def index(self, part: Box, selection: Selection, shape: Index, position: int) -> Index:
        unit = Box((0,) * len(shape), shape)
        starts = [a + s.start for a, s in zip(part.start, selection, strict=True) if isinstance(s, slice)] if shape else []
        return tuple(a + i for a, i in zip(starts, Grid(unit.stop, (1,) * len(shape)).index(position), strict=True))

    @property
    def largest_part(self) -> int:
        return self.grid.box((0,) * len(self.joined), None if self.apart else self.joined).size

    def memory(self, workers: int) -> int:
        sizes = self.itemsize_in, self.itemsize_out
        part = self.largest_part
        waiting = 0 if self.spool else part * (self.ordered_in * sizes[0] + self.ordered_out * sizes[1])
        return workers * (part * sum(sizes) + self.codecs.memory(part, sum(sizes)) + self.scratch) + window(workers) * waiting + self.once

    def fitted(self, workers: int, budget: int) -> GridPlan:
        if not self.grid.size:
            return self
        plan = self
        if self.slabs and self.memory(workers) > budget:
            # Slabs are a must for an ordered side, which else is spooled; for others they only are quicker.
            plan = replace(self, slabs=False, spool=self.ordered_in or self.ordered_out, joined=(1,) * len(self.joined))
        least = plan._slab() if plan.slabs else 1
        unit_bytes = max(self._unit_size() * max(self.itemsize_in, self.itemsize_out), 1)
        # Small arrays are cut too, so that there is something to do for each worker.
        shared = self.worked * max(self.itemsize_in, self.itemsize_out) // (4 * workers)
        target = min(self.tuning.region_bytes, max(shared, self.tuning.unit_bytes))
        most = max(min(target // unit_bytes, self.tuning.most_joined), least)
        while most > least and replace(plan, joined=self.grid.joined(most)).memory(workers) > budget:
            most = max(most // 2, least)
        return replace(plan, joined=self.grid.joined(most))


def window(workers: int, ordered: bool = True) -> int:
    """Regions in flight for so many workers. Those of a side that goes in order wait in memory: one for each worker beside the one at hand.

    Others cost nothing, and there are enough for the workers to go on when one of them is late.
    """
    return (2 if ordered else 8) * workers


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: of the process before the work, the bound it keeps, and its projected peak."""

    baseline: int
    bound: int
    projected: int

    @property
    def budget(self) -> int:
        """What the work on arrays may take."""
        return self.bound - self.baseline - ALLOWANCE


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run: its arrays in order, the workers, the memory."""

    arrays: tuple[ArrayPlan[Any], ...]
    workers: int
    memory: Memory

    @property
    def bytes_in(self) -> int:
        return sum(array.bytes_in for array in self.arrays)

    @property
    def bytes_out(self) -> int:
        return sum(array.bytes_out for array in self.arrays)

    @property
    def regions(self) -> int:
        return sum(array.count for array in self.arrays)


def plan_run(
    arrays: tuple[ArrayPlan[Any], ...],
    workers: int,
    baseline: int,
    bound: int | None = None,
    available: Callable[[], int | None] = lambda: None,
    held: int = 0,
) -> Plan:
    """The plan with as many of the `workers` as the memory bound allows, and no more than there are regions.

    baseline: resident bytes of the process now. bound: bytes; by default `DEFAULT_BOUND`, or what one worker needs, up to half of the
    bytes that `available` tells (None: unknown). held: bytes that are held beside the arrays, as a decompressor does. Raises
    UsageError, with the number needed, where one worker does not fit.
    """
    baseline += held

    def fitted(n: int, limit: int) -> tuple[ArrayPlan[Any], ...]:
        return tuple(array.fitted(n, limit - baseline - ALLOWANCE) for array in arrays)

    def projected(plans: tuple[ArrayPlan[Any], ...], n: int) -> int:
        return baseline + ALLOWANCE + max((array.memory(n) for array in plans), default=0)

    least = projected(fitted(1, 0), 1)
    if bound is None:
        bound = DEFAULT_BOUND
        if least > bound:
            free = available()
            bound = least if free is None else max(bound, min(least, free // 2))
    if least > bound:
        raise UsageError(f"a memory bound of {size_text(bound)} is too small: this run needs {size_text(least, up=True)} (--memory)")
    plans, fitting = fitted(1, bound), 1
    for n in range(2, workers + 1):
        more = fitted(n, bound)
        if projected(more, n) > bound or max((array.count for array in more), default=1) < n:
            break
        plans, fitting = more, n
    return Plan(plans, fitting, Memory(baseline, bound, projected(plans, fitting)))


def size_text(size: int, up: bool = False) -> str:
    """`size` bytes for people and for `--memory` ("12.3 MiB"); with `up` never less than it is."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            tenths = -(-size * 10 // unit) if up else round(size * 10 / unit)
            return f"{tenths / 10:g} {name}"
    return f"{size} bytes"
