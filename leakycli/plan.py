"""The plan of a run: integers in, a frozen `Plan` out. No file is opened here and no clock read, so a dry run costs nothing.

The projected peak of resident memory, in bytes, is

    baseline + ALLOWANCE + workers x (unit in + unit out + scratch) + window x (fetched + payload)

where the last term is there only for a side that must be read or written in order, whose regions wait in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from leakycli.errors import UsageError
from leakycli.regions import Span, spans

#: Bytes of input in a unit of a flat array. Statistics are kept per unit, so this number is part of what a report says.
UNIT_BYTES = 1 << 20

#: Units in a region of a flat array: enough to make the cost of a task small, few enough to stop quickly.
REGION_UNITS = 8

#: The default memory bound, in bytes.
DEFAULT_BOUND = 512 << 20

#: What the process grows by apart from the arrays: modules loaded on the way, thread stacks, the report. In bytes.
ALLOWANCE = 16 << 20


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """How one flat array is worked through. size, unit and region are in elements, itemsizes and scratch in bytes."""

    name: str
    size: int
    unit: int
    region: int
    itemsize_in: int
    itemsize_out: int
    scratch: int
    ordered_in: bool
    ordered_out: bool

    @classmethod
    def of(
        cls, name: str, size: int, itemsizes: tuple[int, int], scratch: int = 0, ordered: tuple[bool, bool] = (False, False)
    ) -> ArrayPlan:
        """The plan for an array of `size` elements; itemsizes and ordered (must go front to back) are (in, out)."""
        unit = UNIT_BYTES // itemsizes[0]
        return cls(name, size, unit, unit * (2 if any(ordered) else REGION_UNITS), *itemsizes, scratch, *ordered)

    @property
    def count(self) -> int:
        """Number of regions."""
        return -(-self.size // self.region)

    @property
    def bytes_in(self) -> int:
        return self.size * self.itemsize_in

    @property
    def bytes_out(self) -> int:
        return self.size * self.itemsize_out

    def regions(self) -> Iterator[Span]:
        """The regions, in plan order; together they cover every element exactly once."""
        return spans(0, self.size, self.region)

    def units(self, region: Span) -> Iterator[Span]:
        """The units of `region`, which starts at one."""
        return spans(region.start, region.stop, self.unit)

    def memory(self, workers: int) -> int:
        """Bytes that `workers` threads on this array take beyond the baseline."""
        unit, region = min(self.unit, self.size), min(self.region, self.size)
        each = unit * (self.itemsize_in + self.itemsize_out) + self.scratch
        waiting = region * (self.ordered_in * self.itemsize_in + self.ordered_out * self.itemsize_out)
        return workers * each + window(workers) * waiting


def window(workers: int) -> int:
    """Regions in flight for so many workers: one each, and one that waits for each."""
    return 2 * workers


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: of the process before the work, the bound it keeps, and its projected peak."""

    baseline: int
    bound: int
    projected: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run: its arrays in order, the workers, the memory."""

    arrays: tuple[ArrayPlan, ...]
    workers: int
    memory: Memory

    @property
    def bytes_in(self) -> int:
        return sum(array.bytes_in for array in self.arrays)

    @property
    def bytes_out(self) -> int:
        return sum(array.bytes_out for array in self.arrays)

    @property
    def regions(self) -> int:
        return sum(array.count for array in self.arrays)


def plan_run(arrays: tuple[ArrayPlan, ...], workers: int, baseline: int, bound: int | None = None, available: int | None = None) -> Plan:
    """The plan with as many of the `workers` as the memory bound allows, and no more than there are regions.

    baseline: resident bytes of the process now. bound: bytes; by default `DEFAULT_BOUND`, or what one worker needs, up to half of the
    `available` bytes. Raises UsageError, with the number needed, where one worker does not fit.
    """

    def projected(n: int) -> int:
        return baseline + ALLOWANCE + max((array.memory(n) for array in arrays), default=0)

    least = projected(1)
    if bound is None:
        limit = max(DEFAULT_BOUND, available // 2) if available is not None else least
        bound = max(DEFAULT_BOUND, min(least, limit))
    if least > bound:
        raise UsageError(f"a memory bound of {size_text(bound)} is too small: this run needs {size_text(least, up=True)} (--memory)")
    most = max(1, min(workers, max((array.count for array in arrays), default=1)))
    fitting = max(n for n in range(1, most + 1) if n == 1 or projected(n) <= bound)
    return Plan(arrays, fitting, Memory(baseline, bound, projected(fitting)))


def size_text(size: int, up: bool = False) -> str:
    """`size` bytes for people and for `--memory` ("12.3 MiB"); with `up` never less than it is."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            tenths = -(-size * 10 // unit) if up else round(size * 10 / unit)
            return f"{tenths / 10:g} {name}"
    return f"{size} bytes"


def parse_size(text: str) -> int:
    """Bytes in "128M", "1.5GiB", "4096"; units are powers of 1024. Raises UsageError."""
    number = text.strip().upper().removesuffix("BYTES").strip()
    factor = 1
    for power, prefix in enumerate("KMGT", start=1):
        for suffix in (f"{prefix}IB", f"{prefix}B", prefix):
            if factor == 1 and number.endswith(suffix):
                number, factor = number[: -len(suffix)].strip(), 1 << 10 * power
    try:
        size = float(number.removesuffix("B")) * factor
        if 0 < size < 1 << 63:
            return int(size)
    except ValueError:
        pass
    raise UsageError(f"{text!r} is no size; write it as in 512M, 2G or 4096")
