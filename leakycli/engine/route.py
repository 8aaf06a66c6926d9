"""How one array gets from its source to its destination: the plan for that, and readers and writers that fit the plan.

Two flat sides go by spans of the flat buffer; where a side is chunked both go by boxes of its grid.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from leakycli import stopping
from leakycli.engine.plan import ArrayPlan, Codecs, FlatPlan, GridPlan
from leakycli.formats import ArrayInfo, Reader, Writer
from leakycli.formats.flat import BoxReader, BoxWriter, SpoolingWriter, spooled
from leakycli.regions import Grid, Index, Presence
from leakycli.tuning import DEFAULT, Tuning

#: Bytes that the codecs' libraries keep in each worker.
_LIBRARIES = 7 << 20


@dataclass(frozen=True, slots=True)
class Terms:
    """What a plan has to keep to, beside the two layouts.

    ordered_in, ordered_out: whether source and destination must go front to back where they are flat.
    scratch: bytes of each worker.
    once: bytes for the array, whatever the workers.
    beside: what else a region takes, as a multiple of its bytes in and out.
    by_requests: a side is behind a URL, where many chunks at once are quicker than one after the other.
    """

    ordered_in: bool = False
    ordered_out: bool = False
    scratch: int = 0
    once: int = 0
    beside: float = 0.0
    by_requests: bool = False
    tuning: Tuning = DEFAULT

    @property
    def ordered(self) -> tuple[bool, bool]:
        return self.ordered_in, self.ordered_out


def array_plan(
    key: str, array: ArrayInfo, result: ArrayInfo, terms: Terms, stored: Callable[[], Presence | None] = lambda: None
) -> ArrayPlan[Any]:
    """The plan from `array` to `result`.

    stored: gives the write units of the source that are stored, where only those are to be worked on.
    """
    itemsizes = array.dtype.itemsize, result.dtype.itemsize
    chunking = result.chunking or array.chunking
    if chunking is None:
        return replace(FlatPlan.of(key, array.size, itemsizes, terms.scratch, terms.ordered, terms.tuning), once=terms.once)
    flat = [side for side in (array, result) if side.chunking is None]
    grid = Grid(array.shape, chunking.unit, reverse=any(side.fortran for side in flat))
    same = array.chunking is not None and result.chunking is not None and array.chunking.unit == result.chunking.unit
    # Listed here in any case, so that a chunk that goes missing after this is missed.
    present = stored() if stored is not None and array.chunking is not None else None
    # Write units go one by one, so that each is in the cache while it is worked on; requests are faster many at once.
    apart = same and not terms.by_requests
    codecs = _codecs((array, result), terms.beside, apart)
    plan = GridPlan.of(key, grid, itemsizes, terms.scratch, terms.ordered, bool(flat), present if same else None, codecs, apart)
    return replace(plan, once=terms.once, tuning=terms.tuning)


def _codecs(ends: tuple[ArrayInfo, ArrayInfo], share: float, apart: bool) -> Codecs:
    """Memory for the codecs of a plan."""
    chunked = [(end, end.chunking) for end in ends if end.chunking is not None]
    # At the far edges of the array, write units are stored whole and cut.
    whole = apart and all(not n % u for end, chunking in chunked for n, u in zip(end.shape, chunking.unit, strict=True))
    held = sum(chunking.held.direct if whole else chunking.held.gathered for _, chunking in chunked)
    return Codecs(share, _LIBRARIES + held, () if apart else tuple(_within(chunking.chunks, end) for end, chunking in chunked))


def _within(lengths: Index, array: ArrayInfo) -> int:
    """Elements of a chunk with those lengths, as far as it lies in the array."""
    return prod(max(min(length, n), 1) for length, n in zip(lengths, array.shape, strict=True))


def fitting_reader(plan: ArrayPlan[Any], reader: Reader[Any], spool: str) -> Reader[Any]:
    """`reader` for the regions of `plan`. spool: where an array that comes in order is put when memory does not hold its slabs."""
    if not isinstance(plan, GridPlan) or reader.info.chunking is not None:
        return reader
    return BoxReader(spooled(reader, spool) if plan.spool else reader)


def fitting_writer(plan: ArrayPlan[Any], writer: Writer[Any], spool: str, resumed: bool = False) -> Writer[Any]:
    """`writer` for the regions of `plan`. spool: where an array that must go in order is put when memory does not hold its slabs.

    resumed: an earlier run began it, whose spool is kept.
    """
    if not isinstance(plan, GridPlan) or writer.info.chunking is not None:
        return writer
    return SpoolingWriter(writer, spool, resumed) if plan.spool else BoxWriter(writer)


def copy_array(plan: ArrayPlan[Any], reader: Reader[Any], writer: Writer[Any]) -> None:
    """Write what the reader gives, as it is."""
    itemsize = plan.itemsize_in
    with contextlib.closing(reader), contextlib.closing(writer):
        for region in plan.regions():
            stopping.check()
            fetched = None
            if reader.sequential:
                fetched = np.empty(region.size * itemsize, np.uint8)
                reader.fetch(region, fetched)
            at = 0
            for part in plan.parts(region):
                buffer = np.empty(part.size * itemsize, np.uint8) if fetched is None else fetched[at:]
                at += part.size * itemsize
                x, token = reader.read(part, buffer)
                y = np.asarray(x, writer.info.dtype, order="F" if writer.info.fortran else "C")
                writer.commit([writer.write(part, y)])
                reader.commit([token])
        reader.finish()
        writer.finish()
