"""What follows an array: another one is refused everywhere, other bytes are ignored with a warning everywhere, and `verify` sees both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leakycli import Options, apply, info, verify
from leakycli.errors import UnsupportedError
from tests.cli.test_cli import Command, here, run
from tests.conftest import Run
from tests.formats.test_npy import defined

__all__ = ["here", "run"]

X = np.arange(-3, 3, dtype=np.float32)


def saved(*arrays: Any) -> bytes:
    buffer = BytesIO()
    for array in arrays:
        np.save(buffer, array)
    return buffer.getvalue()


#: What may follow: bytes of any other kind, also those that begin as a magic does and do not go on so.
OTHERS = {
    "one zero": b"\0",
    "zeros": bytes(5000),
    "newline": b"\n",
    "text": b"# made by me\n",
    "half a magic": b"\x93NUM",
    "an archive": b"PK\3\4" + bytes(40),
    "a pickle": b"\x80\x04\x95" + bytes(20),
    "much": b"\1" * 300_000,
}
SECOND = {"several": saved(X, X, np.ones(2, "f8")), "large": saved(np.zeros(100_000))}
METHODS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}
WAYS = ["file", "pipe", "fifo", *METHODS]


def given(way: str, data: bytes) -> tuple[str, bytes | None]:
    """A source that holds `data` in this way, and what is to come on standard input."""
    if way == "pipe":
        return "-", data
    if way == "file":
        Path("x.npy").write_bytes(data)
        return "x.npy", None
    if way == "fifo":
        os.mkfifo("fifo")
        return "fifo", None
    with zipfile.ZipFile("x.npz", "w", METHODS[way]) as file:
        file.writestr("a.npy", saved(X))
        file.writestr("x.npy", data)
    return "x.npz", None


def applied(leakycli: Run, way: str, data: bytes, dest: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    source, stdin = given(way, data)
    if way != "fifo":
        return leakycli("apply", source, dest, *options, stdin=stdin)
    Path("data").write_bytes(data)
    with subprocess.Popen(["sh", "-c", "exec cat data > fifo"]) as writer:
        done = leakycli("apply", source, dest, *options)
        # It is not cut off.
        assert writer.wait(20) == 0
    return done


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["several", "large"])
def test_a_second_array_is_refused_everywhere_with_its_bytes_and_the_way_to_it(leakycli: Run, here: Path, way: str, kind: str) -> None:
    dest = "out.npz" if way in METHODS else "out.npy"
    done = applied(leakycli, way, saved(X) + SECOND[kind], dest)
    assert done.returncode == 3
    text = done.stderr.decode()
    assert text.count("\n") == 1
    assert f"{len(SECOND[kind])} bytes" in text
    assert "numpy.load" in text
    assert not os.path.exists(dest)
    assert not any("partial" in name for name in os.listdir())


@pytest.mark.parametrize(
    ("way", "kind"), [(way, kind) for way in WAYS for kind in OTHERS if way not in ("pipe", "fifo") or kind in ("one zero", "much")]
)
def test_other_bytes_are_ignored_with_a_warning_everywhere(run: Command, leakycli: Run, here: Path, way: str, kind: str) -> None:
    data, dest = OTHERS[kind], "out.npz" if way in METHODS else "out.npy"
    words = f"{len(data)} byte{'' if len(data) == 1 else 's'} after the array w"
    if way in ("pipe", "fifo"):
        done = applied(leakycli, way, saved(X) + data, dest)
        code, out, err = done.returncode, done.stdout.decode(), done.stderr.decode()
    else:
        source, _ = given(way, saved(X) + data)
        code, out, err = run("apply", source, dest)
        assert words in run("info", source)[1]
        assert words in json.loads(run("info", source, "--json")[1])["warnings"][0]
        assert words in run("apply", source, f"2{dest}", "--dry-run")[1]
        code_of_verify, _, warned = run("verify", source, dest)
        assert code_of_verify == 0
        assert words in warned
    assert (code, err) == (0, "")
    assert f"warning: {'standard input' if way == 'pipe' else ''}" in out
    assert words in out
    assert [words in warning for warning in json.loads(Path(f"{dest}.report.json").read_text())["warnings"]] == [True]
    found = np.load(dest)
    assert np.array_equal(found["x"] if way in METHODS else found, defined(X))


def test_a_filter_does_not_drop_an_array_in_silence(leakycli: Run) -> None:
    done = leakycli("apply", "-", "-", stdin=saved(X, X, X))
    assert done.returncode == 3
    assert f"{2 * len(saved(X))} bytes".encode() in done.stderr
    done = leakycli("apply", "-", "-", stdin=saved(X) + b"tail")
    assert done.returncode == 0
    assert done.stdout == saved(defined(X))
    assert b"warning: standard input: 4 bytes after the array were ignored" in done.stderr


def test_a_pipe_that_never_ends_is_not_read_for_ever(here: Path) -> None:
    for tail, code, words in (("b'\\1'", 0, b"more than 16"), ("HEAD", 3, b"more than 16")):
        program = f"import sys; HEAD = {saved(X)!r}; w = sys.stdout.buffer.write; w(HEAD)\nwhile True: w({tail} * 9999)"
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as endless:
            command = [sys.executable, "-m", "leakycli", "apply", "-", f"out{code}.npy"]
            done = subprocess.run(command, stdin=endless.stdout, capture_output=True, timeout=60, check=False)
            endless.kill()
        assert done.returncode == code
        assert words in done.stdout + done.stderr


@pytest.mark.parametrize("method", METHODS)
def test_a_member_that_is_left_out_is_copied_with_all_that_follows(here: Path, method: str) -> None:
    given(method, saved(X, X))
    apply("x.npz", "out.npz", Options(skip=("x",)))
    with zipfile.ZipFile("out.npz") as file:
        assert file.read("x.npy") == saved(X, X)
    with pytest.raises(UnsupportedError, match="--skip x"):
        apply("x.npz", "out2.npz")
    assert str(next(member.problem for member in info("x.npz").members if member.name == "x"))


def test_verify_looks_at_what_follows_a_result(run: Command, here: Path) -> None:
    np.save("x.npy", X)
    apply("x.npy", "y.npy")
    whole = Path("y.npy").read_bytes()
    for tail, code, words in (
        (b"x", 5, "followed by 1 byte"),
        (bytes(99), 5, "followed by 99 bytes"),
        (saved(X), 3, f"{len(saved(X))} bytes"),
    ):
        Path("y.npy").write_bytes(whole + tail)
        found, _, err = run("verify", "x.npy", "y.npy")
        assert found == code
        assert words in err
    with zipfile.ZipFile("y.npz", "w") as file:
        file.writestr("x.npy", whole + b"tail")
    np.savez("x.npz", x=X)
    assert not verify("x.npz", "y.npz").equal
