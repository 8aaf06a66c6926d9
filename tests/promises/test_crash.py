"""Runs that are killed at every kind of place, and gone on from; see `tests/promises/crash.py` for the long version."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def crash(*arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "tests.promises.crash", *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_what_was_killed_is_gone_on_from() -> None:
    said = crash("--points", "3", "--moments", "1", "--seed", "7")
    assert " 0 broken" in said.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_what_was_killed_is_gone_on_from_at_many_places(seed: str) -> None:
    crash("--points", "40", "--moments", "10", "--seed", seed)
