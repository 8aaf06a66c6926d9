"""The cases: an input, what leakycli does with it, and the peers that do the same, with what is accepted and what is the goal.

Limits are ratios of leakycli's time to the peer's, so that 0.25 is "4 x faster".
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import peers
from benchmarks.measure import ENVIRONMENT

APPLY = [sys.executable, "-m", "leakycli", "apply", "--quiet"]
PYTHON = [sys.executable, "-c"]
CP = ["cp", "--reflink=never", "--sparse=never"]

#: name -> chunks, shards, compressor, as leakycli's options.
LAYOUTS = {
    "raw 8 MiB": ("1024,2048", None, "none"),
    "raw 256 KiB": ("256,256", None, "none"),
    "zstd": ("512,1024", None, "zstd:3"),
    "blosc-lz4": ("512,1024", None, "blosc-lz4:5:shuffle"),
    "sharded zstd": ("256,256", "2048,2048", "zstd:3"),
}


@dataclass(frozen=True)
class Peer:
    """A command that does what leakycli does; needs: packages. compared: by value. floor: does less, as the page says."""

    name: str
    command: list[str]
    accepted: float | None
    goal: float | None
    needs: tuple[str, ...] = ()
    compared: bool = True
    floor: bool = False

    @property
    def there(self) -> bool:
        return all(importlib.util.find_spec(package) is not None for package in self.needs)


@dataclass(frozen=True)
class Case:
    """An input that `make` writes to `source`, and what makes `output` of it."""

    name: str
    make: Callable[[], None]
    source: Path
    output: Path
    peer_output: Path
    peers: list[Peer]
    options: list[str] = field(default_factory=list)
    runs: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    verifies: bool = False

    @property
    def command(self) -> list[str]:
        """It makes `output`; where the case `verifies`, it reads `output`, which `make` wrote."""
        if self.verifies:
            return [sys.executable, "-m", "leakycli", "verify", "--quiet", str(self.source), str(self.output)]
        return [*APPLY, *self.options, str(self.source), str(self.output)]


def values(kind: str, count: int, dtype: str = "f4", step: int = 1 << 24) -> list[NDArray[np.float32]]:
    """Pieces of a standard normal array, of one with 95 % zeros, or of a smooth curve."""
    rng = np.random.default_rng(0)
    pieces = []
    for at in range(0, count, step):
        size = min(step, count - at)
        if kind == "smooth":
            x = np.sin(np.arange(at, at + size) / 1000).astype("f4")
        else:
            x = rng.standard_normal(size, dtype="f4")
            if kind == "sparse":
                x[rng.random(size, dtype="f4") < 0.95] = 0
        pieces.append(x.astype(dtype))
    return pieces


def write_npy(path: Path, count: int, dtype: str = "f4", width: int | None = None) -> None:
    shape = (count,) if width is None else (count // width, width)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape).reshape(-1)
    at = 0
    for piece in values("normal", out.size, dtype):
        out[at : at + piece.size] = piece
        at += piece.size


def make_zarr(path: Path, layout: str, size: int) -> None:
    chunks, shards, compressor = LAYOUTS[layout]
    whole = path.with_suffix(".npy")
    write_npy(whole, size // 4, width=8192)
    options = ["--chunks", chunks, "--compressor", compressor, *(["--shards", shards] if shards else [])]
    given = ["--alpha", "1", "--no-provenance", "--report", "none"]
    subprocess.run([*APPLY, *given, *options, str(whole), str(path)], check=True, env=ENVIRONMENT)
    whole.unlink()


def cases(folder: Path, size: int) -> list[Case]:
    """All of them, for `.npy` inputs of `size` bytes; stored `.npz` too, Zarr a half, deflated `.npz` an eighth."""
    found = []

    def case(name: str, suffix: str, make: Callable[[Path], None], others: Callable[[str, str], list[Peer]], **more: Any) -> None:
        source, output, peer = (folder / f"{part}{suffix}" for part in ("in", "out", "peer"))
        found.append(Case(name, lambda: make(source), source, output, peer, others(str(source), str(peer)), **more))

    def script(text: str, a: str, b: str) -> list[str]:
        return [*PYTHON, text, a, b]

    def floor(name: str, command: list[str], accepted: float | None = None, goal: float | None = None) -> Peer:
        return Peer(f"{name} (floor)", command, accepted, goal, compared=False, floor=True)

    def copied(accepted: float, goal: float) -> Callable[[str, str], list[Peer]]:
        return lambda a, b: [Peer("cp", [*CP, a, b], accepted, goal, compared=False)]

    case(
        "npy float32",
        ".npy",
        lambda path: write_npy(path, size // 4),
        lambda a, b: [
            Peer("cp", [*CP, a, b], 1.0, 0.8, compared=False),
            Peer("numpy script", script(peers.NUMPY, a, b), 1 / 8, 1 / 12),
            Peer("PyTorch over memmap", script(peers.TORCH, a, b), None, None, ("torch",)),
        ],
    )
    case(
        "npy float16",
        ".npy",
        lambda path: write_npy(path, size // 2, "f2"),
        lambda a, b: [*copied(1.1, 0.85)(a, b), Peer("numpy script", script(peers.NUMPY, a, b), None, None)],
    )
    case("npy float64", ".npy", lambda path: write_npy(path, size // 8, "f8"), copied(1.1, 0.85))
    case("npy float32 to float16", ".npy", lambda path: write_npy(path, size // 4), copied(1.1, 0.85), options=["--dtype", "float16"])
    case(
        "npy float32, numpy fallback",
        ".npy",
        lambda path: write_npy(path, size // 4),
        lambda a, b: [Peer("numpy script", script(peers.NUMPY, a, b), 1 / 2.5, None)],
        environment={"LEAKYCLI_KERNEL": "reference"},
    )
    found.append(_verify_case(folder, size))
    for kind, accepted, goal in (("normal", 1.1, 1.03), ("sparse", None, None), ("smooth", None, None)):
        case(
            f"npz deflated {kind}",
            ".npz",
            lambda path, kind=kind: np.savez_compressed(path, x=np.concatenate(values(kind, size // 32))),  # type: ignore[misc]
            lambda a, b, limits=(accepted, goal): [  # type: ignore[misc]
                Peer("numpy script", script(peers.NUMPY_NPZ, a, b), None, None),
                floor("codecs alone", script(peers.CODECS_NPZ, a, b), *limits),
            ],
        )
    case(
        "npz stored",
        ".npz",
        lambda path: np.savez(path, x=np.concatenate(values("normal", size // 4))),
        copied(1.1, 0.9),
    )

    def floors(layout: str, a: str, b: str) -> list[Peer]:
        if LAYOUTS[layout][2] == "none":
            limits = {"raw 8 MiB": (1.5, 1.1), "raw 256 KiB": (1.0, 0.7)}[layout]
            return [floor("cp -r", [*CP, "-r", a, b], *limits)]
        codecs = peers.CODECS_SHARDS if LAYOUTS[layout][1] else peers.CODECS_ZARR
        return [floor("codecs alone", script(codecs, a, b), 1.25, 1.08)]

    for layout in LAYOUTS:
        bound_by_codec = "zstd" in layout
        case(
            f"zarr {layout}",
            ".zarr",
            lambda path, layout=layout: make_zarr(path, layout, size // 2),  # type: ignore[misc]
            lambda a, b, layout=layout, slow=bound_by_codec: [  # type: ignore[misc]
                Peer("TensorStore", script(peers.TENSORSTORE, a, b), 0.8, 0.7, ("tensorstore",)),
                Peer("Dask", script(peers.DASK, a, b), 1 / 2 if slow else 1 / 3, 1 / 5, ("dask",)),
                *floors(layout, a, b),
            ],
        )
    case(
        "zarr, 10^5 chunks of 64 bytes",
        ".zarr",
        _make_small_chunks,
        lambda a, b: [floor("cp -r", [*CP, "-r", a, b], 3.0, 1.5)],
    )

    def importing(accepted: float, goal: float) -> Callable[[str, str], list[Peer]]:
        return lambda a, b: [Peer("import numpy", [*PYTHON, "import numpy"], accepted, goal, compared=False)]

    case(
        "npy of 1 KiB",
        ".npy",
        lambda path: np.save(path, np.linspace(-1, 1, 224, dtype=np.float32)),
        importing(2.0, 1.4),
        runs=15,
    )
    case("zarr of 1 MiB", ".zarr", lambda path: make_zarr(path, "zstd", 1 << 20), importing(3.5, 2.0), runs=15)
    return found


def _verify_case(folder: Path, size: int) -> Case:
    """`leakycli verify` of a float32 array and its result, beside `cmp` of that result and a copy of it."""
    source, output, copy = (folder / f"{part}.npy" for part in ("in", "out", "copy"))

    def make() -> None:
        write_npy(source, size // 4)
        subprocess.run([*APPLY, "--report", "none", str(source), str(output)], check=True, env=ENVIRONMENT)
        subprocess.run([*CP, str(output), str(copy)], check=True)

    peer = Peer("cmp", ["cmp", str(output), str(copy)], 1.0, 0.6, compared=False)
    return Case("verify float32", make, source, output, copy, [peer], verifies=True)


def _make_small_chunks(path: Path) -> None:
    whole = path.with_suffix(".npy")
    np.save(whole, np.linspace(-1, 1, 1_600_000, dtype=np.float32))
    given = ["--chunks", "16", "--compressor", "none", "--alpha", "1", "--no-provenance", "--report", "none"]
    subprocess.run([*APPLY, *given, str(whole), str(path)], check=True, env=ENVIRONMENT)
    whole.unlink()
