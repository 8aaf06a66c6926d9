"""The pass by the compiled kernel, `_kernel.c`. Importing this fails where it was not built."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leakycli.function import _kernel
from leakycli.function.reference import narrowed
from leakycli.function.rule import Pass
from leakycli.function.stats import BlockStats, NanError, Summary

Array = NDArray[Any]

#: The order is that of `enum type`.
TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

#: The copies of the loops that this processor runs, the fastest last.
COPIES: tuple[str, ...] = _kernel.copies()

differs = _kernel.differs


class Tally:
    """What `reference.Tally` is, to the bit. copy: which of `COPIES` runs."""

    def __init__(self, work: Pass, statistics: bool = True, copy: int = len(COPIES) - 1) -> None:
        self._work, self._copy, self._count = work, copy, 0
        source = "float32" if work.source == "bfloat16" else work.source
        missing: Array = np.array([value for value in work.missing if not math.isnan(value)], source)
        raw = (narrowed(missing) if work.source == "bfloat16" else missing).tobytes()
        self._types = TYPES.index(work.source), TYPES.index(work.dtype)
        self._arguments = work.computes_in_float32, work.factor, work.nan, raw, any(map(math.isnan, work.missing)), work.fill
        self._totals = bytearray(_kernel.TOTALS) if statistics else None
        if statistics:
            _kernel.clear(self._totals)

    def add(self, x: Array, y: Array) -> None:
        swapped = not x.dtype.isnative, not y.dtype.isnative
        position = _kernel.transform(self._copy, x, y, *self._types, *swapped, *self._arguments, self._totals)
        if position >= 0:
            raise NanError(position)
        self._count += x.size

    def take(self) -> BlockStats:
        if self._totals is None:
            return BlockStats()
        *lost, before, after = _kernel.read(self._totals, *self._types)
        _kernel.clear(self._totals)
        count, self._count = self._count, 0
        return BlockStats.of(self._work, _summary(count, *before), _summary(count, *after), *lost)


def _summary(count: int, *found: Any) -> Summary:
    missing, nan, neginf, posinf, zero, positive, low, high, *sums = found
    total, squares = (int.from_bytes(held, "little", signed=True) for held in sums)
    return Summary(count, missing, nan, neginf, posinf, zero, positive, low, high, total, squares)
