"""What goes wrong below a run: disks that are full or fail, folders that go away; and that nothing is left behind in the process."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from leakycli import Options, apply
from leakycli.errors import CorruptError, DifferenceError, LeakyError, StorageError, UsageError
from tests.kit.observers import At, Stopped, end

X = np.random.default_rng(4).standard_normal((64, 512)).astype("f4")
FORMATS = ("npy", "npz", "zarr")


@pytest.fixture
def here(small_regions: Path) -> Path:
    """The current folder: a source of each format, which is worked on in small regions."""
    np.save("in.npy", X)
    np.savez("in.npz", x=X)
    zarr.create_array("in.zarr", data=X, chunks=(2, 512), compressors=())
    return small_regions


def small_disk(*points: str) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here, so that no disk can be made that fills up")
    command = ["unshare", "--map-root-user", "--mount", sys.executable, "-W", "ignore", "-m", "tests.promises.small_disk", *points]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" runs met a full disk and were completed\n")


def test_a_disk_that_fills_up_costs_nothing_that_is_done() -> None:
    small_disk("1", "4", "17", "50")


@pytest.mark.slow
def test_a_disk_that_fills_up_at_many_points() -> None:
    small_disk()


@pytest.mark.parametrize("dest", ["out.npy", "out.npz", "out.zarr", "out.zarr.zip"])
@pytest.mark.parametrize("call", ["pwrite", "preadv"])
def test_a_failing_disk_is_one_line_and_can_be_mended(here: Path, monkeypatch: pytest.MonkeyPatch, call: str, dest: str) -> None:
    """No disk fails on demand, so the system's calls are made to. Chunks are written elsewhere, by zarr."""
    if call == "pwrite" and ".zarr" in dest:
        pytest.skip("zarr has calls of its own")
    whole, calls, source = getattr(os, call), 0, "in.npz" if dest == "out.npz" else "in.npy"

    def failing(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise OSError(5, "Input/output error")
        return whole(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        with pytest.raises(StorageError) as caught:
            apply(source, dest, Options(chunks=(2, 512) if ".zarr" in dest else None))
    doing = f"cannot write {dest}" if call == "pwrite" else f"cannot read {source}"
    assert str(caught.value) == f"{doing}: Input/output error; what is done is kept: continue with --resume"
    assert not os.path.lexists(dest)
    assert apply(source, dest, Options(chunks=(2, 512) if ".zarr" in dest else None, resume=True, verify=True)).resumed
    assert not [name for name in os.listdir() if "partial" in name]


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_that_goes_away_fails_the_run(here: Path, format: str) -> None:
    os.mkdir("results")
    with pytest.raises(StorageError) as caught:
        apply(f"in.{format}", f"results/out.{format}", Options(workers=1), At(3, lambda: os.rename("results", "elsewhere")))
    assert "results/out." in str(caught.value)
    assert not os.path.lexists(f"results/out.{format}")
    # What is done is where it went to.
    shutil.rmtree("results", ignore_errors=True)
    os.rename("elsewhere", "results")
    apply(f"in.{format}", f"results/out.{format}", Options(resume=True, verify=True))
    assert sorted(os.listdir("results")) == [f"out.{format}", f"out.{format}.report.json"]


def test_a_source_that_gets_shorter_fails_the_run_for_good(here: Path) -> None:
    with pytest.raises(StorageError, match=r"in\.npy: ended at byte \d+: it became shorter while it was read"):
        apply("in.npy", "out.npy", Options(workers=1), At(3, lambda: os.truncate("in.npy", 60_000)))
    assert not [name for name in os.listdir() if name.startswith("out")]


class Calls:
    """What the system is asked to do to files, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, str]] = []
        self._patch = monkeypatch
        for name in ("fsync", "write"):
            self._watch(name, lambda fd, *_: os.path.relpath(os.readlink(f"/proc/self/fd/{fd}")))
        self._watch("replace", lambda _, new: os.path.relpath(new))
        self._watch_rename()

    def _watch(self, name: str, told: Callable[..., str]) -> None:
        whole = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.made.append((name, told(*arguments)))
            return whole(*arguments, **named)

        self._patch.setattr(os, name, call)

    def _watch_rename(self) -> None:
        from leakycli.destination import file

        whole = file.__dict__["rename_new"]

        def call(old: str, new: str) -> None:
            self.made.append(("rename", new))
            whole(old, new)

        self._patch.setattr(file, "rename_new", call)


@pytest.mark.parametrize("dest", ["out.npy", "out.npz", "out.zarr", "out.zarr.zip"])
def test_with_fsync_nothing_is_told_before_it_is_on_the_disk(here: Path, monkeypatch: pytest.MonkeyPatch, dest: str) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc to tell what is flushed")
    source = f"in.{dest.split('.')[1]}"
    with monkeypatch.context() as patched:
        made = Calls(patched).made
        apply(source, dest, Options(fsync=True, workers=1))
    lines = f"{dest}.partial.journal"
    told = [i for i, (call, path) in enumerate(made) if (call, path) == ("write", lines)]
    assert len(told) >= 5
    chunks = set()
    for i in told[:-1]:
        # The data before each line, the line itself after it.
        before = {path for call, path in made[:i] if call == "fsync"} - {lines}
        assert any(path.startswith(f"{dest}.partial") for path in before)
        assert made[i + 1] == ("fsync", lines)
        chunks = before
    if ".zarr" in dest:
        folder = f"{dest}.partial.folder" if dest.endswith("zip") else f"{dest}.partial"
        stored = {os.path.relpath(path).replace(dest, folder, 1) for path in Path(dest).rglob("*")} if dest == "out.zarr" else set()
        assert stored <= chunks | {path for call, path in made if call == "fsync"}
    published = made.index(("rename", dest))
    assert ("fsync", f"{dest}.partial") in made[:published]
    assert made[published + 1] == ("fsync", ".")
    assert made[-2:] == [("replace", f"{dest}.report.json"), ("fsync", ".")]
    assert ("fsync", f"{dest}.report.json.partial") in made[:published]


def test_without_fsync_nothing_is_flushed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        made = Calls(patched).made
        for suffix in FORMATS:
            apply(f"in.{suffix}", f"out.{suffix}")
    assert "fsync" not in {call for call, _ in made}


# Nothing is left in the process.


def _one_run(number: int) -> None:
    """One of several kinds of run, which succeeds, fails or is stopped."""
    suffix = FORMATS[number % 3]
    source, dest, kind = f"in.{suffix}", f"out.{suffix}", number // 3 % 6
    if kind == 0:
        apply(source, dest, Options(verify=True, workers=2))
    elif kind == 1:
        with pytest.raises(UsageError):
            apply(source, f"in.{suffix}")
    elif kind == 2:
        with pytest.raises(CorruptError):
            apply(f"bad.{suffix}", dest)
    elif kind == 3:
        with pytest.raises(Stopped):
            apply(source, dest, Options(workers=2), At(3, end))
        apply(source, dest, Options(resume=True))
    elif kind == 4:
        with pytest.raises((DifferenceError, LeakyError)):
            apply(source, dest, Options(verify=True, workers=1), At(5, lambda: _spoil(f"{dest}.partial")))
    else:
        apply(source, f"out.{FORMATS[(number + 1) % 3]}", Options(only=("*",)))
    for name in os.listdir():
        if name.startswith("out"):
            shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)


def _spoil(partial: str) -> None:
    if os.path.isdir(partial):
        Path(partial, "c", "0", "0").write_bytes(b"")
        return
    with open(partial, "r+b") as file:
        file.seek(300)
        file.write(b"\1\2\3\4")


def test_many_runs_leave_no_file_open_and_no_thread(here: Path) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc to count in")
    if "LEAKYCLI_TEST_ALONE" not in os.environ:
        # In a process of its own: what other tests of this one left open would be counted.
        name = f"{Path(__file__)}::test_many_runs_leave_no_file_open_and_no_thread"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", name]
        environment = {**os.environ, "LEAKYCLI_TEST_ALONE": "1"}
        done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout
        assert "1 passed" in done.stdout
        return
    Path("bad.npy").write_bytes(b"\x93NUMPY nonsense")
    data = bytearray(Path("in.npz").read_bytes())
    data[9000] ^= 1
    Path("bad.npz").write_bytes(data)
    shutil.copytree("in.zarr", "bad.zarr")
    Path("bad.zarr/c/3/0").write_bytes(b"short")
    before_run = sorted(os.listdir())
    counts = []
    for number in range(218):
        if number in (18, 217):
            gc.collect()
            counts.append((len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), threading.active_count()))
        _one_run(number)
        assert sorted(os.listdir()) == before_run
    # Fewer is no leak: threads that earlier tests of this process left may end meanwhile.
    assert all(later <= earlier for earlier, later in zip(*counts, strict=True)), counts
