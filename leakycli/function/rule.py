"""What is done to an array, said once: alpha, the types, what NaN becomes, which elements are missing (`Rule`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from leakycli.errors import UnsupportedError, UsageError
from leakycli.function.alpha import ALPHA, checked_alpha

OUTPUTS = ("float16", "float32", "float64", "int32", "int64")

#: Their names take numpy longer to tell than all else that is checked.
_OUTPUTS = frozenset(map(np.dtype, OUTPUTS))

#: How to call arrays of the other kinds, and what to do with them.
_REFUSED = {
    "b": ("a boolean array", "if its values are numbers, astype('uint8') makes them so"),
    "c": ("a complex array", "save its real and imaginary parts as arrays of their own"),
    "m": ("an array of time differences (timedelta64)", "astype('int64') makes numbers of them"),
    "M": ("an array of dates (datetime64)", "astype('int64') makes numbers of them"),
    "O": ("an object array", "if its values are numbers, astype('float32') makes them so"),
    "S": ("an array of byte strings", "if they are numbers, astype('float32') makes them so"),
    "U": ("an array of strings", "if they are numbers, astype('float32') makes them so"),
    "T": ("an array of strings", "if they are numbers, astype('float32') makes them so"),
}

#: Types that are saved as bytes of no type, by their size.
_VOID = {
    1: "float8_e4m3fn or another type of ml_dtypes of 8 bits and fewer",
    2: "bfloat16",
}


@dataclass(frozen=True)
class Rule:
    """What is done to one array: alpha, the types, what NaN becomes. Made by `Rule.of`, which checks it.

    source and dtype are in native byte order; `alpha` is as given, `factor` is alpha as rounded to the compute type. missing: the input
    values that stand for "no value" (NaN may be one): such elements are transformed, and left out of the statistics. fill: the result
    that stands for it, if any.
    """

    alpha: float
    source: np.dtype[Any]
    dtype: np.dtype[Any]
    nan: int | None = None
    missing: tuple[int | float, ...] = ()
    fill: int | float | None = None

    @classmethod
    def of(cls, source: DTypeLike, alpha: float = ALPHA, dtype: DTypeLike | None = None, nan: int | None = None) -> Rule:
        """The rule for arrays of type `source`.

        Raises UnsupportedError for a source type that has no leaky ReLU, UsageError for an alpha that is not finite (also: not
        finite in the compute type), a dtype that is not one of `OUTPUTS`, and a `nan` that does not fit dtype.
        """
        source = np.dtype(source)
        refuse_unsupported(source)
        source = source.newbyteorder("=")
        if dtype is None:
            dtype = source if source.kind == "f" else np.dtype("float32")
        dtype = np.dtype(dtype).newbyteorder("=")
        if dtype not in _OUTPUTS:
            raise UsageError(f"dtype {dtype.name} is not supported: choose one of {', '.join(OUTPUTS)}")
        if nan is not None:
            if dtype.kind == "f":
                raise UsageError(f"nan says what NaN becomes in an integer type; {dtype.name} keeps NaN, so leave it out")
            info = np.iinfo(dtype)
            if not info.min <= nan <= info.max:
                raise UsageError(f"nan {nan} does not fit {dtype.name} ({info.min} to {info.max})")
        alpha = checked_alpha(alpha)
        made = cls(alpha, source, dtype, nan)
        if not math.isfinite(made.factor):
            raise UsageError(
                f"alpha {alpha:g} is not finite in {made.compute.name}, to which it is rounded; choose a smaller alpha, or dtype float64"
            )
        return made

    @cached_property
    def compute(self) -> np.dtype[Any]:
        """The type alpha is rounded to and the product is rounded in."""
        if self.dtype.kind != "f":
            return np.dtype("float64")
        own = self.source if self.source.kind == "f" else np.dtype("float32")
        return max(own, self.dtype, key=lambda d: d.itemsize)

    @cached_property
    def factor(self) -> float:
        with np.errstate(over="ignore", under="ignore"):
            return float(self.compute.type(self.alpha))

    @cached_property
    def monotone(self) -> bool:
        """Whether a larger x never gives a smaller y."""
        return self.factor >= 0


@dataclass(frozen=True)
class Pass:
    """A rule as the kernels take it; types by name, `bfloat16` (held as bit patterns, uint16) among them.

    factor: alpha as rounded to the compute type. nan: what NaN becomes in an integer type, None to refuse it. missing: input values that
    stand for no value (NaN may be one). fill: the result that stands for no value, if any.
    """

    source: str
    dtype: str
    factor: float
    nan: int | None = None
    missing: tuple[int | float, ...] = ()
    fill: int | float | None = None

    @classmethod
    def of(cls, rule: Rule) -> Pass:
        return cls(rule.source.name, rule.dtype.name, rule.factor, rule.nan, rule.missing, rule.fill)

    @cached_property
    def computes_in_float32(self) -> bool:
        """Whether the product is taken in float32; else in float64."""
        return self.source != "float64" and self.dtype in ("float16", "bfloat16", "float32")


def refuse_unsupported(dtype: np.dtype[Any]) -> None:
    """Raise UnsupportedError, with the kind's name and a way out, unless `dtype` is a float or integer of at most 64 bits."""
    if dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize <= 8):
        return
    if dtype.kind == "f":
        raise UnsupportedError(f"extended precision ({dtype.name}) is not supported; convert it to float64 first")
    if dtype.names is not None:
        raise UnsupportedError("a structured array is not supported; save its fields as arrays of their own")
    if dtype.subdtype is not None:
        raise UnsupportedError(f"a subarray type ({dtype}) is not supported; save a plain array")
    if dtype.kind == "V":
        raise UnsupportedError(_unknown_type(f"void type {dtype.str}", _VOID.get(dtype.itemsize)))
    called, way = _REFUSED.get(dtype.kind, (f"an array of {dtype.name}", "convert it to floats first"))
    raise UnsupportedError(f"{called} has no leaky ReLU; {way}")


def _unknown_type(called: str, likely: str | None) -> str:
    """What to say of an array of bytes whose type is not known. likely: the type that it may be."""
    if likely is None:
        return f"{called} does not say what its bytes are; make an array of numbers of them"
    view = f".view(ml_dtypes.{likely.partition(' ')[0]}).astype('float32')"
    return f"{called} does not say what its bytes are; if it is {likely}, {view} makes numbers of them"
