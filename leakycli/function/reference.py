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

from leakycli.function.passes import NanAt, Pass, Side, Tally

Array = NDArray[Any]

#: Elements whose sums are taken together, and lanes they are added in: part of the definition.
BLOCK = 1 << 16
LANES = 16

#: The magnitudes between which the squares of float64 keep all their bits.
_LEAST, _MOST = 2.0**-300, 2.0**300


def run(work: Pass, x: Array, y: Array) -> Tally:
    """Do the pass `work` from `x` to `y`; both 1-D and contiguous, in any byte order. Raises NanAt where a NaN has no integer."""
    before, after, tally = Side(), Side(), Tally()
    with np.errstate(all="ignore"):
        for at in range(0, x.size, BLOCK):
            block = slice(at, at + BLOCK)
            native = x[block].astype(x.dtype.newbyteorder("="))  # a copy: y may be x
            values = widened(native) if work.source == "bfloat16" else native
            missing = _missing(work, values)
            try:
                results, clipped, replaced = _result(work, values)
            except NanAt as error:
                raise NanAt(at + error.position) from None
            y[block] = narrowed(results) if work.dtype == "bfloat16" else results
            valid = ~missing
            tally.clipped += int(np.count_nonzero(clipped & valid))
            tally.nan_replaced += int(np.count_nonzero(replaced & valid))
            if work.fill is not None:
                fill = results.dtype.type(work.fill)
                tally.masked += int(np.count_nonzero(((results == fill) | ((fill != fill) & (results != results))) & valid))
            if work.statistics:
                _add(before, values, missing, shifted=native.itemsize > 2)
                _add(after, results, missing, shifted=y.itemsize > 2)
    if work.statistics:
        tally.before, tally.after = before, after
    return tally


def _missing(work: Pass, x: Array) -> NDArray[np.bool_]:
    found = np.zeros(x.size, np.bool_)
    for value in work.missing:
        found |= x == value
    return found | (x != x) if work.nan_is_missing else found


def _result(work: Pass, x: Array) -> tuple[Array, Array | bool, Array | bool]:
    """(result, which saturated, which NaN were replaced). bfloat16 is float32 here, the result rounded to what bfloat16 has."""
    if work.dtype not in ("int32", "int64"):
        compute: type[Any] = np.float32 if work.computes_in_float32 else np.float64
        wide = x.astype(compute)
        y = np.where(wide <= 0, wide * compute(work.factor), wide)
        return (widened(narrowed(y)) if work.dtype == "bfloat16" else y.astype(work.dtype)), False, False
    info = np.iinfo(work.dtype)
    wide = x.astype(np.float64)
    if x.dtype.kind == "f":
        wide = np.where(wide <= 0, wide * work.factor, wide)
        nans = np.isnan(wide)
        if work.nan is None and nans.any():
            raise NanAt(int(nans.argmax()))
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


def _add(side: Side, x: Array, missing: NDArray[np.bool_], shifted: bool) -> None:
    """Add a block to the statistics of one side."""
    some = bool(missing.any())
    valid = x[~missing] if some else x
    side.missing += x.size - valid.size
    side.zero += int(np.count_nonzero(valid == 0))
    side.positive += int(np.count_nonzero(valid > 0))
    numbers = valid
    if x.dtype.kind == "f":
        numbers = valid[~np.isnan(valid)]
        side.nan += valid.size - numbers.size
        side.neginf += int(np.count_nonzero(valid == -np.inf))
        side.posinf += int(np.count_nonzero(valid == np.inf))
    if not numbers.size:
        return
    side.extend(numbers.min().item() + 0, numbers.max().item() + 0)
    usable = ~missing & np.isfinite(x)
    if usable.any():
        _add_sums(side, x, usable, shifted)


def _add_sums(side: Side, x: Array, usable: NDArray[np.bool_], shifted: bool) -> None:
    first = int(usable.argmax())
    shift = x[first].item() if shifted else 0
    scale = 0
    if x.dtype.kind != "f" and x.dtype.itemsize == 8:
        # The difference as an integer of 65 bits, rounded once: modulo 2^64, with its sign apart.
        above = x >= x[first]
        bits, base = x.view(np.uint64), x[first].view(np.uint64)
        d = np.where(above, bits - base, base - bits).astype(np.float64)
        d = np.where(above, d, -d)
    else:
        wide = x.astype(np.float64)
        if x.dtype == np.float64:
            biggest = float(np.abs(wide[usable]).max())
            if biggest and not _LEAST <= biggest <= _MOST:
                scale = math.frexp(biggest)[1]
                # Two factors: one of them alone may be beyond float64.
                half = scale >> 1
                factors = 2.0**-half, 2.0 ** -(scale - half)
                wide, shift = wide * factors[0] * factors[1], shift * factors[0] * factors[1]
        d = wide - shift
    d[~usable] = 0
    lanes = np.zeros(-(-x.size // LANES) * LANES)
    lanes[: x.size] = d
    total, squares = (_left_to_right(np.add.reduce(part.reshape(-1, LANES), axis=0)) for part in (lanes, lanes * lanes))
    side.add_sums(int(np.count_nonzero(usable)), shift, total, squares, scale)


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
