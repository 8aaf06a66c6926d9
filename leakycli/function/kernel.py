"""Leaky ReLU, exact to the bit: y = x where x > 0, alpha * x elsewhere.

The elements outside `x > 0` (negatives, both zeros, NaN) go through the product, as IEEE 754 has it; but a signalling NaN may
come out as it was, where the result is picked from x and the product. The result for each input and
output type is fixed by `Rule`; every faster path below gives the bits of that definition, and the tests hold each to it.

Types (compute is where the product is taken and alpha is rounded to, once):

    input          output (dtype)   compute
    float16        float16          alpha in float16, the product in float32, where it is exact; one rounding to float16
    float          float            the wider of the two
    integer        float            the wider of float32 and the output; the integer converts to it directly
    any            integer          float64, one round half to even, saturated; integers that need no product pass through

Nothing here touches a file, the clock, the environment or a log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from leakycli.errors import LossError
from leakycli.function.rule import Losses, Rule

Array = NDArray[Any]

#: Elements worked on at once: a few buffers of this many float32 or float64 stay in a core's own cache.
PIECE = 1 << 17

#: Elements looked up at once: their indices, of 8 bytes, share the core's own cache with the table and the counts of all patterns.
TABLE_PIECE = 1 << 15

#: From this many elements on, an input type of at most 16 bits goes by a table of all its results.
TABLE_FROM = 1 << 17


class NanError(LossError):
    """A NaN met an integer output and nothing says what it becomes; `position` is its flat index in the array given."""

    def __init__(self, position: int) -> None:
        super().__init__(f"NaN at flat index {position} has no integer; replace it first (numpy.nan_to_num), or choose a floating dtype")
        self.position = position


@dataclass(frozen=True, slots=True)
class Counts:
    """How many elements of an array are ±0, +inf and -inf: what `Losses` follow from."""

    zero: int = 0
    posinf: int = 0
    neginf: int = 0


def losses(rule: Rule, before: Counts, after: Counts, clipped: int = 0, nan_replaced: int = 0) -> Losses:
    """The losses of one array from counts of its input and output alone.

    Every ±0 stays a zero and every +inf stays infinite; -inf does too, unless alpha is 0. So what there is more of was lost.
    """
    overflowed = 0
    if rule.dtype.kind == "f":
        kept = before.posinf + (before.neginf if rule.factor else 0)
        overflowed = after.posinf + after.neginf - kept
    underflowed = after.zero - before.zero - (nan_replaced if rule.nan == 0 else 0)
    return Losses(overflowed, underflowed, clipped, nan_replaced)


class Kernel:
    """A rule with the scratch memory to run it on pieces of up to `PIECE` elements. One per thread."""

    def __init__(self, rule: Rule, piece: int = PIECE) -> None:
        self.rule = rule
        self._arithmetic = np.dtype("float32") if rule.compute.itemsize == 2 else rule.compute
        self._factor = self._arithmetic.type(rule.factor)
        self._x = np.empty(piece if rule.source != self._arithmetic else 0, self._arithmetic)
        self._y = np.empty(piece, self._arithmetic)
        self._mask = np.empty(piece, np.bool_)

    def __call__(self, x: Array, out: Array) -> tuple[int, int]:
        """Write the leaky ReLU of `x` to `out`; returns (clipped, nan_replaced).

        x and out: 1-D, contiguous, native byte order, of equal size, at most `piece`; out may be x itself. Floating-point errors must be
        silenced by the caller (`np.errstate`). Raises NanError when a NaN has no integer.
        """
        if self.rule.dtype.kind == "f":
            self._to_float(x, out)
            return 0, 0
        if x.dtype.kind == "f":
            return self._float_to_int(x, out)
        return self._int_to_int(x, out), 0

    def _converted(self, x: Array) -> Array:
        if x.dtype == self._arithmetic:
            return x
        converted = self._x[: x.size]
        np.copyto(converted, x, casting="unsafe")
        return converted

    def _leaky(self, x: Array, y: Array) -> None:
        """y = leaky ReLU of x in the arithmetic type; y is not x."""
        np.multiply(x, self._factor, out=y)
        if 0 < self._factor <= 1:
            np.maximum(x, y, out=y)
        elif self._factor > 1:
            np.minimum(x, y, out=y)
        else:
            positive = self._mask[: x.size]
            np.greater(x, 0, out=positive)
            np.copyto(y, x, where=positive)

    def _to_float(self, x: Array, out: Array) -> None:
        converted = self._converted(x)
        if out.dtype == self._arithmetic and converted is not out and x is not out and not np.may_share_memory(x, out):
            self._leaky(converted, out)
        else:
            y = self._y[: x.size]
            self._leaky(converted, y)
            np.copyto(out, y, casting="unsafe")

    def _float_to_int(self, x: Array, out: Array) -> tuple[int, int]:
        y = self._y[: x.size]
        self._leaky(self._converted(x), y)
        nans = np.isnan(y)
        replaced = int(np.count_nonzero(nans))
        if replaced:
            if self.rule.nan is None:
                raise NanError(int(nans.argmax()))
            y[nans] = 0
        clipped = self._saturate(y, out)
        if replaced:
            out[nans] = self.rule.nan
        return clipped, replaced

    def _int_to_int(self, x: Array, out: Array) -> int:
        info = np.iinfo(out.dtype)
        passes = np.ones(x.size, np.bool_) if self._factor == 1 else x > 0
        product = self._y[: x.size]
        np.copyto(product, x, casting="unsafe")
        np.multiply(product, self._factor, out=product)
        product[passes] = 0
        # Compare and clip in the input's own type, where every one of its values is exact.
        low, high = max(info.min, int(np.iinfo(x.dtype).min)), min(info.max, int(np.iinfo(x.dtype).max))
        clipped = int(np.count_nonzero(passes & ((x < low) | (x > high))))
        whole = np.clip(x, low, high).astype(out.dtype)
        clipped += self._saturate(product, out)
        np.copyto(out, whole, where=passes)
        return clipped

    @staticmethod
    def _saturate(y: Array, out: Array) -> int:
        """Round float64 `y` (no NaN) half to even into the integers `out`, saturated; returns how many were. Clobbers y."""
        info = np.iinfo(out.dtype)
        np.rint(y, out=y)
        # The largest int64 is no float64: 2^63, the first that is too large, is.
        over, under = y >= float(info.max + 1), y < float(info.min)
        clipped = int(np.count_nonzero(over)) + int(np.count_nonzero(under))
        if clipped:
            y[over | under] = 0
        np.copyto(out, y, casting="unsafe")
        if clipped:
            out[over], out[under] = info.max, info.min
        return clipped


def count(x: Array, infinities: bool = True) -> Counts:
    """The `Counts` of `x`; the infinities are left 0 where the caller knows that they do not matter."""
    zero = int(np.count_nonzero(x == 0))
    if not infinities or x.dtype.kind != "f":
        return Counts(zero)
    return Counts(zero, int(np.count_nonzero(x == np.inf)), int(np.count_nonzero(x == -np.inf)))


#: Elements that `Table` counts in 32 bits.
_RECENT = (1 << 32) - 1

_ONE = np.uint32(1)


class Table:
    """A rule for an input type of at most 16 bits as a table of all its results: one look-up an element, losses by counting.

    `x` and `y` are the values of all bit patterns in order (2^8 or 2^16 of them) and their results.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._bits = np.dtype(f"u{rule.source.itemsize}")
        size = 1 << 8 * rule.source.itemsize
        self.x: Array = np.arange(size, dtype=self._bits).view(rule.source)
        self.y: Array = np.empty(size, rule.dtype)
        # Elements that lose something, by kind; patterns are few enough to be run one at a time through the plain definition.
        nan_to_zero = replace(rule, nan=0) if rule.dtype.kind != "f" and rule.nan is None else rule
        kernel = Kernel(nan_to_zero, size)
        with np.errstate(all="ignore"):
            kernel(self.x, self.y)
            self._nan = undefined(self.x, rule)
            self._clipped = self._saturated()
            self._overflowed = np.isfinite(self.x) & np.isinf(self.y)
            self._underflowed = (self.x != 0) & (self.y == 0) & ~self._nan
        # Four bytes each, so that they and the table stay in the cache; added to the larger ones before the next could be too many.
        self._recent = np.zeros(size, np.uint32)
        self._room = _RECENT
        self._earlier = np.zeros(size, np.int64)
        self._refuses = bool(rule.dtype.kind != "f" and rule.nan is None and self._nan.any())
        self._index = np.empty(TABLE_PIECE, np.intp)

    def _saturated(self) -> Array:
        """Which patterns saturate: those whose neighbourhood in float64 lies outside the integer type's bounds."""
        if self.rule.dtype.kind == "f":
            return np.zeros(self.x.size, np.bool_)
        info = np.iinfo(self.rule.dtype)
        wide = self.x.astype(np.float64)
        exact = np.rint(np.where(wide > 0, wide, self.rule.factor * wide))
        return ((exact >= float(info.max + 1)) | (exact < float(info.min))) & ~self._nan

    def __call__(self, x: Array, out: Array) -> None:
        """Write the results for `x` to `out`, and count how often each bit pattern occurs in x.

        x and out: 1-D, contiguous, native byte order, at most `TABLE_PIECE` elements; out may be x. Raises NanError as `Kernel` does.
        """
        index = self._index[: x.size]
        np.copyto(index, x.view(self._bits))
        if self._refuses and (nans := self._nan[index]).any():
            raise NanError(int(nans.argmax()))
        # Not bincount, which looks for the extremes first and makes new counts each time.
        if self._room < x.size:
            self._settle()
        self._room -= x.size
        np.add.at(self._recent, index, _ONE)
        # mode="clip" writes straight to out; the default goes through a copy. No index is out of bounds.
        np.take(self.y, index, out=out, mode="clip")

    def _settle(self) -> None:
        self._earlier += self._recent
        self._recent[:] = 0
        self._room = _RECENT

    def occurrences(self) -> NDArray[np.int64]:
        """How often each bit pattern has occurred since the last time (one count per pattern)."""
        self._settle()
        counts, self._earlier = self._earlier, np.zeros_like(self._earlier)
        return counts

    def losses(self, occurrences: NDArray[np.int64]) -> Losses:
        def total(which: Array) -> int:
            return int(occurrences[which].sum())

        replaced = total(self._nan) if self.rule.dtype.kind != "f" else 0
        return Losses(total(self._overflowed), total(self._underflowed), total(self._clipped), replaced)


