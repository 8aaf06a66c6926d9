"""The pass in plain numpy: the definition of its results and statistics, and what runs where nothing was compiled.

Leaky ReLU: y = x where x > 0, alpha * x elsewhere. Types (compute is where alpha is rounded to, and the product, once):

    input                 output          compute
    float16, bfloat16     the same        alpha in that type, the product in float32, where it is exact; one rounding to the type
    float                 float           the wider of the two; between float16 and bfloat16, float32
    integer               float           the wider of float32 and the output; the integer converts to it directly
    any                   integer         float64, one round half to even, saturated; integers that need no product pass through

Statistics: see `_kernel.c`, which gives the same bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leakycli.function.rule import Pass
from leakycli.function.stats import PLACES, BlockStats, NanError, Summary

Array = NDArray[Any]

#: Elements whose sums are taken together, and lanes they are added in: part of the definition.
BLOCK = 1 << 16
LANES = 16

#: The magnitudes between which the squares of float64 keep all their bits.
_LEAST, _MOST = 2.0**-300, 2.0**300


class Tally:
    """Does `work` piece by piece, and adds up the statistics of the pieces. For one thread at a time."""

    def __init__(self, work: Pass, statistics: bool = True) -> None:
        self._work, self._statistics = work, statistics
        self._stats = BlockStats()

    def add(self, x: Array, y: Array) -> None:
        """Write the results for `x` to `y`; both 1-D and contiguous, in any byte order; y may be x.

        Raises NanError where a NaN has no integer; what was added is then of no use.
        """
        with np.errstate(all="ignore"):
            for at in range(0, x.size, BLOCK):
                try:
                    self._block(x[at : at + BLOCK], y[at : at + BLOCK])
                except NanError as error:
                    raise NanError(at + error.position) from None

    def take(self) -> BlockStats:
        """The statistics of what was added since the last time; of nothing, without statistics."""
        taken, self._stats = self._stats, BlockStats()
        return taken

    def _block(self, x: Array, y: Array) -> None:
        work = self._work
        values = _read(work.source, x)  # a copy: y may be x
        results, clipped, nans = _results(work, values)
        y[:] = narrowed(results) if work.dtype == "bfloat16" else results
        if self._statistics:
            missing = _missing(work, values)
            clips, replaced = (_count(which if missing is None else which & ~missing) for which in (clipped, nans))
            before, after = _summary(values, missing, x.itemsize > 2), _summary(results, missing, y.itemsize > 2)
            self._stats += BlockStats.of(work, before, after, clips, replaced, _masked(work, results, missing))


def _read(source: str, x: Array) -> Array:
    """Elements in native order; those of 16-bit floats as float32, in which numpy is quick."""
    native = x.astype(x.dtype.newbyteorder("="))
    return widened(native) if source == "bfloat16" else native.astype(np.float32) if source == "float16" else native


def _count(which: Array | bool) -> int:
    return int(np.count_nonzero(which)) if which is not False else 0


def _missing(work: Pass, x: Array) -> NDArray[np.bool_] | None:
    """Which elements stand for no value; None where none can."""
    if not work.missing:
        return None
    found = np.zeros(x.size, np.bool_)
    for value in work.missing:
        found |= np.isnan(x) if math.isnan(value) else x == x.dtype.type(value)
    return found


def _masked(work: Pass, y: Array, missing: NDArray[np.bool_] | None) -> int:
    """How many results stand for no value, though their element is not missing."""
    if work.fill is None:
        return 0
    same = np.isnan(y) if math.isnan(work.fill) else y == y.dtype.type(work.fill)
    return _count(same if missing is None else same & ~missing)


def _results(work: Pass, x: Array) -> tuple[Array, Array | bool, Array | bool]:
    """(result, which saturated, which NaN were replaced). 16-bit floats are float32 here, the result rounded to what those have."""
    if work.dtype not in ("int32", "int64"):
        compute: type[Any] = np.float32 if work.computes_in_float32 else np.float64
        wide = x.astype(compute)
        y = np.where(wide <= 0, wide * compute(work.factor), wide)
        if work.dtype == "bfloat16":
            return widened(narrowed(y)), False, False
        rounded = y.astype(work.dtype)
        return (rounded.astype(np.float32) if work.dtype == "float16" else rounded), False, False
    info = np.iinfo(work.dtype)
    wide = x.astype(np.float64)
    if x.dtype.kind == "f":
        wide = np.where(wide <= 0, wide * work.factor, wide)
        nans = np.isnan(wide)
        if work.nan is None and nans.any():
            raise NanError(int(nans.argmax()))
        wide[nans] = 0
        y, clipped = _saturated(wide, info)
        y[nans] = work.nan or 0
        return y, clipped, nans
    passes = (x > 0) | (work.factor == 1)
    product, clipped = _saturated(np.where(passes, 0, wide * work.factor), info)
    # Compare and clip in the input's own type, where every one of its values is exact.
    own = np.iinfo(x.dtype)
    whole = np.clip(x, max(info.min, own.min), min(info.max, own.max))
    return np.where(passes, whole.astype(info.dtype), product), np.where(passes, whole != x, clipped), False


def _saturated(wide: Array, info: np.iinfo[Any]) -> tuple[Array, Array]:
    rounded = np.rint(wide)
    # The largest int64 is no float64: 2^63, the first that is too large, is.
    over, under = rounded >= float(info.max + 1), rounded < float(info.min)
    y = np.where(over | under, 0, rounded).astype(info.dtype)
    y[over], y[under] = info.max, info.min
    return y, over | under


def _summary(x: Array, missing: NDArray[np.bool_] | None, shifted: bool) -> Summary:
    """The summary of one block."""
    valid = x if missing is None else x[~missing]
    numbers, nan, neginf, posinf, usable = valid, 0, 0, 0, None if missing is None else ~missing
    # One NaN makes both extremes NaN.
    if x.dtype.kind == "f" and valid.size and not (np.isfinite(valid.min()) and np.isfinite(valid.max())):
        numbers = valid[~np.isnan(valid)]
        nan, neginf, posinf = valid.size - numbers.size, _count(valid == -np.inf), _count(valid == np.inf)
        usable = np.isfinite(x) if usable is None else usable & np.isfinite(x)
    low, high = (numbers.min().item() + 0, numbers.max().item() + 0) if numbers.size else (None, None)
    total, squares = _sums(x, usable, shifted) if x.size and (usable is None or usable.any()) else (0, 0)
    counts = x.size, x.size - valid.size, nan, neginf, posinf, _count(valid == 0), _count(valid > 0)
    return Summary(*counts, minimum=low, maximum=high, total=total, squares=squares)


def _sums(x: Array, usable: NDArray[np.bool_] | None, shifted: bool) -> tuple[int, int]:
    """The sums of a block's elements and of their squares, exact but for the rounding that `_kernel.c` defines. usable: None for all."""
    first = x[0 if usable is None else usable.argmax()]
    shift, scale = first.item() if shifted else 0, 0
    if x.dtype.kind != "f" and x.dtype.itemsize == 8:
        # The difference as an integer of 65 bits, rounded once: modulo 2^64, with its sign apart.
        above, bits = x >= first, x.view(np.uint64)
        base = first.view(np.uint64)
        d = np.where(above, bits - base, base - bits).astype(np.float64)
        d = np.where(above, d, -d)
    else:
        d = x.astype(np.float64)
        if x.dtype == np.float64:
            biggest = float(np.abs(d if usable is None else d[usable]).max())
            if biggest and not _LEAST <= biggest <= _MOST:
                scale = math.frexp(biggest)[1]
                # By two factors: one alone may be beyond float64.
                for power in (scale >> 1, scale - (scale >> 1)):
                    d, shift = d * 2.0**-power, shift * 2.0**-power
        if shift:
            d -= shift
    if usable is not None:
        d[~usable] = 0
    if d.size % LANES:
        d = np.concatenate([d, np.zeros(-d.size % LANES)])
    s = _left_to_right(np.add.reduce(d.reshape(-1, LANES), axis=0))
    d *= d
    q = _left_to_right(np.add.reduce(d.reshape(-1, LANES), axis=0))
    n, c, t = x.size if usable is None else _count(usable), _whole(shift, scale), _whole(s, scale)
    return n * c + t, n * c * c + 2 * c * t + _whole(q, 2 * scale, 2 * PLACES)


