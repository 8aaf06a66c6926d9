"""Whole processes, one at a time: how long they take, and their peak of resident memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

#: As installed packages are, ours is compiled once and not at each start.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".report.json").unlink(missing_ok=True)


def timed(command: list[str], output: Path | None, environment: dict[str, str] | None = None) -> float:
    """Seconds of `command`, which makes `output` (None: nothing). Raises CalledProcessError."""
    if output is not None:
        remove(output)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**ENVIRONMENT, **(environment or {})})
    return time.perf_counter() - start


def alone(command: list[str], output: Path | None, environment: dict[str, str] | None = None) -> float:
    """Seconds of `command`. Its `output` is removed afterwards, before the system writes it to the disk during another's run."""
    seconds = timed(command, output, environment)
    if output is not None:
        remove(output)
    return seconds


def peak(command: list[str], output: Path | None) -> int:
    """Bytes of resident memory (VmHWM) at the peak of `command`, in a run that is not timed; 0 where the system does not tell."""
    if output is not None:
        remove(output)
    found = [0]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT) as process:

        def watch() -> None:
            # Not ru_maxrss, which survives exec: a child of a large parent reports its parent's.
            while process.poll() is None:
                try:
                    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                except OSError:
                    return
                found.extend(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
                time.sleep(0.005)

        watcher = threading.Thread(target=watch)
        watcher.start()
        watcher.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return max(found)