def undefined(x: Array, rule: Rule) -> NDArray[np.bool_]:
    """Where the result is NaN: x is NaN, or -inf with an alpha of 0."""
    if x.dtype.kind != "f":
        return np.zeros(x.shape, np.bool_)
    nan = np.isnan(x)
    return nan if rule.factor else nan | (x == -np.inf)


def transform(x: Array, out: Array, rule: Rule) -> Losses:
    """Write the leaky ReLU of `x` to `out` under `rule` and count what the cast lost.

    x: any shape (0-d and empty too), any layout and byte order, of the rule's source type. out: the same shape, the rule's dtype in any
    byte order; may be `x` itself or overlap it. Temporary memory is a few pieces, whatever the size. Raises NanError (the position is
    the flat index in C order) when a NaN has no integer; `out` is then partly written.
    """
    if x.shape != out.shape:
        raise ValueError(f"out has shape {out.shape}, x has {x.shape}")
    if x.dtype.newbyteorder("=") != rule.source or out.dtype.newbyteorder("=") != rule.dtype:
        raise TypeError(f"the rule takes {rule.source} to {rule.dtype}, not {x.dtype} to {out.dtype}")
    by_table = x.dtype.itemsize <= 2 and x.size >= TABLE_FROM
    piece = TABLE_PIECE if by_table else min(PIECE, max(x.size, 1))
    step, lost = _table_step(rule) if by_table else _plain_step(rule, piece)
    pieces = np.nditer(
        [x, out],
        flags=["external_loop", "buffered", "zerosize_ok", "copy_if_overlap"],
        op_flags=[["readonly", "overlap_assume_elementwise"], ["writeonly", "overlap_assume_elementwise"]],
        op_dtypes=[rule.source, rule.dtype],
        casting="equiv",
        buffersize=PIECE,
    )
    with np.errstate(all="ignore"), pieces:
        for px, py in pieces:
            for at in range(0, px.size, piece):
                try:
                    step(px[at : at + piece], py[at : at + piece])
                except NanError:
                    raise NanError(int(undefined(x, rule).argmax())) from None
    return lost()


