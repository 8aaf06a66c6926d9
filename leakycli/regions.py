"""Chunk grids and regions: what one task reads, transforms and writes.

A region is a `Span` of an array's flat buffer, or a `Box` of its chunk grid. Both tell what they hold: `size` elements of shape `shape`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import EllipsisType

Index = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """The elements `start` up to `stop` (not included) of an array's flat buffer, in memory order."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def shape(self) -> Index:
        return (self.stop - self.start,)


def spans(start: int, stop: int, step: int) -> Iterator[Span]:
    """Spans of `step` elements (the last may be shorter) that cover start up to stop exactly once, in order."""
    for at in range(start, stop, step):
        yield Span(at, min(at + step, stop))


@dataclass(frozen=True, slots=True)
class Box:
    """The elements of an array from `start` up to `stop` (not included) along each axis."""

    start: Index
    stop: Index

    @property
    def shape(self) -> Index:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """What selects the box from its array."""
        return tuple(map(slice, self.start, self.stop))

    def common(self, other: Box) -> Box:
        """What is in both."""
        return Box(tuple(map(max, self.start, other.start)), tuple(map(min, self.stop, other.stop)))

    def within(self, outer: Box) -> tuple[slice, ...]:
        """What selects the box from an array that holds just `outer`."""
        return tuple(slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, outer.start, strict=True))


