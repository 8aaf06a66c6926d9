"""`leakycli report`."""

from __future__ import annotations

import sys

import click

from leakycli.cli import options as o
from leakycli.cli.environment import Command


@click.command("report", cls=Command, short_help="Show a saved report, or turn it into a page.")
@click.argument("report", metavar="REPORT.json")
@click.argument("out", metavar="[OUT.html]", required=False)
@o.stacked(o.storage_option, o.debug)
def command(report: str, out: str | None, storage_options: tuple[str, ...]) -> None:
    """Show the saved report REPORT.json ('-': standard input) on the terminal, or write it to OUT.

    OUT ends in .html for a page that opens without a network, or in .json for the present version of an older report. A report that
    is there is replaced; anything else is not.

    \b
      leakycli report out.npy.report.json
      leakycli report out.npy.report.json out.html
      leakycli apply in.npy out.npy --json | leakycli report - out.html
    """
    from leakycli.api import read_report, save_report
    from leakycli.formats import parse_options

    found = read_report(report, parse_options(storage_options))
    if out is not None:
        save_report(found, out)
        return
    from leakycli.report.terminal import render_report

    render_report(found, sys.stdout)
