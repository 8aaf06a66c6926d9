"""The states in which a run may find DEST and what is beside it, and what each command does then: the state machine of publishing.

A result is known by its identity (inode number and time of birth, see `rename`), never by its name alone. docs/reliability.md has the same
table; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """How DEST and what is beside it are found."""

    EMPTY = "empty"
    FOREIGN = "foreign"
    BEGUN = "begun"
    VOID = "void"
    COMPLETE = "complete"
    SPLIT = "split"
    PUBLISHED = "published"
    TAKEN = "taken"


class Action(Enum):
    """What a command does.

    BEGIN: begins. REFUSE: says what is there and what to type, and changes nothing. CONTINUE: resumes where the journal's last line says;
    does as RESTART where that cannot be relied on after a crash of the system. RESTART: says in the journal that nothing counts, removes
    what the journal proves to be ours, begins. PUBLISH: gives the complete result its name. FINISH: moves the report, removes what was
    replaced and what is ours. PUT_BACK: gives the old DEST its name again, then looks anew.
    """

    BEGIN = "begin"
    REFUSE = "refuse"
    CONTINUE = "continue"
    RESTART = "restart"
    PUBLISH = "publish"
    FINISH = "finish"
    PUT_BACK = "put back"


@dataclass(frozen=True, slots=True)
class Row:
    """A state: what lies under which name, what the journal's last line says, and what is done: without --resume and --overwrite, with
    either, with both."""

    state: State
    names: str
    journal: str
    plain: Action
    resume: Action
    overwrite: Action
    both: Action

    def action(self, resume: bool, overwrite: bool) -> Action:
        return (self.both if overwrite else self.resume) if resume else (self.overwrite if overwrite else self.plain)


_A = Action

TABLE = (
    Row(State.EMPTY, "nothing beside DEST", "none, or an empty file", _A.BEGIN, _A.BEGIN, _A.BEGIN, _A.BEGIN),
    Row(
        State.FOREIGN,
        "something that no line of the journal proves to be ours",
        "anything, or not a journal",
        _A.REFUSE,
        _A.REFUSE,
        _A.REFUSE,
        _A.REFUSE,
    ),
    Row(
        State.BEGUN,
        "DEST.partial and what belongs to it are those that the journal names, and not cut off",
        "begin, made, member, reached",
        _A.REFUSE,
        _A.CONTINUE,
        _A.RESTART,
        _A.CONTINUE,
    ),
    Row(
        State.VOID,
        "some of what the journal names is gone or cut off, or all of it is on its way out",
        "discard, or any of the above",
        _A.RESTART,
        _A.RESTART,
        _A.RESTART,
        _A.RESTART,
    ),
    Row(
        State.COMPLETE,
        "DEST.partial is the result; DEST is absent, the old one, or another's",
        "publish",
        _A.REFUSE,
        _A.PUBLISH,
        _A.RESTART,
        _A.PUBLISH,
    ),
    Row(
        State.SPLIT,
        "DEST is absent; DEST.replaced is the old one (only where two names cannot be exchanged)",
        "publish",
        _A.PUT_BACK,
        _A.PUT_BACK,
        _A.PUT_BACK,
        _A.PUT_BACK,
    ),
    Row(
        State.PUBLISHED,
        "DEST is the result; DEST.partial or DEST.replaced may be the old one",
        "publish or published",
        _A.REFUSE,
        _A.FINISH,
        _A.RESTART,
        _A.FINISH,
    ),
    Row(
        State.TAKEN,
        "the result is neither DEST nor DEST.partial: moved away or removed since",
        "publish or published",
        _A.RESTART,
        _A.RESTART,
        _A.RESTART,
        _A.RESTART,
    ),
)

ROWS = {row.state: row for row in TABLE}


def as_markdown() -> str:
    """The table as docs/reliability.md has it."""
    lines = [
        "| state | beside DEST | last line of the journal | plain | `--resume` | `--overwrite` | both |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in TABLE:
        actions = " | ".join(action.value for action in (row.plain, row.resume, row.overwrite, row.both))
        lines.append(f"| {row.state.value} | {row.names} | {row.journal} | {actions} |")
    return "\n".join(lines) + "\n"
