"""Verify: run the plan again with a writer that compares, and say what differs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from leakycli import events
from leakycli.compare import ComparingWriter, Difference
from leakycli.errors import LossError
from leakycli.executors import local_executor
from leakycli.onepass import scratch_bytes
from leakycli.options import Options, place
from leakycli.pipeline import run
from leakycli.plan import UNIT_BYTES, ArrayPlan
from leakycli.rule import Rule
from leakycli.storage import ArrayInfo, Source


@dataclass(frozen=True, slots=True)
class ArrayComparison:
    """What `verify` found for one array. problem: why nothing could be compared (a shape or dtype that differs), else None."""

    name: str
    count: int
    difference: Difference | None
    index: tuple[int, ...] | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `verify` found. parameters: those it computed with."""

    source: str
    destination: str
    parameters: dict[str, Any]
    arrays: tuple[ArrayComparison, ...]

    @property
    def equal(self) -> bool:
        return all(array.difference is None and array.problem is None for array in self.arrays)

    def message(self) -> str:
        """The first difference, in one line."""
        for array in self.arrays:
            where = place(self.destination, array.name)
            if array.problem is not None:
                return where + array.problem
            if (d := array.difference) is not None:
                at = ", ".join(map(str, array.index or ()))
                return (
                    f"{where}{d.count} of {array.count} elements differ; the first at [{at}]: expected {d.expected!r}, found {d.found!r}; "
                    f"largest difference {d.max_abs!r} ({d.max_ulp} ulp)"
                )
        return f"{place(self.destination)}equal"


def result_info(array: ArrayInfo, rule: Rule) -> ArrayInfo:
    """The array as it is written: the same shape, memory order and byte order in the rule's type."""
    dtype = rule.dtype if array.dtype.isnative else rule.dtype.newbyteorder("S")
    return ArrayInfo(array.name, array.shape, dtype, array.fortran)


def comparing_bytes(rule: Rule) -> int:
    """Bytes a worker takes for comparing a unit: what was found, and where it differs."""
    return 3 * UNIT_BYTES * rule.dtype.itemsize // rule.source.itemsize


def compare_sources(
    pair: tuple[str, Source], destination: tuple[str, Source], options: Options, observe: events.Observer = events.ignore
) -> Comparison:
    """Compare the arrays of `destination` with what those of `pair`, the source, give; each is (path, opened)."""
    (source, opened), (dest, found) = pair, destination
    by_name = {array.name: array for array in found.arrays}
    compared = []
    for array in opened.arrays:
        rule = options.rule(array, source)
        expected, there = result_info(array, rule), by_name.get(array.name)
        problem = _mismatch(expected, there)
        result = None
        if there is not None and problem is None:
            with contextlib.closing(ComparingWriter(expected, found.reader(there))) as writer:
                _run(array, rule, (source, opened), writer, options, observe)
                result = writer.result
        index = None if result is None else array.index(result.position)
        compared.append(ArrayComparison(array.name, array.size, result, index, problem))
    return Comparison(source, dest, options.parameters(), tuple(compared))


def _run(
    array: ArrayInfo, rule: Rule, pair: tuple[str, Source], writer: ComparingWriter, options: Options, observe: events.Observer
) -> None:
    source, opened = pair
    planned = ArrayPlan.of(
        array.name,
        array.size,
        (array.dtype.itemsize, rule.dtype.itemsize),
        scratch_bytes(rule, array.size) + comparing_bytes(rule),
    )
    plan = options.plan((planned,))
    observe(events.Started(source, array.nbytes))
    with (
        contextlib.closing(opened.reader(array)) as reader,
        local_executor(plan.workers, plan.regions) as executor,
    ):
        try:
            run(
                planned,
                rule,
                (reader, writer),
                executor,
                plan.workers,
                lambda region: observe(events.RegionDone(source, array.name, region.size * planned.itemsize_in, 0)),
            )
        except LossError as error:
            raise LossError(f"{place(source)}{error}") from None
    observe(events.Finished(source))


def _mismatch(expected: ArrayInfo, found: ArrayInfo | None) -> str | None:
    """Why two arrays cannot be compared element by element, in words; None where they can."""
    if found is None:
        return "is missing"
    if found.shape != expected.shape:
        return f"has shape {found.shape}, expected {expected.shape}"
    if found.dtype.newbyteorder("=") != expected.dtype.newbyteorder("="):
        return f"has dtype {found.dtype.name}, expected {expected.dtype.name}"
    if found.fortran != expected.fortran and len(found.shape) > 1:
        order = {True: "Fortran", False: "C"}
        return f"is in {order[found.fortran]} order, expected {order[expected.fortran]} order"
    return None
