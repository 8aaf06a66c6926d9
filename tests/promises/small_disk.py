"""Runs on a disk that fills up, and on one that cannot be written: on a file system in memory, in a mount namespace of its own.

    unshare --map-root-user --mount python -m tests.promises.small_disk [REGIONS...]

It fills up after so many regions, by default at ten points, and twice at each: whole, and with room for the journal only.
`tests/promises/test_faults.py` starts it so, where the system allows that.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from leakycli import Options, apply, leaky_relu, system
from leakycli.engine import events
from leakycli.errors import StorageError
from leakycli.tuning import Tuning, using

TUNING = Tuning(small_bytes=0, unit_bytes=1 << 14, region_units=2, region_bytes=1 << 15, journal_seconds=0)
# As on a file system that does not set room aside.
system._RESERVED = 1 << 62

#: Regions after which the disk is full.
POINTS = (1, 2, 3, 5, 8, 13, 21, 30, 40, 50)

DISK = 16 << 20


class Fill:
    """An observer that fills the disk after so many regions: all of it but `left` bytes."""

    def __init__(self, path: Path, regions: int, left: int) -> None:
        self.path, self.regions, self.left = path, regions, left

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.RegionDone):
            self.regions -= 1
            if not self.regions:
                fill(self.path, self.left)


def fill(path: Path, left: int) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass
        file.truncate(max(file.tell() - left, 0))


def values(path: Path) -> Any:
    if path.suffix == ".zarr":
        return zarr.open_array(path, mode="r")[...]
    found = np.load(path)
    return found["x"] if path.suffix == ".npz" else found


def fails_and_resumes(source: Path, dest: Path, regions: int, left: int) -> None:
    """The disk fills up in the middle; once there is space again, --resume completes what there is."""
    filler = dest.parent / "filler"
    try:
        apply(str(source), str(dest), Options(workers=2), Fill(filler, regions, left))
    except StorageError as error:
        line = str(error)
        assert "No space left on device; no space: " in line, line
        found = re.search(r"no space: (\d+) bytes are needed, (\d+) are free in (.*?); make room and run again", line)
        assert found is not None, line
        assert int(found[1]) > 0, line
        assert found[3] == str(dest.parent), line
        assert line.isprintable()
        kept = "what is done is kept: continue with --resume" in line
    else:
        raise AssertionError(f"{dest.name} was written to a full disk ({regions}, {left})")
    assert not dest.exists()
    assert not Path(f"{dest}.report.json").exists()
    filler.unlink()
    if not kept:
        assert os.listdir(dest.parent) == [], (regions, os.listdir(dest.parent))
    report = apply(str(source), str(dest), Options(workers=2, resume=True))
    assert report.resumed == kept
    assert np.array_equal(values(dest), leaky_relu(X))
    assert sorted(os.listdir(dest.parent)) == [dest.name, f"{dest.name}.report.json"]
    os.system(f"rm -r {dest} {dest}.report.json")


X = np.random.default_rng(2).standard_normal((512, 1024)).astype("f4")


def main() -> None:
    resumed = 0
    with tempfile.TemporaryDirectory() as folder:
        disk, sources = Path(folder) / "disk", Path(folder)
        disk.mkdir()
        np.save(sources / "in.npy", X)
        np.savez_compressed(sources / "in.npz", x=X)
        zarr.create_array(sources / "in.zarr", data=X, chunks=(8, 1024), compressors=())
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)], check=True)
        try:
            for suffix in ("npy", "npz", "zarr"):
                for regions in map(int, sys.argv[1:] or POINTS):
                    for left in (0,) if sys.argv[1:] else (0, 1 << 16):
                        fails_and_resumes(sources / f"in.{suffix}", disk / f"out.{suffix}", regions, left)
                        resumed += 1
            # Too little from the beginning.
            fill(disk / "filler", 1 << 20)
            command = [sys.executable, "-m", "leakycli", "apply", str(sources / "in.npy"), str(disk / "out.npy")]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 1
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            assert f"no space: {X.nbytes} bytes are needed, {free} are free in {disk}; make room" in done.stderr, done.stderr
            assert done.stderr.count("\n") == 1
            assert os.listdir(disk) == ["filler"]
            (disk / "filler").unlink()
            # A disk that cannot be written at all.
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            for dest in ("out.npy", "out.npz", "out.zarr", "out.zarr.zip"):
                done = subprocess.run([*command[:-1], str(disk / dest)], capture_output=True, text=True)
                assert (done.returncode, done.stdout) == (1, "")
                assert done.stderr == f"leakycli: cannot write {disk / dest}: Read-only file system\n", done.stderr
                assert os.listdir(disk) == []
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    print(f"{resumed} runs met a full disk and were completed")


if __name__ == "__main__":
    with using(TUNING):
        main()
