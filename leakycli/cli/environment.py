"""Options from variables of the environment: their names, and messages that name them."""

from __future__ import annotations

import re
from typing import Any

import click
from click.core import ParameterSource

from leakycli.errors import UsageError

#: Of all variables that set options: LEAKYCLI_APPLY_ALPHA is --alpha of `leakycli apply`.
PREFIX = "LEAKYCLI"


class Command(click.Command):
    """A command whose messages name the variable that a wrong value came from."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            if isinstance(error.param, click.Option) and _is_from_environment(ctx, error.param):
                error.param_hint = f"'{error.param.opts[0]}' (set by {variable(self.name, error.param)} in the environment)"
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            # Values that only the run can judge, as of --compressor. The message names the option.
            named = [
                name
                for option in self.params
                if isinstance(option, click.Option) and _is_from_environment(ctx, option) and _mentions(str(error), option)
                if (name := variable(self.name, option)) is not None
            ]
            if named:
                raise UsageError(f"{error} (set by {', '.join(named)} in the environment)") from error
            raise


def variable(command: str | None, option: click.Option) -> str | None:
    """The variable that sets `option` of `command`; None where none does."""
    return f"{PREFIX}_{command}_{option.name}".upper() if option.allow_from_autoenv else None


def _is_from_environment(ctx: click.Context, option: click.Option) -> bool:
    return option.name is not None and ctx.get_parameter_source(option.name) is ParameterSource.ENVIRONMENT


def _mentions(message: str, option: click.Option) -> bool:
    names = {option.name or "", *(spelling.lstrip("-") for spelling in option.opts)}
    return any(re.search(rf"(?<![\w-])(?:--)?{re.escape(name)}(?![\w-])", message) for name in names if name)
