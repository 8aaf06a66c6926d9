"""Runs that are killed, and gone on from: at every change that they make to the disk, and at any moment.

    python -m tests.promises.crash                       a short run: a few places of each kind
    python -m tests.promises.crash --points 60 --moments 30 --seed 1

Each trial is a process of its own. It is killed with SIGKILL just before the k-th change to the disk (the opening, writing, renaming,
removing of a file, a line of the journal), or after a part of the time that an undisturbed run takes; a part of the trials is killed
a second time, while it goes on. What must hold then: DEST is absent, the old one or the new one, and whole; --resume ends; after it
there is what an undisturbed run leaves, and nothing else.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.codecs

import leakycli
import leakycli.formats.npz
import leakycli.formats.zarr
from leakycli import Options
from leakycli.destination import rename
from leakycli.tuning import Tuning
from tests.kit.processes import ended, forked

#: Small arrays in many regions, and a line for each.
TUNING = Tuning(small_bytes=0, unit_bytes=1 << 12, region_units=2, region_bytes=1 << 13, journal_seconds=0, journal_seconds_flushed=0)
SHAPE = (96, 256)


@dataclass(frozen=True)
class Case:
    """Something to apply, and to what. plain: on a system that can only rename."""

    name: str
    source: str
    dest: str
    options: Options = field(default_factory=Options)
    plain: bool = False


CASES = (
    Case("npy", "a.npy", "out.npy", Options(dtype="float16")),
    Case("npy, flushed", "a.npy", "out.npy", Options(fsync=True)),
    Case("npz stored", "stored.npz", "out.npz", Options(only=("x*",))),
    Case("npz deflated", "deflated.npz", "out.npz", Options(only=("x*",))),
    Case("zarr raw", "raw.zarr", "out.zarr"),
    Case("zarr raw, flushed", "raw.zarr", "out.zarr", Options(fsync=True, verify=True)),
    Case("zarr sharded", "sharded.zarr", "out.zarr"),
    Case("zarr group", "group.zarr", "out.zarr", Options(dtype="float64")),
    Case("zarr zip", "group.zarr", "out.zarr.zip"),
    Case("npz to zarr", "deflated.npz", "out.zarr", Options(only=("x*",), compressor="none")),
    Case("npy, plain", "a.npy", "out.npy", plain=True),
    Case("zarr raw, plain", "raw.zarr", "out.zarr", plain=True),
    Case("zarr to npz", "group.zarr", "out.npz", Options(only=("*",), compressor="deflate")),
)


def make_sources(folder: Path, shape: tuple[int, int] = SHAPE) -> None:
    """The sources of all cases."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal(shape).astype("f4")
    x[0, :7] = np.nan, np.inf, -np.inf, 0, -0.0, 1e-40, -1e38
    np.save(folder / "a.npy", x)
    arrays: dict[str, Any] = {"x0": x, "labels": np.arange(5000), "x1": x[::-1].copy(), "x2": np.asfortranarray(x), "x3": x[:3]}
    np.savez(folder / "stored.npz", **arrays)
    np.savez_compressed(folder / "deflated.npz", **arrays)
    zarr.create_array(folder / "raw.zarr", data=x, chunks=(8, 256), compressors=())
    zarr.create_array(folder / "sharded.zarr", data=x, chunks=(8, 64), shards=(16, 256))
    group = zarr.create_group(folder / "group.zarr", attributes={"a": 1})
    group.create_array("x/y", data=x, chunks=(10, 256))
    group.create_array("labels", data=np.arange(400), chunks=(30,))
    half = group.create_array("z", shape=shape, dtype="f4", chunks=(8, 64), fill_value=-1)
    half[20:40] = x[20:40]
    zarr.consolidate_metadata(folder / "group.zarr")


# A run in a process of its own.


def run(case: Case, source: Path, kill_at: int | None = None, count_to: str | None = None) -> int:
    """Apply in the current folder; killed just before the change number `kill_at`. count_to: a file for the number of changes."""

    def work() -> None:
        if case.plain:
            rename._rename_flagged = lambda *_, **__: errno.ENOSYS
        counted = _watched(kill_at)
        leakycli.apply(str(source / case.source), case.dest, replace(case.options, tuning=TUNING))
        if count_to is not None:
            changes = counted()
            Path(count_to).write_text(str(changes))

    return forked(work)


