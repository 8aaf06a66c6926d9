"""Publishing: DEST becomes real in one step or not at all, nothing else is touched, nothing is left beside it."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from leakycli import Options, apply, leaky_relu, system
from leakycli.cli import _run
from leakycli.destination.file import FileDestination
from leakycli.engine import events
from leakycli.errors import DifferenceError, LeakyError, SourceChangedError, StorageError, UsageError
from leakycli.formats.base import ArrayInfo
from leakycli.formats.npy import NpyTarget, header_bytes
from leakycli.tuning import Tuning
from tests.conftest import Run
from tests.formats.test_bad_input import snapshot
from tests.formats.test_npy import defined
from tests.promises.test_signals import Held, X

Hold = Callable[..., Held]

#: What is done has its line in the journal at once.
EAGER = Tuning(journal_seconds=0)

SMALL = np.linspace(-1, 1, 1000, dtype=np.float32)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with `in.npy` in it, which is also the working directory."""
    monkeypatch.chdir(tmp_path)
    np.save("in.npy", SMALL)
    return tmp_path


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Hold]:
    """Start a `Held` run in `tmp_path`."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **given: stack.enter_context(contextlib.closing(Held(tmp_path, *arguments, **given)))


@pytest.fixture
def large(here: Path) -> Path:
    """`large.npy`: three regions of float32, written some time ago. One worker reads the third when the first is done."""
    np.save("large.npy", np.linspace(-1, 1, 5_000_000, dtype=np.float32))
    os.utime("large.npy", (1e9, 1e9))
    return here


def interrupt() -> None:
    raise KeyboardInterrupt


class AtFirstRegion:
    """An observer that does something once, when the first region is done."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self.acted = False

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.RegionDone) and not self.acted:
            self.acted = True
            self._act()


def test_a_new_dest_has_the_permissions_of_any_new_file(here: Path) -> None:
    old = os.umask(0o027)
    try:
        apply("in.npy", "out.npy")
    finally:
        os.umask(old)
    for name in ("out.npy", "out.npy.report.json"):
        assert stat.S_IMODE(os.stat(name).st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o755])
def test_overwrite_replaces_a_file_and_keeps_its_permissions(here: Path, mode: int) -> None:
    Path("out.npy").write_bytes(b"old")
    Path("out.npy").chmod(mode)
    apply("in.npy", "out.npy", Options(overwrite=True))
    assert np.array_equal(np.load("out.npy"), defined(SMALL))
    assert stat.S_IMODE(os.stat("out.npy").st_mode) == mode
    assert sorted(os.listdir()) == ["in.npy", "out.npy", "out.npy.report.json"]


def test_overwrite_may_find_nothing_to_replace(here: Path) -> None:
    apply("in.npy", "out.npy", Options(overwrite=True))
    assert np.array_equal(np.load("out.npy"), defined(SMALL))


def test_overwrite_makes_a_new_file_and_never_writes_into_the_old_one(here: Path) -> None:
    Path("out.npy").write_bytes(b"old")
    os.link("out.npy", "backup.npy")
    with open("out.npy", "rb") as reader:
        apply("in.npy", "out.npy", Options(overwrite=True))
        assert reader.read() == b"old"
    assert Path("backup.npy").read_bytes() == b"old"


def test_the_old_content_stays_when_a_run_with_overwrite_fails(here: Path) -> None:
    apply("in.npy", "out.npy")
    Path("out.npy").chmod(0o600)
    np.save("nan.npy", np.array([np.nan]))
    np.save("huge.npy", np.array([1e300]))
    (here / "cut.npy").write_bytes(Path("in.npy").read_bytes()[:-1])
    before = snapshot(here)
    for source, options in (
        ("nan.npy", Options(dtype="int32", overwrite=True)),
        ("huge.npy", Options(dtype="float16", strict=True, overwrite=True)),
        ("cut.npy", Options(overwrite=True)),
    ):
        with pytest.raises(LeakyError):
            apply(source, "out.npy", options)
        assert snapshot(here) == before


