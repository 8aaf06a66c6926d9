"""`leakycli apply`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from leakycli import stopping
from leakycli.cli import completion
from leakycli.cli import options as o
from leakycli.cli.batch import Batch, Done, check_list, failure, read_list, write_list
from leakycli.cli.environment import Command
from leakycli.engine import events
from leakycli.errors import BatchError, LeakyError, UsageError, let_go, redacted, storage_error, visible
from leakycli.stores.urls import is_url

if TYPE_CHECKING:
    from leakycli.api import Options
    from leakycli.cli.where import Job
    from leakycli.progress import Progress
    from leakycli.report.model import Report


@click.command("apply", cls=Command, short_help="Write the leaky ReLU of SOURCE to DEST.")
@click.argument("sources", nargs=-1, metavar="SOURCE...", shell_complete=completion.files)
@click.argument("dest", metavar="DEST", shell_complete=completion.files)
@o.stacked(o.alpha, o.dtype, o.nan, o.strict, o.workers, o.memory, o.only, o.skip, o.to)
@o.stacked(o.chunks, o.shards, o.compressor, o.zarr_format, o.no_provenance)
@o.stacked(
    o.overwrite,
    o.resume,
    o.fsync,
    o.verify,
    o.dry_run,
    o.report,
    o.report_dir,
    o.storage_option,
    o.recursive,
    o.files_from,
    o.failed_to,
    o.fail_fast,
    o.progress,
    o.json,
    o.quiet,
    o.debug,
)
def command(sources: tuple[str, ...], dest: str, **given: Any) -> int:
    """Write the leaky ReLU of SOURCE to DEST, and a report to DEST.report.json.

    SOURCE is a .npy or .npz file, a Zarr array or group (a folder, a .zarr.zip, or a node inside one), a URL, or '-' for a .npy from
    standard input.

    DEST ends in .npy, .npz, .zarr or .zarr.zip, or is '-' for standard output. It is a folder for results if it ends in '/', is an
    existing folder, or there are several sources. Each result then keeps its source's name. With --recursive, the folder DIR goes to
    DEST/DIR, and the contents of DIR/ (or DIR/.) go to DEST itself.

    Arrays that --only or --skip leave out are copied as they are. So are arrays of a Zarr group that are not of floats, unless --only
    names them. In a .npz, integers are transformed like floats, also labels and indices: leave those out with --skip.

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
    from leakycli.progress import observer

    if dest == "-" and given["json"]:
        raise UsageError("--json and the result cannot both go to standard output; name a file for one of them (--report PATH)")
    listed = None if given["files_from"] is None else read_list(given["files_from"])

    def note(text: str) -> None:
        if not given["quiet"]:
            click.echo(f"leakycli: note: {visible(text)}", err=True)

    jobs = resolve_jobs(sources, dest, given["recursive"], given["to"], listed, note)
    several = len(jobs) > 1 or listed is not None
    if several and any(path != "none" for path in given["report"]):
        raise UsageError("--report PATH is for one source; each of a batch has its own DEST.report.json; --report-dir DIR collects them")
    if given["failed_to"] is not None:
        check_list(given["failed_to"])
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
        parents=given["recursive"] or listed is not None,
        overwrite=given["overwrite"],
        resume=given["resume"],
        fsync=given["fsync"],
        verify=given["verify"],
        reports=given["report"],
        storage_options=parse_options(given["storage_options"]),
        command=_command(sys.argv[1:]),
    )
    reports = _Reports(given["report_dir"], dest, several)
    with contextlib.ExitStack() as stack:
        if several:
            options = check_patterns((job.source for job in jobs), options)
        if given["dry_run"]:
            return _each(jobs, given, lambda job: _show_plan(job, options, given))
        begun = iter(()) if given["fail_fast"] else _begun_ahead(jobs, options, given, reports, stack)
        observe = stack.enter_context(observer(given["progress"], given["quiet"], len(jobs), piped=dest == "-"))
        batch = Batch(len(jobs), dest)
        if not several:
            _alone(jobs[0], reports.of(jobs[0], options), given, observe)
            return 0

        def work(job: Job) -> None:
            ahead = next(begun, None)
            done = _awaited(job, ahead, observe) if ahead else _done(job, reports.of(job, options), given, observe)
            batch.add(done)
            observe.clear()
            if done.text:
                click.echo(done.text)

        try:
            return _each(jobs, given, work, batch, observe)
        finally:
            observe.clear()
            _finish(batch, given)


#: From how many small files on a worker takes each as a whole, and how many are begun before their turn.
MANY = 16
AHEAD = 128


def _begun_ahead(
    jobs: list[Job], options: Options, given: dict[str, Any], reports: _Reports, stack: contextlib.ExitStack
) -> Iterator[Future[Done] | None]:
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
    waiting: deque[Future[Done] | None] = deque()
    for job, is_small in zip(jobs, small, strict=True):
        waiting.append(executor.submit(_done, job, reports.of(job, alone), given, events.ignore) if is_small else None)
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def _applied(job: Job, options: Options, observe: events.Observer) -> tuple[Report, bool]:
    """Do one job; returns its report, and whether its result was complete before."""
    from leakycli.api import apply

    already = False

    def watch(event: events.Event) -> None:
        nonlocal already
        already = already or (isinstance(event, events.Finished) and event.already)
        observe(event)

    return apply(job.source, job.dest, options, watch), already


