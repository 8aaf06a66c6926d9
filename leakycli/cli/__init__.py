"""The command line: parses, calls `leakycli.api`, renders. Entry point `main`; the commands are modules beside this one."""

from __future__ import annotations

import gc
import importlib
import io
import os
import signal
import sys
import traceback
from typing import Any, NoReturn

import click

from leakycli._version import __version__
from leakycli.cli.environment import PREFIX
from leakycli.cli.signals import Interrupted, deliver_signals, die
from leakycli.errors import LeakyError, visible

_COMMANDS = ("apply", "info", "verify", "report", "completion")


class _Commands(click.Group):
    """Loads a command's module only when it is used, or listed in the help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"leakycli.cli.{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise click.UsageError(_no_such_command(args[0]), ctx)
        return super().resolve_command(ctx, args)


def _no_such_command(name: str) -> str:
    """The message for a command that does not exist. Names a similar one; files in its place are told of `apply`."""
    from difflib import get_close_matches

    message = f"no such command: {name!r}"
    if similar := get_close_matches(name.lower(), _COMMANDS, n=1):
        return f"{message}; did you mean {similar[0]!r}?"
    if os.path.exists(name):
        return f"{message}; to transform a file, write 'leakycli apply SOURCE DEST'"
    return f"{message}; the commands are {', '.join(_COMMANDS)}"


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": PREFIX, "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 input/output failed; 2 usage; 3 input corrupt or unsupported; 4 the cast lost something; "
    "5 verify found a difference; 6 some sources of a batch failed; 130, 143, 129 interrupted.",
)
@click.version_option(__version__, prog_name="leakycli", allow_from_autoenv=False)
def cli() -> None:
    """Leaky ReLU for arrays on disk: y = x where x > 0, alpha * x elsewhere.

    Arrays are streamed in chunks, so they may be far larger than memory. A result appears complete or not at all.

    \b
      leakycli apply in.npy out.npy              the main job
      leakycli apply *.npy results/ --alpha 0.1  several, into a folder
      leakycli verify in.npy out.npy             compute again and compare
      leakycli report out.npy.report.json o.html a saved report as a page
    """


def main() -> None:
    """Run the command line with the process's arguments, and end the process."""
    # The workers are ours: numpy's OpenBLAS would start a thread for each processor, of no use here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Importing makes objects that stay. To look for garbage after every 700, and through all at the end, takes longer than a small file.
    gc.set_threshold(10_000)
    code = _run(sys.argv[1:])
    gc.freeze()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """The exit code of the command line with `arguments`; a signal that interrupted it ends the process instead."""
    _mend_standard_streams()
    with deliver_signals():
        try:
            return _flushed(_result(arguments))
        except Interrupted as error:
            # Within: a later signal is still taken for one of a run that is ending.
            _say("; ".join((f"interrupted by {error.signal.name}", *getattr(error, "__notes__", ("nothing half-done was left",)))))
            _die(error.signal)


def _result(arguments: list[str]) -> int:
    """The exit code, whatever happens but for a signal; an error is one line on standard error."""
    state: dict[str, Any] = {"debug": "--debug" in arguments}
    try:
        if instruction := os.environ.get("_LEAKYCLI_COMPLETE"):
            from leakycli.cli.completion import respond

            return respond(cli, instruction)
        # Not `cli.main`: that turns a closed pipe into exit code 1.
        with cli.make_context("leakycli", arguments or ["--help"], obj=state) as context:
            result = cli.invoke(context)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except BrokenPipeError:
        _die(signal.SIGPIPE)
    except click.UsageError as error:
        help_for = error.ctx.command_path if error.ctx else "leakycli"
        _say(f"{error.format_message()} (see '{help_for} --help')")
        return 2
    except click.ClickException as error:
        _say(error.format_message())
        return 2
    except LeakyError as error:
        if state["debug"]:
            traceback.print_exc()
        _say(str(error))
        return error.exit_code
    except OSError as error:
        # The files of a run have errors of their own: this is standard output.
        return _output_failed(error)
    except MemoryError:
        _say("out of memory; give a smaller --memory or fewer --workers")
        return 1
    except Exception as error:
        if state["debug"]:
            traceback.print_exc()
        if isinstance(error, RuntimeError) and "start new thread" in str(error):
            _say(
                "cannot start a thread: the process has reached a limit of threads or memory (ulimit -u, -v); raise it or give --workers 1"
            )
            return 1
        _say(f"a defect of leakycli, please report it: {type(error).__name__}: {error} (--debug shows where)")
        return 1


def _mend_standard_streams() -> None:
    """Give the process all three, so that no file of a run gets the number of one; and print any name on any terminal."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            # Takes the lowest free number: this one. The wrong way round, so that to use a closed stream is an error.
            os.open(os.devnull, os.O_WRONLY if fd == 0 else os.O_RDONLY)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _flushed(code: int) -> int:
    """`code`, once what was printed is out; 1 where it cannot be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _die(signal.SIGPIPE)
    except OSError as error:
        return _output_failed(error)
    return code


def _output_failed(error: OSError) -> int:
    _say(f"cannot write to standard output: {error.strerror or error}")
    _discard_output()
    return 1


def _discard_output() -> None:
    """What standard output still holds cannot be written any more, and must not be tried at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError:
        pass


def _say(message: str) -> None:
    """One line on standard error; whatever got into the message cannot break it or steer the terminal."""
    try:
        sys.stderr.write(f"leakycli: {visible(message)}\n")
        sys.stderr.flush()
    except OSError:
        pass


def _die(signum: signal.Signals) -> NoReturn:
    """End the process by `signum`, whatever standard output still holds."""
    _discard_output()
    die(signum)