def _watched(kill_at: int | None) -> Callable[[], int]:
    """Count the changes that this process makes to the disk; it kills itself just before one."""
    changes = 0

    def changing(*_: object) -> None:
        nonlocal changes
        changes += 1
        if changes == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def audited(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link") or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            changing()

    def watched(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            changing()
            return original(*arguments, **named)

        setattr(owner, name, call)

    sys.addaudithook(audited)
    for owner, name in ((os, "pwrite"), (os, "write"), (os, "fsync"), (rename, "_rename_flagged")):
        watched(owner, name)
    return lambda: changes


# What is there.


def files(path: Path) -> Any:
    """The bytes of a file, or of every file in a folder; None where there is nothing."""
    if not path.is_dir():
        return path.read_bytes() if path.exists() else None
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def content(path: Path) -> Any:
    """All that a result is made of: its files; of shards, the order of whose chunks is left to chance, the values."""
    found = files(path)
    if isinstance(found, dict) and b"sharding_indexed" in found.get("zarr.json", b""):
        # In a process of its own: what zarr starts does not survive the forks to come.
        check(ended(forked(lambda: Path("values").write_bytes(np.asarray(zarr.open_array(path, mode="r")[...]).tobytes()))) == 0, said())
        found = {name: data if name == "zarr.json" else b"" for name, data in found.items()} | {"": Path("values").read_bytes()}
        os.unlink("values")
    return found


def statistics(dest: str) -> Any:
    """What a report says but for what may differ between runs."""
    report = json.loads(Path(f"{dest}.report.json").read_bytes())
    for array in report["arrays"]:
        assert array["action"] == "copied" or array["before"]["count"] > 0
    destination = {key: value for key, value in report["destination"].items() if key != "identity"}
    return [report["arrays"], report["parameters"], report["source"], destination, report["verified"], report["warnings"]]


class BrokenError(Exception):
    """A promise that was not kept."""


def check(condition: bool, what: str) -> None:
    if not condition:
        raise BrokenError(what)


@dataclass
class Expected:
    """What an undisturbed run gives, how many changes it makes, and how long it takes."""

    content: Any
    statistics: Any
    changes: int
    seconds: float


def undisturbed(case: Case, source: Path) -> Expected:
    with in_folder():
        started = time.perf_counter()
        check(ended(run(case, source, count_to="changes")) == 0, said())
        seconds = time.perf_counter() - started
        return Expected(content(Path(case.dest)), statistics(case.dest), int(Path("changes").read_text()), seconds)


def said() -> str:
    return Path("said").read_text() if os.path.exists("said") else "it ended without a word"


@contextlib.contextmanager
def in_folder() -> Iterator[Path]:
    """In a new folder."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="leakycli-crash-") as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def trial(case: Case, source: Path, expected: Expected, old: Any, rng: random.Random, at: int | float) -> tuple[str, bool]:
    """One run that is killed: before the change number `at`, or after `at` seconds.

    Returns how DEST was then, and whether what was done was gone on from.
    """
    with in_folder():
        if old is not None:
            case = replace(case, options=replace(case.options, overwrite=True))
            write(Path(case.dest), old)
        kill(run(case, source, at if isinstance(at, int) else None), at)
        state = seen(case, expected, old)
        resumed = replace(case, options=replace(case.options, resume=True))
        if rng.random() < 0.4:
            again = rng.randint(1, expected.changes)
            kill(run(resumed, source, again), again)
            seen(case, expected, old)
        check(ended(run(resumed, source)) == 0, f"--resume failed: {said()}")
        check(content(Path(case.dest)) == expected.content, "DEST is not what an undisturbed run gives")
        check(statistics(case.dest) == expected.statistics, "the report is not that of an undisturbed run")
        left = sorted(os.listdir())
        check(left == sorted((case.dest, f"{case.dest}.report.json")), f"left: {left}")
        return state, json.loads(Path(f"{case.dest}.report.json").read_bytes())["resumed"]


def kill(pid: int, at: int | float) -> None:
    if isinstance(at, float):
        time.sleep(at)
        os.kill(pid, signal.SIGKILL)
    check(ended(pid) in (0, -signal.SIGKILL), said())


def seen(case: Case, expected: Expected, old: Any) -> str:
    """How DEST is after the kill."""
    found = files(Path(case.dest))
    if found == old:
        return "absent" if old is None else "old"
    if case.plain and found is None and files(Path(f"{case.dest}.replaced")) == old:
        # Where the system cannot exchange two names, the next run mends it.
        return "replaced"
    check(content(Path(case.dest)) == expected.content, "DEST is neither absent, nor the old one, nor the new one")
    return "new"


def write(path: Path, old: Any) -> None:
    if isinstance(old, bytes):
        path.write_bytes(old)
        return
    for name, data in old.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


def old_result(case: Case, source: Path) -> Any:
    """Another result, as an earlier run with other parameters would have left it."""
    with in_folder():
        check(ended(run(replace(case, options=replace(case.options, alpha=0.7)), source)) == 0, said())
        return files(Path(case.dest))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.promises.crash")
    parser.add_argument("--points", type=int, default=5, help="changes to the disk at which each case is killed, with and without DEST")
    parser.add_argument("--moments", type=int, default=1, help="moments at which each case is killed, with and without DEST")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="of cases whose name has this in it")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    broken = total = resumed = 0
    with tempfile.TemporaryDirectory(prefix="leakycli-crash-") as folder:
        source = Path(folder)
        check(ended(forked(lambda: make_sources(source))) == 0, said())
        for case in CASES:
            if given.only and given.only not in case.name:
                continue
            expected = undisturbed(case, source)
            for old in (None, old_result(case, source)):
                # The last changes are those of publishing: none of them is left out.
                last = range(max(expected.changes - 24, 1), expected.changes + 1)
                points: list[int | float] = rng.sample(last, min(max(given.points // 2, 1), len(last)))
                points += [rng.randint(1, expected.changes) for _ in range(given.points - len(points))]
                points += [rng.random() * expected.seconds for _ in range(given.moments)]
                states: collections.Counter[str] = collections.Counter()
                for at in points:
                    total += 1
                    try:
                        state, gone_on = trial(case, source, expected, old, rng, at)
                        states[state] += 1
                        resumed += gone_on
                    except BrokenError as error:
                        broken += 1
                        print(f"BROKEN {case.name}, {'over an old one, ' if old is not None else ''}killed at {at}: {error}")
                told = ", ".join(f"{state} {count}" for state, count in sorted(states.items()))
                kind = "over an old one" if old is not None else "new"
                print(f"{case.name:18} {kind:16} {expected.changes:4} changes, {len(points):3} killed; DEST then: {told}", flush=True)
    print(f"{total} runs killed; --resume went on from what was done in {resumed}, began anew in the others; {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
