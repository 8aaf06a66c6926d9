"""Time leakycli against peers: whole processes in turn, A B A B, medians and ratios.

    python -m benchmarks [--size MIB] [--runs N] [--only NAME]

Inputs and outputs go to a temporary folder (--folder to say where), which is removed. The peer's output is compared with ours.
Peers for Zarr come with the extra `bench`.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LEAKYCLI = [sys.executable, "-m", "leakycli", "apply", "--overwrite", "--quiet"]

NUMPY = """
import sys, numpy as np
x = np.load(sys.argv[1])
np.save(sys.argv[2], np.where(x > 0, x, x.dtype.type(0.2) * x))
"""

NUMPY_NPZ = """
import sys, numpy as np
with np.load(sys.argv[1]) as source:
    results = {name: np.where(x > 0, x, x.dtype.type(0.2) * x) for name in source.files for x in [source[name]]}
getattr(np, sys.argv[3])(sys.argv[2], **results)
"""


DASK = """
import json, os, shutil, sys, dask, dask.array as da, numpy as np, zarr
source, dest = sys.argv[1:]
os.mkdir(dest)
shutil.copy(source + "/zarr.json", dest)
x, out = da.from_zarr(source), zarr.open_array(dest, mode="r+")
if out.shards:
    x = x.rechunk(out.shards)
