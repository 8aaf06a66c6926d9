"""The history of a small benchmark: one run is added by hand before each release, and two can be compared.

    python -m benchmarks.history add                 measures (some minutes), appends to benchmarks/history.json
    python -m benchmarks.history compare             compares the last two
    python -m benchmarks.history compare 0.1.0 -1    compares two: a version, or a place as in a Python list

Quantities are ratios to a peer in the same run, as seconds of different days and machines say little. A row is called slower or faster
only where the spreads of the two runs do not overlap. `compare` ends with exit code 1 where a row is slower.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HISTORY = Path(__file__).with_name("history.json")

#: Rows of `python -m benchmarks` that are quick and cover each way through the program.
ROWS = ("npy float32", "npy float16", "npz stored", "zarr raw 8 MiB", "zarr zstd", "npy of 1 KiB")

Run = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.history", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--history", type=Path, default=HISTORY, metavar="FILE")
    actions = parser.add_subparsers(dest="action", required=True)
    add = actions.add_parser("add", help="measure and append")
    add.add_argument("--size", type=int, default=512, help="MiB, as of python -m benchmarks")
    add.add_argument("--runs", type=int, default=5)
    add.add_argument("--only", action="append", metavar="TEXT", help="rows whose name holds this; again for more")
    add.add_argument("--folder", type=Path, help="where inputs and results go, in a folder that is removed")
    compare = actions.add_parser("compare", help="compare two runs")
    compare.add_argument("old", nargs="?", default="-2")
    compare.add_argument("new", nargs="?", default="-1")
    given = parser.parse_args(arguments)
    runs: list[Run] = json.loads(given.history.read_text()) if given.history.exists() else []
    if given.action == "add":
        runs.append(measure(given))
        given.history.write_text(json.dumps(runs, indent=1) + "\n")
        print(f"{given.history} has {len(runs)} runs")
        return 0
    try:
        old, new = chosen(runs, given.old), chosen(runs, given.new)
    except LookupError as error:
        print(f"benchmarks.history: {error}", file=sys.stderr)
        return 2
    lines, slower = compared(old, new)
    print("\n".join(lines))
    return int(slower)


def measure(given: argparse.Namespace) -> Run:
    from benchmarks.__main__ import measured

    folder = Path(tempfile.mkdtemp(prefix="leakycli-", dir=given.folder))
    try:
        asked = argparse.Namespace(size=given.size, runs=given.runs, only=given.only or list(ROWS), files=1000, most=64, chunks=1000)
        found = measured(folder, asked)
    finally:
        shutil.rmtree(folder)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HISTORY.parent, capture_output=True, text=True, check=False).stdout
    rows = {f"{row['name']} against {row['peer']}": {key: row[key] for key in ("ratio", "spread", "memory")} for row in found["rows"]}
    return {
        "version": found["versions"].get("leakycli", ""),
        "commit": commit.strip(),
        **{key: found[key] for key in ("date", "machine", "versions", "command")},
        "rows": rows,
    }


def chosen(runs: list[Run], name: str) -> Run:
    """The last run of a version, or the run at a place in the list. Raises LookupError."""
    for run in reversed(runs):
        if name == run["version"]:
            return run
    try:
        return runs[int(name)]
    except (ValueError, IndexError):
        versions = ", ".join(run["version"] for run in runs) or "none"
        raise LookupError(f"no run {name!r}; there are {len(runs)}, of the versions {versions}") from None


def compared(old: Run, new: Run) -> tuple[list[str], bool]:
    """A line for each row that either run has, and whether one of them is slower than it was."""
    lines = [" to ".join(f"{run['version']} ({run['commit']}, {run['date']})" for run in (old, new))]
    if old["machine"] != new["machine"]:
        lines.append(f"two machines, so compare with care: {old['machine']}; {new['machine']}")
    any_slower = False
    for name in dict.fromkeys([*old["rows"], *new["rows"]]):
        a, b = old["rows"].get(name), new["rows"].get(name)
        if a is None or b is None:
            lines.append(f"{name:45} only in the {'new' if a is None else 'old'} run")
            continue
        slower, faster = b["spread"][0] > a["spread"][1], b["spread"][1] < a["spread"][0]
        any_slower |= slower
        word = "slower" if slower else "faster" if faster else ""
        lines.append(f"{name:45} {a['ratio']:6.3f} to {b['ratio']:6.3f} ({b['ratio'] / a['ratio'] - 1:+.0%})  {word}".rstrip())
    return lines, any_slower


if __name__ == "__main__":
    sys.exit(main())
