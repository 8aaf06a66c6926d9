"""Compare a destination with what its source gives, bit for bit; NaN equals NaN."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from leakycli.formats.base import ArrayInfo, Reader, Region
from leakycli.function.kernel import differs
from leakycli.function.rule import Rule
from leakycli.function.stats import Number
from leakycli.regions import Box, Grid, Span, cuts
from leakycli.tuning import Tuning

Array = NDArray[Any]

#: Elements that are compared at once where there is a difference.
_PIECE = 1 << 17


def comparing_bytes(rule: Rule, tuning: Tuning) -> int:
    """Bytes a worker takes for comparing a unit: what was found, and where it differs."""
    return 3 * tuning.unit_bytes * rule.dtype.itemsize // rule.source.itemsize


@dataclass(frozen=True, slots=True)
class Difference:
    """How two arrays differ: the number of differing elements, the first one's flat position and values, the largest differences.

    max_abs is infinite where a NaN or an infinity stands against something else. max_ulp counts the representable numbers between.
    """

    count: int
    position: int
    expected: Number
    found: Number
    max_abs: Number
    max_ulp: int

    def merge(self, later: Difference) -> Difference:
        """Both together, `later` having later positions."""
        return Difference(
            self.count + later.count,
            self.position,
            self.expected,
            self.found,
            max(self.max_abs, later.max_abs),
            max(self.max_ulp, later.max_ulp),
        )


def difference(expected: Array, found: Array, start: int = 0) -> Difference | None:
    """How `found` differs from `expected` (1-D, native byte order, one dtype); None where it does not. start: flat index of the first."""
    bits = np.dtype(f"u{expected.itemsize}")
    differs = expected.view(bits) != found.view(bits)
    if expected.dtype.kind == "f" and differs.any():
        differs &= ~(np.isnan(expected) & np.isnan(found))
    first = int(differs.argmax()) if differs.size else 0
    if not differs.size or not differs[first]:
        return None
    a, b = expected[differs], found[differs]
    ulp = _ulps(a.view(bits).astype(np.uint64), b.view(bits).astype(np.uint64), 8 * expected.itemsize, expected.dtype.kind)
    largest: Number = int(ulp.max())
    if expected.dtype.kind == "f":
        with np.errstate(all="ignore"):
            gaps = np.abs(a.astype(np.float64) - b.astype(np.float64))
        largest = float(np.where(np.isnan(gaps), np.inf, gaps).max())
    return Difference(int(np.count_nonzero(differs)), start + first, expected[first].item(), found[first].item(), largest, int(ulp.max()))


def _ulps(a: NDArray[np.uint64], b: NDArray[np.uint64], bits: int, kind: str) -> NDArray[np.uint64]:
    """Steps between bit patterns: floats are sign and magnitude, so that their steps add up across zero; integers are two's complement."""
    sign = np.uint64(1 << (bits - 1))
    if kind != "f":
        if kind == "i":
            a, b = a ^ sign, b ^ sign
        return np.maximum(a, b) - np.minimum(a, b)
    below = sign - np.uint64(1)
    size_a, size_b = a & below, b & below
    apart = np.maximum(size_a, size_b) - np.minimum(size_a, size_b)
    return np.where((a ^ b) & sign, size_a + size_b, apart)


class ComparingWriter(Generic[Region]):
    """A `Writer` that writes nothing: it compares what it is given with what a `Reader` finds. Afterwards `result` says how they differ.

    With a sequential reader the comparing is done where the reader can be fetched from, in `commit`. The position of a difference is that
    in the flat buffer, or, where regions are boxes, in the array in C order.
    """

    sequential = True

    def __init__(self, info: ArrayInfo, reader: Reader[Region]) -> None:
        self.info = info
        self.result: Difference | None = None
        self._reader = reader

    def write(self, region: Region, y: Array) -> Any:
        if self._reader.sequential:
            return region, y.copy(order="K")
        return self._compare(region, y, np.empty(y.nbytes, np.uint8))

    def commit(self, payloads: list[Any]) -> None:
        for payload in payloads:
            if self._reader.sequential:
                region, y = payload
                buffer = np.empty(y.nbytes, np.uint8)
                self._reader.fetch(region, buffer)
                payload = self._compare(region, y, buffer)
            found, token = payload
            if found is not None:
                self.result = found if self.result is None else self.result.merge(found)
            self._reader.commit([token])

    def state(self) -> Any:
        return None

    def finish(self) -> None:
        self._reader.finish()

    def close(self) -> None:
        self._reader.close()

    def _compare(self, region: Region, y: Array, buffer: Array) -> tuple[Difference | None, Any]:
        found, token = self._reader.read(region, buffer)
        if y.dtype == found.dtype and y.flags.c_contiguous and found.flags.c_contiguous and not differs(y, found):
            return None, token
        native = y.dtype.newbyteorder("=")
        result = None
        for at, piece in cuts(y.shape, _PIECE):
            a, b = (values[piece].astype(native, copy=False).reshape(-1) for values in (y, found))
            if later := difference(a, b):
                later = replace(later, position=self._position(region, at + later.position))
                result = later if result is None else result.merge(later)
        return result, token

    def _position(self, region: Region, position: int) -> int:
        if isinstance(region, Span):
            return region.start + position
        assert isinstance(region, Box)
        ones = (1,) * len(region.start)
        index = Grid(region.shape, ones).index(position)
        return Grid(self.info.shape, ones).number(tuple(a + i for a, i in zip(region.start, index, strict=True)))
