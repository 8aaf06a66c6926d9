"""The pass by the compiled kernel, `_kernel.c`. Importing this fails where it was not built."""

from __future__ import annotations

import math
from functools import lru_cache
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


def run(work: Pass, x: Array, y: Array, statistics: bool = True, copy: int = len(COPIES) - 1) -> BlockStats | None:
    """What `reference.run` does, to the bit. copy: which of `COPIES`."""
    source, dtype, missing, nan_is_missing = _arguments(work)
    swapped = not x.dtype.isnative, not y.dtype.isnative
    result = _kernel.transform(
        copy, x, y, source, dtype, *swapped, work.computes_in_float32, work.factor, work.nan, missing, nan_is_missing, work.fill, statistics
    )
    if isinstance(result, int):
        raise NanError(result)
    if not statistics:
        return None
    *lost, before, after = result
    return BlockStats.of(work, _summary(x.size, *before), _summary(x.size, *after), *lost)


@lru_cache(64)
def _arguments(work: Pass) -> tuple[int, int, bytes, bool]:
    values = np.array([value for value in work.missing if not math.isnan(value)], "float32" if work.source == "bfloat16" else work.source)
    raw = narrowed(values) if work.source == "bfloat16" else values
    return TYPES.index(work.source), TYPES.index(work.dtype), raw.tobytes(), any(map(math.isnan, work.missing))


def _summary(count: int, *found: Any) -> Summary:
    *counts, total, squares = found
    return Summary(count, *counts, int.from_bytes(total, "little", signed=True), int.from_bytes(squares, "little", signed=True))


differs = _kernel.differs
