"""`leakycli info`."""

from __future__ import annotations

import sys
from json import dumps

import click

from leakycli.cli import completion
from leakycli.cli import options as o
from leakycli.cli.environment import Command
from leakycli.errors import BatchError, LeakyError, shown, visible


@click.command("info", cls=Command, short_help="Show what arrays are in SOURCE.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", shell_complete=completion.files)
@o.stacked(o.storage_option, o.json, o.debug)
def command(sources: tuple[str, ...], storage_options: tuple[str, ...], json: bool) -> None:
    """Show what arrays are in SOURCE: shape, dtype, memory order, sizes. No elements are read."""
    from leakycli.api import info
    from leakycli.formats import parse_options
    from leakycli.report.terminal import info_values, render_info

    options, failed = parse_options(storage_options), 0
    for source in sources:
        try:
            values = info_values(source, info(source, options))
        except LeakyError as error:
            if len(sources) == 1:
                raise
            failed += 1
            text = str(error)
            click.echo(f"leakycli: {visible(text if shown(source) in text else f'{source}: {text}')}", err=True)
            continue
        if json:
            click.echo(dumps(values))
        else:
            render_info(values, sys.stdout)
    if failed:
        raise BatchError(f"{failed} of {len(sources)} sources could not be read")