def _whole(x: float, scale: int, places: int = PLACES) -> int:
    """`x * 2**(scale + places)`, which is a whole number."""
    if isinstance(x, int):
        return x << scale + places
    fraction, exponent = math.frexp(x)
    mantissa, shift = int(math.ldexp(fraction, 53)), exponent - 53 + scale + places
    return mantissa << shift if shift >= 0 else mantissa >> -shift


def _left_to_right(lanes: Array) -> float:
    total = 0.0
    for lane in lanes.tolist():
        total += lane
    return total


def widened(bits: Array) -> NDArray[np.float32]:
    """bfloat16 bit patterns (uint16) as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrowed(x: Array) -> NDArray[np.uint16]:
    """float32 or float64 as bfloat16 bit patterns, rounded once, half to even."""
    if x.dtype == np.float64:
        # To float32 rounded to odd: a number that it has not becomes the neighbour whose last bit is 1, so that the second rounding is
        # the first that tells. Subnormal float32 have more places than any bfloat16.
        near = x.astype(np.float32)
        bits = near.view(np.uint32)
        inexact = (near != x) & np.isfinite(x) & (bits & 1 == 0)
        away = np.abs(near.astype(np.float64)) < np.abs(x)
        bits = np.where(inexact, np.where(away, bits + 1, bits - 1), bits)
    else:
        bits = x.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), bits >> 16 | 0x40, rounded).astype(np.uint16)
