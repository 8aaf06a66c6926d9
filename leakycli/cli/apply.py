"""`leakycli apply`."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from leakycli import stopping
from leakycli.cli import options as o
from leakycli.errors import BatchError, LeakyError, UsageError, let_go, redacted, shown, visible

if TYPE_CHECKING:
    from leakycli.api import Options
    from leakycli.cli.where import Job
    from leakycli.engine import events
    from leakycli.report.model import Report


@click.command("apply", short_help="Write the leaky ReLU of SOURCE to DEST.")
@click.argument("sources", nargs=-1, metavar="SOURCE...")
@click.argument("dest", metavar="DEST")
@o.stacked(o.alpha, o.dtype, o.nan, o.strict, o.workers, o.memory, o.only, o.skip, o.to)
@o.stacked(o.chunks, o.shards, o.compressor, o.zarr_format, o.no_provenance)
@o.stacked(
    o.overwrite,
    o.resume,
    o.fsync,
    o.verify,
    o.dry_run,
    o.report,
    o.storage_option,
    o.recursive,
    o.files_from,
    o.fail_fast,
    o.progress,
    o.json,
    o.quiet,
    o.debug,
)
def command(sources: tuple[str, ...], dest: str, **given: Any) -> int:
    """Write the leaky ReLU of SOURCE to DEST, and a report beside it (DEST.report.json).

    SOURCE is a .npy or .npz file, a Zarr array or group (a folder, a .zarr.zip, or a node inside one), or '-' for a .npy from standard
    input; DEST ends in .npy, .npz, .zarr or .zarr.zip, or is '-' for standard output. DEST is a folder for results when it ends in
    '/', is an existing folder, or there are several sources: each result then keeps its source's name. With --recursive the folder DIR goes
    to DEST/DIR, and DIR/ (or DIR/.) stands for what is in it, which goes to DEST itself.

    Arrays that --only or --skip leave out are copied as they are; so are those of a Zarr group that are not of floats, unless --only names
    them. In a .npz integers are transformed as floats are, also where they are labels or indices: leave those out with --skip.

    \b
      leakycli apply a.npy b.npy --alpha 0.1
      leakycli apply a.npy half.npy --dtype float16 --strict
      leakycli apply layers.npz out.npz --skip labels
      leakycli apply layers.npz conv1.npy --only conv1
      leakycli apply layer*.npy results/
      leakycli apply -r run1/ results/
      leakycli apply acts.zarr relu.zarr
      leakycli apply acts.zarr/layer1 layer1.npy
      producer | leakycli apply - - | consumer

    Each option but --overwrite, --resume and --dry-run can be set as LEAKYCLI_APPLY_<OPTION> in the environment.
    """
    from leakycli.api import Options, check_patterns
    from leakycli.cli.where import resolve_jobs
    from leakycli.formats import parse_options

    if dest == "-" and given["json"]:
        raise UsageError("--json and the result cannot both go to standard output; name a file for one of them (--report PATH)")
    sources += _listed(given["files_from"])

    def note(text: str) -> None:
        if not given["quiet"]:
            click.echo(f"leakycli: note: {visible(text)}", err=True)

    jobs = resolve_jobs(sources, dest, given["recursive"], given["files_from"] is not None, given["to"], note)
    batch = len(jobs) > 1 or given["files_from"] is not None
    if batch and any(path != "none" for path in given["report"]):
        raise UsageError("--report PATH is for one source; in a batch each result has its own DEST.report.json")
    options = Options(
        alpha=given["alpha"],
        dtype=given["dtype"],
        nan=given["nan"],
        strict=given["strict"],
        workers=given["workers"],
        memory=given["memory"],
        only=given["only"],
        skip=given["skip"],
        to=given["to"],
        compressor=given["compressor"],
        chunks=given["chunks"],
        shards=given["shards"],
        zarr_format=None if given["zarr_format"] is None else int(given["zarr_format"]),
        provenance=not given["no_provenance"],
        parents=given["recursive"],
        overwrite=given["overwrite"],
        resume=given["resume"],
        fsync=given["fsync"],
        verify=given["verify"],
        reports=given["report"],
        storage_options=parse_options(given["storage_options"]),
        command=_command(sys.argv[1:]),
    )
    with contextlib.ExitStack() as stack:
        if batch:
            options = check_patterns((job.source for job in jobs), options)
        if given["dry_run"]:
            return _each(jobs, given, lambda job: _show_plan(job, options, given))
        begun = iter(()) if given["fail_fast"] else _begun_ahead(jobs, options, given, stack)
        return _each(jobs, given, lambda job: _apply(job, options, given, batch, next(begun, None)))


#: From how many small files on a worker takes each as a whole, and how many are begun before their turn.
MANY = 16
AHEAD = 128


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is said of a run of another worker, and the bytes that it read and wrote."""

    text: str
    bytes_in: int
    bytes_out: int


