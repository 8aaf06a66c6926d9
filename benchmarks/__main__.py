"""Time leakycli against peers, in the conditions of docs/performance.md, which this writes.

    python -m benchmarks                                   all rows, at their full size
    python -m benchmarks --size 256 --runs 1 --only zarr   some of them, smaller
    python -m benchmarks --json a.json                     keep what was measured
    python -m benchmarks --from a.json b.json --write docs write the page out of it

Peers come with the extra `bench`; one that is not installed is left out, and named. Ends with 1 where a result differs from a peer's.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import growth, page
from benchmarks.cases import Case, Peer, cases
from benchmarks.measure import alone, peak, remove, timed

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ("leakycli", "numpy", "zarr", "zarrs", "isal", "tensorstore", "dask", "torch")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048, help="MiB of a .npy or stored .npz; Zarr has a half, deflated .npz an eighth")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="rows whose name holds this; again for more")
    parser.add_argument("--folder", type=Path, help="where inputs and results go, in a folder that is removed")
    parser.add_argument("--files", type=int, default=5000, help="of the row with many files")
    parser.add_argument("--most", type=int, default=16384, help="MiB of the largest .npy in the rows on growth")
    parser.add_argument("--chunks", type=int, default=1_000_000, help="most chunks there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument("--note", help="a sentence that the pages say of this run")
    parser.add_argument("--from", dest="given", type=Path, nargs="+", metavar="FILE", help="measure nothing, take these")
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="write the pages on speed and their pictures; for docs, also the figures of the README"
    )
    given = parser.parse_args()
    if given.given:
        results = joined([json.loads(path.read_text()) for path in given.given])
    else:
        folder = Path(tempfile.mkdtemp(prefix="leakycli-", dir=given.folder))
        try:
            results = [measured(folder, given)]
        finally:
            shutil.rmtree(folder)
        if given.note:
            results[0]["note"] = given.note
        if given.json:
            given.json.write_text(json.dumps(results[0], indent=1) + "\n")
    if given.write:
        page.write(results, given.write, ROOT / "README.md" if given.write.resolve() == ROOT / "docs" else None)
    return int(any(row["differs"] for result in results for row in result["rows"]))


def joined(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the same versions on the same machine as one; a later one's rows take the place of an earlier one's."""
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        first = found.setdefault(repr((result["versions"], result["machine"])), result)
        if first is not result:
            rows: dict[tuple[str, str], dict[str, Any]] = {}
            for row in first["rows"] + result["rows"]:
                key = row["name"], row["peer"]
                rows[key] = {**row, "differs": row["differs"] or (key in rows and rows[key]["differs"])}
            first["rows"] = list(rows.values())
            first["singles"] = list({line.partition(":")[0]: line for line in first["singles"] + result["singles"]}.values())
            first["command"] += f"`, `{result['command']}"
            if result["date"] not in first["date"]:
                first["date"] += f" and {result['date']}"
            grown = {(row["what"], row["amount"]): row for row in first["growth"] + result["growth"]}
            first["growth"] = sorted(grown.values(), key=lambda row: (row["what"], row["amount"]))
    return list(found.values())


