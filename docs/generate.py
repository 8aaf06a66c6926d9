"""Writes what the documents take from the code, so that they cannot differ from it.

    python docs/generate.py            writes docs/cli.md, docs/leakycli.1, docs/api.md and the tables between markers
    python docs/generate.py --check    ends with exit code 1 where one of them is out of date, and names it

From the commands: docs/cli.md and the man page. From the docstrings of the public names: docs/api.md. From the errors: the exit codes.
From tests/data/frameworks.json and leakycli itself: the table of docs/semantics.md.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import click
import numpy as np

import leakycli
from leakycli.cli import cli
from leakycli.cli.environment import variable

ROOT = Path(__file__).parents[1]
NOTE = "Written by `python docs/generate.py`. Do not edit it by hand."

#: Variables of the environment that are not options.
VARIABLES = {
    "NO_COLOR": "No colour on the terminal.",
    "COLUMNS": "The width of what is printed, where there is no terminal that knows it.",
    "XDG_STATE_HOME": "Where runs to a URL keep their journals, in a folder `leakycli`. Default: `~/.local/state`.",
    "AWS_*, HTTPS_PROXY": "Access to what is behind URLs: see the page on URLs.",
    "LEAKYCLI_KERNEL": "Which kernel computes: `reference` (numpy), or one of the compiled ones (`baseline`, `avx2`, `avx512`). "
    "By default the best that the processor has. All give the same bits.",
    "LEAKYCLI_REQUIRE_KERNEL": "`1` while the package is built: no compiled kernel is an error. Otherwise numpy's takes its place.",
    "_LEAKYCLI_COMPLETE": "Set by the completion scripts only. `bash_source`, `zsh_source`, `fish_source` print them.",
}

EXIT_CODES = {
    "0": "done",
    "1": "failed: input/output, a path that is missing or cannot be opened, permission, no space, source changed",
    "2": "usage: options, names that clash, DEST exists, is unfinished or in use, memory limit too small",
    "3": "the input is corrupt or of a kind that is not supported",
    "4": "the cast lost something: NaN to integer, or `--strict`",
    "5": "`verify` or `--verify` found a difference",
    "6": "a batch finished with some sources failed",
    "130, 143, 129": "interrupted by SIGINT, SIGTERM, SIGHUP; `--resume` continues",
}


def commands() -> dict[str, click.Command]:
    context = click.Context(cli)
    found = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def synopsis(name: str, command: click.Command) -> str:
    arguments = " ".join(
        parameter.make_metavar(_context(name, command)) for parameter in command.params if isinstance(parameter, click.Argument)
    )
    options = "[OPTIONS] " if options_of(command) else ""
    return f"leakycli {name} {options}{arguments}"


def _context(name: str, command: click.Command) -> click.Context:
    return click.Context(command, info_name=name, parent=click.Context(cli, info_name="leakycli"))


def options_of(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def spelling(option: click.Option, command: click.Command) -> str:
    """As in "--recursive, -r" or "--alpha A"."""
    value = "" if option.is_flag else f" {option.make_metavar(click.Context(command))}"
    return ", ".join(option.opts) + value


def meaning(option: click.Option) -> str:
    """The help of an option, with its default."""
    text = " ".join((option.help or "").split())
    return f"{text} [default: {option.default}]" if option.show_default else text


def paragraphs(command: click.Command) -> list[str]:
    """The help of a command. Paragraphs of examples begin with the character that click takes as "do not wrap"."""
    text = inspect.cleandoc(command.help or "").replace("\b\n", "\b")
    return [part if part.startswith("\b") else " ".join(part.split()) for part in text.split("\n\n")]


# Markdown


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def code_cell(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


CLI_PAGE = """\
# Commands and options

{note}

`leakycli COMMAND --help` shows the same on the terminal, `leakycli --version` the version.

| command | |
|---|---|
{summary}

{commands}

## Sizes, names and several values

- Sizes are in bytes, or in binary units: `512M` is 512 MiB.
- Patterns are those of a shell: `*`, `?`, `[abc]`.
- An option that may be repeated takes several values from its variable, separated by spaces
  (`--report`: by `:`).

## Exit codes

{exit_codes}

## Variables of the environment