@pytest.mark.parametrize("absolute", [False, True])
def test_a_link_as_dest_stays_and_its_target_is_replaced(here: Path, absolute: bool) -> None:
    (here / "far" / "away").mkdir(parents=True)
    target = Path("far/away/real.npy")
    target.write_bytes(b"old")
    os.symlink(here / target if absolute else target, "link.npy")
    os.symlink("link.npy", "out.npy")
    before = snapshot(here)
    assert _run(["apply", "in.npy", "out.npy", "--quiet"]) == 2
    assert snapshot(here) == before
    assert _run(["apply", "in.npy", "out.npy", "--quiet", "--overwrite"]) == 0
    assert Path("out.npy").is_symlink()
    assert Path("link.npy").is_symlink()
    assert not target.is_symlink()
    assert np.array_equal(np.load(target), defined(SMALL))
    assert os.listdir("far/away") == ["real.npy"]
    assert _run(["verify", "in.npy", "out.npy", "--quiet"]) == 0


def test_a_link_to_nothing_as_dest_makes_its_target(here: Path) -> None:
    (here / "far").mkdir()
    os.symlink("far/real.npy", "out.npy")
    apply("in.npy", "out.npy")
    assert Path("out.npy").is_symlink()
    assert os.listdir("far") == ["real.npy"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "socket"])
def test_what_is_no_file_is_not_replaced(here: Path, kind: str, overwrite: bool) -> None:
    if kind == "fifo":
        os.mkfifo("out.npy")
    elif kind == "folder":
        Path("out.npy").mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("out.npy")
    else:
        os.symlink("/dev/null", "out.npy")
    before = snapshot(here)
    with pytest.raises(LeakyError, match=r"not replaced, with or without") as caught:
        apply("in.npy", "out.npy", Options(overwrite=overwrite))
    assert caught.value.exit_code == 2
    assert snapshot(here) == before
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_dest_that_appears_during_the_run_is_not_replaced(hold: Hold, tmp_path: Path, kind: str) -> None:
    held = hold("out.npy")
    dest = tmp_path / "out.npy"
    if kind == "file":
        dest.write_bytes(b"someone else's")
    elif kind == "folder":
        dest.mkdir()
    else:
        dest.symlink_to("nowhere")
    before = snapshot(tmp_path)
    code, out, err = held.finish()
    assert (code, out) == (2, b"")
    assert err.startswith(b"leakycli: out.npy: ")
    assert err.count(b"\n") == 1
    after = snapshot(tmp_path)
    # The result is complete, and whoever sees to the name can have it.
    assert b"the result is kept as out.npy.partial: rename it" in err
    assert set(after) - {name for name in before if ".partial" not in name} == {"out.npy.partial", "out.npy.partial.journal"}
    assert {name: entry for name, entry in after.items() if ".partial" not in name} == {
        name: entry for name, entry in before.items() if ".partial" not in name
    }


def test_nothing_is_under_the_name_of_dest_until_it_is_complete(hold: Hold, tmp_path: Path) -> None:
    held = hold("out.npy", "--quiet")
    assert sorted(os.listdir(tmp_path)) == ["held.npy", "out.npy.partial", "out.npy.partial.journal"]
    assert held.finish() == (0, b"", b"")
    assert sorted(os.listdir(tmp_path)) == ["held.npy", "out.npy", "out.npy.report.json"]
    assert np.array_equal(np.load(tmp_path / "out.npy"), defined(X))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_run_to_one_dest_is_refused_while_the_first_lives(hold: Hold, leakycli: Run, tmp_path: Path, overwrite: bool) -> None:
    held = hold("out.npy", "--quiet")
    np.save(tmp_path / "in.npy", SMALL)
    (tmp_path / "same.npy").symlink_to("out.npy")
    for dest in ("out.npy", "same.npy"):
        done = leakycli("apply", "in.npy", dest, *["--overwrite"] * overwrite)
        assert done.returncode == 2
        assert done.stderr.startswith(b"leakycli: ")
        assert b"out.npy: another run" in done.stderr
        assert done.stderr.count(b"\n") == 1
    assert held.finish() == (0, b"", b"")
    assert np.array_equal(np.load(tmp_path / "out.npy"), defined(X))


def test_runs_to_other_names_are_not_held_up(hold: Hold, leakycli: Run, tmp_path: Path) -> None:
    held = hold("out.npy", "--quiet")
    np.save(tmp_path / "in.npy", SMALL)
    assert leakycli("apply", "in.npy", "other.npy").returncode == 0
    assert held.finish()[0] == 0


