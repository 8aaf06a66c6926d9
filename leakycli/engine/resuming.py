"""What an earlier run left: whether it was the same run, and whether its result is complete and this one's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from leakycli import formats
from leakycli.destination import journal
from leakycli.destination.journal import Past, Published
from leakycli.engine.reporting import TaskResult, Written
from leakycli.engine.request import Request
from leakycli.engine.tasks import Work
from leakycli.engine.transform import ArrayResult
from leakycli.errors import LeakyError, UsageError, shown
from leakycli.report.json import plain
from leakycli.report.model import Report
from leakycli.report.saved import saved_report


@contextlib.contextmanager
def reading_journal(request: Request) -> Iterator[None]:
    """Within, what a journal says is used: it may have been made up."""
    try:
        yield
    except LeakyError:
        raise
    except journal.MALFORMED:
        raise journal.malformed(shown(request.destination.dest)) from None


def fingerprint(request: Request, work: Work, identity: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for a run to be resumed. identity: of the source."""
    fields = {"source": identity, "format": request.format.name, "provenance": request.options.provenance}
    # What was done of chunks that have gone, or have come, since would stay, and its statistics with it.
    stored = {task.key: str(found) for task in work.transformed if (found := request.source.stored(task.member)) is not None}
    fields |= {"chunks_stored": stored} if stored else {}
    values: dict[str, Any] = plain(fields | {"parameters": request.options.parameters.to_dict()})
    return values


def check_same(request: Request, past: Past, now: dict[str, Any]) -> None:
    """Raise UsageError, saying what differs, where the unfinished run was another. now: the fingerprint of this one."""
    then, now = _flat(past.fingerprint), _flat(now)
    differing = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
    if differing:
        changes = ", ".join(f"{name} was {shown(str(then.get(name)))}, and is {shown(str(now.get(name)))}" for name in differing[:8])
        raise UsageError(
            f"{shown(request.dest_path)}: the unfinished run was another: {changes}; "
            "give the same again, or begin anew with --overwrite (without --resume)"
        )


def finished_report(request: Request, identity: Callable[[], dict[str, Any]]) -> Report | None:
    """The report of the destination where it exists, and is known to be this run's result; None where there is something to do.

    identity: gives that of the source.

    Raises UsageError where it is something else and must not be replaced.
    """
    own = next((path for path in request.reports if path.lower().endswith(".json")), f"{request.dest_path}.report.json")
    report, why = saved_report(request.located(own)), "no report says that it is what this run gives"
    if report is not None:
        then = {"source": report.source.identity, "parameters": report.parameters}
        now = plain({"source": identity(), "parameters": request.options.parameters.to_dict()})
        found = formats.fingerprint(request.located(request.dest_path))
        differs = next((name for name, value in _flat(now).items() if _flat(then).get(name) != value), None)
        if differs is None and then == now and report.destination.identity == found:
            return report
        if differs is not None:
            why = f"its report is of another run ({differs} differs), and so no report says that it is what this run gives"
        elif then == now:
            why = "it was changed since its report was written, and so no report says that it is what this run gives"
    if not request.options.overwrite or formats.is_url(request.dest_path):
        way = "remove it, or choose another name" if formats.is_url(request.dest_path) else "give --overwrite to replace it"
        raise UsageError(f"{shown(request.dest_path)}: exists, and {why}; {way}")
    return None


def check_unchanged(request: Request, done: Published) -> None:
    """Raise UsageError where the result of an earlier run, which is complete, is not what that run made."""
    result = request.destination.result
    if plain(formats.fingerprint(result)) != done.digest:
        named = shown(result) if isinstance(result, str) else shown(request.destination.dest)
        raise UsageError(f"{named}: was changed since it was completed; begin anew with --overwrite (without --resume)")


def recorded(work: Work, past: Past, done: Published) -> Written:
    """What an earlier run, which finished every task, recorded. Raises one of `journal.MALFORMED`."""
    transformed = {task.key: task.array.size for task in work.transformed}
    finished = {key: result for key in past.finished if (result := recorded_result(past, key, transformed.get(key))) is not None}
    if transformed.keys() - finished.keys():
        raise ValueError("a member is missing")
    return Written(finished, done.bytes, done.warnings)


def recorded_result(past: Past, key: str, size: int | None) -> TaskResult | None:
    """What the journal says of a finished task; None where it is not finished. Raises one of `journal.MALFORMED`.

    size: elements of the array, None where it was copied.
    """
    kept = past.member(key)
    if kept is None:
        return None
    if size is None:
        return TaskResult(None, kept.pipeline)
    result = ArrayResult.from_json(kept.result)
    if json.loads(json.dumps(result.to_json())) != kept.result or result.stats.before.count != size:
        raise ValueError("no result")
    return TaskResult(result, kept.pipeline)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """The values in nested objects, by their paths."""
    if not isinstance(value, dict):
        return {name: value}
    return {path: inner for key, item in value.items() for path, inner in _flat(item, f"{name}.{key}" if name else key).items()}
