"""What an ended run leaves, and going on from there: the journal, what is refused, what is skipped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr
import zarr.codecs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakycli import Options, apply, leaky_relu, system
from leakycli.destination import journal
from leakycli.engine import events
from leakycli.engine.transform import ArrayResult, Progress, RegionResult
from leakycli.errors import CorruptError, DifferenceError, StorageError, UsageError
from leakycli.function.kernel import Kernel
from leakycli.function.rule import Rule
from leakycli.function.stats import BlockStats
from tests.conftest import SMALL, Run
from tests.kit.observers import StopAfter, Stopped

X = np.random.default_rng(9).standard_normal((64, 512)).astype("f4")


class Told:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.regions: list[events.RegionDone] = []

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.RegionDone):
            self.regions.append(event)


@pytest.fixture
def here(small_regions: Path) -> Path:
    """An empty current folder but for `in.npy`, with a journal that has a line for each small region."""
    np.save("in.npy", X)
    return small_regions


def stop(source: str, dest: str, regions: int = 5, **options: Any) -> None:
    """A run that ends after so many regions."""
    with pytest.raises(Stopped) as caught:
        apply(source, dest, Options(**options), StopAfter(regions))
    assert caught.value.__notes__ == ["what is done is kept: continue with --resume"]


def arrays(dest: str) -> Any:
    return json.loads(Path(f"{dest}.report.json").read_bytes())["arrays"]


def undisturbed(source: str, dest: str, **options: Any) -> Any:
    """What the report of a run that nobody stops says of its arrays; its result is removed."""
    apply(source, dest, Options(**options))
    said = arrays(dest)
    for name in (dest, f"{dest}.report.json"):
        os.rename(name, f"expected-{name}")
    return said


def test_a_run_goes_on_where_it_was_stopped(here: Path) -> None:
    expected = undisturbed("in.npy", "out.npy")
    stop("in.npy", "out.npy")
    assert sorted(os.listdir()) == [
        "expected-out.npy",
        "expected-out.npy.report.json",
        "in.npy",
        "out.npy.partial",
        "out.npy.partial.journal",
    ]
    # What is done is not done again: it stays as it is, whatever that be.
    with open("out.npy.partial", "r+b") as file:
        file.seek(128)
        file.write(b"done")
    told = Told()
    report = apply("in.npy", "out.npy", Options(resume=True), told)
    assert report.resumed
    assert arrays("out.npy") == expected
    assert Path("out.npy").read_bytes()[128:132] == b"done"
    assert Path("out.npy").read_bytes()[132:] == Path("expected-out.npy").read_bytes()[132:]
    # The first event is for what was done before.
    assert told.regions[0].bytes_in == 5 * (1 << 13)
    assert sum(region.bytes_in for region in told.regions) == X.nbytes
    assert sorted(os.listdir()) == sorted(["expected-out.npy", "expected-out.npy.report.json", "in.npy", "out.npy", "out.npy.report.json"])


@pytest.mark.parametrize("regions", [1, 2, 7, 15])
@pytest.mark.parametrize(("workers", "then"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_any_number_of_workers_may_go_on(here: Path, regions: int, workers: int, then: int) -> None:
    expected = undisturbed("in.npy", "out.npy", dtype="float16")
    stop("in.npy", "out.npy", regions, workers=workers, dtype="float16")
    apply("in.npy", "out.npy", Options(workers=then, resume=True, dtype="float16"))
    assert arrays("out.npy") == expected
    assert Path("out.npy").read_bytes() == Path("expected-out.npy").read_bytes()


def test_without_resume_what_was_left_is_refused_and_kept(here: Path) -> None:
    stop("in.npy", "out.npy", 8)
    before = {name: Path(name).read_bytes() for name in os.listdir()}
    with pytest.raises(UsageError, match=r"out\.npy: an unfinished run left out\.npy\.partial \(50% done\); continue with --resume, or"):
        apply("in.npy", "out.npy")
    assert {name: Path(name).read_bytes() for name in os.listdir()} == before
    report = apply("in.npy", "out.npy", Options(overwrite=True))
    assert not report.resumed
    assert np.array_equal(np.load("out.npy"), leaky_relu(X))
    assert sorted(os.listdir()) == ["in.npy", "out.npy", "out.npy.report.json"]


CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "alpha": ({"alpha": 0.3}, "parameters.alpha was 0.2, and is 0.3"),
    "dtype": ({"dtype": "float64"}, "parameters.dtype was None, and is float64"),
    "strict": ({"strict": True}, "parameters.strict was False, and is True"),
    "only": ({"only": ("*",)}, "parameters.only was [], and is ['*']"),
}


@pytest.mark.parametrize("change", CHANGED)
def test_another_run_is_not_taken_for_the_same(here: Path, change: str) -> None:
    stop("in.npy", "out.npy")
    before = {name: Path(name).read_bytes() for name in os.listdir()}
    options, said = CHANGED[change]
    with pytest.raises(UsageError) as caught:
        apply("in.npy", "out.npy", Options(resume=True, **options))
    assert said in str(caught.value)
    assert {name: Path(name).read_bytes() for name in os.listdir()} == before


def test_a_source_that_was_changed_is_not_gone_on_with(here: Path) -> None:
    stop("in.npy", "out.npy")
    os.utime("in.npy", ns=(5, 5))
    with pytest.raises(UsageError, match=r"source\.mtime_ns was \d+, and is 5"):
        apply("in.npy", "out.npy", Options(resume=True))


def test_another_source_of_a_store_is_not_gone_on_with(here: Path) -> None:
    array = zarr.create_array("in.zarr", data=X, chunks=(2, 512), compressors=())
    stop("in.zarr", "out.zarr")
    array.attrs["a"] = 1
    with pytest.raises(UsageError, match=r"source\.metadata_blake2b was"):
        apply("in.zarr", "out.zarr", Options(resume=True))


@pytest.mark.parametrize("how", ["boot", "host"])
def test_after_a_start_of_the_system_only_what_was_flushed_counts(here: Path, how: str) -> None:
    for fsync in (False, True):
        stop("in.npy", "out.npy", fsync=fsync)
        lines = Path("out.npy.partial.journal").read_bytes().splitlines()
        begin = json.loads(lines[0].partition(b" ")[2])
        begin["begin"][how] = "another"
        Path("out.npy.partial.journal").write_bytes(b"\n".join([journal._line(begin).strip(), *lines[1:], b""]))
        assert apply("in.npy", "out.npy", Options(resume=True)).resumed == fsync
        assert np.array_equal(np.load("out.npy"), leaky_relu(X))
        for name in ("out.npy", "out.npy.report.json"):
            os.unlink(name)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0.05, 1), garbage=st.binary(max_size=40))
def test_a_torn_journal_counts_as_far_as_it_is_whole(here: Path, cut: float, garbage: bytes) -> None:
    for name in os.listdir():
        if name.startswith("out"):
            os.unlink(name)
    expected = leaky_relu(X)
    stop("in.npy", "out.npy", 12)
    data = Path("out.npy.partial.journal").read_bytes()
    first, last = data.index(b"\n") + 1, data.index(b"\n", data.index(b'{"reached"')) + 1
    at = int(cut * len(data))
    Path("out.npy.partial.journal").write_bytes(data[:at] + garbage)
    if at < first:
        # Nothing proves that what is there was made by a run.
        with pytest.raises(UsageError, match="is in the way"):
            apply("in.npy", "out.npy", Options(resume=True))
        os.unlink("out.npy.partial.journal")
        os.unlink("out.npy.partial")
    report = apply("in.npy", "out.npy", Options(resume=True))
    assert report.resumed == (at >= last)
    assert np.array_equal(np.load("out.npy"), expected)
    assert sum(array.before.count for array in report.arrays if array.before) == X.size


def test_a_file_that_is_no_journal_is_left_alone(here: Path) -> None:
    Path("out.npy.partial.journal").write_bytes(b"someone's notes on out.npy.partial")
    for options in (Options(), Options(resume=True), Options(overwrite=True)):
        with pytest.raises(UsageError, match=r"out\.npy\.partial\.journal: is in the way, and no journal of leakycli; remove it"):
            apply("in.npy", "out.npy", options)
    assert Path("out.npy.partial.journal").read_bytes() == b"someone's notes on out.npy.partial"
    assert sorted(os.listdir()) == ["in.npy", "out.npy.partial.journal"]


def test_what_was_given_up_is_not_said_to_be_kept(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop("in.npy", "out.npy")
    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 100, 0, 0, 0, 0, 0, 0, 255)))
        with pytest.raises(StorageError, match=r"0 are free in .*; make room and run again$"):
            apply("in.npy", "out.npy", Options(overwrite=True))
    assert sorted(os.listdir()) == ["in.npy"]


def test_a_journal_of_another_version_is_not_relied_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(journal, "FORMAT", 99)
        stop("in.npy", "out.npy")
    assert not apply("in.npy", "out.npy", Options(resume=True)).resumed


def test_a_partial_result_that_is_gone_is_begun_anew(here: Path) -> None:
    stop("in.npy", "out.npy")
    os.unlink("out.npy.partial")
    assert not apply("in.npy", "out.npy", Options(resume=True)).resumed
    assert np.array_equal(np.load("out.npy"), leaky_relu(X))


def test_resume_with_nothing_to_resume_is_a_run(here: Path) -> None:
    assert not apply("in.npy", "out.npy", Options(resume=True)).resumed
    assert np.array_equal(np.load("out.npy"), leaky_relu(X))


def test_a_result_that_is_complete_is_not_made_again(here: Path) -> None:
    first = apply("in.npy", "out.npy")
    before = os.stat("out.npy")
    for options in (Options(resume=True), Options(resume=True, overwrite=True)):
        assert apply("in.npy", "out.npy", options).to_json() == first.to_json()
    assert os.stat("out.npy").st_ino == before.st_ino
    for other in (Options(resume=True, alpha=0.5), Options(resume=True, dtype="float16")):
        with pytest.raises(UsageError, match="no report says that it is what this run gives"):
            apply("in.npy", "out.npy", other)
    assert apply("in.npy", "out.npy", Options(resume=True, overwrite=True, alpha=0.5)).parameters["alpha"] == 0.5
    os.utime("in.npy", ns=(5, 5))
    with pytest.raises(UsageError, match="no report says"):
        apply("in.npy", "out.npy", Options(resume=True, alpha=0.5))
    os.unlink("out.npy.report.json")
    with pytest.raises(UsageError, match="no report says"):
        apply("in.npy", "out.npy", Options(resume=True, alpha=0.5))
    assert sorted(os.listdir()) == ["in.npy", "out.npy"]


def test_a_result_whose_name_was_taken_can_be_put_in_its_place(here: Path) -> None:
    def take(event: events.Event) -> None:
        if isinstance(event, events.RegionDone):
            Path("out.npy").write_bytes(b"someone else's")

    with pytest.raises(UsageError, match="--resume --overwrite puts it in its place"):
        apply("in.npy", "out.npy", Options(), take)
    with pytest.raises(UsageError, match="no report says"):
        apply("in.npy", "out.npy", Options(resume=True))
    told = Told()
    assert apply("in.npy", "out.npy", Options(resume=True, overwrite=True), told).resumed
    assert len(told.regions) == 1
    assert np.array_equal(np.load("out.npy"), leaky_relu(X))
    assert sorted(os.listdir()) == ["in.npy", "out.npy", "out.npy.report.json"]


def test_what_another_run_left_is_not_removed_by_one_that_is_done(here: Path) -> None:
    apply("in.npy", "out.npy")
    stop("in.npy", "out.npy", alpha=0.5, overwrite=True)
    with pytest.raises(UsageError, match=r"parameters\.alpha was 0\.5, and is 0\.2"):
        apply("in.npy", "out.npy", Options(resume=True))
    assert apply("in.npy", "out.npy", Options(resume=True, overwrite=True, alpha=0.5)).resumed


def test_a_damaged_result_is_not_taken_for_complete(here: Path) -> None:
    apply("in.npy", "out.npy")
    with open("out.npy", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(UsageError, match="no report says"):
        apply("in.npy", "out.npy", Options(resume=True))


def test_reports_come_back_from_their_json_whole(here: Path) -> None:
    x = X.copy()
    x[0, :3] = np.nan, np.inf, -np.inf
    zarr.create_array("in.zarr", data=x, chunks=(2, 512))
    report = apply("in.zarr", "out.zarr", Options(dtype="float16", verify=True))
    assert apply("in.zarr", "out.zarr", Options(dtype="float16", resume=True)).to_dict() == report.to_dict()


def test_archives_are_completed_not_begun_again(here: Path) -> None:
    np.savez_compressed("in.npz", a=X, b=X[::-1], c=X * 2)
    expected = undisturbed("in.npz", "out.npz")
    stop("in.npz", "out.npz", X.nbytes // (1 << 13) + 3, workers=1)
    # A wrong byte in what is done is still there after.
    with open("out.npz.partial", "r+b") as file:
        file.seek(2000)
        was = file.read(1)
        file.seek(2000)
        file.write(bytes([was[0] ^ 255]))
    report = apply("in.npz", "out.npz", Options(resume=True))
    assert report.resumed
    assert arrays("out.npz") == expected
    made, whole = bytearray(Path("out.npz").read_bytes()), Path("expected-out.npz").read_bytes()
    made[2000] ^= 255
    assert bytes(made) == whole


def test_a_damaged_member_is_still_found_when_its_beginning_was_read_before(here: Path) -> None:
    """The checksum is that of all its bytes, also of those that an earlier run has read."""
    np.savez("in.npz", a=X)
    data = bytearray(Path("in.npz").read_bytes())
    data[5000] ^= 1
    Path("in.npz").write_bytes(data)
    stop("in.npz", "out.npz", 8)
    with pytest.raises(CorruptError, match="CRC-32"):
        apply("in.npz", "out.npz", Options(resume=True))
    # That, no later run can mend.
    assert sorted(os.listdir()) == ["in.npz", "in.npy"][::-1]


def test_streams_cannot_be_gone_on_from(leakycli: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", X)
    for arguments in (("-", "out.npy"), ("in.npy", "-")):
        done = leakycli("apply", *arguments, "--resume", stdin=(tmp_path / "in.npy").read_bytes())
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"--resume" in done.stderr
        assert done.stderr.count(b"\n") == 1
    done = leakycli("apply", "in.npy", "-", "--fsync")
    assert (done.returncode, done.stdout) == (2, b"")
    assert sorted(os.listdir(tmp_path)) == ["in.npy"]


def test_a_batch_does_only_what_is_missing(leakycli: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", X)
    assert leakycli("apply", "a.npy", "b.npy", "out").returncode == 0
    before = {name: os.stat(tmp_path / "out" / name).st_ino for name in os.listdir(tmp_path / "out")}
    assert leakycli("apply", "a.npy", "b.npy", "c.npy", "out").returncode == 6
    (tmp_path / "out" / "c.npy").unlink()
    done = leakycli("apply", "a.npy", "b.npy", "c.npy", "out", "--resume")
    assert (done.returncode, done.stderr) == (0, b"")
    assert {name: os.stat(tmp_path / "out" / name).st_ino for name in before} == before
    assert np.array_equal(np.load(tmp_path / "out" / "c.npy"), leaky_relu(X))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("source", "dest"), [("in.npy", "out.npy"), ("in.zarr", "out.zarr")])
def test_a_signal_leaves_what_is_done_and_says_how_to_go_on(leakycli: Run, tmp_path: Path, signum: int, source: str, dest: str) -> None:
    if source == "in.npy":
        np.lib.format.open_memmap(tmp_path / source, "w+", "f4", (150_000_000,)).flush()
    else:
        x = np.random.default_rng(1).standard_normal((3000, 1000)).astype("f4")
        zarr.create_array(tmp_path / source, data=x, chunks=(100, 1000), compressors=zarr.codecs.GzipCodec(level=9))
    with subprocess.Popen([sys.executable, "-m", "leakycli", "apply", source, dest], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        try:
            lines = tmp_path / f"{dest}.partial.journal"
            deadline = time.monotonic() + 60
            while not lines.exists() or b'{"reached"' not in lines.read_bytes():
                assert process.poll() is None, "it ended before it could be stopped"
                assert time.monotonic() < deadline
                time.sleep(0.001)
            asked = time.monotonic()
            process.send_signal(signum)
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert time.monotonic() - asked < 5
    assert process.returncode == -signum
    assert said == f"leakycli: interrupted by {signal.Signals(signum).name}; what is done is kept: continue with --resume\n".encode()
    assert not (tmp_path / dest).exists()
    done = leakycli("apply", source, dest, "--resume", "--verify", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["resumed"]
    assert sorted(os.listdir(tmp_path)) == sorted([source, dest, f"{dest}.report.json"])


# The journal's parts.


@st.composite
def results(draw: st.DrawFn) -> ArrayResult:
    """What a run gives of an array, of any elements."""
    source = draw(st.sampled_from(("float16", "float32", "float64", "int64", "uint8")))
    widths: dict[str, Literal[16, 32, 64]] = {"float16": 16, "float32": 32, "float64": 64}
    elements = st.floats(width=widths[source]) if source in widths else st.integers(np.iinfo(source).min, np.iinfo(source).max)
    x = np.array(draw(st.lists(elements, max_size=50)), source)
    rule = Rule.of(source, draw(st.sampled_from((0.2, -1.5, 0.0, 3.0))))
    kernel = Kernel(rule)
    with np.errstate(all="ignore"):
        kernel.add(x, np.empty(x.shape, rule.dtype))
        progress = Progress(rule, x.size)
        progress.add(RegionResult(kernel.take(), (x,), (), ()))
        return progress.finish(0)


@given(results())
def test_results_come_back_from_the_journal_to_the_bit(held: ArrayResult) -> None:
    back = ArrayResult.from_json(json.loads(json.dumps(held.to_json())))
    assert repr(back) == repr(held)


@given(st.lists(st.lists(st.floats(width=32), max_size=20), min_size=1), st.data())
def test_the_sample_comes_back_from_the_lines_that_were_written(regions: list[list[float]], data: st.DataObject) -> None:
    """Line by line, whichever regions had one: a run that is resumed has the sample of one that was not."""
    size = sum(map(len, regions))
    rule = Rule.of("float32")
    whole = Progress(rule, size)
    lines: list[dict[str, Any]] = []
    for region in regions:
        whole.add(RegionResult(BlockStats(), (np.array(region, np.float32),), (), ()))
        record = whole.held()
        if data.draw(st.booleans()):
            lines.append(json.loads(json.dumps(record())))
    resumed = Progress(rule, size)
    if lines:
        resumed.restore(lines)
    resumed.sample.add(np.array([value for region in regions for value in region], np.float32)[resumed.sample.count :])
    assert resumed.sample.since(0, size) == whole.sample.since(0, size)


def test_a_line_that_cannot_be_written_whole_is_not_written_at_all(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = os.open("lines", os.O_RDWR | os.O_CREAT)
    try:
        kept = journal.Journal(lines, flush=False, tuning=SMALL)
        kept.begin({"a": 1}, 100, {})
        kept.member("a", None, "", lambda: None, 10)
        size, whole = os.fstat(lines).st_size, os.write

        def short(fd: int, data: bytes) -> int:
            if fd != lines:
                return whole(fd, data)
            if len(data) > 10:
                return whole(fd, bytes(data)[:10])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "write", short)
            with pytest.raises(OSError, match="No space"):
                kept.member("b", None, "", lambda: None, 20)
        assert os.fstat(lines).st_size == size
        kept.write()
        past = journal.Journal(lines, flush=False).load()
        assert past is not None
        assert (list(past.finished), past.share) == (["a", "b"], 0.2)
    finally:
        os.close(lines)


def test_what_fails_for_good_leaves_nothing(here: Path) -> None:
    np.savez("in.npz", a=X)
    data = bytearray(Path("in.npz").read_bytes())
    data[-200_00] ^= 1
    Path("in.npz").write_bytes(data)
    with pytest.raises(CorruptError):
        apply("in.npz", "out.npz")
    assert sorted(os.listdir()) == ["in.npy", "in.npz"]


def test_what_a_later_run_can_mend_is_said_and_kept(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, whole = 0, os.pwrite

    def failing(fd: int, data: Any, at: int) -> int:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise OSError(5, "Input/output error")
        return whole(fd, data, at)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", failing)
        with pytest.raises(StorageError) as caught:
            apply("in.npy", "out.npy")
    said = "cannot write out.npy: Input/output error; what is done is kept: continue with --resume"
    assert str(caught.value) == said
    assert apply("in.npy", "out.npy", Options(resume=True)).resumed
    assert np.array_equal(np.load("out.npy"), leaky_relu(X))


@pytest.mark.parametrize("regions", [1, 40, 120])
@pytest.mark.parametrize("way", ["in", "out"])
def test_what_goes_through_a_spool_is_gone_on_from(here: Path, way: str, regions: int) -> None:
    """Slabs that do not fit into memory: of an array that must be read, or written, front to back."""
    x = np.random.default_rng(6).standard_normal((512, 4096)).astype("f4")
    memory = system.resident() + (36 << 20)
    options: dict[str, Any] = {"memory": memory, "workers": 1}
    if way == "out":
        zarr.create_array("a.zarr", data=x, chunks=(512, 16), compressors=())
        source, dest = "a.zarr", "out.npz"
        options["compressor"] = "deflate:1"
    else:
        np.savez_compressed("a.npz", x=x)
        source, dest = "a.npz", "out.zarr"
        options |= {"chunks": (512, 16), "compressor": "none"}
    stop(source, dest, regions, **options)
    assert os.path.exists(f"{dest}.partial.spool")
    report = apply(source, dest, Options(resume=True, **options))
    assert report.resumed
    assert report.arrays[0].before is not None
    assert report.arrays[0].before.count == x.size
    found = np.load(dest)["arr_0"] if way == "out" else zarr.open_array(f"{dest}/x", mode="r")[...]
    assert np.array_equal(found, leaky_relu(x))
    assert not [name for name in os.listdir() if "partial" in name]


def test_memory_order_and_links_are_kept(here: Path) -> None:
    np.save("in.npy", np.asfortranarray(X))
    os.mkdir("elsewhere")
    os.symlink("elsewhere/out.npy", "link.npy")
    stop("in.npy", "link.npy", 9, reports=("more.json",))
    assert sorted(os.listdir("elsewhere")) == ["out.npy.partial", "out.npy.partial.journal"]
    assert apply("in.npy", "link.npy", Options(resume=True, reports=("more.json",))).resumed
    assert np.array_equal(np.load("link.npy"), leaky_relu(X))
    assert np.isfortran(np.load("link.npy"))
    assert os.listdir("elsewhere") == ["out.npy"]
    assert json.loads(Path("more.json").read_bytes())["resumed"]
    assert apply("in.npy", "link.npy", Options(resume=True)).resumed  # what the report said


def test_verify_reads_all_also_what_an_earlier_run_wrote(here: Path) -> None:
    stop("in.npy", "out.npy", 9)
    with open("out.npy.partial", "r+b") as file:
        file.seek(400)
        file.write(b"\1\2\3\4")
    with pytest.raises(DifferenceError):
        apply("in.npy", "out.npy", Options(resume=True, verify=True))
    assert sorted(os.listdir()) == ["in.npy"]