@pytest.mark.parametrize("how", ["--resume", "--overwrite"])
def test_a_killed_run_leaves_no_dest_and_does_not_hinder_the_next(hold: Hold, leakycli: Run, tmp_path: Path, how: str) -> None:
    held = hold("out.npy")
    held.process.send_signal(signal.SIGKILL)
    assert held.ended()[0] == -signal.SIGKILL
    assert not (tmp_path / "out.npy").exists()
    assert not (tmp_path / "out.npy.report.json").exists()
    np.save(tmp_path / "in.npy", SMALL)
    done = leakycli("apply", "in.npy", "out.npy")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"out.npy.partial (0% done); continue with --resume, or begin anew with --overwrite\n" in done.stderr
    done = leakycli("apply", "in.npy", "out.npy", "--quiet", how)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert np.array_equal(np.load(tmp_path / "out.npy"), defined(SMALL))
    assert sorted(os.listdir(tmp_path)) == ["held.npy", "in.npy", "out.npy", "out.npy.report.json"]


def test_what_a_longer_ended_run_left_does_not_get_into_the_result(large: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        apply("large.npy", "out.npy", Options(workers=1), AtFirstRegion(interrupt))
    with open("out.npy.partial", "ab") as file:
        file.write(b"x" * 100_000)
    with pytest.raises(UsageError, match="unfinished run"):
        apply("in.npy", "out.npy")
    apply("in.npy", "out.npy", Options(overwrite=True))
    apply("in.npy", "fresh.npy")
    assert Path("out.npy").read_bytes() == Path("fresh.npy").read_bytes()
    assert not list(large.glob("*.partial*"))


def test_a_link_under_the_temporary_name_is_not_followed(here: Path) -> None:
    Path("precious").write_bytes(b"precious")
    for name in ("out.npy.partial", "out.npy.report.json.partial"):
        os.symlink("precious", name)
    for left in ("out.npy.partial", "out.npy.report.json.partial"):
        for options in (Options(), Options(resume=True), Options(overwrite=True), Options(resume=True, overwrite=True)):
            with pytest.raises(UsageError, match=rf"{left}: is in the way, and was not made by leakycli"):
                apply("in.npy", "out.npy", options)
            assert Path(left).is_symlink()
        assert not Path("out.npy.partial.journal").exists()
        os.unlink(left)
    apply("in.npy", "out.npy", Options(overwrite=True))
    assert Path("precious").read_bytes() == b"precious"


def _replace_large() -> None:
    np.save("new.npy", np.zeros(5_000_000, np.float32))
    os.utime("new.npy", (1e9, 1e9))
    os.replace("new.npy", "large.npy")


def _poke() -> None:
    with open("large.npy", "r+b") as file:
        file.seek(10_000)
        file.write(b"\0\0\0\0")


def _append() -> None:
    with open("large.npy", "ab") as file:
        file.write(b"more")


CHANGES: dict[str, Callable[[], object]] = {
    "touched": lambda: os.utime("large.npy"),
    "altered": _poke,
    "longer": _append,
    "shorter": lambda: os.truncate("large.npy", 19_000_000),
    "much shorter": lambda: os.truncate("large.npy", 1_000_000),
    "empty": lambda: os.truncate("large.npy", 0),
    "another file of that name": _replace_large,
}


@pytest.mark.parametrize(("change", "overwrite"), [*((change, False) for change in CHANGES), ("altered", True), ("empty", True)])
def test_a_source_that_changes_during_the_run_fails_it(large: Path, change: str, overwrite: bool) -> None:
    if overwrite:
        Path("out.npy").write_bytes(b"old")
    before = {name: entry for name, entry in snapshot(large).items() if name != "large.npy"}
    observer = AtFirstRegion(CHANGES[change])
    with pytest.raises(SourceChangedError, match=r"^large\.npy: ") as caught:
        apply("large.npy", "out.npy", Options(workers=1, overwrite=overwrite), observer)
    assert observer.acted
    assert caught.value.exit_code == 1
    assert {name: entry for name, entry in snapshot(large).items() if name != "large.npy"} == before


def test_a_source_that_vanishes_during_the_run_fails_it(large: Path) -> None:
    with pytest.raises(StorageError, match=r"large\.npy") as caught:
        apply("large.npy", "out.npy", Options(workers=1), AtFirstRegion(lambda: os.unlink("large.npy")))
    assert caught.value.exit_code == 1
    assert sorted(os.listdir()) == ["in.npy", "out.npy.partial", "out.npy.partial.journal"]


def test_a_source_that_is_only_read_by_others_does_not_fail_the_run(large: Path) -> None:
    apply("large.npy", "out.npy", Options(workers=1), AtFirstRegion(lambda: Path("large.npy").read_bytes()))
    assert Path("out.npy").exists()


def test_the_source_is_not_touched(here: Path) -> None:
    os.utime("in.npy", (1e9, 1e9))
    os.chmod("in.npy", 0o400)
    before, content = os.stat("in.npy"), Path("in.npy").read_bytes()
    apply("in.npy", "out.npy")
    after = os.stat("in.npy")
    assert Path("in.npy").read_bytes() == content
    for field in ("st_ino", "st_mode", "st_size", "st_mtime_ns", "st_ctime_ns"):
        assert getattr(after, field) == getattr(before, field)


def test_the_report_is_beside_dest_by_default(here: Path) -> None:
    assert _run(["apply", "in.npy", "out.npy", "--quiet"]) == 0
    report = json.loads(Path("out.npy.report.json").read_bytes())
    assert (report["tool"], report["schema_version"]) == ("leakycli", 2)
    assert (report["source"]["path"], report["destination"]["path"]) == ("in.npy", "out.npy")
    assert report["arrays"][0]["before"]["count"] == 1000


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ((), ["out.npy.report.json"]),
        (("none",), []),
        (("none", "none"), []),
        (("more.json",), ["more.json", "out.npy.report.json"]),
        (("none", "more.json"), ["more.json"]),
        (("more.json", "none"), ["more.json"]),
        (("more.json", "and more.JSON"), ["and more.JSON", "more.json", "out.npy.report.json"]),
        (("folder/more.json",), ["folder/more.json", "out.npy.report.json"]),
        (("out.npy.report.json",), ["out.npy.report.json"]),
        (("./out.npy.report.json",), ["out.npy.report.json"]),
        (("more.json", "more.json"), ["more.json", "out.npy.report.json"]),
        (("more.json", "folder/../more.json"), ["more.json", "out.npy.report.json"]),
    ],
    ids=str,
)
def test_reports_are_where_they_were_asked_for(here: Path, given: tuple[str, ...], written: list[str]) -> None:
    (here / "folder").mkdir()
    report = apply("in.npy", "out.npy", Options(reports=given))
    assert sorted(name for name in snapshot(here) if name not in ("in.npy", "out.npy", "folder")) == written
    for path in written:
        assert Path(path).read_text() == report.to_json()