def measured(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    def wanted(name: str) -> bool:
        return not given.only or any(text in name for text in given.only)

    rows: list[dict[str, Any]] = []
    singles: list[str] = []
    if wanted("many files"):
        # First: a file system may be slow for minutes to use again what other rows remove.
        rate = growth.many_files(folder, given.files, 1)
        name = f"many files, {given.files:,} of 8 KiB in one call: {rate:,.0f} files a second (accepted 1,500, goal 3,000)"
        singles.append(f"{name}: {page.verdict(1 / rate, 1 / 1500, 1 / 3000)}")
    for case in cases(folder, given.size << 20):
        if not wanted(case.name):
            continue
        case.make()
        for peer in case.peers:
            if not peer.there:
                singles.append(f"{case.name}: {peer.name} is not installed, and was left out")
                continue
            rows.append(compared(case, peer, case.runs or given.runs))
            say(rows[-1])
        for path in (case.source, case.output, case.peer_output):
            remove(path)
    if wanted("sparse grid"):
        found = growth.sparse_grid(folder, given.runs)
        what = f"sparse grid, 10^6 chunks of which 10 are stored: {found['seconds']:.2f} s (accepted 1, goal 0.3)"
        name = f"{what}; the result stores {found['stored']}"
        singles.append(f"{name}: {page.verdict(found['seconds'], 1, 0.3)}")
    for line in (*singles, *page.mean(rows)):
        print(line)
    grown = []
    for name, series in (
        ("growth of bytes", growth.growing_bytes(folder, given.most << 20)),
        ("growth of chunks", growth.growing_chunks(folder, given.chunks)),
        ("growth of files", growth.growing_files(folder)),
    ):
        for row in series if wanted(name) else ():
            grown.append(row)
            print(f"{row['what']:20} {row['amount']:>14,} {row['seconds']:9.2f} s", flush=True)
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    options = [f"--{name} {getattr(given, name)}" for name in ("size", "runs", "files", "most", "chunks")]
    command = " ".join(["python -m benchmarks", *options, *(f"--only {shlex.quote(text)}" for text in given.only)])
    return {
        "date": date.today().isoformat(),
        "machine": machine(folder),
        "versions": versions,
        "command": command,
        "rows": rows,
        "singles": singles,
        "growth": grown,
    }


def compared(case: Case, peer: Peer, runs: int) -> dict[str, Any]:
    """A row: medians, ratio and its spread, memory."""
    output, peer_output = (None, None) if case.verifies else (case.output, case.peer_output)
    peer_memory = peak(peer.command, peer_output)
    differs, size_ratio = False, None
    cost = {"memory_measured": peak(case.command, output), "memory_projected": None, "memory_bound": None}
    if output is not None and peer_output is not None:
        timed(case.command, output, case.environment)
        cost = json.loads(output.with_name(output.name + ".report.json").read_text())["cost"]
        differs = peer.compared and not same(output, peer_output)
        if output.suffix == ".npz" and peer.compared:
            size_ratio = output.stat().st_size / peer_output.stat().st_size
        remove(output)
        remove(peer_output)
    # What is still to be written to the disk would be written while another run is timed.
    os.sync()
    rounds = [(alone(case.command, output, case.environment), alone(peer.command, peer_output)) for _ in range(runs)]
    ours, theirs = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratios = sorted(a / b for a, b in rounds)
    return {
        "name": case.name,
        "peer": peer.name,
        "seconds": ours,
        "peer_seconds": theirs,
        "ratio": ours / theirs,
        "spread": [ratios[0], ratios[-1]],
        "accepted": peer.accepted,
        "goal": peer.goal,
        "memory": cost["memory_measured"],
        "projected": cost["memory_projected"],
        "bound": cost["memory_bound"],
        "floor": peer.floor,
        "peer_memory": peer_memory,
        "size_ratio": size_ratio,
        "differs": differs,
    }


def say(row: dict[str, Any]) -> None:
    judged = page.verdict(row["ratio"], row["accepted"], row["goal"])
    print(
        f"{row['name']:30} {row['seconds']:7.2f} s  {row['peer']:18} {row['peer_seconds']:7.2f} s  ratio {row['ratio']:6.3f} "
        f"({row['spread'][0]:.3f} to {row['spread'][1]:.3f})  {judged}{'  VALUES DIFFER' if row['differs'] else ''}",
        flush=True,
    )


def same(ours: Path, peers: Path) -> bool:
    """Whether two results hold the same values, looked at in pieces."""
    if ours.suffix == ".zarr":
        import zarr

        x, y = zarr.open_array(ours, mode="r"), zarr.open_array(peers, mode="r")
        return all(np.array_equal(np.asarray(x[i : i + 2048]), np.asarray(y[i : i + 2048])) for i in range(0, x.shape[0], 2048))
    if ours.suffix == ".npz":
        with np.load(ours) as a, np.load(peers) as b:
            return sorted(a.files) == sorted(b.files) and all(np.array_equal(a[name], b[name]) for name in a.files)
    p, q = np.load(ours, mmap_mode="r"), np.load(peers, mmap_mode="r")
    return all(np.array_equal(p[i : i + (1 << 24)], q[i : i + (1 << 24)]) for i in range(0, p.size, 1 << 24))


def machine(folder: Path) -> str:
    """Processors, memory, system and file system, in words."""
    model = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    if Path("/proc/cpuinfo").exists():
        names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    # Not stat, to which ext2, ext3 and ext4 are one.
    kind = ""
    if shutil.which("findmnt"):
        kind = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", folder], capture_output=True, text=True, check=False).stdout.strip()
    system = f"{platform.system()} {platform.release()}, {kind or 'file system unknown'}"
    return f"{os.cpu_count()} processors ({model}), {memory} GiB of memory, {system}"


if __name__ == "__main__":
    sys.exit(main())
