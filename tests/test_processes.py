"""Work in forked processes: the same results, and nothing left behind when one of them, or all, are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import leakycli
from leakycli import Options
from leakycli.errors import StorageError
from leakycli.executors import ForkedExecutor
from leakycli.job import WORTH_PROCESSES

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
        "import os, time; from leakycli.executors import ForkedExecutor; e = ForkedExecutor(2)\n"
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
        wait_until(lambda: (tmp_path / "out.npy.partial").exists() and (tmp_path / "out.npy.partial").stat().st_blocks > 200_000)
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
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["source"]["path"] if "tool" in line else line["source"] for line in lines] == names
    assert all(line["parameters"]["alpha"] == 0.2 and line["command"][1] == "apply" for line in lines if "tool" in line)
    for i in set(range(50)) - {31}:
        y = np.load(tmp_path / "out" / f"{i:02}.npy")
        assert y.tobytes() == leakycli.leaky_relu(x + i).tobytes()
    assert len(os.listdir(tmp_path / "out")) == 98
