"""What the tests share: the command line as a real process, and where it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

# Timings never decide a test: a busy machine is no defect.
settings.register_profile("leakycli", deadline=None)
settings.load_profile("leakycli")

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]

SAMPLE_DATA = Path(__file__).parents[1] / "sample_data"


@pytest.fixture
def leakycli(tmp_path: Path) -> Run:
    """Run `leakycli ARGUMENTS...` in `tmp_path` as a process; returns its exit code and what it printed, as bytes."""

    def run(
        *arguments: str | Path, stdin: bytes | None = None, env: Mapping[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "leakycli", *(os.fspath(argument) for argument in arguments)],
            cwd=tmp_path,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            env={**os.environ, **(env or {})},
            capture_output=True,
            timeout=timeout,
        )

    return run