def _done(job: Job, options: Options, given: dict[str, Any], observe: events.Observer) -> Done:
    """Do one of a batch, and say so in a line."""
    from leakycli.report.terminal import line

    report, already = _applied(job, options, observe)
    if given["json"]:
        text = report.to_json(indent=None)
    elif given["quiet"]:
        text = ""
    else:
        text = _complete(job) if already else line(report)
    return Done.of(report, text, already)


def _complete(job: Job) -> str:
    """What is said where there was nothing to do: the report is that of another run, and a file that anyone may have written."""
    return f"{visible(job.dest)}: already complete"


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


def _each(
    jobs: list[Job], given: dict[str, Any], work: Callable[[Job], None], batch: Batch | None = None, observe: Progress | None = None
) -> int:
    """Do `work` for every job. One job's error is raised; in a batch it is one line, and the others go on."""
    batch = batch or Batch(len(jobs), "")
    begun = 0
    for job in jobs:
        begun += 1
        try:
            work(job)
        except LeakyError as error:
            if len(jobs) == 1:
                raise
            let_go(error)
            failed = failure(job.source, job.dest, batch.folder, error)
            batch.failures.append(failed)
            if observe is not None:
                observe.finish()
                observe.clear()
            click.echo(f"leakycli: {visible(failed.error)}", err=True)
            if given["json"]:
                from json import dumps

                click.echo(dumps({"source": visible(job.source), "error": visible(failed.error), "exit_code": error.exit_code}))
            if given["fail_fast"]:
                break
    if batch.failures:
        rest = f"{len(jobs) - begun} were not begun" if begun < len(jobs) else "the results of the others are complete"
        raise BatchError(f"{len(batch.failures)} of {len(jobs)} sources failed; {rest}")
    return 0


def _finish(batch: Batch, given: dict[str, Any]) -> None:
    """Say what a batch came to, and list what can be tried again."""
    if given["failed_to"] is not None:
        write_list(given["failed_to"], [failed.entry for failed in batch.failures])
    if given["json"]:
        from json import dumps

        click.echo(dumps(batch.values()))
    elif not given["quiet"]:
        click.echo(batch.text())


class _Reports:
    """Where the reports of a batch go: beside the results, or with the same tree in a folder of their own."""

    def __init__(self, folder: str | None, dest: str, several: bool) -> None:
        self._folder, self._dest, self._several = folder, dest, several

    def of(self, job: Job, options: Options) -> Options:
        """`options` with the paths of the reports of one job, whose folder is made."""
        if self._folder is None:
            return options
        name = os.path.relpath(job.dest, self._dest) if self._several and not is_url(job.dest) else os.path.basename(job.dest.rstrip("/"))
        path = os.path.join(self._folder, f"{name}.report.json")
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        except OSError as error:
            raise storage_error(error, os.path.dirname(path), "cannot make the folder") from None
        return replace(options, reports=("none", path, *(given for given in options.reports if given != "none")))


def _alone(job: Job, options: Options, given: dict[str, Any], observe: Progress) -> None:
    """Do the one job there is, and show its report. A filter says no more than what may be wrong."""
    from leakycli.report.terminal import render_report
    from leakycli.report.words import lost_words

    report, already = _applied(job, options, observe)
    observe.clear()
    if given["json"]:
        click.echo(report.to_json(indent=None))
    elif given["quiet"]:
        return
    elif already:
        click.echo(_complete(job))
    elif job.dest == "-":
        lost = lost_words(report.losses)
        notes = [*([f"lost in the cast: {lost}"] if lost != "nothing" else []), *(f"warning: {warning}" for warning in report.warnings)]
        for note in notes:
            click.echo(f"leakycli: {visible(note)}", err=True)
    else:
        render_report(report, sys.stdout, _paths(job, options))


def _paths(job: Job, options: Options) -> tuple[str, ...]:
    """Where the reports of a run went."""
    given = tuple(path for path in options.reports if path != "none")
    return given if "none" in options.reports else (f"{job.dest}.report.json", *given)


def _awaited(job: Job, begun: Future[Done], observe: events.Observer) -> Done:
    """One of a batch that another worker does, which tells of its events when it is through."""
    with stopping.guarded():
        while not begun.done():
            wait([begun], timeout=0.2)
            stopping.check()
    done = begun.result()
    observe(events.Started(job.source, done.bytes_read))
    observe(events.RegionDone(job.source, "", done.bytes_read, done.bytes_written))
    observe(events.Finished(job.source))
    return done


def _show_plan(job: Job, options: Options, given: dict[str, Any]) -> None:
    from leakycli.api import dry_run
    from leakycli.report.terminal import plan_values, render_plan

    values = plan_values(dry_run(job.source, job.dest, options))
    if given["json"]:
        from json import dumps

        click.echo(dumps(values))
    elif not given["quiet"]:
        render_plan(values, sys.stdout)
