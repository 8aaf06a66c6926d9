"""A large hierarchy through the S3 server, killed once and gone on from; and with some requests answered by 503.

    python -m tests.stores.remote_large --size 2048 --memory 512M

Each run's result is compared with the source's, element by element, and the peak of its resident memory with the bound.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import FsspecStore

import leakycli
from tests.kit.remote import Proxy, environment, s3_server, some

#: Elements of the chunks: 4 MiB; and what there is of each 64 MiB.
CHUNK = (1024, 1024)
ARRAYS = ("plain", "deep/sharded")


def make(url: str, mebibytes: int) -> None:
    rng = np.random.default_rng(1)
    group = zarr.create_group(FsspecStore.from_url(url))
    rows = mebibytes // len(ARRAYS) // 4 // 4 * 1024
    for name in ARRAYS:
        shards = (2048, 2048) if "sharded" in name else None
        array: Any = group.create_array(name, shape=(rows, 4096), dtype="f4", chunks=CHUNK, shards=shards, compressors=None)
        for start in range(0, rows, 2048):
            array[start : start + 2048] = rng.standard_normal((min(2048, rows - start), 4096), dtype="f4")


def equal(source: str, dest: str) -> bool:
    there, found = (zarr.open_group(FsspecStore.from_url(url, read_only=True), mode="r") for url in (source, dest))
    for name in ARRAYS:
        x: Any = there[name]
        y: Any = found[name]
        for start in range(0, x.shape[0], 2048):
            part = slice(start, start + 2048)
            if np.asarray(leakycli.leaky_relu(x[part])).tobytes() != np.asarray(y[part]).tobytes():
                return False
    return True


def run(source: str, dest: str, memory: str, *more: str, kill_when: Iterable[bool] = ()) -> tuple[float, int]:
    """Seconds, and the peak of resident memory in bytes; killed as soon as `kill_when` gives true."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "leakycli", "apply", source, dest, "--memory", memory, "--quiet", *more]
    process, peak = subprocess.Popen(command), 0
    ask = iter(kill_when)
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            peak = max([peak, *(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))])
        except OSError:
            pass
        if next(ask, False):
            process.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    return time.perf_counter() - started, peak if process.returncode in (0, -signal.SIGKILL) else -1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stores.remote_large")
    parser.add_argument("--size", type=int, default=2048, help="of the hierarchy, in MiB")
    parser.add_argument("--memory", default="512M")
    parser.add_argument("--share", type=float, default=0.05, help="of the requests that are answered by 503")
    given = parser.parse_args()
    failed = 0

    def tell(what: str, seconds: float, peak: int, dest: str) -> int:
        same = peak > 0 and equal(source, dest)
        rate = given.size / seconds
        print(f"{what:32} {seconds:7.1f} s  {rate:6.0f} MiB/s  peak {peak >> 20} MiB  {'equal' if same else 'NOT EQUAL'}", flush=True)
        return 0 if same and peak < 1.0 * leakycli_size(given.memory) else 1

    with tempfile.TemporaryDirectory() as state, s3_server() as endpoint:
        import boto3

        os.environ.update(environment(endpoint) | {"XDG_STATE_HOME": state})
        boto3.client("s3").create_bucket(Bucket="large")
        source = "s3://large/source.zarr"
        make(source, given.size)
        failed += tell("undisturbed", *run(source, "s3://large/a.zarr", given.memory), "s3://large/a.zarr")
        with Proxy(endpoint, lambda method, path: None) as proxy:
            os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
            enough = (proxy.requests > given.size // 8 for _ in iter(int, 1))
            run(source, "s3://large/b.zarr", given.memory, kill_when=enough)
            at = proxy.requests
            took = run(source, "s3://large/b.zarr", given.memory, "--resume")
            os.environ["AWS_ENDPOINT_URL"] = endpoint
            print(f"killed after {at} requests; {proxy.requests - at} to go on")
            failed += tell("killed, gone on from", *took, "s3://large/b.zarr")
        with Proxy(endpoint, some(given.share, "503")) as proxy:
            os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
            took = run(source, "s3://large/c.zarr", given.memory)
            os.environ["AWS_ENDPOINT_URL"] = endpoint
            print(f"{proxy.disturbed} of {proxy.requests} requests answered by 503")
            failed += tell("with 503s", *took, "s3://large/c.zarr")
    return 1 if failed else 0


def leakycli_size(text: str) -> int:
    from leakycli.arguments import parse_size

    return parse_size(text)


if __name__ == "__main__":
    sys.exit(main())
