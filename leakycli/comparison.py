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
from leakycli.storage import ArrayInfo, Member, Source


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
    pair: tuple[str, Source],
    destination: tuple[str, Source],
    options: Options,
    observe: events.Observer = events.ignore,
    workers: int | None = None,
) -> Comparison:
    """Compare the arrays of `destination` with what those of `pair`, the source, give; each is (path, opened).

    workers: for a comparison that is part of a run already planned.
    """
    (source, opened), (dest, found) = pair, destination
    chosen = {member.key: member for member in options.choose(opened.members, source)}
    # A lone array has no name to keep: `.npy` knows none.
    lone = len(chosen) == 1 and len(found.members) == 1 and "npy" in (opened.format, found.format)
    by_key = {member.key: member for member in found.members}
    compared = []
    for member in opened.members:
        there = found.members[0] if lone and member.key in chosen else by_key.get(member.key)
        if member.key in chosen and member.array is not None:
            compared.append(_compare_array(member.array, member, there, (pair, destination), options, observe, workers))
        elif found.format == opened.format:
            problem = "is missing" if there is None else opened.copy_problem(member, found, there)
            compared.append(ArrayComparison(member.name, 0, None, None, problem))
    if found.format == opened.format and not lone:
        known = {member.key for member in opened.members}
        compared += [ArrayComparison(m.name, 0, None, None, "is not in the source") for m in found.members if m.key not in known]
    return Comparison(source, dest, options.parameters(), tuple(compared))


def _compare_array(
    array: ArrayInfo,
    member: Member,
    there: Member | None,
    ends: tuple[tuple[str, Source], tuple[str, Source]],
    options: Options,
    observe: events.Observer,
    workers: int | None,
) -> ArrayComparison:
    (source, opened), (_, found) = ends
    rule = options.rule(array, source)
    expected = result_info(array, rule)
    problem = _mismatch(expected, None if there is None else there.array)
    if there is None or problem is not None:
        return ArrayComparison(array.name, array.size, None, None, problem)
    planned = ArrayPlan.of(
        array.name,
        array.size,
        (array.dtype.itemsize, rule.dtype.itemsize),
        scratch_bytes(rule, array.size) + comparing_bytes(rule),
        (opened.sequential(member), found.sequential(there)),
    )
    if workers is None:
        workers = options.plan((planned,)).workers
    observe(events.Started(source, array.nbytes))
    with (
        contextlib.closing(ComparingWriter(expected, found.reader(there))) as writer,
        contextlib.closing(opened.reader(member)) as reader,
        local_executor(workers, planned.count) as executor,
    ):
        try:
            run(
                planned,
                rule,
                (reader, writer),
                executor,
                workers,
                lambda region: observe(events.RegionDone(source, array.name, region.size * planned.itemsize_in, 0)),
            )
        except LossError as error:
            raise LossError(f"{place(source)}{error}") from None
        result = writer.result
    observe(events.Finished(source))
    index = None if result is None else array.index(result.position)
    return ArrayComparison(array.name, array.size, result, index, None)


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