@dataclass(frozen=True)
class Grid:
    """An array's shape and that of the units it is cut into; those at its far edges are cut off. Lengths of a unit are at least 1.

    Units are numbered in the order of their indices: the last axis fastest, or with `reverse` the first.
    """

    shape: Index
    unit: Index
    reverse: bool = False

    @cached_property
    def counts(self) -> Index:
        """Units along each axis."""
        return tuple(-(-n // u) for n, u in zip(self.shape, self.unit, strict=True))

    @cached_property
    def size(self) -> int:
        """Units in all."""
        return prod(self.counts)

    def index(self, number: int) -> Index:
        """The index of the unit of that number."""
        index = []
        for count in self.counts if self.reverse else reversed(self.counts):
            number, at = divmod(number, count)
            index.append(at)
        return tuple(index if self.reverse else reversed(index))

    def number(self, index: Index) -> int:
        """The number of the unit of that index."""
        number = 0
        pairs = list(zip(index, self.counts, strict=True))
        for at, count in reversed(pairs) if self.reverse else pairs:
            number = number * count + at
        return number

    def offset(self, index: Index) -> int:
        """Elements of the units whose number is less than that of the unit at `index`."""
        before, extent = 0, 1
        axes = range(len(self.shape))
        for axis in reversed(axes) if self.reverse else axes:
            start = index[axis] * self.unit[axis]
            rest = prod(self.shape[:axis] if self.reverse else self.shape[axis + 1 :])
            before += extent * start * rest
            extent *= min(start + self.unit[axis], self.shape[axis]) - start
        return before

    def box(self, index: Index, joined: Index | None = None) -> Box:
        """The elements of the unit at `index`, with `joined` of as many units along each axis."""
        start = tuple(i * u for i, u in zip(index, self.unit, strict=True))
        steps = self.unit if joined is None else tuple(u * k for u, k in zip(self.unit, joined, strict=True))
        return Box(start, tuple(min(a + s, n) for a, s, n in zip(start, steps, self.shape, strict=True)))

    def units(self, box: Box) -> Iterator[int]:
        """The numbers of the units that `box` touches, ascending."""
        ranges = [range(a // u, -(-b // u)) for a, b, u in zip(box.start, box.stop, self.unit, strict=True)]
        for index in _product(ranges[::-1] if self.reverse else ranges):
            yield self.number(index[::-1] if self.reverse else index)

    def joined(self, most: int) -> Index:
        """How many units to join along each axis, `most` in all at most (but one at least), so that their numbers have no gaps."""
        joined = [1] * len(self.counts)
        axes = range(len(self.counts))
        for axis in axes if self.reverse else reversed(axes):
            joined[axis] = max(1, min(self.counts[axis], most))
            if joined[axis] < self.counts[axis]:
                break
            most //= joined[axis]
        return tuple(joined)


def _product(ranges: list[range]) -> Iterator[Index]:
    """As itertools.product, which would make lists of the ranges."""
    if not ranges:
        yield ()
        return
    for first in ranges[0]:
        for rest in _product(ranges[1:]):
            yield first, *rest


#: Bytes of a page of a `Presence`, each with eight units.
_PAGE = 4096


class Presence:
    """Which units of a grid are stored: one bit each, in pages of which only those are held that have one set."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0
        self._pages: dict[int, bytearray] = {}
        self._order: list[int] | None = []

    def __str__(self) -> str:
        """How many of how many, and what tells these from others."""
        digest = hashlib.blake2b(digest_size=8)
        for page in self._sorted():
            digest.update(b"%d " % page)
            digest.update(self._pages[page])
        return f"{self.count} of {self.size} ({digest.hexdigest()})"

    def add(self, number: int) -> None:
        page, at, bit = self._place(number)
        if page not in self._pages:
            self._pages[page], self._order = bytearray(_PAGE), None
        bits = self._pages[page]
        if not bits[at] & bit:
            bits[at] |= bit
            self.count += 1

    def __contains__(self, number: int) -> bool:
        page, at, bit = self._place(number)
        return page in self._pages and bool(self._pages[page][at] & bit)

    @staticmethod
    def _place(number: int) -> tuple[int, int, int]:
        """The page of a unit, and its byte and bit there."""
        page, at = divmod(number >> 3, _PAGE)
        return page, at, 1 << (number & 7)

    def _sorted(self) -> list[int]:
        """The numbers of the pages."""
        if self._order is None:
            self._order = sorted(self._pages)
        return self._order

    def first(self, start: int) -> int | None:
        """The first stored unit from number `start` on."""
        if self.count == self.size:
            return start if start < self.size else None
        page, at, bit = self._place(start)
        pages = self._sorted()
        for place in range(bisect_left(pages, page), len(pages)):
            number = pages[place]
            bits = self._pages[number]
            begin = at if number == page else 0
            # The units before the first of its byte do not count.
            byte = bits[begin] & -bit if number == page else bits[begin]
            if not byte:
                stripped = bits[begin + 1 :].lstrip(b"\0")
                if not stripped:
                    continue
                begin = _PAGE - len(stripped)
                byte = bits[begin]
            return (number * _PAGE + begin) * 8 + (byte & -byte).bit_length() - 1
        return None


def cuts(shape: Index, most: int) -> Iterator[tuple[int, tuple[slice | EllipsisType, ...]]]:
    """Cut an array of that shape into pieces of up to `most` elements: (position of its first element in C order, what selects it).

    Each piece is one run of the C order, so that positions in it are positions there. Empty arrays have none.
    """
    axis, inner = len(shape) - 1, 1
    while axis > 0 and inner * shape[axis] <= most:
        inner *= shape[axis]
        axis -= 1
    if prod(shape) == 0:
        return
    if axis < 0:
        yield 0, (...,)
        return
    step, at = max(most // inner, 1), 0
    for outer in _product([range(n) for n in shape[:axis]]):
        leading = tuple(slice(i, i + 1) for i in outer)
        for start in range(0, shape[axis], step):
            stop = min(start + step, shape[axis])
            yield at, (*leading, slice(start, stop))
            at += (stop - start) * inner


def stretches(shape: Index, start: int, stop: int) -> Iterator[tuple[tuple[slice, ...], int]]:
    """The elements from `start` up to `stop` in the C order of an array of that shape, as boxes in that order.

    Each is (what selects it, its size).
    """
    if not shape:
        yield (), 1
        return
    inner = prod(shape[1:])
    if start >= stop or not inner:
        return
    (first, begin), (last, end) = divmod(start, inner), divmod(stop, inner)
    if first == last:
        yield from _in_row(first, shape, begin, end)
        return
    if begin:
        yield from _in_row(first, shape, begin, inner)
        first += 1
    if first < last:
        yield (slice(first, last), *(slice(None) for _ in shape[1:])), (last - first) * inner
    if end:
        yield from _in_row(last, shape, 0, end)


def _in_row(row: int, shape: Index, start: int, stop: int) -> Iterator[tuple[tuple[slice, ...], int]]:
    for selection, size in stretches(shape[1:], start, stop):
        yield (slice(row, row + 1), *selection), size
