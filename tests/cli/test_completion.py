"""Completion of command lines, in real shells on a terminal: what the shell runs after Tab and Enter is compared word by word."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Run

#: How a shell starts without its user's files, and what makes it ready to complete.
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(leakycli completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -Uz compinit; compinit -u; eval "$(leakycli completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "leakycli completion fish | source"),
}

#: What is typed, with Tab as <TAB>, and the words that the command gets.
CASES = {
    "a command": ("inf<TAB>in.npy", ["info", "in.npy"]),
    "an option": ("apply --dt<TAB>float16 in.npy b.npy", ["apply", "--dtype", "float16", "in.npy", "b.npy"]),
    "a value": ("apply --progress js<TAB>a b", ["apply", "--progress", "json", "a", "b"]),
    "a value after an equals sign": ("apply --progress=js<TAB>a b", ["apply", "--progress=json", "a", "b"]),
    "a source": ("apply --strict layer<TAB>o.npz", ["apply", "--strict", "layers 1.npz", "o.npz"]),
    "a file for an option": ("apply --report layer<TAB>a b", ["apply", "--report", "layers 1.npz", "a", "b"]),
    "an array": ("apply layers\\ 1.npz o.npz --only lab<TAB>-q", ["apply", "layers 1.npz", "o.npz", "--only", "labels", "-q"]),
    "an array to be quoted": (
        "apply layers\\ 1.npz o.npz --skip con<TAB>-q",
        ["apply", "layers 1.npz", "o.npz", "--skip", "conv [1]", "-q"],
    ),
    "an array in quotes": ("apply 'layers 1.npz' o.npz --skip 'con<TAB>-q", ["apply", "layers 1.npz", "o.npz", "--skip", "conv [1]", "-q"]),
}


def installed(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed"))


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, shell: str, folder: Path) -> None:
        command, setup = SHELLS[shell]
        env = {name: value for name, value in os.environ.items() if not name.startswith(("LEAKYCLI", "_LEAKYCLI", "PROMPT", "ZDOTDIR"))}
        env |= {"PATH": f"{folder / 'bin'}:{env['PATH']}", "TERM": "xterm", "HOME": str(folder), "PS1": "> "}
        pid, self.fd = pty.fork()
        if pid == 0:
            os.chdir(folder)
            os.execvpe(command[0], command, env)
        self.pid, self.seen = pid, b""
        self.type(f"{setup}; echo re''ady\r")
        self.wait_for(lambda: b"ready" in self.seen)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not reached():
            assert time.monotonic() < end, self.seen.decode(errors="replace")
            if select.select([self.fd], [], [], 0.02)[0]:
                self.seen += os.read(self.fd, 4096)

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some arrays, and a `leakycli` that completes as ours does but writes down the words that it is run with."""
    np.save(tmp_path / "in.npy", np.ones(3, np.float32))
    arrays: dict[str, Any] = {"conv [1]": np.ones(3, np.float32), "labels": np.arange(3)}
    np.savez(tmp_path / "layers 1.npz", **arrays)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "leakycli"
    ours = f'PYTHONPATH="{os.pathsep.join(p for p in sys.path if p)}" exec "{sys.executable}" -m leakycli "$@"'
    program.write_text(
        f'#!/bin/sh\nif [ -n "$_LEAKYCLI_COMPLETE" ] || [ "$1" = completion ]; then {ours}; fi\n'
        f'printf "%s\\n" "$@" END >"{tmp_path}/words.part" && mv "{tmp_path}/words.part" "{tmp_path}/words"\n'
    )
    program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("shell", [installed(name) for name in SHELLS])
def test_a_shell_completes(shell: str, folder: Path) -> None:
    terminal = Terminal(shell, folder)
    try:
        for case, (line, expected) in CASES.items():
            (folder / "words").unlink(missing_ok=True)
            typed, rest = line.split("<TAB>")
            terminal.type(f"leakycli {typed}\t{rest}\r")
            terminal.wait_for((folder / "words").exists)
            assert (folder / "words").read_text().splitlines() == [*expected, "END"], case
    finally:
        terminal.close()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_variable_of_click_gives_the_same_script(shell: str, leakycli: Run) -> None:
    printed = leakycli("completion", shell)
    assert (printed.returncode, printed.stderr) == (0, b"")
    assert leakycli(env={"_LEAKYCLI_COMPLETE": f"{shell}_source"}).stdout == printed.stdout != b""


def test_a_wrong_instruction_is_a_usage_error(leakycli: Run) -> None:
    done = leakycli("apply", "a", "b", env={"_LEAKYCLI_COMPLETE": "1"})
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"_LEAKYCLI_COMPLETE" in done.stderr
    assert b"bash_source" in done.stderr
    assert b"Traceback" not in done.stderr


def candidates(leakycli: Run, line: str) -> list[str]:
    done = leakycli(env={"_LEAKYCLI_COMPLETE": "fish_complete", "COMP_LINE": line})
    assert (done.returncode, done.stderr) == (0, b"")
    return [item.split("\t")[1] for item in done.stdout.decode().splitlines()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("leakycli apply in.npy out.npy --only ", []),
        ("leakycli apply 'layers 1.npz' out.npz --only ", ["conv [1]", "labels"]),
        ("leakycli verify 'layers 1.npz' out.npz --skip=l", ["labels"]),
        ("leakycli apply - 'layers 1.npz' --only ", []),
        ("leakycli apply broken.npz out.npz --only ", []),
        ("leakycli apply fifo.npz out.npz --only ", []),
        ("leakycli apply s3://bucket/a.zarr out.zarr --only ", []),
    ],
)
def test_names_come_from_sources_that_can_be_read_at_once(leakycli: Run, folder: Path, line: str, expected: list[str]) -> None:
    (folder / "broken.npz").write_bytes(b"PK\3\4 broken")
    os.mkfifo(folder / "fifo.npz")
    assert candidates(leakycli, line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("leakycli comp", ["completion"]),
        ("leakycli completion ", ["bash", "zsh", "fish"]),
        ("leakycli apply --compressor gz", ["gzip:6"]),
        ("leakycli apply --memory 5", ["512M"]),
        ("leakycli apply --dtype int", ["int32", "int64"]),
        ("leakycli apply --strict --str", []),
        ("leakycli apply --skip x --ski", ["--skip"]),
    ],
)
def test_values_and_options_are_candidates(leakycli: Run, line: str, expected: list[str]) -> None:
    assert candidates(leakycli, line) == expected


def test_a_command_that_does_not_exist_is_answered_with_a_similar_one(leakycli: Run, folder: Path) -> None:
    for words, expected in (("aply", b"did you mean 'apply'?"), ("in.npy", b"leakycli apply SOURCE DEST"), ("x", b"apply, info, verify")):
        done = leakycli(*words.split())
        assert (done.returncode, done.stdout) == (2, b"")
        assert expected in done.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALPHA", "x"),
        ("DTYPE", "float17"),
        ("STRICT", "perhaps"),
        ("MEMORY", "much"),
        ("WORKERS", "0"),
        ("COMPRESSOR", "zip"),
        ("NAN", "7"),
    ],
)
def test_a_wrong_value_from_the_environment_names_its_variable(leakycli: Run, folder: Path, variable: str, value: str) -> None:
    name = f"LEAKYCLI_APPLY_{variable}"
    done = leakycli("apply", "layers 1.npz", "out.npz", "--only", "labels", env={name: value})
    assert (done.returncode, done.stdout) == (2, b"")
    assert name.encode() in done.stderr
