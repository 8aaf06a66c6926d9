"""Several workers: the same results and reports, and signals as to one."""

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

import numcodecs
import numpy as np
import pytest
import zarr

import leakycli
from leakycli import Options

LEAKYCLI = (sys.executable, "-m", "leakycli")


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def told(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(Path(f"{path}.report.json").read_text())
    return report


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16"])
def test_workers_leave_no_trace(tmp_path: Path, dtype: str) -> None:
    size = (32 << 20) // np.dtype(dtype).itemsize + 12345
    rng = np.random.default_rng(3)
    x = (100 * rng.standard_normal(size, np.float32)).astype(dtype)
    if dtype != "int16":
        x[::100_003] = np.nan
    np.save(tmp_path / "in.npy", x)
    reports = []
    for workers in (1, 2, 5):
        out = tmp_path / f"{workers}.npy"
        leakycli.apply(str(tmp_path / "in.npy"), str(out), Options(workers=workers))
        reports.append(told(out))
        assert out.read_bytes() == (tmp_path / "1.npy").read_bytes()
        assert reports[-1]["cost"]["workers"] == workers
        assert reports[-1]["arrays"] == reports[0]["arrays"]


def test_the_dry_run_states_what_the_run_states(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.ones(8 << 20, np.float32))
    command = [*LEAKYCLI, "apply", "in.npy", "out.npy", "--workers", "2", "--json"]
    planned = json.loads(subprocess.run([*command, "--dry-run"], cwd=tmp_path, check=True, timeout=60, capture_output=True).stdout)
    cost = json.loads(subprocess.run(command, cwd=tmp_path, check=True, timeout=60, capture_output=True).stdout)["cost"]
    assert planned["workers"] == cost["workers"] == 2
    assert planned["memory_projected"] == pytest.approx(cost["memory_projected"], rel=0.05)
    assert cost["memory_measured"] <= cost["memory_projected"] <= cost["memory_bound"]


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
    assert [line["source"]["path"] if "tool" in line else line["source"] for line in lines] == names
    assert (last["total"]["done"], last["total"]["failed"]) == (49, 1)
    assert all(line["parameters"]["alpha"] == 0.2 and line["command"][1] == "apply" for line in lines if "tool" in line)
    for i in set(range(50)) - {31}:
        y = np.load(tmp_path / "out" / f"{i:02}.npy")
        assert y.tobytes() == leakycli.leaky_relu(x + i).tobytes()
    assert len(os.listdir(tmp_path / "out")) == 98
