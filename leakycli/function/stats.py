"""Statistics that merge exactly: counts, extremes, and the sums behind mean and deviation, in any order and grouping.

Both kernels take sums block by block as `_kernel.c` defines them. A `Summary` keeps them as integers that count `2**-PLACES` (the sum)
and `2**(-2 * PLACES)` (the sum of squares), so that adding is exact; mean and deviation are rounded once, when they are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from leakycli.errors import LossError
from leakycli.function.rule import Pass

Number = int | float

#: Binary places of the sum: each finite float64 is a whole number of them.
PLACES = 1074


#: Hexadecimal digits of a sum of squares at most: of 2**64 elements of 2**1024.
_DIGITS = (2 * 1024 + 2 * PLACES + 64) // 4 + 2


@dataclass(frozen=True, slots=True)
class Losses:
    """What a cast lost among the valid elements. Rounding is not a loss.

    overflowed: x finite, y infinite. underflowed: x not 0, y 0. clipped: saturated at an integer type's bounds. nan_replaced: NaN that
    became the number the user gave. masked: y equals the value that stands for "no value" in the result.
    """

    overflowed: int = 0
    underflowed: int = 0
    clipped: int = 0
    nan_replaced: int = 0
    masked: int = 0

    def __add__(self, other: Losses) -> Losses:
        return Losses(
            self.overflowed + other.overflowed,
            self.underflowed + other.underflowed,
            self.clipped + other.clipped,
            self.nan_replaced + other.nan_replaced,
            self.masked + other.masked,
        )

    def __mul__(self, times: int) -> Losses:
        return Losses(*(getattr(self, field.name) * times for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Summary:
    """What is known of some elements. `+` adds those of others, `*` repeats them; both are exact.

    count: all elements; missing: those that stand for no value, which are in no other number. neginf and posinf are among the negative
    and positive. minimum and maximum: of the valid elements that are not NaN, None where there is none. total and squares: the sum of
    the finite valid elements and of their squares, in units of 2**-1074 and 2**-2148.
    """

    count: int = 0
    missing: int = 0
    nan: int = 0
    neginf: int = 0
    posinf: int = 0
    zero: int = 0
    positive: int = 0
    minimum: Number | None = None
    maximum: Number | None = None
    total: int = 0
    squares: int = 0

    def __add__(self, other: Summary) -> Summary:
        low, high = self.minimum, self.maximum
        if low is None or high is None:
            low, high = other.minimum, other.maximum
        elif other.minimum is not None and other.maximum is not None:
            low, high = min(low, other.minimum), max(high, other.maximum)
        return Summary(
            self.count + other.count,
            self.missing + other.missing,
            self.nan + other.nan,
            self.neginf + other.neginf,
            self.posinf + other.posinf,
            self.zero + other.zero,
            self.positive + other.positive,
            low,
            high,
            self.total + other.total,
            self.squares + other.squares,
        )

    def __mul__(self, times: int) -> Summary:
        if not times:
            return Summary()
        summed = ("count", "missing", "nan", "neginf", "posinf", "zero", "positive", "total", "squares")
        return replace(self, **{name: times * getattr(self, name) for name in summed})

    @property
    def negative(self) -> int:
        return self.count - self.missing - self.nan - self.zero - self.positive

    @property
    def finite(self) -> int:
        """Valid elements that are neither NaN nor infinite."""
        return self.count - self.missing - self.nan - self.neginf - self.posinf

    @property
    def mean(self) -> float | None:
        """The mean of the finite valid elements, rounded once; None where there is none."""
        # Python divides integers with one rounding, whatever their size.
        return self.total / (self.finite << PLACES) if self.finite else None

    @property
    def std(self) -> float | None:
        """The standard deviation (ddof 0) of the finite valid elements; None where there is none."""
        n = self.finite
        if not n:
            return None
        # n^2 times the variance; the sums' own rounding may leave it a trace below 0.
        spread = max(n * self.squares - self.total**2, 0)
        # Enough bits for the root's last to be lost in the one rounding of the division.
        more = max(128 - spread.bit_length() // 2, 0)
        return math.isqrt(spread << 2 * more) / (n << PLACES + more)

    def to_json(self) -> list[Any]:
        """All that it holds, as JSON can keep it to the bit."""
        numbers = [getattr(self, field.name) for field in fields(self)]
        return [*numbers[:-4], *map(_packed, numbers[-4:-2]), *map(_short, numbers[-2:])]

    @classmethod
    def from_json(cls, held: list[Any]) -> Summary:
        """One that holds what `to_json` gave. Raises ValueError or TypeError for what no elements give."""
        count, missing, nan, neginf, posinf, zero, positive, low, high, *sums = held
        checked_counts(count, missing, nan, neginf, posinf, zero, positive)
        total, squares = map(_long, sums)
        low, high = _unpacked(low), _unpacked(high)
        if {type(low), type(high)} not in ({int}, {float}, {type(None)}):
            raise TypeError("no extremes")
        found = cls(count, missing, nan, neginf, posinf, zero, positive, low, high, total, squares)
        if min(found.negative, found.finite, found.positive - found.posinf, found.negative - found.neginf) < 0:
            raise ValueError("more elements of a kind than there are")
        return found


def checked_counts(*numbers: Any) -> None:
    """Raise ValueError where one of the numbers that somebody wrote is no count of elements."""
    if not all(type(number) is int and 0 <= number < 1 << 64 for number in numbers):
        raise ValueError("no count of elements")


def _packed(number: Number | None) -> Number | str | None:
    return number.hex() if isinstance(number, float) else number


def _unpacked(number: int | str | None) -> Number | None:
    return float.fromhex(number) if isinstance(number, str) else number


def _short(number: int) -> tuple[str, int]:
    """The number in hexadecimal, without the zeros at its end, and how many binary zeros there were."""
    places = max((number & -number).bit_length() - 1, 0)
    return f"{number >> places:x}", places


def _long(held: Any) -> int:
    """The number of which `_short` gave that. Raises ValueError or TypeError for one that no sum can be."""
    digits, places = held
    if len(digits) > _DIGITS or not 0 <= places <= 4 * _DIGITS:
        raise ValueError("no sum")
    return int(digits, 16) << int(places)


class NanError(LossError):
    """A NaN met an integer output and nothing says what it becomes; `position` is its index in the elements given."""

    def __init__(self, position: int) -> None:
        super().__init__(f"NaN at flat index {position} has no integer; replace it first (numpy.nan_to_num), or choose a floating dtype")
        self.position = position


@dataclass(frozen=True, slots=True)
class BlockStats:
    """What one pass gave of the elements before and after, and what the cast lost."""

    before: Summary = Summary()
    after: Summary = Summary()
    losses: Losses = Losses()

    @classmethod
    def of(cls, work: Pass, before: Summary, after: Summary, clipped: int, nan_replaced: int, masked: int) -> BlockStats:
        """With the losses that follow from the counts on both sides."""
        overflowed = 0
        if work.dtype not in ("int32", "int64"):
            # Every +inf stays infinite, and -inf does too, unless alpha is 0. What there is more of came from finite numbers.
            kept = before.posinf + (before.neginf if work.factor else 0)
            overflowed = after.posinf + after.neginf - kept
        # Every zero stays one.
        underflowed = after.zero - before.zero - (nan_replaced if work.nan == 0 else 0)
        return cls(before, after, Losses(overflowed, underflowed, clipped, nan_replaced, masked))

    def __add__(self, other: BlockStats) -> BlockStats:
        return BlockStats(self.before + other.before, self.after + other.after, self.losses + other.losses)

    def __mul__(self, times: int) -> BlockStats:
        return BlockStats(self.before * times, self.after * times, self.losses * times)

    def to_json(self) -> list[Any]:
        """All that it holds, as JSON can keep it to the bit."""
        return [self.before.to_json(), self.after.to_json(), [getattr(self.losses, field.name) for field in fields(Losses)]]

    @classmethod
    def from_json(cls, held: list[Any]) -> BlockStats:
        """One that holds what `to_json` gave. Raises ValueError or TypeError for what no elements give."""
        before, after, losses = Summary.from_json(held[0]), Summary.from_json(held[1]), Losses(*held[2])
        checked_counts(*held[2])
        if before.count != after.count:
            raise ValueError("other elements before than after")
        return cls(before, after, losses)
