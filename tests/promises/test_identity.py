"""No mixed and no stale result: what is read is the same all the time, and what is taken as done is what it was."""

from __future__ import annotations

import base64
import ctypes
import errno
import itertools
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from leakycli import Options, apply, leaky_relu, system
from leakycli.api import recorded_parameters
from leakycli.cli import _run
from leakycli.destination import journal
from leakycli.errors import FlushError, LeakyError, SourceChangedError, StorageError, UsageError
from leakycli.formats import zipfile as z
from leakycli.report.saved import saved_report
from tests.kit.observers import At, Stopped, end

X = np.linspace(-1, 1, 64 * 512, dtype=np.float32).reshape(64, 512)


def stop(source: str, dest: str, **options: Any) -> None:
    with pytest.raises(Stopped):
        apply(source, dest, Options(workers=1, **options), At(6, end))
    assert os.path.lexists(f"{dest}.partial.journal")


@pytest.fixture
def here(small_regions: Path) -> Path:
    np.save("in.npy", X)
    np.savez("in.npz", x=X)
    zarr.create_array("in.zarr", data=X, chunks=(4, 512), compressors=())
    return small_regions


def _rewrite(number: int) -> None:
    """A chunk is another, of the same size, at the same time."""
    path = f"in.zarr/c/{number}/0"
    before = os.stat(path)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _exchange() -> None:
    if not os.path.exists("other.zarr"):
        shutil.copytree("in.zarr", "other.zarr")
    assert ctypes.CDLL(None).renameat2(-100, b"in.zarr", -100, b"other.zarr", 2) == 0


def _there_and_back() -> None:
    _exchange()
    _exchange()


def _swap_folder() -> None:
    shutil.copytree("in.zarr/c", "in.zarr/d")
    os.rename("in.zarr/c", "in.zarr/e")
    os.rename("in.zarr/d", "in.zarr/c")
    shutil.rmtree("in.zarr/e")


def _npy_in_place() -> None:
    before = os.stat("in.npy")
    with open("in.npy", "r+b") as opened:
        opened.seek(128)
        opened.write(b"\0" * 64)
    os.utime("in.npy", ns=(before.st_atime_ns, before.st_mtime_ns))


