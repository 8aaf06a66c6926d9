"""Signals: a run that is told to stop does so at once, says so in one line, leaves nothing, and dies of that very signal."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

X = np.linspace(-1, 1, 3_000_000, dtype=np.float32)


def _saved() -> bytes:
    stream = BytesIO()
    np.save(stream, X)
    return stream.getvalue()


DATA = _saved()


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[bytes]) -> None:
    """Return once `condition` holds; fail when `process` ends first, or after 30 s."""
    end = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


class Held:
    """A run of `leakycli apply held.npy ARGUMENTS...`, held in its middle: `held.npy` is a FIFO that gives no more."""

    def __init__(self, folder: Path, *arguments: str, wait: str | None = "out.npy.partial", ignored: signal.Signals | None = None) -> None:
        self.folder = folder
        os.mkfifo(folder / "held.npy")

        def ignore() -> None:
            if ignored is not None:
                signal.signal(ignored, signal.SIG_IGN)

        command = [sys.executable, "-m", "leakycli", "apply", "held.npy", *arguments]
        self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=ignore)
        self._fifo = -1
        wait_for(self._open, self.process)
        if wait is not None:
            # The header and a part of the first region.
            self._write(DATA[:4096])
            wait_for((folder / wait).exists, self.process)

    def _open(self) -> bool:
        try:
            self._fifo = os.open(self.folder / "held.npy", os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ENXIO:
                # Nobody reads it yet.
                return False
            raise
        os.set_blocking(self._fifo, True)
        return True

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fifo, view) :]

    def more(self, size: int) -> None:
        """Give `size` further bytes, from the first not given on."""
        self._write(DATA[4096 : 4096 + size])

    def finish(self) -> tuple[int, bytes, bytes]:
        """Give the rest; returns the run's exit code and what it printed."""
        self._write(DATA[4096:])
        os.close(self._fifo)
        self._fifo = -1
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err

    def ended(self) -> tuple[int, bytes, bytes]:
        """Exit code and output of a run that ends by itself, soon."""
        out, err = self.process.communicate(timeout=10)
        return self.process.returncode, out, err

    def close(self) -> None:
        if self._fifo >= 0:
            os.close(self._fifo)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Held]]:
    """Start a `Held` run in `tmp_path`."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **given: stack.enter_context(contextlib.closing(Held(tmp_path, *arguments, **given)))


def check_interrupted(held: Held, signum: signal.Signals) -> None:
    code, out, err = held.ended()
    assert code == -signum
    assert out == b""
    assert err.startswith(b"leakycli: interrupted by " + signum.name.encode())
    assert err.count(b"\n") == 1
    assert err.endswith(b"\n")
    assert b"Traceback" not in err


STOPPING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("workers", ["1", "3"])
@pytest.mark.parametrize("signum", STOPPING)
def test_a_run_dies_of_the_signal_and_leaves_nothing(
    hold: Callable[..., Held], tmp_path: Path, signum: signal.Signals, workers: str
) -> None:
    held = hold("out.npy", "--workers", workers)
    # Past the first regions, so that threads are at work.
    held.more(5 << 20)
    held.process.send_signal(signum)
    check_interrupted(held, signum)
    assert os.listdir(tmp_path) == ["held.npy"]


@pytest.mark.parametrize("signum", STOPPING)
def test_a_run_that_waits_for_its_header_dies_of_the_signal(hold: Callable[..., Held], tmp_path: Path, signum: signal.Signals) -> None:
    held = hold("out.npy", wait=None)
    held.process.send_signal(signum)
    check_interrupted(held, signum)
    assert os.listdir(tmp_path) == ["held.npy"]


def test_what_was_there_stays_when_a_run_is_interrupted(hold: Callable[..., Held], tmp_path: Path) -> None:
    (tmp_path / "out.npy").write_bytes(b"old")
    (tmp_path / "out.npy.report.json").write_bytes(b'{"tool": "leakycli"}')
    held = hold("out.npy", "--overwrite")
    held.process.send_signal(signal.SIGTERM)
    check_interrupted(held, signal.SIGTERM)
    assert (tmp_path / "out.npy").read_bytes() == b"old"
    assert (tmp_path / "out.npy.report.json").read_bytes() == b'{"tool": "leakycli"}'
    assert sorted(os.listdir(tmp_path)) == ["held.npy", "out.npy", "out.npy.report.json"]


def _burst(process: subprocess.Popen[bytes]) -> None:
    for _ in range(20):
        process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)


def _stream(process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < end:
        process.send_signal(signal.SIGINT)
        time.sleep(0.0003)


@pytest.mark.parametrize("send", [_burst, _stream])
@pytest.mark.parametrize("workers", ["1", "3"])
def test_further_signals_neither_disturb_the_clean_up_nor_lose_the_first(
    hold: Callable[..., Held], tmp_path: Path, send: Callable[[subprocess.Popen[bytes]], None], workers: str
) -> None:
    held = hold("out.npy", "--workers", workers)
    held.more(5 << 20)
    send(held.process)
    code, _, err = held.ended()
    assert -code in (signal.SIGINT, signal.SIGTERM)
    assert err.startswith(b"leakycli: interrupted by "), err.decode()
    assert err.count(b"\n") == 1, err.decode()
    assert os.listdir(tmp_path) == ["held.npy"]


def test_a_shell_loop_stops_at_the_signal(tmp_path: Path) -> None:
    for name in ("before.npy", "after.npy"):
        np.save(tmp_path / name, X[:10])
    (tmp_path / "out").mkdir()
    line = 'for name in before.npy held.npy after.npy; do "$0" -m leakycli apply $name out/$name -q; done; echo not reached'
    os.mkfifo(tmp_path / "held.npy")
    shell = subprocess.Popen(
        ["bash", "-c", line, sys.executable], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    with open(os.open(tmp_path / "held.npy", os.O_RDWR), "wb", buffering=0) as fifo:
        fifo.write(DATA[:4096])
        wait_for((tmp_path / "out" / "held.npy.partial").exists, shell)
        # Ctrl-C goes to all of the foreground; bash goes by how its child died.
        os.killpg(shell.pid, signal.SIGINT)
        out, err = shell.communicate(timeout=10)
    assert shell.returncode == -signal.SIGINT
    assert out == b""
    assert err.startswith(b"leakycli: interrupted by SIGINT")
    assert sorted(os.listdir(tmp_path / "out")) == ["before.npy", "before.npy.report.json"]


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_was_ignored_from_the_start_stays_ignored(hold: Callable[..., Held], tmp_path: Path, signum: signal.Signals) -> None:
    held = hold("out.npy", "--quiet", ignored=signum)
    held.process.send_signal(signum)
    assert held.finish() == (0, b"", b"")
    assert np.load(tmp_path / "out.npy").shape == X.shape


def test_a_reader_that_had_enough_ends_the_run_by_sigpipe(tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", X)
    command = [sys.executable, "-m", "leakycli", "apply", "big.npy", "-"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(100) == DATA[:100]
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(10) == -signal.SIGPIPE
    assert err.count(b"\n") <= 1
    assert b"Traceback" not in err
    assert b"Exception" not in err
    assert os.listdir(tmp_path) == ["big.npy"]


def test_a_shell_sees_sigpipe_as_of_any_other_filter(tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", X)
    line = '"$0" -m leakycli apply big.npy - -q | head -c 100 >first; echo ${PIPESTATUS[@]}'
    done = subprocess.run(["bash", "-c", line, sys.executable], cwd=tmp_path, capture_output=True, timeout=30)
    assert (done.stdout, done.stderr) == (b"141 0\n", b"")
    assert (tmp_path / "first").read_bytes() == DATA[:100]


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "apply --help",
        "info in.npy",
        "info in.npy --json",
        "apply in.npy out.npy",
        "apply in.npy out.npy --json",
        "apply in.npy out.npy --dry-run",
    ],
)
def test_text_that_nobody_reads_ends_the_run_by_sigpipe(tmp_path: Path, arguments: str) -> None:
    np.save(tmp_path / "in.npy", X[:10])
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "leakycli", *arguments.split()], cwd=tmp_path, stdout=nobody, stderr=subprocess.PIPE, timeout=30
        )
    assert done.stderr == b""
    assert done.returncode == -signal.SIGPIPE
    # The result was complete before anything was said of it.
    written = ["out.npy", "out.npy.report.json"] if "out.npy" in arguments and "--dry-run" not in arguments else []
    assert sorted(os.listdir(tmp_path)) == ["in.npy", *written]


HANGS = """
import sys, threading, time
from leakycli.engine.transform import RegionTask
whole, done = RegionTask.__call__, []
def hang(*arguments):
    done.append(1)
    if len(done) > 6:
        open("hangs", "w").close()
        time.sleep(600)
    return whole(*arguments)