da.store(da.where(x > 0, x, np.float32(0.2) * x), out, lock=False)
"""

TENSORSTORE = """
import sys, numpy as np, tensorstore as ts
source, dest = sys.argv[1:]
context = ts.Context({"file_io_sync": False})
x = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": source}}, context=context).result()
out = ts.open(
    {"driver": "zarr3", "kvstore": {"driver": "file", "path": dest}, "create": True, "schema": x.schema.to_json()}, context=context
).result()
rows, columns = x.chunk_layout.write_chunk.shape
wide = max(1, (32 << 20) // (rows * columns * 4)) * columns
starts = [(i, j) for i in range(0, x.shape[0], rows) for j in range(0, x.shape[1], wide)]
regions = [np.s_[i : min(i + rows, x.shape[0]), j : min(j + wide, x.shape[1])] for i, j in starts]
reads, writes = [x[region].read() for region in regions[:3]], []
for n, region in enumerate(regions):
    values = reads.pop(0).result()
    if n + 3 < len(regions):
        reads.append(x[regions[n + 3]].read())
    writes.append(out[region].write(np.where(values > 0, values, np.float32(0.2) * values)))
    if len(writes) > 3:
        writes.pop(0).result()
for write in writes:
    write.result()
"""

#: name -> chunks, shards, compressor, as leakycli's options.
LAYOUTS = {
    "raw 8 MiB": ("1024,2048", None, "none"),
    "raw 256 KiB": ("256,256", None, "none"),
    "zstd": ("512,1024", None, "zstd:3"),
    "blosc-lz4": ("512,1024", None, "blosc-lz4:5:shuffle"),
    "sharded zstd": ("256,256", "2048,2048", "zstd:3"),
}


def values(kind: str, count: int, dtype: str) -> np.ndarray:
    """Standard normal, or the same with 95 % zeros, or a smooth curve."""
    rng = np.random.default_rng(0)
    if kind == "smooth":
        return np.sin(np.arange(count) / 1000).astype(dtype)
    x = rng.standard_normal(count, dtype="f4").astype(dtype)
    if kind == "sparse":
        x[rng.random(count, dtype="f4") < 0.95] = 0
    return x


def cases(folder: Path, size: int) -> dict[str, tuple[Path, Path, dict[str, list[str]]]]:
    """name -> (input, output, peers)."""
    python = [sys.executable, "-c"]
    found: dict[str, tuple[Path, Path, dict[str, list[str]]]] = {}
    for dtype in ("float32", "float16"):
        a, b = folder / f"{dtype}.npy", folder / f"{dtype}_out.npy"
        peers = {"numpy script": [*python, NUMPY, str(a), str(folder / "peer.npy")]}
        if dtype == "float32":
            peers["cp"] = ["cp", "--reflink=never", "--sparse=never", str(a), str(folder / "peer.npy")]
        found[f"npy {dtype}"] = (a, b, peers)
    for kind in ("normal", "sparse", "smooth"):
        a, b = folder / f"{kind}.npz", folder / f"{kind}_out.npz"
        found[f"npz deflated {kind}"] = (a, b, {"numpy script": [*python, NUMPY_NPZ, str(a), str(folder / "peer.npz"), "savez_compressed"]})
    a, b = folder / "stored.npz", folder / "stored_out.npz"
    found["npz stored"] = (a, b, {"cp": ["cp", "--reflink=never", "--sparse=never", str(a), str(folder / "peer.npz")]})
    for layout in LAYOUTS:
        a, b = folder / f"{layout}.zarr", folder / f"{layout}_out.zarr"
        peers = {"TensorStore": [*python, TENSORSTORE, str(a), str(folder / "peer.zarr")]}
        found[f"zarr {layout}"] = (a, b, peers | {"Dask": [*python, DASK, str(a), str(folder / "peer.zarr")]})
    return found


def make(name: str, path: Path, size: int) -> None:
    words = name.split()
    if words[0] == "zarr":
        chunks, shards, compressor = LAYOUTS[name.partition(" ")[2]]
        whole = path.with_suffix(".npy")
        np.save(whole, values("normal", size // 4, "f4").reshape(-1, 8192))
        layout = ["--chunks", chunks, "--compressor", compressor, *(["--shards", shards] if shards else [])]
        subprocess.run([*LEAKYCLI, "--alpha", "1", "--no-provenance", "--report", "none", *layout, str(whole), str(path)], check=True)
        whole.unlink()
    elif words[0] == "npy":
        dtype = words[1]
        np.save(path, values("normal", size // np.dtype(dtype).itemsize, dtype))
    elif words[1] == "stored":
        np.savez(path, x=values("normal", size // 4, "f4"))
    else:
        np.savez_compressed(path, x=values(words[2], size // 4, "f4"))


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def timed(command: list[str], outputs: list[Path]) -> float:
    for output in outputs:
        remove(output)
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def same(ours: Path, peers: Path) -> bool:
    if ours.suffix == ".zarr":
        import zarr

        x, y = zarr.open_array(ours, mode="r"), zarr.open_array(peers, mode="r")
        return all(np.array_equal(x[i : i + 2048], y[i : i + 2048]) for i in range(0, x.shape[0], 2048))
    a, b = np.load(ours, mmap_mode="r"), np.load(peers, mmap_mode="r")
    if isinstance(a, np.lib.npyio.NpzFile):
        return all(a[name].tobytes() == b[name].tobytes() for name in a.files)
    return all(np.array_equal(a[i : i + (1 << 24)], b[i : i + (1 << 24)]) for i in range(0, a.size, 1 << 24))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="MiB of input for .npy; .npz has an eighth")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        for name, (source, ours, peers) in cases(folder, given.size).items():
            if given.only not in name:
                continue
            make(name, source, (given.size << 20) // (8 if "deflated" in name else 1))
            for peer, command in peers.items():
                output = folder / f"peer{source.suffix}"
                rounds = [(timed([*LEAKYCLI, str(source), str(ours)], [ours]), timed(command, [output])) for _ in range(given.runs + 1)][1:]
                a, b = (statistics.median(times) for times in zip(*rounds, strict=True))
                ratios = sorted(x / y for x, y in rounds)
                line = f"{name:22} leakycli {a:7.2f} s  {peer} {b:7.2f} s  ratio {a / b:6.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
                if "deflated" in name:
                    line += f"  size {ours.stat().st_size / output.stat().st_size:.3f} x"
                if peer != "cp":
                    line += "  same values" if same(ours, output) else "  VALUES DIFFER"
                print(line, flush=True)
                remove(output)
            for path in (source, ours):
                remove(path)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