def _npz_in_place() -> None:
    before = os.stat("in.npz")
    Path("in.npz").write_bytes(Path("in.npz").read_bytes())
    os.utime("in.npz", ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, tuple[str, Callable[[], object]]] = {
    "a chunk that was read": ("zarr", lambda: _rewrite(0)),
    "a chunk that is to be read": ("zarr", lambda: _rewrite(15)),
    "another store in its place": ("zarr", _exchange),
    "another store in its place for a while": ("zarr", _there_and_back),
    "another folder of chunks": ("zarr", _swap_folder),
    "a file in place, its time kept": ("npy", _npy_in_place),
    "an archive in place, its time kept": ("npz", _npz_in_place),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_gives_no_result(here: Path, change: str) -> None:
    suffix, act = CHANGES[change]
    with pytest.raises(SourceChangedError, match="changed while it was read"):
        apply(f"in.{suffix}", f"out.{suffix}", Options(workers=1), At(6, act))
    assert not [name for name in os.listdir() if name.startswith("out")]


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changed_between_two_runs_is_not_resumed(here: Path, change: str) -> None:
    suffix, act = CHANGES[change]
    stop(f"in.{suffix}", f"out.{suffix}")
    act()
    with pytest.raises(UsageError, match=r"the unfinished run was another: source\."):
        apply(f"in.{suffix}", f"out.{suffix}", Options(resume=True))
    assert not os.path.lexists(f"out.{suffix}")


@pytest.mark.parametrize("change", CHANGES)
def test_a_result_of_a_source_that_changed_is_not_taken_as_done(here: Path, change: str) -> None:
    suffix, act = CHANGES[change]
    apply(f"in.{suffix}", f"out.{suffix}")
    act()
    with pytest.raises(UsageError, match=r"its report is of another run \(source\."):
        apply(f"in.{suffix}", f"out.{suffix}", Options(resume=True))


def test_other_arrays_of_a_store_may_change_when_they_are_not_read(here: Path) -> None:
    group = zarr.create_group("group.zarr")
    for name in ("a", "b"):
        group.create_array(name, data=X, chunks=(4, 512), compressors=())
    act = At(3, lambda: Path("group.zarr/b/c/0/0").write_bytes(bytes(8192)))
    apply("group.zarr", "out.npy", Options(only=("a",), workers=1), act)
    assert np.array_equal(np.load("out.npy"), leaky_relu(X))
    with pytest.raises(SourceChangedError):
        apply("group.zarr", "out.zarr", Options(only=("a",), workers=1), At(3, lambda: Path("group.zarr/b/c/0/0").write_bytes(bytes(8192))))


RESULTS: dict[str, Callable[[], object]] = {
    "all chunks gone": lambda: shutil.rmtree("out.zarr/c"),
    "one chunk gone": lambda: os.unlink("out.zarr/c/7/0"),
    "a chunk cut off": lambda: os.truncate("out.zarr/c/7/0", 100),
    "a file more": lambda: Path("out.zarr/c/99").write_bytes(b"more"),
    "a chunk changed": lambda: Path("out.zarr/c/3/0").write_bytes(bytes(8192)),
}


@pytest.mark.parametrize("change", RESULTS)
def test_a_result_that_was_changed_is_not_taken_as_done(here: Path, change: str) -> None:
    apply("in.zarr", "out.zarr")
    assert recorded_parameters("out.zarr") is not None
    RESULTS[change]()
    with pytest.raises(UsageError, match="it was changed since its report was written"):
        apply("in.zarr", "out.zarr", Options(resume=True))
    assert recorded_parameters("out.zarr") is None
    apply("in.zarr", "out.zarr", Options(resume=True, overwrite=True, verify=True))


def test_a_complete_result_that_was_changed_before_it_got_its_name_is_not_published(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leakycli.destination import file

    def stopped(*_: str) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(file, "rename_new", stopped)
        with pytest.raises(Stopped):
            apply("in.zarr", "out.zarr")
    os.unlink("out.zarr.partial/c/7/0")
    with pytest.raises(UsageError, match=r"out\.zarr\.partial: was changed since it was completed; begin anew with --overwrite"):
        apply("in.zarr", "out.zarr", Options(resume=True))
    apply("in.zarr", "out.zarr", Options(overwrite=True, verify=True))


@pytest.mark.parametrize("lost", [1, 3])
def test_chunks_that_went_missing_from_what_a_run_left_are_missed(here: Path, lost: int) -> None:
    stop("in.zarr", "out.zarr")
    for number in range(lost):
        os.unlink(f"out.zarr.partial/c/{number}/0")
    with pytest.raises(UsageError, match=rf"out\.zarr\.partial: {lost} chunks? of an earlier run went missing.*run again"):
        apply("in.zarr", "out.zarr", Options(resume=True))
    assert not [name for name in os.listdir() if name.startswith("out")]
    apply("in.zarr", "out.zarr", Options(resume=True, verify=True))


# What cannot be flushed, or listed.


@pytest.mark.parametrize("dest", ["out.npy", "out.npz", "out.zarr", "out.zarr.zip"])
@pytest.mark.parametrize("after", [1, 3, 6])
def test_nothing_is_built_on_what_could_not_be_flushed(here: Path, monkeypatch: pytest.MonkeyPatch, dest: str, after: int) -> None:
    """The system tells of it once; what was written since may be lost."""
    whole, calls = os.fsync, 0
    source = f"in.{dest.split('.')[1]}"

    def failing(fd: int) -> None:
        nonlocal calls
        path = os.readlink(f"/proc/self/fd/{fd}")
        if os.path.isfile(path) and ".partial" in path and not path.endswith(".journal"):
            calls += 1
            if calls == after:
                os.truncate(path, os.path.getsize(path) // 2)
                raise OSError(errno.EIO, "Input/output error")
        whole(fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(FlushError, match="cannot flush"):
            apply(source, dest, Options(fsync=True, workers=1))
    assert calls == after
    assert not [name for name in os.listdir() if name.startswith("out")]
    assert not apply(source, dest, Options(fsync=True, resume=True, verify=True)).resumed


def _watched(name: str, whole: Callable[..., Any], made: list[tuple[str, str]]) -> Callable[..., Any]:
    """A call of `os`, which adds to `made` its name and that of its file."""

    def call(fd: int, *rest: Any) -> Any:
        made.append((name, os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
        return whole(fd, *rest)

    return call


def test_a_spool_is_flushed_before_a_line_relies_on_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(6).standard_normal((512, 4096)).astype("f4")
    zarr.create_array("a.zarr", data=x, chunks=(512, 16), compressors=())
    made: list[tuple[str, str]] = []
    for name in ("fsync", "write"):
        monkeypatch.setattr(os, name, _watched(name, getattr(os, name), made))
    options = Options(fsync=True, compressor="deflate:1", memory=system.resident() + (36 << 20), workers=1)
    with pytest.raises(Stopped):
        apply("a.zarr", "out.npz", options, At(9, end))
    told = [i for i, (name, path) in enumerate(made) if (name, path) == ("write", "out.npz.partial.journal")]
    assert len(told) > 5
    for before, line in itertools.pairwise(told[1:]):
        assert ("fsync", "out.npz.partial.spool") in made[before:line]


@pytest.mark.parametrize("name", ["c", "c/3", ""])
def test_a_folder_that_cannot_be_listed_is_no_empty_one(here: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    os.makedirs("folder/c/3")
    Path("folder/c/3/0").write_bytes(b"chunk")
    whole = os.scandir

    def failing(path: Any) -> Any:
        if os.path.normpath(path) == os.path.normpath(f"folder/{name}"):
            raise OSError(errno.ESTALE, "Stale file handle", path)
        return whole(path)

    # Undone before the test's folder is removed, which lists it.
    with monkeypatch.context() as patched, pytest.raises(StorageError, match=r"cannot read folder.*: Stale file handle"):
        patched.setattr(os, "scandir", failing)
        z.pack("folder", "out.zarr.zip")


# Journals and reports that somebody made up.


def lines_of(path: str) -> list[dict[str, Any]]:
    return [json.loads(line[9:]) for line in Path(path).read_bytes().splitlines()]


def write_lines(path: str, records: list[Any]) -> None:
    data = b""
    for record in records:
        text = json.dumps(record, separators=(",", ":")).encode()
        data += b"%08x %s\n" % (zlib.crc32(text), text)
    Path(path).write_bytes(data)


WRONG: list[Any] = [None, True, -1, 10**400, 1 << 70, 0.5, "x", "\x1b[2J", [], [1], {}, {"a": 1}, [[[]]]]


def paths_in(value: Any, path: tuple[Any, ...] = (), most: int = 2) -> Iterator[tuple[Any, ...]]:
    """Every place in JSON values, but of long lists only the first `most` items."""
    yield path
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))[:most] if isinstance(value, list) else []
    for key, item in items:
        yield from paths_in(item, (*path, key), most)


def get(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def put(value: Any, path: tuple[Any, ...], item: Any) -> Any:
    if not path:
        return item
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = put(copied[path[0]], path[1:], item)
    return copied


@pytest.mark.parametrize(("source", "dest"), [("in.npy", "out.npy"), ("in.npz", "out.npz"), ("in.zarr", "out.zarr")])
def test_a_journal_that_was_made_up_is_an_error_or_does_no_harm(
    here: Path, source: str, dest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    stop(source, dest)
    lines = lines_of(f"{dest}.partial.journal")
    kept = {name: Path(name).read_bytes() for name in os.listdir() if name.startswith(dest) and os.path.isfile(name)}
    shutil.copytree(f"{dest}.partial", "kept") if os.path.isdir(f"{dest}.partial") else None
    places = [(i, path) for i in (0, len(lines) - 1) for path in paths_in(lines[i])]
    refused = done = 0
    for number, (i, path) in enumerate(places):
        for wrong in WRONG[number % 3 :: 3]:
            for name, data in kept.items():
                Path(name).write_bytes(data)  # into the same file, which the journal knows
            write_lines(f"{dest}.partial.journal", put(lines, (i, *path), wrong))
            options = Options(resume=True, workers=1)
            try:
                apply(source, dest, options)
                done += 1
            except LeakyError as error:
                assert str(error).isprintable(), (path, wrong)
                refused += 1
            if os.path.lexists(dest):
                os.rename(dest, f"{dest}.partial")  # the same file, whose identity stays
                os.unlink(f"{dest}.report.json")
            if not os.path.lexists(f"{dest}.partial"):
                for name in os.listdir():
                    if name.startswith(dest):
                        os.unlink(name)
                stop(source, dest)
                lines = lines_of(f"{dest}.partial.journal")
                kept = {name: Path(name).read_bytes() for name in os.listdir() if name.startswith(dest) and os.path.isfile(name)}
    assert refused > 10
    assert done + refused > 100


@pytest.mark.parametrize("kind", ["member", "reached"])
def test_numbers_that_no_run_gives_are_not_in_a_report(here: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    np.savez("two.npz", a=X[:4], b=X)
    stop("two.npz", "out.npz")
    lines, kept = lines_of("out.npz.partial.journal"), Path("out.npz.partial").read_bytes()
    last = max(i for i, line in enumerate(lines) if kind in line)
    result = (kind, "result") if kind == "member" else (kind, "result", "stats")
    stats = (*result, 0) if kind == "member" else result
    places = [(*stats, *path) for path in paths_in(get(lines[last], stats), most=20) if path]
    assert len(places) > 20
    if kind == "member":
        others = [(*result, *path) for path in paths_in(get(lines[last], result)) if path[:1] not in ((), (0,))]
        places += others[:: max(len(others) // 10, 1)]
    undisturbed = apply("two.npz", "other.npz").arrays
    refused = 0
    for number, path in enumerate(places):
        for item in (-1, 1 << 62, WRONG[number % len(WRONG)]):
            if os.path.lexists("out.npz"):
                os.rename("out.npz", "out.npz.partial")
                os.unlink("out.npz.report.json")
            if not os.path.lexists("out.npz.partial"):
                stop("two.npz", "out.npz")
                lines = lines_of("out.npz.partial.journal")
                last = max(i for i, line in enumerate(lines) if kind in line)
            Path("out.npz.partial").write_bytes(kept)  # into the same file, which the journal knows
            write_lines("out.npz.partial.journal", [*lines[:last], put(lines[last], path, item)])
            try:
                found = apply("two.npz", "out.npz", Options(resume=True, workers=1)).arrays
            except LeakyError as error:
                assert str(error).isprintable(), (path, item)
                assert "in the way" not in str(error)
                refused += 1
                continue
            for array, expected in zip(found, undisturbed, strict=True):
                for side, as_it_is in ((array.before, expected.before), (array.after, expected.after)):
                    assert side is not None
                    assert as_it_is is not None
                    signs = (side.missing, side.negative, side.zero, side.positive, side.nan)
                    assert side.count == as_it_is.count == sum(signs), (path, item)
                    assert min(signs) >= 0, (path, item)
                    assert side.histogram is None or min(side.histogram.counts, default=0) >= 0, (path, item)
    assert refused > 20


def test_a_report_that_was_made_up_is_an_error_or_is_passed_over(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    apply("in.npy", "out.npy")
    whole = json.loads(Path("out.npy.report.json").read_bytes())
    for number, path in enumerate(paths_in(whole)):
        for wrong in WRONG[number % 3 :: 3]:
            Path("out.npy.report.json").write_text(json.dumps(put(whole, path, wrong), indent=2))
            codes = _run(["verify", "in.npy", "out.npy"]), _run(["apply", "in.npy", "out.npy", "--resume"])
            said = "".join(capfd.readouterr())
            assert codes[0] in (0, 2, 4, 5), (path, wrong, said)
            assert codes[1] in (0, 2), (path, wrong, said)
            assert "defect" not in said, (path, wrong, said)
            assert "\x1b" not in said, (path, wrong)


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "large", "deep"])
def test_what_is_no_report_in_the_place_of_one_hinders_nobody(here: Path, kind: str) -> None:
    apply("in.npy", "out.npy", Options(reports=("none",)))
    at = "out.npy.report.json"
    if kind == "fifo":
        os.mkfifo(at)
    elif kind == "folder":
        os.mkdir(at)
    elif kind == "device":
        os.symlink("/dev/zero", at)
    elif kind == "large":
        with open(at, "wb") as opened:
            opened.truncate(1 << 40)
    else:
        Path(at).write_text("[" * 1_000_000)
    assert saved_report(at) is None
    assert _run(["verify", "in.npy", "out.npy", "--quiet"]) == 0


# The journal's size.


def test_a_long_journal_is_read_one_line_after_the_other(here: Path) -> None:
    import tracemalloc

    stop("in.npy", "out.npy")
    lines = Path("out.npy.partial.journal").read_bytes().splitlines(keepends=True)
    record = json.loads([line for line in lines if b'{"reached"' in line][-1][9:])
    record["reached"]["padding"] = "x" * 200_000
    told = record["reached"]["result"]
    told |= {"sample_from": told["sample_from"] + len(base64.b64decode(told["sample"])) // X.itemsize, "sample": ""}
    text = json.dumps(record, separators=(",", ":")).encode()
    with open("out.npy.partial.journal", "r+b") as opened:
        opened.seek(0, os.SEEK_END)
        for _ in range(100):
            opened.write(b"%08x %s\n" % (zlib.crc32(text), text))
        fd = opened.fileno()
        opened.flush()
        tracemalloc.start()
        try:
            past = journal.Journal(fd, flush=False).load()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert past is not None
        assert past.reached is not None
    assert peak < 3_000_000
    assert apply("in.npy", "out.npy", Options(resume=True)).resumed


def test_lines_come_ever_more_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    fd = os.open(tmp_path / "lines", os.O_RDWR | os.O_CREAT)
    try:
        kept = journal.Journal(fd, flush=False)
        kept.begin({}, 100, {})
        for step in range(36_000):
            now = step / 10
            kept.reached(journal.Reached("x", None, step, None, None, 0), lambda: None)
        os.lseek(fd, 0, os.SEEK_SET)
        lines = os.read(fd, 1 << 24).count(b"\n")
    finally:
        os.close(fd)
    # One in 0.1 s for 10 s, then one in a hundredth of the time.
    assert 300 < lines < 800
