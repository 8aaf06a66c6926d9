"""The kernel by itself: its bits against the reference, and its time an element.

python -m benchmarks.kernel bits --elements 100000000      every pair of types, random bit patterns, every copy of the loops
python -m benchmarks.kernel speed                          nanoseconds an element, the best of many runs
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np

from leakycli.function import compiled, reference
from leakycli.function.rule import Pass
from tests.kit.kernels import INPUTS, OUTPUTS, plain, random_bits, same_bits, storage, work

PIECE = 1 << 20
SPEED = (
    ("float32", "float32"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
    ("float64", "float64"),
    ("float32", "float16"),
    ("float16", "float32"),
    ("uint8", "float32"),
    ("int32", "float32"),
    ("int64", "float32"),
    ("float32", "int32"),
)


def compare(elements: int) -> None:
    rng = np.random.default_rng(1)
    for source, dtype in itertools.product(INPUTS, OUTPUTS):
        for done in range(0, elements, PIECE):
            size = min(PIECE, elements - done)
            alpha = float(rng.choice([0.2, rng.normal(), 0.0, 1.0, -1.5]))
            todo = work(source, dtype, alpha, nan=3 if "int" in dtype else None)
            x = random_bits(rng, source, size)
            wanted = np.empty(size, storage(dtype))
            tally = reference.Tally(todo)
            tally.add(x, wanted)
            stats = tally.take()
            for number, name in enumerate(compiled.COPIES):
                y, found = np.empty(size, storage(dtype)), compiled.Tally(todo, copy=number)
                found.add(x, y)
                if not same_bits(dtype, y, wanted) or found.take() != stats:
                    raise SystemExit(f"{source} to {dtype}, alpha {alpha}, piece {done // PIECE}: {name} differs from the reference")
        print(f"{source} to {dtype}: {elements} elements, {', '.join(compiled.COPIES)} equal to the reference", flush=True)


def measure() -> None:
    print(f"{'ns an element':24}{'reference':>10}" + "".join(f"{name:>10}" for name in compiled.COPIES) + f"{'no stats':>10}")
    for source, dtype in SPEED:
        x = plain(np.random.default_rng(1), source, 1 << 18)
        y = np.empty(x.size, storage(dtype))
        todo: Pass = work(source, dtype, nan=0 if "int" in dtype else None)
        tallies = [reference.Tally(todo), *(compiled.Tally(todo, copy=n) for n in range(len(compiled.COPIES))), compiled.Tally(todo, False)]
        times = []
        for tally in tallies:
            best = float("inf")
            for _ in range(5 if tally is tallies[0] else 60):
                begun = time.perf_counter()
                tally.add(x, y)
                best = min(best, time.perf_counter() - begun)
            times.append(best / x.size * 1e9)
        print(f"{source + ' to ' + dtype:24}" + "".join(f"{ns:10.2f}" for ns in times), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bits", "speed"])
    parser.add_argument("--elements", type=int, default=10**8)
    given = parser.parse_args()
    if given.what == "bits":
        compare(given.elements)
    else:
        measure()