#: What works on a piece, and what then tells the losses of all pieces.
_Step = tuple[Callable[[Array, Array], None], Callable[[], Losses]]


def _table_step(rule: Rule) -> _Step:
    table = Table(rule)
    return table, lambda: table.losses(table.occurrences())


def _plain_step(rule: Rule, piece: int) -> _Step:
    kernel, infinities, total = Kernel(rule, piece), rule.may_overflow, Losses()

    def step(a: Array, b: Array) -> None:
        nonlocal total
        before = count(a, infinities)  # first: out may be x
        clipped, replaced = kernel(a, b)
        total += losses(rule, before, count(b, infinities), clipped, replaced)

    return step, lambda: total


def leaky_relu(x: ArrayLike, alpha: float = 0.2, dtype: DTypeLike | None = None, out: Array | None = None) -> Array:
    """Leaky ReLU of `x`, as `tf.nn.leaky_relu` computes it.

    x: array of any shape, of floats (16, 32, 64 bits) or integers; 0-d and empty arrays are welcome. alpha: any finite number. dtype: type
    of the result, one of `OUTPUTS`; by default that of a floating x, float32 for integers. out: where to put the result, of x's
    shape (may be x itself). NaN stays NaN; an integer dtype has none and raises NanError.

    Raises UnsupportedError for other types of x, UsageError for an alpha or dtype that is not allowed.
    """
    x = np.asarray(x)
    if dtype is None and out is not None:
        dtype = out.dtype
    rule = Rule.of(x.dtype, alpha, dtype)
    if out is None:
        out = np.empty_like(x, dtype=rule.dtype, subok=False)
    transform(x, out, rule)
    return out
