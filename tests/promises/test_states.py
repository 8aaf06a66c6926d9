"""The state machine of publishing: run A is killed at every change of a name, then run B with each command, then C. Never a wrong DEST.

A and B are killed just before, and so also just after, each system call that changes a name (rename, link, unlink, rmdir, mkdir), and each
line of the journal. Between them DEST is left alone, moved away, or touched.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from leakycli import Options, apply, leaky_relu
from leakycli.destination import file, rename, states
from leakycli.errors import LeakyError
from tests.kit.processes import ended, forked

X = np.random.default_rng(3).standard_normal((16, 512)).astype("f4")
OLD, NEW, OTHER = 0.7, 0.2, 0.4

COMMANDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "--resume": {"resume": True},
    "--overwrite": {"overwrite": True},
    "both": {"resume": True, "overwrite": True},
}


def _count_names(kill_at: int | None) -> Callable[[], int]:
    """Count what changes names, or writes to the journal, in this process, which kills itself just before the one of that number."""
    seen = 0

    def changing() -> None:
        nonlocal seen
        seen += 1
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(owner: Any, name: str) -> None:
        whole = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            changing()
            return whole(*arguments, **named)

        setattr(owner, name, call)

    for name in ("rename", "replace", "link", "unlink", "rmdir", "mkdir", "write", "ftruncate", "chmod"):
        watched(os, name)
    watched(rename, "_rename_flagged")
    return lambda: seen


def run(source: str, dest: str, options: Options, kill_at: int | None, exchanges: bool = True) -> int:
    """The number of changes of a run in a process of its own, or -1 where it was killed; 0 where it was refused."""

    def work() -> None:
        if not exchanges:
            rename._rename_flagged = lambda *_, **__: 38
        count = _count_names(kill_at)
        try:
            apply(source, dest, options)
        except LeakyError as error:
            Path("refused").write_text(str(error))
            os._exit(3)
        changes = count()
        Path("changes").write_text(str(changes))

    Path("refused").unlink(missing_ok=True)
    code = ended(forked(work))
    assert code in (0, 3, -signal.SIGKILL), Path("said").read_text()
    return -1 if code < 0 else 0 if code == 3 else int(Path("changes").read_text())


def values(dest: str) -> Any:
    """All elements of a result; None where there is none. In a process of its own for Zarr, whose threads do not survive a fork."""
    if not os.path.lexists(dest):
        return None
    if dest.endswith(".npy"):
        return np.load(dest)

    def read() -> None:
        found = zarr.open_array(zarr.storage.ZipStore(dest, mode="r") if dest.endswith(".zip") else dest, mode="r")
        np.save("values.npy", found[...])

    assert ended(forked(read)) == 0, Path("said").read_text()
    return np.load("values.npy")


def alpha_of(dest: str) -> float | None:
    """Which of the results DEST is; None for none at all. Anything else is a broken promise."""
    found = values(dest)
    if found is None:
        return None
    for alpha in (OLD, NEW, OTHER):
        if np.array_equal(found, leaky_relu(X, alpha)):
            return alpha
    raise AssertionError(f"{dest} is no whole result")


def make(folder: Path) -> None:
    np.save(folder / "in.npy", X)

    def chunks() -> None:
        zarr.create_array(folder / "in.zarr", data=X, chunks=(4, 512), compressors=())

    assert ended(forked(chunks)) == 0


def leave(dest: str, what: str) -> None:
    """What somebody does to DEST between two runs."""
    if not os.path.lexists(dest):
        return
    if what == "moved":
        shutil.rmtree("elsewhere", ignore_errors=True)
        Path("elsewhere").unlink(missing_ok=True)
        os.rename(dest, "elsewhere")
    elif what == "touched":
        os.utime(dest)
    elif what == "added to" and os.path.isdir(dest):
        Path(dest, "notes").write_text("notes")


def clear(dest: str) -> None:
    for name in os.listdir():
        if name.startswith(dest) or name == "elsewhere":
            shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)


def check(dest: str, before: float | None, allowed: set[float]) -> float | None:
    """DEST after a run: what it was, or a result of that run, whole; and no report that says something else of it."""
    found = alpha_of(dest)
    assert found == before or found in allowed, (found, before, allowed)
    return found


CASES = [("in.npy", "out.npy", True), ("in.zarr", "out.zarr", True), ("in.zarr", "out.zarr", False), ("in.zarr", "out.zarr.zip", True)]


PARAMETERS = [
    pytest.mark.parametrize("old", [False, True], ids=["new", "over an old one"]),
    pytest.mark.parametrize(("source", "dest", "exchanges"), CASES, ids=["npy", "zarr", "zarr, two moves", "zip"]),
]


@PARAMETERS[0]
@PARAMETERS[1]
def test_killed_at_every_name_then_every_command(small_regions: Path, source: str, dest: str, exchanges: bool, old: bool) -> None:
    killed_and_then(small_regions, source, dest, exchanges, old, most=5)


@pytest.mark.slow
@PARAMETERS[0]
@PARAMETERS[1]
def test_all_of_the_killed_at_every_name(small_regions: Path, source: str, dest: str, exchanges: bool, old: bool) -> None:
    killed_and_then(small_regions, source, dest, exchanges, old, most=1 << 20)


def killed_and_then(folder: Path, source: str, dest: str, exchanges: bool, old: bool, most: int) -> None:
    """At most so many trials, spread over all kills, commands, and what happens between runs."""
    make(folder)
    options = Options(overwrite=old, workers=1)

    def start() -> None:
        clear(dest)
        if old:
            assert run(source, dest, Options(alpha=OLD), None) > 0

    start()
    total = run(source, dest, options, None, exchanges)
    assert total > 5
    trials = list(itertools.product(range(1, total + 1), COMMANDS, ("left", "moved", "touched", "added to")))
    for kill_at, command, what in trials[len(source + dest) % 3 :: max(len(trials) // most, 1)]:
        start()
        before = OLD if old else None
        run(source, dest, options, kill_at, exchanges)
        then = alpha_of(dest) if os.path.lexists(dest) else None
        assert then in ({before, NEW} if exchanges else {before, NEW, None}), (kill_at, then)
        leave(dest, what)
        then = alpha_of(dest)
        given = Options(**COMMANDS[command], workers=1, alpha=OTHER if command in ("plain", "--overwrite") else NEW)
        # B is killed likewise, in the middle of what it does first; then it is let through, as C.
        run(source, dest, given, 1 + (kill_at * 7) % 9, exchanges)
        settled = {then, before, given.alpha, NEW}
        assert alpha_of(dest) in settled, (kill_at, command, what)
        done = run(
            source, dest, replace(given, resume=False, overwrite=command != "plain") if command == "--overwrite" else given, None, exchanges
        )
        found = alpha_of(dest)
        if done:
            # It says that it is done, and so DEST is what it was asked for.
            assert found == given.alpha, (kill_at, command, what, found)
            report = json.loads(Path(f"{dest}.report.json").read_bytes())
            assert report["parameters"]["alpha"] == given.alpha
            left = [name for name in os.listdir() if name.startswith(dest)]
            assert sorted(left) == sorted((dest, f"{dest}.report.json")), (kill_at, command, what)
        else:
            said = Path("refused").read_text()
            assert dest in said, said
            assert found in settled, (kill_at, command, what, said)
        # Whatever was refused, this is what it was said to be good for.
        assert run(source, dest, Options(overwrite=True, workers=1, alpha=OTHER), None, exchanges), (
            kill_at,
            command,
            what,
            Path("refused").read_text(),
        )
        assert alpha_of(dest) == OTHER
        left = [name for name in os.listdir() if name.startswith(dest)]
        assert sorted(left) == sorted((dest, f"{dest}.report.json")), (kill_at, command, what)


def test_the_table_of_states_is_in_the_docs() -> None:
    docs = Path(__file__).parents[2] / "docs" / "reliability.md"
    assert states.as_markdown() in docs.read_text()
    assert len(states.ROWS) == len(states.State)


def test_the_names_of_a_destination_are_what_its_state_is_judged_by(small_regions: Path) -> None:
    destination = file.FileDestination("out.zarr")
    assert set(destination.touched) >= {
        f"out.zarr{suffix}"
        for suffix in (
            "",
            ".partial",
            ".partial.folder",
            ".partial.spool",
            ".partial.journal",
            ".replaced",
            ".report.json",
            ".report.json.partial",
        )
    }
