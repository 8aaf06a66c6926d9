"""What has no peer: a sparse grid, many files, and how the cost grows with the work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import APPLY
from benchmarks.measure import alone, remove, timed


def sparse_grid(folder: Path, runs: int) -> dict[str, Any]:
    """A grid of 10^6 chunks of which 10 are stored: seconds, and how many the result stores."""
    import zarr

    source, output = folder / "sparse.zarr", folder / "out.zarr"
    array = zarr.create_array(source, shape=(1_000_000, 16), chunks=(1, 16), dtype="f4", fill_value=0.0)
    for i in range(10):
        array[i * 99_991] = 1.0 + i
    seconds = [timed([*APPLY, str(source), str(output)], output) for _ in range(runs + 1)][1:]
    stored = sum(1 for path in (output / "c").rglob("*") if path.is_file())
    remove(source)
    remove(output)
    return {"seconds": float(np.median(seconds)), "stored": stored}


def many_files(folder: Path, count: int, runs: int) -> float:
    """Files per second of one call for `count` files of 8 KiB."""
    source, output = folder / "many", folder / "many_out"
    source.mkdir()
    x = np.linspace(-1, 1, 2048 - 32, dtype=np.float32)
    for i in range(count):
        np.save(source / f"{i:05}.npy", x)
    seconds = []
    for _ in range(runs):
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        seconds.append(timed([*APPLY, "--recursive", f"{source}/.", str(output)], None))
    shutil.rmtree(source)
    shutil.rmtree(output)
    return count / float(np.median(seconds))


def growing_bytes(folder: Path, most: int) -> Iterator[dict[str, Any]]:
    """Rows of a series, up to `most` bytes: what, how much of it, seconds of the process, bytes of memory at the peak (as its report has
    it); and of `cat` for the same, as `cp` does not read what is sparse."""
    source, output = folder / "in.npy", folder / "out.npy"
    size = 1 << 20
    while size <= most:
        with open(source, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (size // 4,)})
            file.truncate(file.tell() + size)  # sparse: zeros that take no space
        copy = ["sh", "-c", 'cat "$0" > "$1"', str(source), str(output)]
        # Once, so that both read from the page cache, if it holds that much.
        alone(copy, output)
        yield {"what": "bytes, by cat", "amount": size, "seconds": alone(copy, output), "memory": None}
        yield row("bytes of a .npy", size, source, output)
        size *= 4


def growing_chunks(folder: Path, most: int) -> Iterator[dict[str, Any]]:
    """The same, up to so many chunks."""
    source, output, whole = folder / "in.zarr", folder / "out.zarr", folder / "whole.npy"
    count = 100
    while count <= most:
        np.save(whole, np.linspace(-1, 1, 16 * count, dtype=np.float32))
        timed([*APPLY, "--chunks", "16", "--compressor", "none", str(whole), str(source)], source)
        yield row("chunks of 64 bytes", count, source, output)
        whole.unlink()
        count *= 10


def growing_files(folder: Path) -> Iterator[dict[str, Any]]:
    """The same, for files."""
    for count in (1, 10, 100, 1000, 10_000):
        seconds = count / many_files(folder, count, 1)
        yield {"what": "files of 8 KiB", "amount": count, "seconds": seconds, "memory": None}


def row(what: str, amount: int, source: Path, output: Path) -> dict[str, Any]:
    seconds = timed([*APPLY, str(source), str(output)], output)
    report = json.loads(output.with_name(output.name + ".report.json").read_text())
    remove(source)
    remove(output)
    return {"what": what, "amount": amount, "seconds": seconds, "memory": report["cost"]["memory_measured"]}
