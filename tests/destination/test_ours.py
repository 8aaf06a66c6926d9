"""Nothing that is not ours is touched: sources, what others put under our names, links; and what a result lets others read."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from leakycli import Options, apply, leaky_relu
from leakycli.cli import _run
from leakycli.destination import file, rename
from leakycli.destination.names import Names, check_jobs
from leakycli.engine import events
from leakycli.errors import LeakyError, StorageError, UsageError
from tests.formats.test_bad_input import snapshot
from tests.kit.observers import StopAfter, Stopped
from tests.kit.processes import ended, forked

X = np.linspace(-1, 1, 64 * 512, dtype=np.float32).reshape(64, 512)

COMMANDS = (Options(), Options(resume=True), Options(overwrite=True), Options(resume=True, overwrite=True))


@pytest.fixture
def here(small_regions: Path) -> Path:
    np.save("in.npy", X)
    zarr.create_array("in.zarr", data=X, chunks=(4, 512), compressors=())
    return small_regions


def stop(source: str, dest: str, **options: Any) -> None:
    with pytest.raises(Stopped):
        apply(source, dest, Options(workers=1, **options), StopAfter(5))
    assert os.path.lexists(f"{dest}.partial.journal")


# Sources.


@pytest.mark.parametrize(
    "suffix", ["", ".partial", ".partial.folder", ".partial.spool", ".partial.journal", ".replaced", ".report.json.partial"]
)
@pytest.mark.parametrize("inside", ["", "/layer1", "/a/b"])
@pytest.mark.parametrize("linked", [False, True])
def test_no_name_of_a_job_is_or_holds_the_source_of_another(here: Path, suffix: str, inside: str, linked: bool) -> None:
    source = f"out/in.zarr{suffix}{inside}"
    shutil.copytree("in.zarr", source)
    if linked:
        os.symlink(source, "link.zarr")
    before = snapshot(here)
    assert _run(["apply", "--overwrite", "-q", "in.zarr", "link.zarr" if linked else source, "out/"]) == 2
    assert snapshot(here) == before


def test_no_result_lies_in_the_source_of_another_job(here: Path) -> None:
    shutil.copytree("in.zarr", "out")
    before = snapshot(here)
    with pytest.raises(UsageError, match="holds or lies in the source"):
        check_jobs([("out", "else.zarr"), ("in.npy", "out/in.npy")])
    with pytest.raises(UsageError, match="would lie in"):
        check_jobs([("in.zarr", "a.zarr"), ("in.npy", "a.zarr/b.npy")])
    assert snapshot(here) == before


def test_the_check_of_a_batch_is_linear_in_its_jobs(here: Path) -> None:
    jobs = [(f"{i}.npy", f"out/{i % 100}/{i}.npy") for i in range(20_000)]
    check_jobs(jobs)
    with pytest.raises(UsageError, match="would both become"):
        check_jobs([*jobs, ("x.npy", "out/0/0.npy")])


# What others put under our names.


def roles() -> list[str]:
    return [os.path.basename(path) for path in Names("out.zarr").made.values()]


@pytest.mark.parametrize("name", roles())
@pytest.mark.parametrize("kind", ["file", "folder", "link", "store", "fifo"])
def test_what_was_not_made_by_a_run_is_refused_by_name_and_kept(here: Path, name: str, kind: str) -> None:
    Path("precious").write_text("precious")
    if kind == "file":
        Path(name).write_text("notes")
    elif kind == "folder":
        Path(name).mkdir()
        Path(name, "notes").write_text("notes")
    elif kind == "store":
        shutil.copytree("in.zarr", name)
    elif kind == "fifo":
        os.mkfifo(name)
    else:
        os.symlink("precious", name)
    before = snapshot(here)
    for options in COMMANDS:
        with pytest.raises(UsageError, match=rf"{name}: is in the way"):
            apply("in.zarr", "out.zarr", options)
        assert snapshot(here) == before


@pytest.mark.parametrize("content", [b"notes", b"0", b"01234567", b'01234567 {"beg', b"notes" * 1000])
@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_is_no_journal_is_neither_emptied_nor_removed(here: Path, content: bytes, linked: bool) -> None:
    Path("keep").write_bytes(content)
    os.link("keep", "out.npy.partial.journal") if linked else shutil.copy("keep", "out.npy.partial.journal")
    for options in COMMANDS:
        with pytest.raises(UsageError, match=r"out\.npy\.partial\.journal: is in the way"):
            apply("in.npy", "out.npy", options)
        assert Path("keep").read_bytes() == Path("out.npy.partial.journal").read_bytes() == content


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda name: os.symlink("nowhere", name)], ids=["folder", "fifo", "link"])
def test_what_is_no_file_in_the_place_of_the_journal_is_refused(here: Path, make: Callable[[str], object]) -> None:
    make("out.npy.partial.journal")
    before = snapshot(here)
    for options in COMMANDS:
        with pytest.raises(UsageError, match=r"out\.npy\.partial\.journal: is in the way"):
            apply("in.npy", "out.npy", options)
        assert snapshot(here) == before


@pytest.mark.parametrize("kind", ["link", "file", "folder"])
@pytest.mark.parametrize(("source", "dest"), [("in.npy", "out.npy"), ("in.zarr", "out.zarr"), ("in.zarr", "out.zarr.zip")])
def test_what_is_put_in_the_place_of_a_partial_result_is_not_written_to(here: Path, source: str, dest: str, kind: str) -> None:
    stop(source, dest)
    partial = f"{dest}.partial.folder" if dest.endswith("zip") else f"{dest}.partial"
    shutil.copytree("in.zarr", "victim") if dest != "out.npy" else Path("victim").write_bytes(b"precious" * 100_000)
    shutil.rmtree(partial) if os.path.isdir(partial) else os.unlink(partial)
    # On many file systems the new one gets the inode number of the one that was just removed.
    if kind == "link":
        os.symlink("victim", partial)
    elif kind == "file":
        Path(partial).write_bytes(b"precious" * 100_000)
    else:
        os.mkdir(partial)
        Path(partial, "notes").write_text("notes")
    before = snapshot(here)
    for options in COMMANDS:
        with pytest.raises(UsageError, match=rf"{partial}: is in the way"):
            apply(source, dest, options)
        assert snapshot(here) == before


def test_a_link_in_the_place_of_a_chunk_is_not_followed(here: Path) -> None:
    stop("in.zarr", "out.zarr")
    Path("victim").write_bytes(b"precious")
    for number in range(16):
        chunk = Path(f"out.zarr.partial/c/{number}/0")
        if number > 8:
            chunk.parent.mkdir(parents=True, exist_ok=True)
            chunk.unlink(missing_ok=True)
            chunk.symlink_to(here / "victim")
    apply("in.zarr", "out.zarr", Options(resume=True, verify=True))
    assert Path("victim").read_bytes() == b"precious"
    assert not any(path.is_symlink() for path in Path("out.zarr").rglob("*"))


def test_a_partial_result_that_was_cut_off_is_begun_anew(here: Path) -> None:
    stop("in.npy", "out.npy")
    os.truncate("out.npy.partial", 1000)
    assert not apply("in.npy", "out.npy", Options(resume=True)).resumed
    assert np.array_equal(np.load("out.npy"), leaky_relu(X))


def test_a_name_too_long_for_what_is_beside_it_is_refused_before_anything_is_written(here: Path) -> None:
    for length in (236, 255 - 4):
        name = "n" * length + ".npy"
        with pytest.raises(UsageError, match="beside it would have"):
            apply("in.npy", name)
    assert sorted(os.listdir()) == ["in.npy", "in.zarr"]


def test_a_report_in_the_store_that_is_replaced_is_refused(here: Path) -> None:
    apply("in.zarr", "out.zarr")
    before = snapshot(here)
    for report in ("out.zarr/r.json", "out.zarr/c/r.json"):
        with pytest.raises(UsageError, match="lies in the destination"):
            apply("in.zarr", "out.zarr", Options(overwrite=True, reports=(report,)))
    assert snapshot(here) == before


# Who may read a result.


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("bits", [0o600, 0o640, 0o644, 0o444, 0o400])
@pytest.mark.parametrize("brief", [False, True])
def test_a_new_result_has_the_permissions_of_its_source_less_the_umask(here: Path, bits: int, brief: bool) -> None:
    os.chmod("in.npy", bits)
    old = os.umask(0o022)
    try:
        apply("in.npy", "out.npy", Options(fsync=not brief))
    finally:
        os.umask(old)
    assert mode("out.npy") == bits & ~0o022
    assert mode("out.npy.report.json") == bits & ~0o022


def test_nobody_else_can_read_a_private_result_while_it_is_written(here: Path) -> None:
    os.chmod("in.npy", 0o600)
    os.chmod("in.zarr", 0o700)
    Path("old.npy").write_bytes(b"old")
    os.chmod("old.npy", 0o600)
    seen: list[int] = []

    def look(event: events.Event) -> None:
        if isinstance(event, events.RegionDone):
            seen.extend(mode(name) & 0o077 for name in os.listdir() if ".partial" in name)

    apply("in.npy", "out.npy", observe=look)
    os.chmod("in.npy", 0o644)
    apply("in.npy", "old.npy", Options(overwrite=True), look)
    apply("in.zarr", "out.zarr", observe=look)
    apply("in.zarr", "out.zarr.zip", observe=look)
    assert set(seen) == {0}
    assert [
        mode(name) & 0o077 for name in ("out.npy", "old.npy", "old.npy.report.json", "out.zarr", "out.zarr.zip", "out.zarr.report.json")
    ] == [0] * 6


def test_a_private_store_that_is_replaced_stays_private(here: Path) -> None:
    apply("in.zarr", "out.zarr")
    for path in (Path("out.zarr"), *Path("out.zarr").rglob("*"), Path("out.zarr.report.json")):
        path.chmod(path.stat().st_mode & 0o700)
    zarr.create_array("gzip.zarr", data=X, chunks=(4, 512))
    for source in ("in.zarr", "gzip.zarr"):
        apply(source, "out.zarr", Options(overwrite=True))
        assert not any(
            path.stat().st_mode & 0o077 for path in (Path("out.zarr"), *Path("out.zarr").rglob("*"), Path("out.zarr.report.json"))
        )


@pytest.mark.parametrize("dest", ["out.npy", "out.zarr"])
def test_an_access_control_list_is_kept(here: Path, dest: str) -> None:
    source = f"in.{dest.split('.')[1]}"
    apply(source, dest)
    # user::rw-, user:12345:r--, group::---, mask::r--, other::---
    entries = [(1, 6, -1), (2, 4, 12345), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
    acl = b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + (who & 0xFFFFFFFF).to_bytes(4, "little") for tag, bits, who in entries
    )
    try:
        os.setxattr(dest, "system.posix_acl_access", acl)
    except (OSError, AttributeError):
        pytest.skip("no access control lists here")
    before = os.getxattr(dest, "system.posix_acl_access"), mode(dest)
    apply(source, dest, Options(overwrite=True, alpha=0.5))
    assert (os.getxattr(dest, "system.posix_acl_access"), mode(dest)) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_of_what_is_replaced_is_kept(here: Path) -> None:
    apply("in.npy", "out.npy")
    os.chown("out.npy", 1234, 2345)
    apply("in.npy", "out.npy", Options(overwrite=True))
    assert (os.stat("out.npy").st_uid, os.stat("out.npy").st_gid) == (1234, 2345)


# File systems that lack something.


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM])
@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("dest", ["out.npy", "out.zarr", "out.zarr.zip"])
def test_without_the_renames_that_are_wanted_a_result_is_published_all_the_same(
    here: Path, monkeypatch: pytest.MonkeyPatch, code: int, links: bool, dest: str
) -> None:
    monkeypatch.setattr(rename, "_rename_flagged", lambda *_, **__: code)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    source = "in.npy" if dest == "out.npy" else "in.zarr"
    for options in (Options(), Options(overwrite=True, alpha=0.5)):
        apply(source, dest, options)
        assert not [name for name in os.listdir() if "partial" in name or "replaced" in name]
    Path("new.npy").write_bytes(b"")
    with pytest.raises(FileExistsError):
        rename.rename_new("in.npy", "new.npy")


def test_without_one_kind_of_lock_the_other_is_taken_and_without_both_it_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    apply("in.npy", "out.npy")
    monkeypatch.setattr(fcntl, "lockf", refuse)
    before = snapshot(here)
    with pytest.raises(StorageError, match="has no locks"):
        apply("in.npy", "other.npy")
    assert snapshot(here) == before


def test_a_file_system_that_does_not_tell_its_size_is_written_to(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255)))
    apply("in.npy", "out.npy")


# What stays is told of.


def test_what_cannot_be_removed_is_told_of_and_removed_later(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply("in.zarr", "out.zarr")
    whole = file.__dict__["remove"]

    def refuse(path: str) -> None:
        if path == "out.zarr.partial":
            shutil.rmtree("out.zarr.partial/c/0")
            raise StorageError(f"cannot remove {path}: Operation not permitted")
        whole(path)

    with monkeypatch.context() as patched:
        patched.setattr(file, "remove", refuse)
        with pytest.raises(
            StorageError, match=r"out\.zarr is done, but cannot remove out\.zarr\.partial: .*remove it by hand, or run again with --resume"
        ):
            apply("in.zarr", "out.zarr", Options(overwrite=True, alpha=0.5))
    with pytest.raises(UsageError, match="--resume tidies up"):
        apply("in.zarr", "out.zarr", Options(alpha=0.5))
    assert apply("in.zarr", "out.zarr", Options(resume=True, alpha=0.5)).parameters["alpha"] == 0.5
    assert sorted(os.listdir()) == ["in.npy", "in.zarr", "out.zarr", "out.zarr.report.json"]


@pytest.mark.parametrize(("source", "dest"), [("in.npy", "out.npy"), ("in.zarr", "out.zarr")])
@pytest.mark.parametrize("step", ["rename_new", "exchange"])
def test_a_signal_while_publishing_waits_until_all_is_done(here: Path, source: str, dest: str, step: str) -> None:
    if step == "exchange":
        if dest != "out.zarr":
            pytest.skip("only folders are exchanged")
        apply(source, dest, Options(alpha=0.5))
    code = (
        "import os, signal, threading\n"
        "from leakycli.destination import file\n"
        "whole = file.STEP\n"
        "def step(*names):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    for _ in range(1000): pass\n"
        "    return whole(*names)\n"
        "file.STEP = step\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "from leakycli.cli import main; main()\n"
    ).replace("STEP", step)
    signals = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        signals + code,
        "apply",
        source,
        dest,
        "-q",
        # Not as a small file, which has no name before it is complete.
        *(["--overwrite"] if step == "exchange" else ["--fsync"]),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -2, done.stderr
    assert done.stderr == f"leakycli: interrupted by SIGINT; {dest} is complete\n"
    assert sorted(os.listdir()) == ["in.npy", "in.zarr", dest, f"{dest}.report.json"]
    assert apply(source, dest, Options(resume=True)).parameters["alpha"] == 0.2


def test_an_interrupt_of_a_library_s_user_waits_as_well(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    whole = file.__dict__["rename_new"]

    def step(old: str, new: str) -> None:
        signal.raise_signal(signal.SIGINT)
        whole(old, new)

    monkeypatch.setattr(file, "rename_new", step)
    with pytest.raises(KeyboardInterrupt):
        apply("in.npy", "out.npy")
    assert sorted(os.listdir()) == ["in.npy", "in.zarr", "out.npy", "out.npy.report.json"]


def test_a_usage_error_in_the_middle_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def __call__(self, event: events.Event) -> None:
            if isinstance(event, events.RegionDone):
                raise UsageError("found late")

    before = snapshot(here)
    with pytest.raises(LeakyError, match="found late"):
        apply("in.npy", "out.npy", Options(), Wrong())
    assert snapshot(here) == before


def test_a_report_that_was_begun_in_the_place_of_another_is_begun_again(here: Path) -> None:
    # Killed after its report was made, then again after that of the next run was made and before the journal told of it.
    made = file.FileDestination._new_report
    for number in range(2):

        def killed(self: file.FileDestination, path: str, own: bool, number: int = number) -> str:
            if number:
                self.journal.made = lambda *_: os._exit(9)  # type: ignore[method-assign]
            made(self, path, own)
            os._exit(9)

        def work(killed: Callable[..., Any] = killed, resume: bool = bool(number)) -> None:
            file.FileDestination._new_report = killed  # type: ignore[method-assign]
            apply("in.zarr", "out.zarr", Options(resume=resume))

        assert ended(forked(work)) == 9
        assert os.path.getsize("out.zarr.report.json.partial") == 0
    apply("in.zarr", "out.zarr", Options(resume=True))
    assert sorted(name for name in os.listdir() if name.startswith("out")) == ["out.zarr", "out.zarr.report.json"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_one_of_many_small_files_is_published_where_no_file_gets_a_second_name(
    here: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: Any, **named: Any) -> None:
        raise OSError(code, os.strerror(code))

    np.save("small.npy", X[:4])
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(rename, "_rename_flagged", lambda *_, **__: errno.EINVAL)
    apply("small.npy", "out.npy")
    assert np.array_equal(np.load("out.npy"), leaky_relu(X[:4]))
    assert sorted(name for name in os.listdir() if name.startswith("out")) == ["out.npy", "out.npy.report.json"]
    assert _run(["verify", "small.npy", "out.npy"]) == 0
    with pytest.raises(UsageError, match="exists"):
        apply("small.npy", "out.npy")


def test_a_name_beside_the_destination_is_told_as_it_is(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leakycli.engine import job

    with job.Job("in.zarr", "out.zarr.zip", Options()) as found:
        assert found._named("cannot read out.zarr.zip.partial.folder/c: x") == "cannot read out.zarr.zip.partial.folder/c: x"
        assert found._named("cannot write out.zarr.zip.partial: x") == "cannot write out.zarr.zip: x"