RegionTask.__call__ = hang
from leakycli.__main__ import main
main()
"""


@pytest.mark.parametrize("signum", STOPPING)
def test_a_second_signal_ends_a_run_whose_worker_hangs(tmp_path: Path, signum: signal.Signals) -> None:
    np.save(tmp_path / "in.npy", np.resize(X, 20_000_000))
    command = [sys.executable, "-c", HANGS, "apply", "-q", "--workers", "2", "in.npy", "out.npy"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    wait_for((tmp_path / "hangs").exists, process)
    process.send_signal(signum)
    # One that comes at once does not disturb the clean-up.
    time.sleep(0.1)
    process.send_signal(signum)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.2)
    process.send_signal(signum)
    err = process.communicate(timeout=10)[1]
    assert process.returncode == -signum
    assert err.startswith(b"leakycli: stopped at once by " + signum.name.encode())
    assert err.count(b"\n") == 1
    done = subprocess.run([sys.executable, "-m", "leakycli", "apply", "-q", "--resume", "in.npy", "out.npy"], cwd=tmp_path)
    assert done.returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["hangs", "in.npy", "out.npy", "out.npy.report.json"]


EARLY = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
runpy.run_module("leakycli", run_name="__main__")
"""


@pytest.mark.parametrize("module", ["click", "leakycli.cli", "leakycli.errors"])
def test_a_signal_while_modules_are_imported_is_no_traceback(tmp_path: Path, module: str) -> None:
    done = subprocess.run([sys.executable, "-c", EARLY, module], cwd=tmp_path, capture_output=True)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == b""
    entry = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'leakycli = "leakycli.__main__:main"' in entry
