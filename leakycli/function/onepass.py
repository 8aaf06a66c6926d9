"""One pass over a unit of an array: transform it and take the summaries of input and output while both are in the cache."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leakycli.function.kernel import PIECE, TABLE_FROM, TABLE_PIECE, Counts, Kernel, NanError, Table, losses
from leakycli.function.records import Record
from leakycli.function.rule import Losses, Rule
from leakycli.function.summary import Histogram, PatternSummary, PlainPair, Summary, summarise
from leakycli.regions import cuts

Array = NDArray[Any]

#: Arrays of up to this many elements have all of them in their histogram, larger ones every `STRIDE`-th of the flat index, those of more
#: than `SAMPLE_MANY` every `LONG_STRIDE`-th: more than a quarter of a million are enough, and each costs its look. Both are primes, so
#: that the sample does not keep to one channel of a channels-last array.
SAMPLE_ALL = 1 << 20
STRIDE = 127
SAMPLE_MANY = 1 << 27
LONG_STRIDE = 509

#: Sampled elements that wait until they are put into a histogram together.
_SAMPLES = 1 << 15


def by_table(rule: Rule, size: int) -> bool:
    """Whether an array of `size` elements goes by `Table`; fixed by the array, never by how it is cut up."""
    return rule.source.itemsize <= 2 and size >= TABLE_FROM


def sample_stride(rule: Rule, size: int) -> int:
    """Every how manieth element of an array's flat index is in its histogram."""
    if size <= SAMPLE_ALL or by_table(rule, size):
        return 1
    return STRIDE if size <= SAMPLE_MANY else LONG_STRIDE


def scratch_bytes(rule: Rule, size: int) -> int:
    """Bytes that `OnePass` for an array of `size` elements takes at most, temporaries of its libraries' calls included."""
    # Four histograms at a time (two kept, two handed over) with the count of one piece, and the samples that wait for them.
    histograms = 5 * 8 * (1 << 14) + 8 * (1 << 17) + 2 * 8 * _SAMPLES
    # A result that does not lie in one run of memory.
    histograms += min(PIECE, max(size, 1)) * rule.dtype.itemsize
    if by_table(rule, size):
        patterns = 1 << 8 * rule.source.itemsize
        # Index and native copy of a piece; the table with its flags; small counts; large ones, twice; and those handed over: packed, on
        # their way, unpacked, and waiting for their turn, two regions of each worker.
        return histograms + TABLE_PIECE * 16 + patterns * (14 + 4 + 8 * 12)
    # Kernel: x, y, mask; an integer output compares and clips. Summaries: mask, float64, a copy of the finite elements.
    piece = min(PIECE, max(size, 1))
    kernel = 17 + (rule.dtype.kind != "f") * (48 if rule.source.kind != "f" else 24)
    return histograms + piece * (kernel + 9 + 8 + 3 * 8)


@dataclass(frozen=True, slots=True)
class UnitResult(Record):
    """What one unit gave."""

    before: Summary
    after: Summary
    losses: Losses


class Patterns:
    """How often each bit pattern of the input type occurs in an array that goes by table. All that is asked of it follows from that."""

    def __init__(self, rule: Rule, occurrences: NDArray[np.int64]) -> None:
        self._rule, self.occurrences = rule, occurrences

    def merge(self, other: Patterns) -> None:
        self.occurrences += other.occurrences

    def copy(self) -> Patterns:
        """One that does not change with this."""
        return Patterns(self._rule, self.occurrences.copy())

    def to_json(self) -> str:
        """All that it holds but for the rule."""
        return base64.b64encode(zlib.compress(self.occurrences.tobytes(), 1)).decode()

    @classmethod
    def from_json(cls, rule: Rule, held: str) -> Patterns:
        """One for `rule` that holds what `to_json` gave."""
        return cls(rule, np.frombuffer(zlib.decompress(base64.b64decode(held)), np.int64).copy())

    def results(self) -> tuple[UnitResult, tuple[Histogram, Histogram]]:
        """What all those elements together give, and their histograms (before, after)."""
        table = Table(self._rule)
        before, after = (PatternSummary(values).summarise(self.occurrences) for values in (table.x, table.y))
        histograms = Histogram(self._rule.source), Histogram(self._rule.dtype)
        with np.errstate(invalid="ignore"):  # signalling NaN
            for histogram, values in zip(histograms, (table.x, table.y), strict=True):
                histogram.add(values, self.occurrences)
        return UnitResult(before, after, table.losses(self.occurrences)), histograms


