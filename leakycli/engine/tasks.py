"""What becomes of each member of a source: an `ArrayTask` or a `CopyTask`, and all of them, planned, as `Work`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from leakycli import system
from leakycli.engine.compare import comparing_bytes
from leakycli.engine.plan import ArrayPlan, GridPlan, Plan, plan_run
from leakycli.engine.request import Request
from leakycli.engine.route import Terms, array_plan
from leakycli.engine.selection import Selection
from leakycli.errors import LeakyError, UnsupportedError, UsageError, listed, place, shown
from leakycli.formats import ArrayInfo, Mask, Member, behind_text, carries
from leakycli.function.kernel import kernel_bytes
from leakycli.function.rule import Rule
from leakycli.function.sample import result_bytes, sample_bytes
from leakycli.options import Options

#: Workers for what is behind a URL, where memory allows; each has several requests in flight.
REMOTE_WORKERS = 8

#: What requests take beside a region, as a multiple of its bytes in and out: bodies as they come in and go out, and copies of those.
REQUESTS = 1.0

#: Bytes that what is copied takes until the report is written, with its part in the report.
COPIED = 4 << 10


@dataclass(frozen=True, slots=True)
class ArrayTask:
    """An array that is read, transformed and written.

    member: where it is in the source.
    array: as it is read.
    rule: what is done to its elements; None where they are written as they are.
    mask: what is done about missing elements beside that; None for nothing.
    result: as it is written.
    plan: by which regions.
    """

    member: Member
    array: ArrayInfo
    rule: Rule | None
    mask: Mask | None
    result: ArrayInfo
    plan: ArrayPlan[Any]

    @property
    def key(self) -> str:
        return self.member.key


@dataclass(frozen=True, slots=True)
class CopyTask:
    """A member that is taken over as it is stored."""

    member: Member

    @property
    def key(self) -> str:
        return self.member.key


Task = ArrayTask | CopyTask


@dataclass(frozen=True, slots=True)
class Work:
    """All that a run does, in the source's order."""

    tasks: tuple[Task, ...]
    plan: Plan

    @property
    def arrays(self) -> Iterator[ArrayTask]:
        """The arrays that are read and written."""
        return (task for task in self.tasks if isinstance(task, ArrayTask))

    @property
    def transformed(self) -> Iterator[ArrayTask]:
        """Those of them that are transformed."""
        return (task for task in self.arrays if task.rule is not None)

    @property
    def members(self) -> tuple[Member, ...]:
        """The members that are read."""
        return tuple(task.member for task in self.tasks)

    @property
    def spools(self) -> bool:
        """Whether an array goes through a temporary file."""
        return any(isinstance(task.plan, GridPlan) and task.plan.spool for task in self.arrays)


def array_rule(array: ArrayInfo, path: str, options: Options) -> Rule:
    """The rule for one array of the source at `path`."""
    try:
        return Rule.of(array.dtype, options.alpha, options.dtype, options.nan)
    except LeakyError as error:
        raise type(error)(f"{place(path, array.name)}{error}") from None


def selection(options: Options) -> Selection:
    """Which arrays are transformed."""
    return Selection(options.only, options.skip, options.patterns_met)


def plan_here(arrays: Sequence[ArrayPlan[Any]], options: Options, remote: bool = False, held: int = 0) -> Plan:
    """The plan for `arrays` on this machine, now. remote: workers wait a lot. held: bytes that are held beside the arrays."""
    if options.workers is not None and options.workers < 1:
        raise UsageError(f"workers must be at least 1, not {options.workers}")
    workers = options.workers or max(system.cpus(), REMOTE_WORKERS * remote)
    return plan_run(tuple(arrays), workers, system.resident(), options.memory, system.memory_available, held)


def planned(request: Request) -> Work:
    """What the request comes to. Raises an error of `leakycli.errors` where an array cannot be done, or memory does not hold it."""
    rules = _rules(request)
    tasks: list[Task] = []
    for member in request.source.members:
        rule, mask = rules.get(member.key, (None, None))
        carried = rule is None and carries(request.format, request.options.layout, request.source, member)
        if member.array is not None and (rule is not None or carried):
            result = _result(member.array, rule, request, member)
            tasks.append(ArrayTask(member, member.array, rule, mask, result, _array_plan(request, member, member.array, rule, result)))
        elif request.same_family and not request.format.single:
            tasks.append(CopyTask(member))
    try:
        held = max((task.member.memory for task in tasks), default=0)
        # Of each array until the report is written.
        for task in tasks:
            held += result_bytes(task.array.size) if isinstance(task, ArrayTask) and task.rule is not None else COPIED
        plan = plan_here([task.plan for task in tasks if isinstance(task, ArrayTask)], request.options, request.remote, held)
    except UsageError as error:
        raise UsageError(f"{shown(request.source_path)}: {error}") from None
    fitted = iter(plan.arrays)
    return Work(tuple(replace(task, plan=next(fitted)) if isinstance(task, ArrayTask) else task for task in tasks), plan)


