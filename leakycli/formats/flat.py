"""Flat arrays against a chunk grid: boxes of an array whose elements are one flat buffer, and the spool where those cannot be had.

A box that is one run of the buffer (a slab) suits every reader and writer of spans. Any other is made of many runs, for files only whose
spans can be read or written in any order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from leakycli import stopping
from leakycli.formats.base import Array, ArrayInfo, Reader, Writer
from leakycli.formats.npy import NpyReader, NpyTarget
from leakycli.regions import Box, Span, cuts, spans
from leakycli.system import sync_path

#: Elements that go through a spool at once.
_PIECE = 1 << 17


def runs(box: Box, info: ArrayInfo) -> Iterator[Span]:
    """The runs of the flat buffer that `box` is made of, in its order."""
    shape, start, stop = info.shape, box.start, box.stop
    if info.fortran:
        shape, start, stop = shape[::-1], start[::-1], stop[::-1]
    axis, inner = len(shape) - 1, 1
    while axis > 0 and stop[axis] - start[axis] == shape[axis]:
        inner *= shape[axis]
        axis -= 1
    if axis < 0:
        yield Span(0, 1)
        return
    strides = [prod(shape[i + 1 :]) for i in range(len(shape))]
    length = (stop[axis] - start[axis]) * inner
    first = sum(a * n for a, n in zip(start[: axis + 1], strides, strict=False))
    outer = tuple(b - a for a, b in zip(start[:axis], stop[:axis], strict=True))
    for _, piece in cuts(outer, 1):
        at = first + sum(s.start * n for s, n in zip(piece, strides, strict=False) if isinstance(s, slice))
        yield Span(at, at + length)


class BoxReader:
    """Reads boxes through a reader of spans."""

    def __init__(self, reader: Reader[Span]) -> None:
        self._reader = reader
        self.info, self.sequential = reader.info, reader.sequential
        self.decodes, self.cumulative = reader.decodes, reader.cumulative

    def fetch(self, region: Box, buffer: Array) -> None:
        (run,) = runs(region, self.info)
        self._reader.fetch(run, buffer)

    def read(self, region: Box, buffer: Array) -> tuple[Array, Any]:
        at, token, itemsize = 0, None, self.info.dtype.itemsize
        for run in runs(region, self.info):
            _, token = self._reader.read(run, buffer[at:])
            at += run.size * itemsize
        return buffer[:at].view(self.info.dtype).reshape(region.shape, order="F" if self.info.fortran else "C"), token

    def commit(self, payloads: list[Any]) -> None:
        self._reader.commit(payloads)

    def finish(self) -> None:
        self._reader.finish()

    def close(self) -> None:
        self._reader.close()


class BoxWriter:
    """Writes boxes through a writer of spans."""

    def __init__(self, writer: Writer[Span]) -> None:
        self._writer = writer
        self.info, self.sequential = writer.info, writer.sequential

    def write(self, region: Box, y: Array) -> Any:
        flat, at, payload = y.reshape(-1, order="F" if self.info.fortran else "C"), 0, None
        for run in runs(region, self.info):
            payload = self._writer.write(run, flat[at : at + run.size])
            at += run.size
        return payload

    def commit(self, payloads: list[Any]) -> None:
        self._writer.commit(payloads)

    def state(self) -> Any:
        return self._writer.state()

    def finish(self) -> None:
        self._writer.finish()

    def close(self) -> None:
        self._writer.close()


def spooled(reader: Reader[Span], path: str) -> NpyReader:
    """All that `reader` gives, in a `.npy` file at `path` that can be read at any place. Closes `reader`."""
    writer = NpyTarget(path).created(reader.info)
    with contextlib.closing(reader), contextlib.closing(writer):
        buffer = np.empty(_PIECE * reader.info.dtype.itemsize, np.uint8)
        for span in spans(0, reader.info.size, _PIECE):
            stopping.check()
            exact = buffer[: span.size * reader.info.dtype.itemsize]
            if reader.sequential:
                reader.fetch(span, exact)
            x, token = reader.read(span, exact)
            writer.write(span, x)
            reader.commit([token])
        reader.finish()
    return NpyReader(path, writer.info, writer.offset)


class SpoolingWriter:
    """Takes boxes in any order into a `.npy` file at `path`; at the end gives all of it, in order, to a writer of spans."""

    sequential = False

    def __init__(self, writer: Writer[Span], path: str, begun: bool = False) -> None:
        """begun: what is in the spool already is kept."""
        self.info = writer.info
        self._writer, self._path = writer, path
        self._spool = NpyTarget(path).created(writer.info, begun)
        self._boxes = BoxWriter(self._spool)

    def write(self, region: Box, y: Array) -> None:
        self._boxes.write(region, y)

    def commit(self, payloads: list[Any]) -> None:
        pass

    def state(self) -> Any:
        return self._writer.state()

    def finish(self) -> None:
        with contextlib.closing(NpyReader(self._path, self.info, self._spool.offset)) as reader:
            buffer = np.empty(_PIECE * self.info.dtype.itemsize, np.uint8)
            for span in spans(0, self.info.size, _PIECE):
                stopping.check()
                y, _ = reader.read(span, buffer)
                self._writer.commit([self._writer.write(span, y)])
        self._writer.finish()

    def flush(self) -> None:
        """Flush the spool to disk, before anything relies on it. Raises FlushError."""
        sync_path(self._path)

    def close(self) -> None:
        self._spool.close()
        self._writer.close()