def test_a_result_on_standard_output_has_a_report_where_it_was_asked_for(leakycli: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", SMALL)
    done = leakycli("apply", "in.npy", "-", "--quiet", "--report", "report.json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(os.listdir(tmp_path)) == ["in.npy", "report.json"]
    assert json.loads((tmp_path / "report.json").read_bytes())["destination"]["identity"] is None


@pytest.mark.parametrize(
    ("report", "code"),
    [
        ("report.txt", 2),
        ("report", 2),
        ("report.json.gz", 2),
        ("None", 2),
        ("nowhere/report.json", 1),
        ("in.npy/report.json", 1),
        ("folder.json", 2),
    ],
)
def test_a_report_that_cannot_be_written_fails_before_anything_is_published(here: Path, report: str, code: int) -> None:
    (here / "folder.json").mkdir()
    before = snapshot(here)
    with pytest.raises(LeakyError) as caught:
        apply("in.npy", "out.npy", Options(reports=(report,)))
    assert report in str(caught.value)
    assert caught.value.exit_code == code
    assert snapshot(here) == before


@pytest.mark.parametrize("content", [b"", b"my notes", b"{}", b'{"tool": "other"}', b"\xff" * 1000])
def test_a_foreign_file_in_the_place_of_the_report_is_refused(here: Path, content: bytes) -> None:
    Path("out.npy.report.json").write_bytes(content)
    before = snapshot(here)
    with pytest.raises(LeakyError, match=r"out\.npy\.report\.json.*--report none") as caught:
        apply("in.npy", "out.npy")
    assert caught.value.exit_code == 2
    assert snapshot(here) == before
    apply("in.npy", "out.npy", Options(reports=("none",)))
    assert Path("out.npy.report.json").read_bytes() == content


def test_a_fifo_in_the_place_of_the_report_is_refused(leakycli: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", SMALL)
    os.mkfifo(tmp_path / "out.npy.report.json")
    for options in ((), ("--overwrite",)):
        done = leakycli("apply", "in.npy", "out.npy", *options, timeout=5)
        assert done.returncode == 2
        assert b"out.npy.report.json" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["in.npy", "out.npy.report.json"]


def test_a_stale_report_of_ours_is_replaced(here: Path) -> None:
    apply("in.npy", "out.npy", Options(alpha=0.5))
    os.unlink("out.npy")
    apply("in.npy", "out.npy", Options(alpha=0.25))
    assert json.loads(Path("out.npy.report.json").read_bytes())["parameters"]["alpha"] == 0.25


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64"])
def test_verify_is_noted_in_the_report(here: Path, dtype: str) -> None:
    assert apply("in.npy", "out.npy", Options(verify=True, dtype=dtype)).verified is True
    assert apply("in.npy", "other.npy").verified is False
    assert not list(here.glob("*.partial*"))


def test_verify_finds_what_was_not_written_as_computed(large: Path) -> None:
    def spoil() -> None:
        with open("out.npy.partial", "r+b") as file:
            file.seek(128 + 4 * 1000)
            file.write(b"\0\0\0\x80")

    with pytest.raises(DifferenceError, match=r"1 of 5000000 elements differ; the first at \[1000\]") as caught:
        apply("large.npy", "out.npy", Options(workers=1, verify=True), AtFirstRegion(spoil))
    assert caught.value.exit_code == 5
    assert sorted(os.listdir()) == ["in.npy", "large.npy"]


def test_a_limit_on_the_size_of_files_is_one_line_and_leaves_nothing(here: Path) -> None:
    np.save("large.npy", X)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    command = [sys.executable, "-m", "leakycli", "apply", "large.npy", "out.npy"]
    before = snapshot(here)
    done = subprocess.run(command, cwd=here, capture_output=True, preexec_fn=limit, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(b"leakycli: ")
    assert b"out.npy" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert b"Traceback" not in done.stderr
    assert snapshot(here) == before


@pytest.fixture
def small_disk(here: Path) -> Iterator[Path]:
    """A file system of 24 MiB, mounted as `disk`."""
    disk = here / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a file system of its own needs the right to mount one")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_too_small_is_refused_with_both_numbers(small_disk: Path, leakycli: Run) -> None:
    np.save("too_large.npy", np.zeros(7_000_000, np.float32))
    done = leakycli("apply", "too_large.npy", "disk/out.npy")
    assert done.returncode == 1
    assert done.stderr.startswith(b"leakycli: disk/out.npy: no space: 28000000 bytes")
    assert done.stderr.count(b"\n") == 1
    assert os.listdir(small_disk) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked to set room aside")
def test_room_for_a_large_result_is_set_aside_at_once(small_disk: Path) -> None:
    path, info = str(small_disk / "out.npy"), ArrayInfo("", (3 << 20,), np.dtype("float32"))
    NpyTarget(path).created(info).close()
    assert 512 * os.stat(path).st_blocks >= os.stat(path).st_size == len(header_bytes(info)) + info.nbytes


def test_room_that_an_ended_run_holds_is_not_asked_for_again(large: Path, small_disk: Path) -> None:
    """20 of 24 MB are held by what the run left: another 12 MB, which are to be written yet, would not fit."""

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply("large.npy", "disk/out.npy", Options(workers=1, tuning=EAGER), AtFirstRegion(stop))
    assert apply("large.npy", "disk/out.npy", Options(workers=1, resume=True)).resumed
    assert np.array_equal(np.load(small_disk / "out.npy"), leaky_relu(np.load("large.npy")))


def test_a_full_disk_that_is_not_the_results_is_told_by_its_file_alone(large: Path, small_disk: Path) -> None:
    with open(small_disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 12))
    with pytest.raises(StorageError, match=r"^cannot write disk/r\.json: No space left on device[^0-9]*$"):
        apply("large.npy", "out.npy", Options(reports=("disk/r.json",)))


def test_no_room_is_asked_for_that_is_set_aside_already(small_disk: Path) -> None:
    path, size = str(small_disk / "out.npy"), 10 << 20
    with open(path, "wb") as file:
        system.reserve(file.fileno(), size)
    destination = FileDestination(str(small_disk / "x.npy"))
    destination.partial = path
    assert destination._missing(size, 0, 0.5, reserved=True) == 0
    assert destination._missing(2 * size, 0, 0.75, reserved=True) == size
    # What else the file holds is no room for this.
    assert destination._missing(size, 0, 0.5, reserved=False) == size // 2


def test_room_that_is_gone_when_it_is_set_aside_is_an_error_at_once(small_disk: Path) -> None:
    path = str(small_disk / "out.npy")
    with pytest.raises(StorageError, match=r"cannot write .*disk/out\.npy: " + os.strerror(errno.ENOSPC)):
        NpyTarget(path).created(ArrayInfo("", (7_000_000,), np.dtype("float32")))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_disk_that_fills_up_during_the_run_is_an_error_that_loses_nothing(
    large: Path, small_disk: Path, overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a file system that does not set room aside.
    monkeypatch.setattr(system, "_RESERVED", math.inf)
    if overwrite:
        (small_disk / "out.npy").write_bytes(b"old")
    before = snapshot(small_disk)

    def fill() -> None:
        with open(small_disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 12))

    with pytest.raises(StorageError, match=r"disk/out\.npy.*: " + os.strerror(errno.ENOSPC)) as caught:
        apply("large.npy", "disk/out.npy", Options(workers=1, overwrite=overwrite, tuning=EAGER), AtFirstRegion(fill))
    assert caught.value.exit_code == 1
    assert str(caught.value).isprintable()
    (small_disk / "filler").unlink()
    assert {name: entry for name, entry in snapshot(small_disk).items() if ".partial" not in name} == before
    assert apply("large.npy", "disk/out.npy", Options(resume=True, overwrite=overwrite)).resumed
    assert np.array_equal(np.load(small_disk / "out.npy"), leaky_relu(np.load("large.npy")))
    assert sorted(os.listdir(small_disk)) == ["out.npy", "out.npy.report.json"]


def test_a_batch_does_not_write_over_the_source_of_another_job(leakycli: Run, tmp_path: Path) -> None:
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "in" / "a.npy", np.full(9, -1.0))
    np.save(tmp_path / "out" / "a.npy", np.full(9, -100.0))
    (tmp_path / "link.npy").symlink_to("out/a.npy")
    done = leakycli("apply", "--overwrite", "in/a.npy", "link.npy", "out/")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert (np.load(tmp_path / "out" / "a.npy") == -100).all()
    assert os.listdir(tmp_path / "out") == ["a.npy"]


def test_a_source_behind_a_redirected_stream_is_not_written_to(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.full(9, -1.0))
    before = (tmp_path / "s.npy").read_bytes()
    for line in ("apply --overwrite - s.npy <s.npy", "apply s.npy - >>s.npy"):
        done = subprocess.run(["sh", "-c", f'"$0" -m leakycli {line}', sys.executable], cwd=tmp_path, capture_output=True, timeout=60)
        assert done.returncode == 2, line
        assert (tmp_path / "s.npy").read_bytes() == before, line
    assert os.listdir(tmp_path) == ["s.npy"]


def test_to_must_agree_with_the_suffix_of_the_destination(leakycli: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    assert leakycli("apply", "a.npy", "b.npz", "--to", "npy").returncode == 2
    assert os.listdir(tmp_path) == ["a.npy"]


needs_unnamed = pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="files without a name are Linux's")


@needs_unnamed
def test_one_of_many_has_no_name_until_it_is_complete(here: Path) -> None:
    seen = AtFirstRegion(lambda: names.extend(os.listdir()))
    names: list[str] = []
    old = os.umask(0o027)
    try:
        report = apply("in.npy", "out.npy", observe=seen)
    finally:
        os.umask(old)
    # Whatever ends the run there leaves nothing.
    assert (seen.acted, names) == (True, ["in.npy"])
    assert sorted(os.listdir()) == ["in.npy", "out.npy", "out.npy.report.json"]
    assert [stat.S_IMODE(os.stat(name).st_mode) for name in ("out.npy", "out.npy.report.json")] == [0o640, 0o640]
    assert np.array_equal(np.load("out.npy"), defined(SMALL))
    assert json.loads(Path("out.npy.report.json").read_text()) == json.loads(report.to_json())
    kept = os.stat("out.npy")
    # It counts as done, as any other does.
    assert apply("in.npy", "out.npy", Options(resume=True)).arrays == report.arrays
    assert os.path.samestat(os.stat("out.npy"), kept)


@needs_unnamed
def test_one_of_many_replaces_nothing(here: Path) -> None:
    with pytest.raises(UsageError, match="appeared while this run worked"):
        apply("in.npy", "out.npy", observe=AtFirstRegion(lambda: Path("out.npy").write_text("other")))
    assert sorted(os.listdir()) == ["in.npy", "out.npy"]
    assert Path("out.npy").read_text() == "other"
    with pytest.raises(UsageError, match="exists; give --overwrite"):
        apply("in.npy", "out.npy")
    apply("in.npy", "out.npy", Options(overwrite=True))
    assert np.array_equal(np.load("out.npy"), defined(SMALL))


@needs_unnamed
def test_one_of_many_leaves_the_result_and_report_of_a_quicker_run(here: Path) -> None:
    with pytest.raises(UsageError, match="appeared while this run worked"):
        apply("in.npy", "out.npy", Options(alpha=0.5), AtFirstRegion(lambda: apply("in.npy", "out.npy")))
    assert np.array_equal(np.load("out.npy"), defined(SMALL))
    assert json.loads(Path("out.npy.report.json").read_text())["parameters"]["alpha"] == 0.2
    assert sorted(os.listdir()) == ["in.npy", "out.npy", "out.npy.report.json"]


@needs_unnamed
def test_one_of_many_replaces_the_report_of_a_result_that_is_gone(here: Path) -> None:
    apply("in.npy", "out.npy")
    os.unlink("out.npy")
    apply("in.npy", "out.npy", Options(alpha=0.5))
    assert json.loads(Path("out.npy.report.json").read_text())["parameters"]["alpha"] == 0.5


@needs_unnamed
def test_one_of_many_follows_a_link_to_another_file_system(here: Path) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == here.stat().st_dev:
        pytest.skip("one file system only")
    target = shm / f"leakycli-{os.getpid()}.npy"
    Path("out.npy").symlink_to(target)
    try:
        apply("in.npy", "out.npy")
        assert np.array_equal(np.load(target), defined(SMALL))
        assert sorted(os.listdir()) == ["in.npy", "out.npy", "out.npy.report.json"]
    finally:
        target.unlink(missing_ok=True)


@needs_unnamed
def test_what_fails_for_one_of_many_is_called_by_its_name(here: Path) -> None:
    np.save("large.npy", np.ones(100_000, np.float32))
    code = "import resource, leakycli, leakycli.errors; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
    code += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "try: leakycli.apply('large.npy', 'out.npy')\nexcept leakycli.errors.LeakyError as error: print(error)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("cannot write out.npy: ")
    assert "/proc" not in said
    assert sorted(os.listdir()) == ["in.npy", "large.npy"]


@needs_unnamed
def test_one_of_many_leaves_alone_what_another_run_left(here: Path) -> None:
    Path("out.npy.partial").write_text("left")
    with pytest.raises(UsageError, match="is in the way"):
        apply("in.npy", "out.npy")
    assert Path("out.npy.partial").read_text() == "left"


@needs_unnamed
def test_where_there_are_no_unnamed_files_one_of_many_is_made_as_any_other(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def refuse(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            refused.append(path)
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
        return opened(path, flags, *rest)

    opened = os.open
    monkeypatch.setattr(os, "open", refuse)
    apply("in.npy", "out.npy")
    assert refused
    assert np.array_equal(np.load("out.npy"), defined(SMALL))
    assert sorted(os.listdir()) == ["in.npy", "out.npy", "out.npy.report.json"]
