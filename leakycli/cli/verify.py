"""`leakycli verify`."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from leakycli.cli import completion
from leakycli.cli import options as o
from leakycli.cli.environment import Command
from leakycli.errors import DifferenceError, visible


@click.command("verify", cls=Command, short_help="Compute SOURCE again and compare DEST bit for bit.")
@click.argument("source", metavar="SOURCE", shell_complete=completion.files)
@click.argument("dest", metavar="DEST", shell_complete=completion.files)
@o.stacked(o.alpha, o.dtype, o.nan, o.only, o.skip, o.workers, o.memory, o.storage_option, o.progress, o.json, o.quiet, o.debug)
@click.pass_context
def command(ctx: click.Context, /, source: str, dest: str, **given: Any) -> None:
    """Compute the leaky ReLU of SOURCE again and compare DEST with it bit for bit (NaN equals NaN). Exit code 5: they differ.

    The parameters are those in DEST.report.json where that report is of this very DEST, unless given here; else the defaults.
    """
    from leakycli.api import Options, recorded_parameters, verify
    from leakycli.formats import parse_options
    from leakycli.progress import observer
    from leakycli.report.terminal import comparison_values

    parameters = {name: given[name] for name in ("alpha", "dtype", "nan", "only", "skip")}
    storage_options = parse_options(given["storage_options"])
    recorded = recorded_parameters(dest, storage_options) or {}
    for name in parameters:
        if name in recorded and ctx.get_parameter_source(name) is ParameterSource.DEFAULT:
            parameters[name] = recorded[name]
    # Those of a batch need not meet an array in every source.
    met = all(parameters[name] == recorded.get(name, ()) for name in ("only", "skip"))
    options = Options(workers=given["workers"], memory=given["memory"], storage_options=storage_options, patterns_met=met, **parameters)
    with observer(given["progress"], given["quiet"]) as observe:
        comparison = verify(source, dest, options, observe)
    if given["json"]:
        from json import dumps

        click.echo(dumps(comparison_values(comparison)))
    elif not given["quiet"] and comparison.equal:
        for warning in comparison.warnings:
            click.echo(f"leakycli: warning: {visible(warning)}", err=True)
        said = ", ".join(f"{name} {value}" for name, value in parameters.items() if value not in (None, ()))
        click.echo(f"{comparison.message()} ({said}{', as its report says' if recorded else ''})")
    if not comparison.equal:
        raise DifferenceError(comparison.message())
