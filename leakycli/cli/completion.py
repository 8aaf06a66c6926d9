"""`leakycli completion`: completion of command lines in bash, zsh and fish.

`leakycli completion SHELL` prints a script. When Tab is pressed, the script runs the program again with two variables:
`_LEAKYCLI_COMPLETE` (as in "bash_complete") and `COMP_LINE`, the line up to the cursor. The program answers with one line for each
candidate: its kind, its value and its help, separated by tabs. For the kind "file" the shell completes file names itself.
"""

from __future__ import annotations

import os
import shlex
from typing import Any

import click
from click.shell_completion import CompletionItem, ShellComplete

from leakycli.errors import LeakyError

#: Environment variable that asks for a script (bash_source) or for candidates (bash_complete). The name is click's convention.
VARIABLE = "_LEAKYCLI_COMPLETE"

# `$1` is the command as typed: completion works for a path to it too. Readline replaces the word after the last of its word breaks.
_BASH = """\
_leakycli_completion() {
    local kind value help
    COMPREPLY=()
    while IFS=$'\\t' read -r kind value help; do
        case $kind in
            file) compopt -o default ;;
            plain)
                case ${COMP_WORDS[COMP_CWORD]} in
                    [\\"\\']*) COMPREPLY+=("$value") ;;
                    *) COMPREPLY+=("$(printf %q "$value")") ;;
                esac ;;
        esac
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" _LEAKYCLI_COMPLETE=bash_complete "${1/#\\~/$HOME}" 2>/dev/null)
}
complete -F _leakycli_completion leakycli
"""

_ZSH = """\
#compdef leakycli
_leakycli() {
    local item kind value
    local -a parts plain described
    local program=${${(Q)words[1]}/#\\~/$HOME}
    local line="${(j: :)words[1,CURRENT-1]} ${(q)${(Q)PREFIX}}"
    local files=0
    for item in "${(@f)$(COMP_LINE=$line _LEAKYCLI_COMPLETE=zsh_complete $program 2>/dev/null)}"; do
        parts=("${(@ps:\\t:)item}")
        kind=$parts[1] value=$parts[2]
        case $kind in
            file) files=1 ;;
            plain)
                if [[ -n $parts[3] ]]; then
                    described+=("${value//:/\\\\:}:$parts[3]")
                else
                    plain+=("$value")
                fi ;;
        esac
    done
    [[ $PREFIX == --*=* ]] && compset -P '--*='
    (( $#described )) && _describe -V 'leakycli' described
    (( $#plain )) && compadd -V values -a plain
    (( files )) && _files
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _leakycli "$@"
else
    compdef _leakycli leakycli
fi
"""

_FISH = """\
function __leakycli_completion
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l before (string match -r -- '^--[^=]+=' $current)
    set -l line (string escape -- $words | string join ' ')" $current"
    for item in (env COMP_LINE="$line" _LEAKYCLI_COMPLETE=fish_complete $words[1] 2>/dev/null)
        set -l parts (string split -m 2 \\t -- $item)
        switch $parts[1]
            case file
                for path in (__fish_complete_path (string replace -r -- '^--[^=]+=' '' $current))
                    echo "$before$path"
                end
            case plain
                printf '%s\\t%s\\n' "$before$parts[2]" "$parts[3]"
        end
    end
end
complete --command leakycli --no-files --arguments '(__leakycli_completion)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@click.command("completion", short_help="Print a script that completes command lines in a shell.")
@click.argument("shell", type=click.Choice(tuple(SCRIPTS)), metavar="bash|zsh|fish")
def command(shell: str) -> None:
    """Print a script that completes options, values, file names and names of arrays in bash, zsh or fish.

    Add one of these lines to the file that your shell reads when it starts:

    \b
      eval "$(leakycli completion bash)"       ~/.bashrc
      eval "$(leakycli completion zsh)"        ~/.zshrc, after compinit
      leakycli completion fish | source        ~/.config/fish/config.fish
    """
    click.echo(SCRIPTS[shell], nl=False)


def respond(cli: click.Group, instruction: str) -> int:
    """Answer a completion script, or print one. Returns the exit code.

    cli: the command line.
    instruction: the value of `VARIABLE`, as in "bash_source" or "bash_complete".
    """
    shell, _, action = instruction.partition("_")
    if shell not in SCRIPTS or action not in ("source", "complete"):
        shells = ", ".join(f"{shell}_source, {shell}_complete" for shell in SCRIPTS)
        raise click.UsageError(f"{VARIABLE}: {instruction!r} is not one of {shells}; unset it to run a command")
    click.echo(SCRIPTS[shell] if action == "source" else _Completion(cli, {}, "leakycli", VARIABLE).for_shell(shell), nl=False)
    return 0


class _Completion(ShellComplete):
    """Candidates for a command line, from what click knows of the commands."""

    def for_shell(self, shell: str) -> str:
        """The answer to the script of `shell`."""
        words, incomplete = _split(os.environ.get("COMP_LINE", ""))
        lines = []
        for item in self.get_completions(words[1:], incomplete):
            value = str(item.value)
            if shell == "bash":
                # Readline has "--dtype", "=" and "fl" as three words, and replaces the last one. So with ":" in a name.
                kept = max(incomplete.rfind("="), incomplete.rfind(":")) + 1
                value = value[kept:] if value.startswith(incomplete[:kept]) else value
            if value.isprintable():
                lines.append(f"{item.type}\t{value}\t{' '.join((item.help or '').split())}\n")
        return "".join(lines)

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        # Click hides the words before an unfinished option; `members` needs them to find SOURCE.
        self.ctx_args["obj"] = {"words": tuple(args)}
        return super().get_completions(args, incomplete)


def _split(line: str) -> tuple[list[str], str]:
    """The complete words of `line`, and the one that the cursor is in ("" after a space)."""
    cursor = "\0"
    lexer = shlex.shlex(line + cursor, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    try:
        words.extend(lexer)
    except ValueError:
        # A quote that is still open.
        words.append(lexer.token)
    return words[:-1], words[-1].partition(cursor)[0]


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete names of files."""
    return [CompletionItem(incomplete, type="file")]


def one_of(*values: str) -> Any:
    """A completion of an option that takes any value, of which these are common."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(value) for value in values if value.startswith(incomplete)]

    return complete


def members(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the arrays in the sources that the line has so far."""
    names: dict[str, str] = {}
    for source in _sources(ctx):
        for name, text in _arrays(source).items():
            names.setdefault(name, text)
    return [CompletionItem(name, help=text) for name, text in names.items() if name.startswith(incomplete)]


def _sources(ctx: click.Context) -> list[str]:
    """The sources of the command line. They are files or folders here: streams and URLs would keep the user waiting."""
    words = list((ctx.find_root().obj or {}).get("words", ()))
    # The first is the command. The last may be the option that is completed, without its value.
    arguments = words[1:-1] if words and words[-1].startswith("-") else words[1:]
    with ctx.command.make_context(ctx.info_name, arguments, resilient_parsing=True) as parsed:
        given = parsed.params
    sources = [*(given.get("sources") or ())] + [given[name] for name in ("source", "dest") if given.get(name)]
    return [source for source in sources[: max(1, len(sources) - 1)] if os.path.isfile(source) or os.path.isdir(source)]


def _arrays(source: str) -> dict[str, str]:
    """The arrays at `source` by name, with dtype and shape; none where it cannot be read."""
    from leakycli.api import info

    try:
        found = info(source).members
    except LeakyError:
        return {}
    described = {member.name: member.array for member in found if member.array is not None and member.name}
    return {name: f"{array.dtype} {array.shape}" for name, array in described.items()}
