"""`leakycli info`."""

from __future__ import annotations

import sys
from json import dumps

import click

from leakycli.cli import completion
from leakycli.cli import options as o
from leakycli.cli.environment import Command
from leakycli.errors import BatchError, LeakyError, UsageError, shown, visible


@click.command("info", cls=Command, short_help="Show what arrays are in SOURCE.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", shell_complete=completion.files)
@o.stacked(o.recursive_info, o.storage_option, o.json, o.debug)
def command(sources: tuple[str, ...], recursive: bool, storage_options: tuple[str, ...], json: bool) -> None:
    """Show what arrays are in SOURCE: shape, dtype, memory order, sizes. No elements are read.

    SOURCE is what `apply` takes; '-' is a .npy from standard input, of which the header is read. Several are one table.
    """
    from leakycli.api import info
    from leakycli.cli.where import arrays_in
    from leakycli.formats import SUFFIXES, parse_options
    from leakycli.report.terminal import info_values, render_info, render_infos

    options, failed = parse_options(storage_options), 0
    paths = [path for source in sources for path in (arrays_in(source) if recursive else (source,))]
    if not paths:
        raise UsageError(f"{shown(sources[0])}: holds no array files; their names end in {', '.join(SUFFIXES)}")
    several, found = len(paths) > 1 or recursive, []
    for source in paths:
        try:
            values = info_values(source, info(source, options))
        except LeakyError as error:
            if not several:
                raise
            failed += 1
            text = str(error)
            click.echo(f"leakycli: {visible(text if shown(source) in text else f'{source}: {text}')}", err=True)
            continue
        if json:
            click.echo(dumps(values))
        elif several:
            found.append(values)
        else:
            render_info(values, sys.stdout)
    if found:
        render_infos(found, sys.stdout)
    if failed:
        raise BatchError(f"{failed} of {len(paths)} sources could not be read")