def _begun_ahead(jobs: list[Job], options: Options, given: dict[str, Any], stack: contextlib.ExitStack) -> Iterator[Future[Outcome] | None]:
    """For each job, in order, its run by a worker, which is begun ahead of its turn; None for one that is not small.

    stack: ends the workers.
    """
    from leakycli import system
    from leakycli.formats import is_small_file

    small = [is_small_file(job.source, options.tuning.small_bytes) for job in jobs] if len(jobs) >= MANY else []
    workers = min(options.workers or system.cpus(), sum(small) // MANY + 1)
    if workers < 2:
        return
    executor = ThreadPoolExecutor(workers, thread_name_prefix="leakycli-file")
    stack.callback(executor.shutdown, cancel_futures=True)
    alone = replace(options, workers=1)
    waiting: deque[Future[Outcome] | None] = deque()
    for job, is_small in zip(jobs, small, strict=True):
        waiting.append(executor.submit(_outcome, job, alone, given["json"], given["quiet"]) if is_small else None)
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def _outcome(job: Job, options: Options, json: bool, quiet: bool) -> Outcome:
    from leakycli.api import apply

    report = apply(job.source, job.dest, options)
    return Outcome(_said(report, json, quiet), report.cost.bytes_read, report.cost.bytes_written)


def _said(report: Report, json: bool, quiet: bool) -> str:
    """What is said of one of a batch, in one line; nothing where that is empty."""
    if json:
        return report.to_json(indent=None)
    if quiet:
        return ""
    from leakycli.report.terminal import line

    return line(report)


#: Storage options whose values are no secrets.
_HARMLESS = {"anon", "endpoint_url", "max_concurrency", "profile", "region", "requester_pays", "use_ssl"}


def _without_secrets(words: list[str]) -> Iterator[str]:
    """The words of a command, without the values that may be secrets of storage options and in URLs."""
    before, option = "", "--storage-option"
    for word in words:
        given = word if before == option else word.removeprefix(f"{option}=")
        name, equals, _ = given.partition("=")
        if (before == option or given != word) and name not in _HARMLESS:
            # A word without a "=" may be a secret as a whole.
            word = f"{word[: len(word) - len(given)]}{name if equals else ''}=***"
        yield redacted(word)
        before = word


def _command(words: list[str]) -> tuple[str, ...]:
    """What was typed, for the report; each of a batch holds it, so that of a long list of sources the middle is left out."""
    words = list(_without_secrets(words))
    left_out = len(words) - 64
    if left_out > 1:
        words = [*words[:32], f"({left_out} more)", *words[-32:]]
    return "leakycli", *words


def _listed(path: str | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        with open(0 if path == "-" else path, errors="surrogateescape") as file:
            return tuple(line.rstrip("\n") for line in file if line.rstrip("\n"))
    except OSError as error:
        raise LeakyError(f"cannot read {shown(path)}: {error.strerror}") from None


def _each(jobs: list[Job], given: dict[str, Any], work: Any) -> int:
    """Do `work` for every job. One job's error is raised; in a batch it is one line, and the others go on."""
    failed = begun = 0
    for job in jobs:
        begun += 1
        try:
            work(job)
        except LeakyError as error:
            if len(jobs) == 1:
                raise
            let_go(error)
            failed += 1
            text = _naming(str(error), job)
            click.echo(f"leakycli: {visible(text)}", err=True)
            if given["json"]:
                from json import dumps

                click.echo(dumps({"source": visible(job.source), "error": visible(text), "exit_code": error.exit_code}))
            if given["fail_fast"]:
                break
    if failed:
        rest = f"{len(jobs) - begun} were not begun" if begun < len(jobs) else "the results of the others are complete"
        raise BatchError(f"{failed} of {len(jobs)} sources failed; {rest}")
    return 0


def _naming(text: str, job: Job) -> str:
    """An error of one of a batch, which must say of which."""
    return text if shown(job.source) in text or shown(job.dest) in text else f"{shown(job.source)}: {text}"


def _apply(job: Job, options: Options, given: dict[str, Any], batch: bool, begun: Future[Outcome] | None) -> None:
    from leakycli.api import apply
    from leakycli.cli.progress import observer

    with observer(given["progress"], given["quiet"]) as observe:
        if begun is not None:
            said = _awaited(job, begun, observe)
        else:
            already: list[bool] = []

            def watch(event: events.Event) -> None:
                already.extend([True] if getattr(event, "already", False) else [])
                observe(event)

            report = apply(job.source, job.dest, options, watch)
            if already and not given["json"]:
                # Its report is that of another run, and a file that anyone may have written.
                said = "" if given["quiet"] else f"{visible(job.dest)}: already complete"
                batch = True
            else:
                said = _said(report, given["json"], given["quiet"] or not batch)
    if said:
        click.echo(said)
    elif not batch and not given["quiet"]:
        from leakycli.report.terminal import render_report

        render_report(report, sys.stderr if job.dest == "-" else sys.stdout)


def _awaited(job: Job, begun: Future[Outcome], observe: events.Observer) -> str:
    """What is said of a run of another worker, which tells of its events when it is through."""
    from leakycli.engine import events

    with stopping.guarded():
        while not begun.done():
            wait([begun], timeout=0.2)
            stopping.check()
    outcome = begun.result()
    observe(events.Started(job.source, outcome.bytes_in))
    observe(events.RegionDone(job.source, "", outcome.bytes_in, outcome.bytes_out))
    observe(events.Finished(job.source))
    return outcome.text


def _show_plan(job: Job, options: Options, given: dict[str, Any]) -> None:
    from leakycli.api import dry_run
    from leakycli.report.terminal import plan_values, render_plan

    values = plan_values(dry_run(job.source, job.dest, options))
    if given["json"]:
        from json import dumps

        click.echo(dumps(values))
    elif not given["quiet"]:
        render_plan(values, sys.stdout)