def _rules(request: Request) -> dict[str, tuple[Rule, Mask | None]]:
    """Rule and mask of each member that is transformed, by its key. What else goes into the destination is copied."""
    source, path, options, into = request.source, request.source_path, request.options, request.format
    chosen = selection(options).choose(source.members, path, not into.single)
    if into.single and len(chosen) > 1:
        names = listed(member.name for member in chosen)
        takes, way = (
            (f"standard output as a {into.suffix} takes one", "write all with --to npz")
            if request.dest_path == "-"
            else (f"{shown(request.dest_path)} takes one", "give DEST a name in .npz or .zarr")
        )
        raise UsageError(f"{shown(path)}: holds several arrays and {takes}; {way}, or choose one with --only: {names}")
    rules: dict[str, tuple[Rule, Mask | None]] = {}
    for member in chosen:
        if member.array is not None:
            rule = array_rule(member.array, path, options)
            mask = source.mask(member, rule)
            if mask is None:
                rules[member.key] = rule, None
            elif into.marks_missing:
                rules[member.key] = mask.rule, mask if mask.active else None
            else:
                # No result can look missing where nothing says what is.
                rules[member.key] = replace(mask.rule, fill=None), None
    return rules


def _result(array: ArrayInfo, rule: Rule | None, request: Request, member: Member) -> ArrayInfo:
    """The array as it is written: the same shape in the rule's type (None: its own), in the order and chunks that suit the format."""
    dtype = array.dtype if rule is None else rule.dtype if array.dtype.isnative else rule.dtype.newbyteorder("S")
    if not array.size and prod(max(n, 1) for n in array.shape) * dtype.itemsize >= 1 << 63:
        # An array without elements may have such a shape in a small type, but not in a larger.
        raise UnsupportedError(f"{array.name and f'array {shown(array.name)}: '}the shape {array.shape} is too large for {dtype.name}")
    layout = request.options.layout
    if rule is None:
        # Chunks and shards are given for the arrays that are transformed; those that are copied may have other dimensions.
        layout = replace(layout, chunks=None, shards=None)
    return request.format.code.result_array(array, dtype, layout, request.source, member)


def _array_plan(request: Request, member: Member, array: ArrayInfo, rule: Rule | None, result: ArrayInfo) -> ArrayPlan[Any]:
    source, options, into = request.source, request.options, request.format
    scratch, once, beside = 0, 0, REQUESTS * request.remote
    if rule is not None:
        scratch = kernel_bytes(rule, array.chunking is None and result.chunking is None)
        once = sample_bytes(rule, array.size)
        if options.verify:
            scratch += comparing_bytes(rule, options.tuning)
            # What was written is read again, beside what it should be.
            beside += result.dtype.itemsize / (array.dtype.itemsize + result.dtype.itemsize)
    # The checksum of a member is that of its bytes in order.
    gridded = array.chunking is not None or result.chunking is not None
    terms = Terms(
        ordered_in=source.sequential(member) or (gridded and request.source_format.checksummed),
        ordered_out=not request.destination.revocable
        or into.code.compresses(options.layout, source, member)
        or (gridded and into.checksummed),
        scratch=scratch,
        once=once,
        beside=beside,
        by_requests=request.remote,
        tuning=options.tuning,
    )
    return array_plan(member.key, array, result, terms, lambda: source.stored(member))


def ignored(path: str, members: Iterable[Member]) -> Iterator[str]:
    """Warnings of what follows arrays of the source at `path`."""
    for member in members:
        if member.behind:
            yield f"{place(path, member.name)}{behind_text(member.behind)}"


def warnings(request: Request, work: Work) -> tuple[str, ...]:
    """What is odd about the source, and what becomes of it that may not be expected."""
    source, path = request.source, shown(request.source_path)
    members = source.members
    transformed = [task.member for task in work.transformed]
    found = [*source.warnings, *ignored(request.source_path, transformed)]
    if request.source_format.holds_files and not request.same_family:
        left = [member.name for member in members if member.array is None and member.problem is None and not member.name.endswith("/")]
        if left and not request.format.single:
            found.append(f"{path}: what is no array was left out: {listed(left)}")
    integers = [task.member.name for task in work.transformed if task.array.dtype.kind in "iu"]
    if request.source_format.holds_files and len(transformed) > 1 and not request.options.only and integers:
        found.append(
            f"{path}: integers of a {request.source_format.suffix} are transformed unless skipped, also where they are labels or indices "
            f"(--skip): {listed(integers)}"
        )
    return tuple(found)
