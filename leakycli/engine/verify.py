"""Verify: run the tasks again with a writer that compares, and say what differs."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from leakycli import stopping
from leakycli.engine import events
from leakycli.engine.compare import ComparingWriter, Difference, comparing_bytes
from leakycli.engine.executors import local_executor
from leakycli.engine.plan import ArrayPlan, GridPlan
from leakycli.engine.request import Request
from leakycli.engine.route import Terms, array_plan, fitting_reader
from leakycli.engine.tasks import ArrayTask, Work, array_rule, ignored, plan_here, selection
from leakycli.engine.transform import run
from leakycli.errors import LossError, counted, place
from leakycli.formats import FORMATS, ArrayInfo, Format, Member, Source
from leakycli.function.kernel import kernel_bytes
from leakycli.function.rule import Rule
from leakycli.options import Options
from leakycli.tuning import Tuning


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


@dataclass(frozen=True, slots=True)
class Side:
    """Source or destination of a comparison: its path, and what was opened there."""

    path: str
    opened: Source

    @property
    def format(self) -> Format:
        return FORMATS[self.opened.format]


@dataclass(frozen=True, slots=True)
class Pair:
    """A member of the source, and its counterpart in the destination; None where that has none. transformed: else it was copied."""

    member: Member
    found: Member | None
    transformed: bool


@dataclass(frozen=True, slots=True)
class Pairs:
    """The members that are compared, and the names of those that only the destination has."""

    pairs: tuple[Pair, ...]
    added: tuple[str, ...]

    @classmethod
    def of(cls, source: Side, dest: Side, chosen: Collection[str]) -> Pairs:
        """chosen: the keys of the members that are transformed."""
        same = source.format.family == dest.format.family
        arrays = [member for member in dest.opened.members if member.array is not None]
        # A lone array may have lost its name, or got one: `.npy` knows none, nor does an array that is a whole Zarr store.
        lone = len(chosen) == 1 and len(arrays) == 1 and (not same or source.format.single or dest.format.single)
        by_name = {member.key: member for member in dest.opened.members} if same else {member.name: member for member in arrays}
        pairs = []
        for member in source.opened.members:
            transformed = member.key in chosen
            if transformed or same:
                found = arrays[0] if lone and transformed else by_name.get(member.key if same else member.name)
                pairs.append(Pair(member, found, transformed))
        known = {member.key for member in source.opened.members}
        added = [member.name for member in dest.opened.members if member.key not in known] if same and not lone else []
        return cls(tuple(pairs), tuple(added))


def compare(source: Side, dest: Side, options: Options, observe: events.Observer = events.ignore) -> Comparison:
    """Compare the arrays of `dest` with what those of `source` give."""
    chosen = selection(options).choose(source.opened.members, source.path)
    pairs = Pairs.of(source, dest, {member.key for member in chosen})
    rules = {member.key: array_rule(member.array, source.path, options) for member in chosen if member.array is not None}
    tasks, held = [], 0
    for pair in pairs.pairs:
        array, found = pair.member.array, pair.found
        if pair.transformed and array is not None and found is not None and found.array is not None:
            rule = rules[pair.member.key]
            if _mismatch(array, rule.dtype, found.array) is None:
                tasks.append(_task(source, dest, pair.member, array, rule, found, found.array, options.tuning))
                held = max(held, pair.member.memory + found.memory)
    plan = plan_here([task.plan for task in tasks], options, held=held)
    work = Work(tuple(replace(task, plan=fitted) for task, fitted in zip(tasks, plan.arrays, strict=True)), plan)
    return _Comparing(source, dest, rules, work, options, observe).all(pairs)


def compare_result(request: Request, work: Work, dest: Side) -> Comparison:
    """Compare what a run has written with what its tasks give: every unit, also those that the source does not store."""
    source = Side(request.source_path, request.source)
    transformed = tuple(
        replace(task, plan=replace(task.plan, stored=None)) if isinstance(task.plan, GridPlan) else task for task in work.transformed
    )
    pairs = Pairs.of(source, dest, {task.key for task in transformed})
    rules = {task.key: task.rule for task in transformed if task.rule is not None}
    return _Comparing(source, dest, rules, Work(transformed, work.plan), request.options, events.ignore).all(pairs)


def _task(
    source: Side, dest: Side, member: Member, array: ArrayInfo, rule: Rule, found: Member, result: ArrayInfo, tuning: Tuning
) -> ArrayTask:
    """The task whose result is to be that array of `dest`: computed in the type that is expected, in the layout that was found."""
    mask = source.opened.mask(member, rule) if dest.format.marks_missing else None
    flat = array.chunking is None and result.chunking is None
    terms = Terms(
        ordered_in=source.opened.sequential(member) or (not flat and source.format.checksummed),
        ordered_out=dest.opened.sequential(found) or (not flat and dest.format.checksummed),
        scratch=kernel_bytes(rule, flat) + comparing_bytes(rule, tuning),
        beside=1.0,
        tuning=tuning,
    )
    plan = array_plan(member.key, array, result, terms)
    return ArrayTask(member, array, rule, mask if mask is not None and mask.active else None, result, plan)


@dataclass(frozen=True)
class _Comparing:
    """A comparison in progress. rules: of the members that are transformed, by key. work: the tasks of those that can be compared."""

    source: Side
    dest: Side
    rules: Mapping[str, Rule]
    work: Work
    options: Options
    observe: events.Observer

    def all(self, pairs: Pairs) -> Comparison:
        """Of every member, in the source's order."""
        compared = [self._array(pair) if pair.transformed else self._copy(pair) for pair in pairs.pairs]
        compared += [ArrayComparison(name, 0, None, None, "is not in the source") for name in pairs.added]
        warnings = (*self.source.opened.warnings, *ignored(self.source.path, [pair.member for pair in pairs.pairs if pair.transformed]))
        return Comparison(self.source.path, self.dest.path, self.options.parameters.to_dict(), tuple(compared), warnings)

    def _copy(self, pair: Pair) -> ArrayComparison:
        """Of a member that is to be as it was."""
        missing = "is missing" if pair.found is None else None
        problem = missing if pair.found is None else self.source.opened.copy_problem(pair.member, self.dest.opened, pair.found)
        return ArrayComparison(pair.member.name, 0, None, None, problem)

    def _array(self, pair: Pair) -> ArrayComparison:
        """Of an array that is to be transformed."""
        array, found, rule = pair.member.array, pair.found, self.rules[pair.member.key]
        assert array is not None
        problem = _mismatch(array, rule.dtype, None if found is None else found.array)
        if found is None or found.array is None or problem is not None:
            return ArrayComparison(array.name, array.size, None, None, problem)
        task = next(task for task in self.work.arrays if task.key == pair.member.key)
        self.observe(events.Started(self.source.path, array.nbytes))
        result = self._elements(task, rule, found, found.array)
        self.observe(events.Finished(self.source.path))
        index = None
        if result is not None:
            index = (replace(array, fortran=False) if isinstance(task.plan, GridPlan) else array).index(result.position)
        elif self.source.format.family == self.dest.format.family:
            problem = self.source.opened.document_problem(pair.member, self.dest.opened, found, rule)
        if found.behind and result is None and problem is None:
            problem = f"is followed by {counted(found.behind, 'byte')} that are no part of the result"
        return ArrayComparison(array.name, array.size, result, index, problem)

    def _elements(self, task: ArrayTask, rule: Rule, found: Member, written: ArrayInfo) -> Difference | None:
        """How the elements differ from what the task gives."""
        plan, workers = task.plan, self.work.plan.workers
        with (
            _spool_folder(plan) as folder,
            contextlib.closing(self.source.opened.reader(task.member)) as given,
            contextlib.closing(self.dest.opened.reader(found)) as there,
            stopping.guarded(),
            local_executor(workers, plan.count) as executor,
        ):
            reader, found_reader = (fitting_reader(plan, each, os.path.join(folder, "spool.npy")) for each in (given, there))
            writer = ComparingWriter(written, found_reader)
            try:
                run(
                    plan,
                    rule,
                    reader,
                    writer,
                    executor,
                    workers,
                    lambda region, _: self.observe(events.RegionDone(self.source.path, task.array.name, region.size * plan.itemsize_in, 0)),
                    statistics=False,
                    mask=task.mask,
                )
            except LossError as error:
                raise LossError(f"{place(self.source.path)}{error}") from None
            return writer.result


def _spool_folder(plan: ArrayPlan[Any]) -> contextlib.AbstractContextManager[str]:
    """A folder for what cannot be compared without a spool; it is gone afterwards."""
    return tempfile.TemporaryDirectory(prefix="leakycli-") if isinstance(plan, GridPlan) and plan.spool else contextlib.nullcontext("")


def _mismatch(array: ArrayInfo, dtype: np.dtype[Any], found: ArrayInfo | None) -> str | None:
    """Why two arrays cannot be compared element by element, in words; None where they can."""
    if found is None:
        return "is missing"
    if found.shape != array.shape:
        return f"has shape {found.shape}, expected {array.shape}"
    if found.dtype.newbyteorder("=") != dtype:
        return f"has dtype {found.dtype.name}, expected {dtype.name}"
    flat = array.chunking is None and found.chunking is None
    if flat and found.fortran != array.fortran and len(found.shape) > 1:
        order = {True: "Fortran", False: "C"}
        return f"is in {order[found.fortran]} order, expected {order[array.fortran]} order"
    return None