Each option can be set by the variable in its table. The command line wins. Flags take `1` and `0`. A
message about a wrong value names the variable. `--overwrite`, `--resume` and `--dry-run` have none.

| variable | |
|---|---|
{variables}

## Completion

Tab completes commands, options, values, file names, and for `--only` and `--skip` the names of the
arrays in the sources. Add one of these lines to the file that your shell reads when it starts:

```sh
eval "$(leakycli completion bash)"      # ~/.bashrc
eval "$(leakycli completion zsh)"       # ~/.zshrc, after compinit
leakycli completion fish | source       # ~/.config/fish/config.fish
```
"""


def cli_page() -> str:
    return CLI_PAGE.format(
        note=NOTE,
        summary="\n".join(f"| [`{name}`](#leakycli-{name}) | {command.get_short_help_str(200)} |" for name, command in commands().items()),
        commands="\n\n".join(command_section(name, command) for name, command in commands().items()),
        exit_codes="\n".join(exit_codes()),
        variables="\n".join(f"| `{name}` | {text} |" for name, text in VARIABLES.items()),
    )


def command_section(name: str, command: click.Command) -> str:
    lines = [f"## leakycli {name}", "", "```text", synopsis(name, command), "```"]
    for part in paragraphs(command):
        examples = [line.removeprefix("  ") for line in part[1:].splitlines()]
        lines += ["", *(["```text", *examples, "```"] if part.startswith("\b") else [cell(part)])]
    if options := options_of(command):
        lines += ["", "| option | meaning | variable |", "|---|---|---|"]
    for option in options:
        setting = variable(name, option) if option.expose_value else None
        lines.append(f"| {code_cell(spelling(option, command))} | {cell(meaning(option))} | {f'`{setting}`' if setting else ''} |")
    return "\n".join(lines)


def exit_codes() -> list[str]:
    return ["| code | meaning |", "|---|---|", *(f"| {code} | {text} |" for code, text in EXIT_CODES.items())]


# The man page


def roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


def man_page() -> str:
    lines = ['.\\" ' + NOTE.replace("`", ""), f'.TH LEAKYCLI 1 "" "leakycli {leakycli.__version__}" "User Commands"', ".SH NAME"]
    lines += ["leakycli \\- " + roff((cli.help or "").splitlines()[0].rstrip(".")), ".SH SYNOPSIS"]
    for name, command in commands().items():
        lines += [".B " + roff(synopsis(name, command)), ".br"]
    lines += [".SH DESCRIPTION", roff(paragraphs(cli)[1])]
    for name, command in commands().items():
        lines += [f".SH {name.upper()}"]
        for part in paragraphs(command):
            lines += [".PP", *([".nf", roff(part[1:]), ".fi"] if part.startswith("\b") else [roff(part)])]
        for option in options_of(command):
            lines += [".TP", ".B " + roff(spelling(option, command)), roff(meaning(option))]
    lines += [".SH EXIT STATUS"]
    for code, text in EXIT_CODES.items():
        lines += [".TP", f".B {code}", roff(text)]
    lines += [
        ".SH ENVIRONMENT",
        roff("LEAKYCLI_<COMMAND>_<OPTION> sets an option, as LEAKYCLI_APPLY_ALPHA sets --alpha. The command line wins."),
    ]
    for name, text in VARIABLES.items():
        lines += [".TP", ".B " + roff(name), roff(text)]
    return "\n".join(lines) + "\n"


# The Python interface


def api_page() -> str:
    lines = ["# Python", "", NOTE, "", "```python", "import leakycli", "```", "", prose(leakycli), ""]
    public = {name: getattr(leakycli, name) for name in leakycli.__all__ if name != "__version__"}
    groups: dict[str, dict[str, Any]] = {"Functions": {}, "Classes": {}, "Errors": {}}
    for name, found in public.items():
        kind = (
            "Functions" if inspect.isfunction(found) else "Errors" if inspect.isclass(found) and issubclass(found, Exception) else "Classes"
        )
        if not isinstance(found, types.ModuleType):
            groups[kind][name] = found
    for title, members in groups.items():
        if members:
            lines += [f"## {title}", ""]
        for name, found in sorted(members.items(), key=lambda pair: pair[0].lower()):
            lines += [f"### {name}", ""]
            if title == "Functions":
                lines += ["```text", signature(name, found), "```", ""]
            lines += [prose(found), ""]
            if dataclasses.is_dataclass(found):
                lines += fields(found)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def prose(found: Any) -> str:
    """A docstring as Markdown: lines as in "alpha: any finite number." become a list."""
    parts = []
    for part in inspect.cleandoc(found.__doc__ or "").split("\n\n"):
        lines: list[str] = []
        for line in part.splitlines():
            if item := re.match(r"([a-z_][\w, ]*?): (?=\S)(.*)", line):
                lines.append(f"- `{'`, `'.join(item[1].split(', '))}`: {item[2]}")
            elif lines:
                lines[-1] += f" {line.strip()}"
            else:
                lines.append(line)
        text = "\n".join(lines)
        parts.append(re.sub(r"(?m)(?<!\n)^(?=- `)", "\n", text, count=1) if not text.startswith("- ") and "\n- `" in text else text)
    return "\n\n".join(parts).replace("<", "&lt;")


def signature(name: str, function: Any) -> str:
    """One parameter a line where they do not fit in one."""
    parameters, star = [], False
    for p in inspect.signature(function).parameters.values():
        if p.kind is inspect.Parameter.KEYWORD_ONLY and not star:
            parameters.append("*")
            star = True
        prefix = "**" if p.kind is inspect.Parameter.VAR_KEYWORD else ""
        default = "" if p.default is p.empty else f" = {value(p.default)}"
        parameters.append(f"{prefix}{p.name}: {kind(p.annotation)}{default}")
    returns = inspect.signature(function).return_annotation
    result = f") -> {kind(returns)}"
    short = f"{name}({', '.join(parameters)}{result}"
    return short if len(short) <= 100 else "\n".join([f"{name}(", *(f"    {p}," for p in parameters), result])


def kind(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", repr(annotation))


def value(default: Any) -> str:
    return default.__name__ if callable(default) else repr(default)


def fields(found: Any) -> list[str]:
    lines = ["| field | type | default |", "|---|---|---|"]
    for field in dataclasses.fields(found):
        made = field.default_factory is not dataclasses.MISSING
        default = f"{value(field.default_factory)}()" if made else "" if field.default is dataclasses.MISSING else value(field.default)
        lines.append(f"| `{field.name}` | {code_cell(kind(field.type))} | {code_cell(default) if default else ''} |")
    return [*lines, ""]


# Tables between markers


def frameworks() -> list[str]:
    rows = json.loads((ROOT / "tests" / "data" / "frameworks.json").read_text(encoding="utf-8"))
    names = list(rows[0]["results"])
    lines = [f"| input | alpha | leakycli | {' | '.join(names)} |", "|" + "---|" * (len(names) + 3)]
    for row in rows:
        y = leakycli.leaky_relu(np.array([row["x"]], "float64").astype(row["dtype"]), alpha=row["alpha"])
        ours = f"{y.dtype.name} {y[0]!s}"
        shown = [text.removeprefix(f"{row['dtype']} ") for text in (ours, *row["results"].values())]
        marked = [shown[0], *(text if text == shown[0] else f"**{text}**" for text in shown[1:])]
        lines.append(f"| {row['dtype']} {row['x']} | {row['alpha']} | {' | '.join(marked)} |")
    return lines


def between(page: str, name: str, lines: list[str]) -> str:
    """The page with the lines between `<!-- generated: NAME -->` and `<!-- end -->`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    new, count = re.subn(
        rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", lambda m: m[1] + "\n".join(["", *lines, "", ""]) + m[2], text, flags=re.DOTALL
    )
    assert count == 1, f"{page}: no place for {name}"
    return new


def generated() -> dict[str, str]:
    """What each file should hold, by its path from the root of the project."""
    return {
        "docs/cli.md": cli_page(),
        "docs/leakycli.1": man_page(),
        "docs/api.md": api_page(),
        "README.md": between("README.md", "exit codes", exit_codes()),
        "docs/semantics.md": between("docs/semantics.md", "frameworks", frameworks()),
    }


def main(arguments: list[str]) -> int:
    stale = [path for path, text in generated().items() if not (ROOT / path).exists() or (ROOT / path).read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path} is out of date: run python docs/generate.py")
        return int(bool(stale))
    for path, text in generated().items():
        if path in stale:
            (ROOT / path).write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
