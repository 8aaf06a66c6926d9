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

#: Copies that codecs hold, encoded and decoded: of the chunk that they are at, or the shard (which is put together from chunks), more where
#: what is not in C order is turned and where output is copied as it grows; and of a region, of which pipelines that work on all its chunks
#: at once hold more. Measured on 3.11 and 3.13.
_OF_CHUNK = 2.75
_OF_SHARD = 1.75
_TURNED = 0.25
_GROWN = 1.25
_OF_REGION_GROWN = 0.5
_OF_REGION = 0.25
OF_REGION_AT_ONCE = 1.6

#: Codecs that do not know in advance how large what they give will be.
_GROWING = ("gzip", "zlib", "bz2", "lzma")

#: Bytes that their libraries keep in each worker.
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
    present = stored() if array.chunking is not None else None
    plain = all(side.chunking is not None and side.chunking.plain for side in (array, result))
    apart = same and not terms.by_requests and plain
    codecs = _codecs(array, result, terms.beside, apart)
    plan = GridPlan.of(key, grid, itemsizes, terms.scratch, terms.ordered, bool(flat), present if same else None, codecs, apart)
    return replace(plan, once=terms.once, tuning=terms.tuning)


def _codecs(array: ArrayInfo, result: ArrayInfo, beside: float, apart: bool) -> Codecs:
    chunked = [(side, side.chunking) for side in (array, result) if side.chunking is not None]
    if apart:
        # A chunk at an edge of the array is put together in memory of its own, as it is stored whole.
        return Codecs(beside, _LIBRARIES + max(prod(chunking.unit) * side.dtype.itemsize for side, chunking in chunked))
    at_once = any(chunking.at_once for _, chunking in chunked)
    fixed = float(_LIBRARIES)
    for side, chunking in chunked:
        # At an edge of the array, too: chunks are stored whole.
        grows = chunking.shards is None and any(name in chunking.codecs for name in _GROWING)
        copies = (_OF_CHUNK if chunking.shards is None else _OF_SHARD) + _TURNED * chunking.turned + _GROWN * grows
        fixed += prod(chunking.unit) * side.dtype.itemsize * copies
        beside += _OF_REGION_GROWN * grows / len(chunked)
    share = (OF_REGION_AT_ONCE if at_once else _OF_REGION) + beside
    return Codecs(share, int(fixed), tuple(_within(chunking.chunks, side) for side, chunking in chunked))


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
