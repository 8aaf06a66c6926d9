"""The dry run: it checks what the run checks, and states what the report of the run states."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.cli.test_cli import Command, X, here, run
from tests.formats.test_bad_input import snapshot

__all__ = ["here", "run"]


def test_it_states_each_array_by_its_name(run: Command) -> None:
    np.savez("in.npz", conv=np.ones((4, 3), np.float16), label=np.arange(5), f=np.asfortranarray(np.ones((2, 3))))
    code, out, err = run("apply", "in.npz", "out.npz", "--alpha", "0.1", "--dtype", "float32", "--skip", "f", "--dry-run")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "in.npz (npz) -> out.npz (npz), alpha 0.1 (dry run: nothing is written)"
    assert lines[1] == "conv: 4 x 3 float16 -> float32, C order, 12 elements in 1 region"
    assert lines[2] == "label: 5 int64 -> float32, C order, 5 elements in 1 region"
    assert lines[3] == "f: 2 x 3 float64, F order, copied"
    assert "warning: in.npz: integers of a .npz are transformed" in out
    assert json.loads(run("apply", "in.npz", "out.npz", "--dry-run", "--json")[1])["alpha"] == 0.2


def test_it_states_chunks_and_codecs(run: Command) -> None:
    zarr.create_array("in.zarr", data=np.ones((40, 30), np.float32), chunks=(10, 10), shards=(20, 30))
    out = run("apply", "in.zarr", "out.zarr", "--dry-run")[1]
    assert "40 x 30 float32, chunks 10 x 10 in shards 20 x 30, zstd" in out
    values = json.loads(run("apply", "in.npy", "out.zarr", "--chunks", "1,2", "--dry-run", "--json")[1])
    assert values["arrays"][0]["chunks"] == [1, 2]
    assert (values["source_format"], values["destination_format"]) == ("npy", "zarr")


@pytest.mark.parametrize(
    ("source", "dest", "options"),
    [
        ("in.npy", "out.npy", []),
        ("in.npy", "out.zarr", ["--chunks", "1,2"]),
        ("big.npy", "out.npy", ["--memory", "100M"]),
        ("big.npy", "out.npz", ["--compressor", "deflate"]),
        ("big.npy", "out.npy", ["--workers", "2", "--dtype", "float64"]),
    ],
)
def test_it_states_what_the_report_of_the_run_states(here: Path, source: str, dest: str, options: list[str]) -> None:
    np.save("big.npy", np.zeros(6 << 20, np.float32))
    command = [sys.executable, "-m", "leakycli", "apply", source, dest, *options]
    done = subprocess.run([*command, "--dry-run", "--json"], capture_output=True, check=True)
    planned = json.loads(done.stdout)
    assert not os.path.exists(dest)
    subprocess.run([*command, "-q"], check=True)
    report = json.loads(Path(f"{dest}.report.json").read_text())
    cost, array = report["cost"], report["arrays"][0]
    assert planned["workers"] == cost["workers"]
    assert planned["kernel"] == cost["kernel"]
    assert planned["memory_bound"] == cost["memory_bound"]
    # The process itself is a little larger or smaller each time.
    assert abs(planned["memory_projected"] - cost["memory_projected"]) < 0.1 * cost["memory_projected"]
    for name in ("shape", "order", "dtype_before", "dtype_after", "factor"):
        assert planned["arrays"][0][name] == array[name]
    assert planned["arrays"][0].get("chunks") == array["chunks"]


def test_it_refuses_a_terminal_as_the_run_does(here: Path) -> None:
    for more in ([], ["--dry-run"]):
        ours, theirs = pty.openpty()
        try:
            command = [sys.executable, "-m", "leakycli", "apply", "in.npy", "-", *more]
            done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, timeout=60, check=False)
        finally:
            os.close(theirs)
            os.close(ours)
        assert done.returncode == 2
        assert b"standard output is a terminal" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/proc/self/mounts"), reason="root may write everywhere")
def test_it_finds_a_folder_that_cannot_be_written(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("locked").mkdir()
    os.chmod("locked", 0o555)
    if os.access("locked", os.W_OK):
        # As root: what the system says of a folder that is read-only.
        real = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in os.fspath(path) and real(path, mode))
    before = snapshot(Path())
    for dest in ("locked/out.npy", "locked/out.zarr"):
        code, out, err = run("apply", "in.npy", dest, "--dry-run")
        assert (code, out) == (1, "")
        assert "locked" in err
        assert "Permission denied" in err
    code, _, err = run("apply", "-r", "in.npy", "locked/new/out.npy", "--dry-run")
    assert code == 1
    assert "locked" in err
    assert snapshot(Path()) == before


def test_it_finds_a_disk_that_is_too_small(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    def small(path: str) -> os.statvfs_result:
        found = list(real(path))
        found[4] = 0
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", small)
    for more in ([], ["--dry-run"]):
        code, _, err = run("apply", "in.npy", "out.npy", *more)
        assert code == 1
        assert "no space" in err
        assert f"{128 + X.nbytes}" in err or f"{X.nbytes}" in err


def test_it_refuses_what_an_unfinished_run_left_as_the_run_does(run: Command) -> None:
    Path("out.npy.partial").write_bytes(b"half")
    for more in ([], ["--dry-run"]):
        code, out, err = run("apply", "in.npy", "out.npy", *more)
        assert (code, out) == (2, "")
        assert "out.npy.partial" in err
    assert run("apply", "in.npy", "out.npy", "--dry-run", "--overwrite", "-q") == (0, "", "")
    assert Path("out.npy.partial").read_bytes() == b"half"


def test_a_quiet_dry_run_says_nothing_but_errors(run: Command) -> None:
    assert run("apply", "in.npy", "out.npy", "--dry-run", "-q") == (0, "", "")
    assert run("apply", "missing.npy", "out.npy", "--dry-run", "-q")[0] == 1
