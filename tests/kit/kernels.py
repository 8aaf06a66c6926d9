"""Every implementation of the pass that this machine has, and data that is hard for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from leakycli.function import reference
from leakycli.function.rule import Pass
from leakycli.function.stats import BlockStats

Array = NDArray[Any]

INPUTS = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
OUTPUTS = ("float16", "bfloat16", "float32", "float64", "int32", "int64")


class Run(Protocol):
    def __call__(self, work: Pass, x: Array, y: Array, statistics: bool = ...) -> BlockStats | None: ...


def runner(tally: Callable[..., Any]) -> Run:
    """One call of an implementation, statistics and all."""

    def run(work: Pass, x: Array, y: Array, statistics: bool = True) -> BlockStats | None:
        adding = tally(work, statistics)
        adding.add(x, y)
        return adding.take() if statistics else None

    return run


def implementations() -> dict[str, Run]:
    """By name: the reference, and each copy of the compiled loops that the processor runs."""
    found: dict[str, Run] = {"reference": runner(reference.Tally)}
    try:
        from leakycli.function import compiled
    except ImportError:
        return found
    return found | {name: runner(partial(compiled.Tally, copy=number)) for number, name in enumerate(compiled.COPIES)}


RUNS = implementations()


def storage(name: str) -> np.dtype[Any]:
    """The numpy type that holds elements of a type."""
    return np.dtype("uint16" if name == "bfloat16" else name)


def rounded_alpha(alpha: float, source: str, dtype: str) -> float:
    """Alpha in the compute type, as DESIGN has it."""
    if source == dtype == "bfloat16":
        return float(reference.widened(reference.narrowed(np.array([alpha], np.float64)))[0])
    if source == dtype == "float16":
        return float(np.float16(alpha))
    floats = [np.dtype(t) if t != "bfloat16" else np.dtype("float32") for t in (source, dtype) if "float" in t]
    if "int" in dtype:
        return alpha
    own = max((*floats, np.dtype("float32")), key=lambda t: t.itemsize)
    return float(own.type(alpha))


def work(source: str, dtype: str, alpha: float = 0.2, **more: Any) -> Pass:
    return Pass(source, dtype, rounded_alpha(alpha, source, dtype), **more)


def values(name: str, bits: Array) -> Array:
    """Elements as numbers that numpy knows."""
    return reference.widened(bits) if name == "bfloat16" else bits


def same_bits(name: str, a: Array, b: Array) -> bool:
    """Whether two results are the same bit for bit, NaN payloads aside."""
    unsigned = np.dtype(f"u{a.itemsize}")
    same = a.view(unsigned) == b.view(unsigned)
    if "float" in name:
        same |= np.isnan(values(name, a)) & np.isnan(values(name, b))
    return bool(same.all())


def random_bits(rng: np.random.Generator, name: str, count: int) -> Array:
    """Elements of every kind: random bit patterns."""
    return rng.integers(0, 256, count * storage(name).itemsize, dtype=np.uint8).view(storage(name))


def plain(rng: np.random.Generator, name: str, count: int, spread: float = 100.0) -> Array:
    """Elements as data has them: around 0, finite, with some zeros."""
    x = np.where(rng.random(count) < 0.1, 0, rng.standard_normal(count) * spread)
    if name == "bfloat16":
        return reference.narrowed(x)
    if "uint" in name:
        x = np.abs(x)
    return x.clip(-100, 100).astype(name) if "8" in name[-1:] and "int" in name and "64" not in name else x.astype(name)


def both(work: Pass, x: Array, run: Callable[..., BlockStats | None], statistics: bool = True) -> tuple[Array, BlockStats | None]:
    """The result in memory of its own, and the statistics."""
    y = np.empty(x.size, storage(work.dtype))
    return y, run(work, x, y, statistics)
