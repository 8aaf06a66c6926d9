"""Every option, declared once; commands stack the ones they take.

--alpha --dtype --nan            the function          apply, verify
--strict                         what may be lost      apply
--workers --memory               how large             apply, verify
--only --skip                    which arrays          apply, verify
--to --compressor                the form              apply
--chunks --shards --zarr-format --no-provenance        apply
--overwrite --resume --fsync --verify --dry-run        apply: publishing
--report --report-dir            where reports go      apply
--storage-option                 for URLs              apply, verify, info
--recursive --files-from --failed-to --fail-fast       apply: batches
--progress --json --quiet --debug      what is shown   apply, verify; info: --recursive --json --debug
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from leakycli.cli import completion
from leakycli.errors import UsageError
from leakycli.function.alpha import ALPHA, checked_alpha

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

#: As in leakycli.function.rule, which would bring numpy along; a test compares them.
DTYPES = ("float16", "float32", "float64", "int32", "int64")


#: As in leakycli.formats, likewise.
FAMILIES = ("npy", "npz", "zarr")


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    from leakycli.arguments import parse_size

    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def _shape(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        shape = tuple(int(n) for n in value.split(",") if n.strip())
    except ValueError:
        shape = (0,)
    if any(not 0 < n < 1 << 63 for n in shape):
        raise click.BadParameter(f"{value!r} is no shape; write lengths of at least 1 as in 256,256", ctx, param)
    return shape


def _alpha(ctx: click.Context, param: click.Parameter, value: float) -> float:
    try:
        return checked_alpha(value)
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from None


alpha = click.option(
    "--alpha", type=float, metavar="A", callback=_alpha, default=ALPHA, show_default=True, help="Slope for x <= 0; any finite number."
)
dtype = click.option("--dtype", type=click.Choice(DTYPES), help="Type of the result. [default: that of floats, float32 for integers]")
nan = click.option("--nan", type=int, metavar="N", help="Replace NaN by N in an integer --dtype; without it NaN fails the run.")
strict = click.option("--strict", is_flag=True, help="Write nothing if a value overflows or is clipped in --dtype.")
workers = click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Number of threads. [default: the number of processors]")
memory = click.option(
    "--memory",
    callback=_size,
    metavar="SIZE",
    help="Limit on peak memory, as in 256M. [default: 512M, or what one chunk needs]",
    shell_complete=completion.one_of("256M", "512M", "1G", "2G", "4G"),
)
overwrite = click.option(
    "--overwrite", is_flag=True, allow_from_autoenv=False, help="Replace DEST if it exists; the old one stays until the new is complete."
)
verify = click.option("--verify", is_flag=True, help="Read the result back and compare it before it is published.")
only = click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    help="Transform only arrays of this name (or shell pattern); may be repeated. Others are copied.",
    shell_complete=completion.members,
)
skip = click.option(
    "--skip",
    multiple=True,
    metavar="NAME",
    help="Copy arrays of this name (or shell pattern) as they are; may be repeated.",
    shell_complete=completion.members,
)
to = click.option("--to", type=click.Choice(FAMILIES), help="Format of the results in a folder, or of '-'.")
chunks = click.option(
    "--chunks", callback=_shape, metavar="N,N,...", help="Zarr: shape of a chunk. [default: as in SOURCE, else about 4 MiB]"
)
shards = click.option("--shards", callback=_shape, metavar="N,N,...", help="Zarr: shape of a shard. [default: as in SOURCE, else none]")
compressor = click.option(
    "--compressor",
    metavar="NAME",
    help="Zarr: none, zstd:5, gzip:6, blosc-lz4:5:shuffle. .npz: stored, deflate, deflate:1 to deflate:9. "
    "[default: as in SOURCE, else zstd for Zarr, stored for .npz]",
    shell_complete=completion.one_of("none", "zstd:5", "gzip:6", "blosc-lz4:5:shuffle", "blosc-zstd:5:shuffle", "stored", "deflate"),
)
zarr_format = click.option(
    "--zarr-format", type=click.Choice(("2", "3")), help="Zarr: version of the format. [default: as in SOURCE, else 3]"
)
no_provenance = click.option("--no-provenance", is_flag=True, help="Zarr: leave out the attribute that says what was done.")
resume = click.option(
    "--resume", is_flag=True, allow_from_autoenv=False, help="Continue an interrupted run; skip results that are complete."
)
fsync = click.option("--fsync", is_flag=True, help="Flush results to disk, so that not even a crash of the system loses work.")
dry_run = click.option("--dry-run", is_flag=True, allow_from_autoenv=False, help="Check everything, show the plan, write nothing.")
report = click.option(
    "--report",
    type=click.Path(),  # in the environment several are separated as in PATH
    multiple=True,
    metavar="PATH|none",
    help="A further report (.json, or .html for a page); may be repeated. 'none' leaves out DEST.report.json.",
)
report_dir = click.option(
    "--report-dir", type=click.Path(), metavar="DIR", help="Put the reports into the folder DIR, not beside the results."
)
storage_option = click.option(
    "--storage-option",
    "storage_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the file system behind a URL, as fsspec has it (anon=true, endpoint_url=...); may be repeated.",
    shell_complete=completion.one_of("anon=true", "endpoint_url=", "profile="),
)
recursive = click.option("--recursive", "-r", is_flag=True, help="Take the arrays in folders: DIR goes to DEST/DIR, DIR/ to DEST itself.")
recursive_info = click.option("--recursive", "-r", is_flag=True, help="Show the arrays in folders.")
files_from = click.option(
    "--files-from",
    metavar="FILE",
    help="Read more SOURCEs from FILE ('-': standard input), one a line or with a NUL behind each. DEST is then a folder; "
    "the result of a/./b/c.npy is b/c.npy in it.",
    shell_complete=completion.files,
)
failed_to = click.option(
    "--failed-to", type=click.Path(), metavar="FILE", help="List the sources that failed in FILE, as --files-from takes it."
)
fail_fast = click.option("--fail-fast", is_flag=True, help="Stop a batch at the first source that fails.")
progress = click.option(
    "--progress",
    type=click.Choice(["auto", "bar", "plain", "json", "none"]),
    default="auto",
    show_default=True,
    help="Progress on standard error; auto: a bar on a terminal.",
)
json = click.option("--json", is_flag=True, help="Print the result as JSON, one line a source.")
quiet = click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(dict)["debug"] = True


debug = click.option("--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show a traceback with an error.")


def stacked(*options: Decorator[Any]) -> Decorator[F]:
    """One decorator for several options, listed in the help in the order given."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate
