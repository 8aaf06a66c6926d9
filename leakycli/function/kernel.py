"""Leaky ReLU of arrays in memory: the compiled kernel, or the reference in numpy where none was built.

`LEAKYCLI_KERNEL` in the environment chooses: "reference", or one of the compiled copies ("baseline", "avx2", "avx512").
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from leakycli import system
from leakycli.errors import UsageError
from leakycli.function import reference
from leakycli.function.alpha import ALPHA
from leakycli.function.rule import Pass, Rule
from leakycli.function.stats import BlockStats, Losses, NanError
from leakycli.regions import stretches

Array = NDArray[Any]

#: Elements of an array that does not lie in one run of memory which are gathered at once: whole blocks, so that its statistics are the
#: same as if it did.
GATHERED = 4 * reference.BLOCK


class Tally(Protocol):
    """Does a pass piece by piece, and adds up the statistics of the pieces: see `reference.Tally`."""

    def add(self, x: Array, y: Array) -> None: ...

    def take(self) -> BlockStats: ...


class _MakeTally(Protocol):
    def __call__(self, work: Pass, statistics: bool = ...) -> Tally: ...


def _chosen(wanted: str) -> tuple[str, _MakeTally]:
    """The name of the implementation that runs, and what makes its tallies."""
    copies: tuple[str, ...] = ()
    if wanted != "reference":
        try:
            from leakycli.function import compiled

            copies = compiled.COPIES
        except ImportError:
            pass
    if wanted and wanted not in ("reference", *copies):
        raise UsageError(f"LEAKYCLI_KERNEL is {wanted!r}; this machine has: {', '.join(('reference', *copies))}")
    if not copies:
        return "reference", reference.Tally
    copy = copies.index(wanted) if wanted else len(copies) - 1
    return copies[copy], partial(compiled.Tally, copy=copy)


#: The implementation that runs, and what makes its tallies.
NAME, make_tally = _chosen(system.wanted_kernel())


def differs(a: Array, b: Array) -> bool:
    """Whether two C-contiguous arrays of one size differ in any byte."""
    if NAME == "reference":
        return a.tobytes() != b.tobytes()
    from leakycli.function import compiled

    return compiled.differs(a, b) >= 0


class Kernel:
    """A rule made ready for the units of an array, and the statistics of those that it was given. For one thread at a time."""

    def __init__(self, rule: Rule, statistics: bool = True) -> None:
        self._tally = make_tally(Pass.of(rule), statistics)
        self._gathered, self._results = np.empty(0, rule.source), np.empty(0, rule.dtype)

    def add(self, x: Array, y: Array) -> None:
        """Write the results for `x` to `y`, of one shape, in any layout and byte order.

        y is x itself (of elements of one size), or lies apart. The statistics are those of the elements in C order. Raises NanError, with
        the position in C order, where a NaN has no integer; what was added since `take` is then of no use.
        """
        if x.flags.c_contiguous and y.flags.c_contiguous:
            self._tally.add(x.reshape(-1), y.reshape(-1))
            return
        for at in range(0, x.size, GATHERED):
            size = min(x.size - at, GATHERED)
            px, py = self._scratch(x, y, size)
            for run, selection in _runs(x.shape, at, at + size):
                np.copyto(px[run].reshape(x[selection].shape), x[selection])
            try:
                self._tally.add(px, py)
            except NanError as error:
                raise NanError(at + error.position) from None
            for run, selection in _runs(x.shape, at, at + size):
                np.copyto(y[selection], py[run].reshape(y[selection].shape))

    def take(self) -> BlockStats:
        """The statistics since the last time."""
        return self._tally.take()

    def _scratch(self, x: Array, y: Array, size: int) -> tuple[Array, Array]:
        if self._gathered.size < size:
            self._gathered, self._results = np.empty(size, x.dtype), np.empty(size, y.dtype)
        return self._gathered[:size].view(x.dtype), self._results[:size].view(y.dtype)


def kernel_bytes(rule: Rule, contiguous: bool) -> int:
    """Bytes of memory that a `Kernel` takes. contiguous: whether the arrays that it is given lie in runs of memory."""
    own = 1 << 19 if NAME != "reference" else reference.BLOCK * (14 * 8)
    return own + (0 if contiguous else GATHERED * (rule.source.itemsize + rule.dtype.itemsize))


def _runs(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[slice, tuple[slice, ...]]]:
    """Where the elements from `start` up to `stop` in C order go, run by run: (place from `start` on, what selects them)."""
    at = 0
    for selection, size in stretches(shape, start, stop):
        yield slice(at, at + size), selection
        at += size


def transform(x: Array, out: Array, rule: Rule) -> Losses:
    """Write the leaky ReLU of `x` to `out` under `rule` and count what the cast lost.

    x: any shape (0-d and empty too), any layout and byte order, of the rule's source type. out: the same shape, the rule's dtype in any
    byte order; may be `x` itself or overlap it. Raises NanError (the position is the flat index in C order) when a NaN has no integer;
    `out` is then partly written.
    """
    if x.shape != out.shape:
        raise ValueError(f"out has shape {out.shape}, x has {x.shape}")
    if x.dtype.newbyteorder("=") != rule.source or out.dtype.newbyteorder("=") != rule.dtype:
        raise TypeError(f"the rule takes {rule.source} to {rule.dtype}, not {x.dtype} to {out.dtype}")
    one = x.itemsize == out.itemsize and x.strides == out.strides and x.__array_interface__["data"] == out.__array_interface__["data"]
    if not one and np.may_share_memory(x, out):
        x = x.copy()
    kernel = Kernel(rule)
    kernel.add(x, out)
    return kernel.take().losses


def leaky_relu(
    x: ArrayLike, alpha: float = ALPHA, dtype: DTypeLike | None = None, out: Array | None = None, nan: int | None = None
) -> Array:
    """Leaky ReLU of `x`, as `tf.nn.leaky_relu` computes it.

    x: array of any shape, of floats (16, 32, 64 bits) or integers; 0-d and empty arrays are welcome. A masked array gives a masked array:
    masked elements stay masked, and are 0 beneath.
    alpha: any finite number.
    dtype: type of the result, one of `OUTPUTS`; by default that of a floating x, float32 for integers.
    out: where to put the result, of x's shape (may be x itself).
    nan: what NaN becomes in an integer dtype, which has none; without it NaN raises NanError there.

    Raises UnsupportedError for other types of x, UsageError for an alpha, dtype or nan that is not allowed, and for an out that would
    lose a mask.
    """
    mask = None
    if isinstance(x, np.ma.MaskedArray):
        if out is not None:
            raise UsageError("out cannot hold the mask of a masked array; leave it out, or give x.filled(value)")
        x, mask = x.filled(0), np.ma.getmaskarray(x).copy()
    elif isinstance(out, np.ma.MaskedArray):
        raise UsageError("out must be an array without a mask")
    x = np.asarray(x)
    if dtype is None and out is not None:
        dtype = out.dtype
    rule = Rule.of(x.dtype, alpha, dtype, nan)
    if out is None:
        out = np.empty_like(x, dtype=rule.dtype, subok=False)
    transform(x, out, rule)
    return out if mask is None else np.ma.MaskedArray(out, mask)