class OnePass:
    """A rule, made ready for units of one array of `size` elements. Holds scratch memory: one per thread.

    Call it unit after unit; what of them is whole counts adds up until `take`.
    """

    def __init__(self, rule: Rule, size: int) -> None:
        self.rule = rule
        self._stride = sample_stride(rule, size)
        self._piece = piece = min(TABLE_PIECE if by_table(rule, size) else PIECE, max(size, 1))
        self._native = np.empty(piece, rule.source)
        self._table = Table(rule) if by_table(rule, size) else None
        self._plain: PlainPair | None = None
        if self._table is None:
            self._kernel = Kernel(rule, piece)
            self._mask, self._wide = np.empty(piece, np.bool_), np.empty(piece, np.float64)
            plain = rule.source == rule.dtype and rule.source.kind == "f" and rule.source.itemsize > 2 and rule.monotone
            if plain:
                self._plain = PlainPair(rule.dtype, rule.factor, piece)
        self._histograms = Histogram(rule.source), Histogram(rule.dtype)
        self._clear()
        self._out = np.empty(0, rule.dtype)
        self._samples = np.empty(min(_SAMPLES, piece), rule.source)
        self._sampled = 0

    def __call__(self, x: Array, y: Array, start: int) -> UnitResult:
        """Transform a whole unit: `add` and `unit`."""
        with np.errstate(all="ignore"):
            self.add(x, y, start)
        return self.unit()

    def add(self, x: Array, y: Array, start: int) -> None:
        """Transform `x`, a unit or a piece of one, into `y`, of the same shape, in any byte and memory order, not the same memory.

        start: the flat index of the first element. Floating-point errors must be silenced by the caller (`np.errstate`). Raises NanError
        with the position in `x` (in C order) where a NaN has no integer; what was added since the last `unit` is then of no use.
        """
        work = self._by_kernel if self._table is None else self._by_table
        pieces: Iterable[tuple[int, Array, Array]]
        if 0 < x.size <= self._piece and x.flags.c_contiguous and y.flags.c_contiguous and x.dtype.isnative and y.dtype.isnative:
            pieces = ((0, x.reshape(-1), y.reshape(-1)),)
        else:
            pieces = self._pieces(x, y)
        for at, px, py in pieces:
            try:
                work(px, py, start + at)
            except NanError as error:
                self._clear()
                raise NanError(at + error.position) from None

    def unit(self) -> UnitResult:
        """What was added since the last time. Where there are `Patterns` (see `take`), all is told by them and nothing by this."""
        self._take_plain()
        before, after = self._summaries
        lost = losses(self.rule, _counts(before), _counts(after), self._clipped, self._replaced)
        self._clear()
        return UnitResult(before, after, lost)

    def _clear(self) -> None:
        self._summaries = Summary(), Summary()
        self._clipped = self._replaced = 0

    def take(self) -> tuple[tuple[Histogram, Histogram], Patterns | None]:
        """The histograms (before, after) since the last time, or the patterns for an array that goes by table."""
        taken, self._histograms = self._histograms, (Histogram(self.rule.source), Histogram(self.rule.dtype))
        if self._table is not None:
            return taken, Patterns(self.rule, self._table.occurrences())
        self._flush(taken)
        return taken, None

    def _pieces(self, x: Array, y: Array) -> Iterator[tuple[int, Array, Array]]:
        """(position, native piece of x, native piece of y to be filled), both 1-D; each piece of y is put into place after its turn.

        How a unit is cut depends on its shape alone, so that it has the same statistics wherever it lies.
        """
        for at, piece in cuts(x.shape, self._piece):
            px, py = x[piece], y[piece]
            if not (px.dtype.isnative and px.flags.c_contiguous):
                native = self._native[: px.size].reshape(px.shape)
                np.copyto(native, px)
                px = native
            if py.flags.c_contiguous:
                yield at, px.reshape(-1), py.reshape(-1).view(self.rule.dtype)
                if not py.dtype.isnative:
                    py.view(self.rule.dtype).byteswap(inplace=True)
            else:
                if not self._out.size:
                    self._out = np.empty_like(self._native, self.rule.dtype)
                out = self._out[: py.size]
                yield at, px.reshape(-1), out
                np.copyto(py, out.reshape(py.shape))

    def _by_kernel(self, x: Array, y: Array, start: int) -> None:
        clipped, replaced = self._kernel(x, y)
        self._clipped, self._replaced = self._clipped + clipped, self._replaced + replaced
        if self._plain is None or not self._plain.add(x, y):
            self._take_plain()
            before, after = self._summaries
            before = before.merge(summarise(x, self._mask, self._wide))
            self._summaries = before, after.merge(summarise(y, self._mask, self._wide))
        self._sample(x[-start % self._stride :: self._stride])

    def _take_plain(self) -> None:
        """Put the plain pieces that came last with the others."""
        if self._plain is not None:
            (before, after), plain = self._summaries, self._plain.take()
            self._summaries = before.merge(plain[0]), after.merge(plain[1])

    def _sample(self, x: Array) -> None:
        """Let samples wait for their histograms."""
        samples, waiting = self._samples, self._sampled
        while x.size > samples.size - waiting:
            size = samples.size - waiting
            samples[waiting:] = x[:size]
            self._sampled, x, waiting = samples.size, x[size:], 0
            self._flush(self._histograms)
        self._sampled = waiting + x.size
        samples[waiting : self._sampled] = x

    def _flush(self, histograms: tuple[Histogram, Histogram]) -> None:
        """Put the samples that wait, and their results, into the histograms: whole counts, so that it does not matter when."""
        x, self._sampled = self._samples[: self._sampled], 0
        y = np.empty(x.size, self.rule.dtype)
        with np.errstate(all="ignore"):
            self._kernel(x, y)
            histograms[0].add(x)
            histograms[1].add(y)

    def _by_table(self, x: Array, y: Array, start: int) -> None:
        assert self._table is not None
        self._table(x, y)


def _counts(summary: Summary) -> Counts:
    return Counts(summary.zero, summary.posinf, summary.neginf)


def constant(rule: Rule, value: Any, count: int) -> tuple[UnitResult, tuple[Histogram, Histogram]]:
    """What `count` elements that all are `value` give: those of chunks that are not stored, which nobody reads."""
    one_pass = OnePass(rule, 1)
    x, y = np.array([value], rule.source), np.empty(1, rule.dtype)
    one = one_pass(x, y, 0)
    histograms = Histogram(rule.source), Histogram(rule.dtype)
    with np.errstate(invalid="ignore"):  # signalling NaN
        for histogram, values in zip(histograms, (x, y), strict=True):
            histogram.add(values, np.array([count], np.int64))
    lost = Losses(**{name: lost * count for name, lost in asdict(one.losses).items()})
    return UnitResult(one.before.repeated(count), one.after.repeated(count), lost), histograms
