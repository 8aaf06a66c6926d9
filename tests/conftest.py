"""What the tests share: the command line as a real process, and where it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import settings

from leakycli.report import Report
from leakycli.report import json as report_json
from leakycli.tuning import Tuning, using
from tests.kit.schema import validate

# As users' processes are: with it, what is printed would never wait for a flush that may fail.
os.environ.pop("PYTHONUNBUFFERED", None)

# In the background of a script signals may be ignored, also by what is started from there, and tests send them.
for _signum in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, signal.default_int_handler if _signum == signal.SIGINT else signal.SIG_DFL)

# Timings never decide a test: a busy machine is no defect.
settings.register_profile("leakycli", deadline=None)
settings.load_profile("leakycli")

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]

#: Small arrays in many regions, and a line of the journal for each.
SMALL = Tuning(small_bytes=0, unit_bytes=1 << 12, region_units=2, region_bytes=1 << 13, journal_seconds=0, journal_seconds_flushed=0)

SAMPLE_DATA = Path(__file__).parents[1] / "sample_data"


@pytest.fixture
def leakycli(tmp_path: Path) -> Run:
    """Run `leakycli ARGUMENTS...` in `tmp_path` as a process; returns its exit code and what it printed, as bytes."""

    def run(
        *arguments: str | Path, stdin: bytes | None = None, env: Mapping[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [sys.executable, "-m", "leakycli", *(os.fspath(argument) for argument in arguments)],
            cwd=tmp_path,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            env={**os.environ, **(env or {})},
            capture_output=True,
            timeout=timeout,
        )
        for path in islice((*tmp_path.glob("*.report.json"), *tmp_path.glob("*/*.report.json")), 20):
            _validate_file(path)
        return done

    return run


def _validate_file(path: Path) -> None:
    """Hold a report to its schema; other files may have its name, in tests of just that."""
    # A FIFO would be waited for.
    if not path.is_file():
        return
    try:
        text = path.read_bytes()
    except OSError:
        return
    if text.startswith(b'{\n  "schema_version": 2'):
        validate(json.loads(text))


@pytest.fixture(autouse=True)
def valid_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold every report that this process writes as JSON to the schema that ships."""

    def rendered(report: Report) -> str:
        text = render(report)
        validate(json.loads(text))
        return text

    render = report_json.render
    monkeypatch.setattr(report_json, "render", rendered)


@pytest.fixture
def small_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, in which this process works in small regions and its journal has a line for each."""
    monkeypatch.chdir(tmp_path)
    with using(SMALL):
        yield tmp_path
