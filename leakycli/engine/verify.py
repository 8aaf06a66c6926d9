"""Verify: run the plan again with a writer that compares, and say what differs."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass, replace
from typing import Any

from leakycli import stopping
from leakycli.engine import events
from leakycli.engine.compare import ComparingWriter, Difference
from leakycli.engine.executors import local_executor
from leakycli.engine.plan import UNIT_BYTES, ArrayPlan, GridPlan, Plan
from leakycli.engine.route import array_plan, fitting_reader
from leakycli.engine.transform import run
from leakycli.errors import LossError, counted
from leakycli.formats import ArrayInfo, Member, Source
from leakycli.function.kernel import kernel_bytes
from leakycli.function.rule import Rule
from leakycli.options import Options, ignored, place


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
    """What `verify` found. parameters: those it computed with. warnings: of the source."""

    source: str
    destination: str
    parameters: dict[str, Any]
    arrays: tuple[ArrayComparison, ...]
    warnings: tuple[str, ...] = ()

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


def comparing_bytes(rule: Rule) -> int:
    """Bytes a worker takes for comparing a unit: what was found, and where it differs."""
    return 3 * UNIT_BYTES * rule.dtype.itemsize // rule.source.itemsize


def compare_sources(
    pair: tuple[str, Source],
    destination: tuple[str, Source],
    options: Options,
    observe: events.Observer = events.ignore,
    run_plan: Plan | None = None,
) -> Comparison:
    """Compare the arrays of `destination` with what those of `pair`, the source, give; each is (path, opened).

    run_plan: of the run that this comparison is part of, whose workers and memory it then keeps to.
    """
    (source, opened), (dest, found) = pair, destination
    chosen = {member.key: member for member in options.selection.choose(opened.members, source)}
    same = _family(opened) == _family(found)
    arrays = [member for member in found.members if member.array is not None]
    # A lone array may have lost its name, or got one: `.npy` knows none, nor does an array that is a whole Zarr store.
    lone = len(chosen) == 1 and len(arrays) == 1 and (not same or "npy" in (opened.format, found.format))
    by_key = {member.key: member for member in found.members} if same else {member.name: member for member in arrays}
    compared = []
    for member in opened.members:
        there = arrays[0] if lone and member.key in chosen else by_key.get(member.key if same else member.name)
        if member.key in chosen and member.array is not None:
            each = _compare_array(member.array, member, there, (pair, destination), options, observe, run_plan)
            if there is not None and there.behind and each.difference is None and each.problem is None:
                each = replace(each, problem=f"is followed by {counted(there.behind, 'byte')} that are no part of the result")
            compared.append(each)
        elif same:
            problem = "is missing" if there is None else opened.copy_problem(member, found, there)
            compared.append(ArrayComparison(member.name, 0, None, None, problem))
    if same and not lone:
        known = {member.key for member in opened.members}
        compared += [ArrayComparison(m.name, 0, None, None, "is not in the source") for m in found.members if m.key not in known]
    warnings = (*opened.warnings, *ignored(source, chosen.values()))
    return Comparison(source, dest, options.parameters(), tuple(compared), warnings)


def _family(source: Source) -> str:
    return source.format.removesuffix(".zip")


def _compare_array(
    array: ArrayInfo,
    member: Member,
    there: Member | None,
    ends: tuple[tuple[str, Source], tuple[str, Source]],
    options: Options,
    observe: events.Observer,
    run_plan: Plan | None,
) -> ArrayComparison:
    (source, opened), (_, found) = ends
    rule = options.rule(array, source)
    problem = _mismatch(array, rule, None if there is None else there.array)
    if there is None or there.array is None or problem is not None:
        return ArrayComparison(array.name, array.size, None, None, problem)
    mask = opened.mask(member, rule) if _family(found) == "zarr" else None
    # Computed in the type that is expected, in the layout that was found.
    chunked = array.chunking is not None or there.array.chunking is not None
    expected = there.array
    scratch = kernel_bytes(rule, array.chunking is None and there.array.chunking is None) + comparing_bytes(rule)
    ordered = tuple(end.sequential(m) or (chunked and end.format == "npz") for end, m in ((opened, member), (found, there)))
    planned = array_plan(member.key, (array, expected), (ordered[0], ordered[1]), scratch, beside=1.0)
    if run_plan is None:
        plan = options.plan((planned,), held=member.memory + there.memory)
        planned, workers = plan.arrays[0], plan.workers
    else:
        workers = run_plan.workers
        planned = planned.fitted(workers, run_plan.memory.budget)
    observe(events.Started(source, array.nbytes))
    with (
        spool_folder(planned) as folder,
        contextlib.closing(opened.reader(member)) as given,
        contextlib.closing(found.reader(there)) as written,
        stopping.guarded(),
        local_executor(workers, planned.count) as executor,
    ):
        reader, there_reader = (fitting_reader(planned, end, os.path.join(folder, "spool.npy")) for end in (given, written))
        writer = ComparingWriter(expected, there_reader)
        try:
            run(
                planned,
                rule,
                (reader, writer),
                executor,
                workers,
                lambda region, _: observe(events.RegionDone(source, array.name, region.size * planned.itemsize_in, 0)),
                statistics=False,
                mask=mask if mask is not None and mask.active else None,
            )
        except LossError as error:
            raise LossError(f"{place(source)}{error}") from None
        result = writer.result
    observe(events.Finished(source))
    if result is None and _family(opened) == _family(found) == "zarr":
        problem = opened.document_problem(member, found, there, rule)
    index = None if result is None else (replace(array, fortran=False) if isinstance(planned, GridPlan) else array).index(result.position)
    return ArrayComparison(array.name, array.size, result, index, problem)


def spool_folder(plan: ArrayPlan[Any]) -> contextlib.AbstractContextManager[str]:
    """A folder for what cannot be compared without a spool; it is gone afterwards."""
    return tempfile.TemporaryDirectory(prefix="leakycli-") if isinstance(plan, GridPlan) and plan.spool else contextlib.nullcontext("")


def _mismatch(array: ArrayInfo, rule: Rule, found: ArrayInfo | None) -> str | None:
    """Why two arrays cannot be compared element by element, in words; None where they can."""
    if found is None:
        return "is missing"
    if found.shape != array.shape:
        return f"has shape {found.shape}, expected {array.shape}"
    if found.dtype.newbyteorder("=") != rule.dtype:
        return f"has dtype {found.dtype.name}, expected {rule.dtype.name}"
    flat = array.chunking is None and found.chunking is None
    if flat and found.fortran != array.fortran and len(found.shape) > 1:
        order = {True: "Fortran", False: "C"}
        return f"is in {order[found.fortran]} order, expected {order[array.fortran]} order"
    return None
