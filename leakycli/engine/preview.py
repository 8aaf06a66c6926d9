"""`Preview`: what a run would do, known before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

from leakycli.engine.plan import Memory, Plan
from leakycli.engine.request import Request
from leakycli.engine.tasks import ArrayTask, Work, warnings
from leakycli.errors import redacted
from leakycli.formats import ArrayInfo, Chunking
from leakycli.function.kernel import NAME


@dataclass(frozen=True, slots=True)
class PlannedArray:
    """What is to become of one array. factor: alpha as it is rounded for the array; None where it is copied. chunking: of the result.

    part_elements: elements that are worked on at once; 0, as regions, where the array is copied as it is.
    """

    name: str
    action: str
    shape: tuple[int, ...]
    order: str
    dtype_before: str
    dtype_after: str
    factor: float | None
    chunking: Chunking | None
    regions: int
    part_elements: int


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run would do: all that its report will say and that is known before."""

    source: str
    source_format: str
    destination: str
    destination_format: str
    alpha: float
    arrays: tuple[PlannedArray, ...]
    plan: Plan
    kernel: str
    warnings: tuple[str, ...]

    @property
    def workers(self) -> int:
        return self.plan.workers

    @property
    def memory(self) -> Memory:
        return self.plan.memory


def previewed(request: Request, work: Work) -> Preview:
    """What the run of `work` would do."""
    return Preview(
        redacted(request.source_path),
        request.source_format.name,
        redacted(request.dest_path),
        request.format.name,
        request.options.alpha,
        tuple(_array(array, task if isinstance(task, ArrayTask) else None) for task in work.tasks if (array := task.member.array)),
        work.plan,
        NAME,
        warnings(request, work),
    )


def _array(array: ArrayInfo, task: ArrayTask | None) -> PlannedArray:
    """task: None where it is copied as it is stored."""
    rule, written = (None, array) if task is None else (task.rule, task.result)
    return PlannedArray(
        name=array.name,
        action="copied" if rule is None else "transformed",
        shape=array.shape,
        order="F" if array.fortran else "C",
        dtype_before=array.dtype.name,
        dtype_after=written.dtype.name,
        factor=None if rule is None else rule.factor,
        chunking=written.chunking,
        regions=0 if task is None else task.plan.count,
        part_elements=0 if task is None else task.plan.largest_part,
    )
