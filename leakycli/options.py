"""`Options`: everything that `apply` and `verify` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from leakycli import machine
from leakycli.errors import LeakyError, UsageError, shown
from leakycli.plan import ArrayPlan, Plan, plan_run
from leakycli.rule import Rule
from leakycli.storage import ArrayInfo


@dataclass(frozen=True, slots=True)
class Options:
    """What `apply` does and how.

    alpha, dtype, nan: see `leakycli.rule.Rule`. strict: publish nothing where a cast overflowed or clipped. workers: threads, by default
    as many as the process may use. memory: bound in bytes of the process's peak resident memory. overwrite: an existing destination may
    be replaced. verify: read the result back and compare before it is published. reports: paths of further reports; "none" among them
    leaves out the one beside the destination. command: what to record as the command.
    """

    alpha: float = 0.2
    dtype: str | None = None
    nan: int | None = None
    strict: bool = False
    workers: int | None = None
    memory: int | None = None
    overwrite: bool = False
    verify: bool = False
    reports: tuple[str, ...] = ()
    command: tuple[str, ...] | None = field(default=None, compare=False)

    def rule(self, info: ArrayInfo, path: str) -> Rule:
        """The rule for one array of the source at `path`."""
        try:
            return Rule.of(info.dtype, self.alpha, self.dtype, self.nan)
        except LeakyError as error:
            raise type(error)(f"{place(path, info.name)}{error}") from None

    def plan(self, arrays: tuple[ArrayPlan, ...]) -> Plan:
        """The plan for `arrays` on this machine, now."""
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"workers must be at least 1, not {self.workers}")
        return plan_run(arrays, self.workers or machine.cpus(), machine.resident(), self.memory, machine.memory_available())

    def parameters(self) -> dict[str, Any]:
        """What decides the values of the result."""
        return {"alpha": self.alpha, "dtype": self.dtype, "nan": self.nan, "strict": self.strict}


def place(path: str, array: str = "") -> str:
    """The beginning of a message about an array of the file at `path`."""
    return f"{shown(path)}: " + (f"array {shown(array)}: " if array else "")
