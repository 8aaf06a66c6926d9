"""Work in forked processes: the same results, and nothing left behind when one of them, or all, are killed."""

from __future__ import annotations

import json
import os
import pickle
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

import leakycli
from leakycli import Options
from leakycli.engine.executors import ForkedExecutor
from leakycli.engine.job import WORTH_PROCESSES
from leakycli.errors import StorageError, storage_error

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")

LEAKYCLI = (sys.executable, "-m", "leakycli")


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def told(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(Path(f"{path}.report.json").read_text())
    return report


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16"])
def test_processes_give_what_threads_give(tmp_path: Path, dtype: str) -> None:
    size = 2 * WORTH_PROCESSES // np.dtype(dtype).itemsize + 12345
    rng = np.random.default_rng(3)
    x = (100 * rng.standard_normal(size, np.float32)).astype(dtype)
    if dtype != "int16":
        x[::100_003] = np.nan
    np.save(tmp_path / "in.npy", x)
    command = [*LEAKYCLI, "apply", "in.npy", "a.npy", "--workers", "2", "--quiet"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    leakycli.apply(str(tmp_path / "in.npy"), str(tmp_path / "b.npy"), Options(workers=2))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    a, b = told(tmp_path / "a.npy"), told(tmp_path / "b.npy")
    assert (a["cost"]["engine"], b["cost"]["engine"]) == ("processes", "threads")
    assert a["arrays"] == b["arrays"]
    assert a["cost"]["memory_measured"] <= a["cost"]["memory_projected"] <= a["cost"]["memory_bound"]


def test_threads_are_used_where_memory_has_no_room_for_processes(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.ones(WORTH_PROCESSES // 2, np.float32))
    command = [*LEAKYCLI, "apply", "in.npy", "out.npy", "--workers", "2", "--quiet", "--memory", "90M"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    cost = told(tmp_path / "out.npy")["cost"]
    assert (cost["engine"], cost["workers"]) == ("threads", 2)
    assert cost["memory_measured"] <= 90_000_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep what is freed")
def test_what_one_thread_frees_another_uses_again() -> None:
    """8 threads that live on, of which each has 16 MiB for a moment, one after the other."""
    code = """
import threading
import numpy as np
from leakycli import system

system.keep_freed_memory()
before, go_on = system.resident(), threading.Event()

def work(done):
    x = np.ones(16 << 20, np.uint8)
    del x
    done.set()
    go_on.wait()

for _ in range(8):
    done = threading.Event()
    threading.Thread(target=work, args=(done,)).start()
    done.wait()
print(system.resident() - before)
go_on.set()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert (8 << 20) < int(done.stdout) < (32 << 20)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("layout", [{"order": "F", "filters": [numcodecs.Shuffle(4)]}, {"order": "C"}])
def test_codecs_that_grow_and_copy_stay_within_what_was_projected(tmp_path: Path, layout: dict[str, Any], workers: str) -> None:
    x = np.random.default_rng(5).standard_normal((4096, 4096), "f4")
    options = {"chunks": (2048, 1024), "compressors": numcodecs.GZip(1), "zarr_format": 2, **layout}
    zarr.create_array(str(tmp_path / "in.zarr"), shape=x.shape, dtype="f4", **options)[:] = x
    command = [*LEAKYCLI, "apply", "in.zarr", "out.zarr", "--workers", workers, "--quiet"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    cost = told(tmp_path / "out.zarr")["cost"]
    assert cost["memory_measured"] <= cost["memory_projected"] <= cost["memory_bound"]


def test_a_process_that_is_killed_is_an_error_that_a_rerun_can_mend() -> None:
    with ForkedExecutor(2) as executor:
        with pytest.raises(StorageError, match="worker process was lost"):
            executor.submit(die).result(30)
        # The other one goes on.
        found = [future.exception(30) or future.result() for future in [executor.submit(abs, -n) for n in range(6)]]
        assert all(isinstance(outcome, StorageError) or outcome == n for n, outcome in enumerate(found))
        assert any(outcome == n for n, outcome in enumerate(found))


def test_processes_end_when_the_one_that_made_them_is_killed() -> None:
    script = (
        "import os, time; from leakycli.engine.executors import ForkedExecutor; e = ForkedExecutor(2)\n"
        "print(*[e._children[i]._pid for i in range(2)], flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(running, pids))
        process.kill()
        wait_until(lambda: not any(map(running, pids)))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_stops_the_run_as_one(tmp_path: Path, signum: signal.Signals) -> None:
    """As Ctrl-C in a terminal, which goes to the parent and the children alike."""
    header = np.lib.format.header_data_from_array_1_0(np.empty(0, np.float32)) | {"shape": (1 << 29,)}
    with open(tmp_path / "in.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + (4 << 29))
    command = [*LEAKYCLI, "apply", "in.npy", "out.npy", "--workers", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True) as process:
        journal = tmp_path / "out.npy.partial.journal"
        wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 1)
        os.killpg(process.pid, signum)
        _, err = process.communicate(timeout=30)
    assert process.returncode == -signum
    assert err.count(b"\n") == 1
    assert b"--resume" in err
    assert sorted(os.listdir(tmp_path)) == ["in.npy", "out.npy.partial", "out.npy.partial.journal"]


def test_many_small_files_with_one_that_is_broken(tmp_path: Path) -> None:
    """Lines come in the order of the files, the one error among them, and all others are there."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    x = np.linspace(-1, 1, 100, dtype=np.float32)
    for i in range(50):
        np.save(tmp_path / "in" / f"{i:02}.npy", x + i)
    (tmp_path / "in" / "31.npy").write_bytes(b"nothing")
    names = [f"in/{i:02}.npy" for i in range(50)]
    done = subprocess.run(
        [*LEAKYCLI, "apply", *names, "out/", "--workers", "2", "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 6
    assert "in/31.npy" in done.stderr
    assert "1 of 50 sources failed" in done.stderr
    *lines, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert (last["total"]["done"], last["total"]["failed"], last["total"]["elements"]) == (49, 1, 4900)
    assert [line["source"]["path"] if "tool" in line else line["source"] for line in lines] == names
    assert all(line["parameters"]["alpha"] == 0.2 and line["command"][1] == "apply" for line in lines if "tool" in line)
    for i in set(range(50)) - {31}:
        y = np.load(tmp_path / "out" / f"{i:02}.npy")
        assert y.tobytes() == leakycli.leaky_relu(x + i).tobytes()
    assert len(os.listdir(tmp_path / "out")) == 98


def test_a_process_that_stands_still_does_not_outlive_the_one_that_made_it(tmp_path: Path) -> None:
    """What it has left to write must not come when the lock is another run's."""
    np.save(tmp_path / "in.npy", np.ones(60_000_000, np.float32))
    command = [*LEAKYCLI, "apply", "in.npy", "out.npy", "--workers", "2", "--quiet"]
    with subprocess.Popen(command, cwd=tmp_path) as process:
        wait_until(lambda: (tmp_path / "out.npy.partial").exists())
        pids = [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        assert len(pids) == 2
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        process.kill()
        wait_until(lambda: not any(map(running, pids)))


def test_no_more_processes_than_memory_has_room_for(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.ones(30_000_000, np.float32))
    command = [*LEAKYCLI, "apply", "in.npy", "out.npy", "--workers", "12", "--quiet", "--memory", "200M"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    cost = told(tmp_path / "out.npy")["cost"]
    assert cost["engine"] == "processes"
    assert 2 <= cost["workers"] < 12
    assert cost["memory_measured"] <= cost["memory_projected"] <= 200 << 20


def test_a_lost_process_costs_a_batch_what_it_was_at(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for i in range(400):
        np.save(tmp_path / f"{i:03}.npy", np.ones(50_000, np.float32))
    names = [f"{i:03}.npy" for i in range(400)]
    command = [*LEAKYCLI, "apply", *names, "out/", "--workers", "2", "--quiet"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(os.listdir(tmp_path / "out")) > 20)
        os.kill(int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 6
    *lines, last = err.splitlines()
    # The files that were given to it together, and one line for each of them that names it.
    assert 1 <= len(lines) <= 16
    assert all("worker process was lost" in line and ".npy: " in line for line in lines)
    assert last == f"leakycli: {len(lines)} of 400 sources failed; the results of the others are complete"


def test_errors_come_through_a_pipe_as_they_were() -> None:
    found = pickle.loads(pickle.dumps(storage_error(OSError(28, "No space left on device"), "a.npy", "cannot write")))
    assert (type(found), str(found), found.errno) == (StorageError, "cannot write a.npy: No space left on device", 28)


def test_a_program_whose_children_are_not_waited_for_succeeds_all_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.ones(30_000_000, np.float32))
    command = [*LEAKYCLI, "apply", "in.npy", "out.npy", "--workers", "2", "--quiet"]
    launcher = f"import os, signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv({command[0]!r}, {command!r})"
    done = subprocess.run([sys.executable, "-c", launcher], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert told(tmp_path / "out.npy")["cost"]["engine"] == "processes"
