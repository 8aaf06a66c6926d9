"""What the system refuses or gives in part: threads, short reads and writes, single calls that fail; and work that grows with its input."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from leakycli import Options, apply, leaky_relu, verify
from leakycli.errors import redacted, shown, visible
from leakycli.formats.zarr.tree import ZipTree

X = np.random.default_rng(4).standard_normal((64, 1024)).astype("f4")
LEAKYCLI = [sys.executable, "-W", "ignore", "-m", "leakycli"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("in.npy", X)
    np.savez_compressed("in.npz", x=X, y=X[::-1])
    zarr.create_array("in.zarr", data=X, chunks=(8, 1024))
    zarr.create_array("sharded.zarr", data=X, chunks=(8, 256), shards=(16, 1024))
    return tmp_path


# Threads.

NO_THREAD = """
import _thread, sys, threading
allowed = int(sys.argv.pop(1))
whole = _thread.start_new_thread
def refuse(*arguments, **named):
    global allowed
    allowed -= 1
    if allowed < 0:
        raise RuntimeError("can't start new thread")
    return whole(*arguments, **named)
for name in ("_start_new_thread", "_start_joinable_thread"):
    if hasattr(threading, name):
        whole = getattr(threading, name)
        setattr(threading, name, refuse)
from leakycli.cli import main
main()
"""


@pytest.mark.parametrize("allowed", [0, 1, 2])
@pytest.mark.parametrize("source", ["in.npy", "in.npz", "in.zarr"])
def test_where_no_thread_can_be_started_nothing_hangs(here: Path, source: str, allowed: int) -> None:
    dest = source.replace("in", "out")
    command = [sys.executable, "-W", "ignore", "-c", NO_THREAD, str(allowed), "apply", "-q", "--workers", "2", source, dest]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr
    if done.returncode:
        assert done.returncode == 1, done.stderr
        assert done.stderr.count("\n") == 1
        assert "thread" in done.stderr
        assert source == "in.zarr"
        assert not [name for name in os.listdir() if name.startswith("out")]
    else:
        apply(source, f"expected-{dest}")
        assert sorted(name for name in os.listdir() if name.startswith("out")) == [dest, f"{dest}.report.json"]


# Short reads and writes, and single calls that fail.

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>
static unsigned long long state = 88172645463325252ULL;
static int ready;
static unsigned next(void) { state ^= state << 13; state ^= state >> 7; state ^= state << 17; return state >> 33; }
static int ours(int fd) {
    char name[64], path[4096];
    if (!ready) { ready = 1; state ^= atoll(getenv("SHORT_SEED")) * 2654435761ULL; for (int i = 0; i < 9; i++) next(); }
    if (fd <= 2) return 0;
    snprintf(name, 64, "/proc/self/fd/%d", fd);
    int before = errno;
    ssize_t n = readlink(name, path, 4095);
    errno = before;
    if (n < 0) return 0;
    path[n] = 0;
    return strstr(path, getenv("SHORT_UNDER")) != 0;
}
static size_t cut(size_t n) { return n <= 1 || next() % 2 ? n : next() % 3 == 0 ? 1 : 1 + next() % (n - 1); }
#define ALL(name, result, arguments, body) result name arguments { \
    static result (*real) arguments; if (!real) real = dlsym(RTLD_NEXT, #name); \
    if (ours(fd)) { if (next() % 4 == 0) { errno = EINTR; return -1; } body }
#define END(...) return real(__VA_ARGS__); }
#define V struct iovec one; if (c > 0) { one = v[0]; one.iov_len = cut(one.iov_len); v = &one; c = 1; }
ALL(read, ssize_t, (int fd, void *b, size_t n), n = cut(n);) END(fd, b, n)
ALL(write, ssize_t, (int fd, const void *b, size_t n), n = cut(n);) END(fd, b, n)
ALL(pread64, ssize_t, (int fd, void *b, size_t n, off_t o), n = cut(n);) END(fd, b, n, o)
ALL(pwrite64, ssize_t, (int fd, const void *b, size_t n, off_t o), n = cut(n);) END(fd, b, n, o)
ALL(pread, ssize_t, (int fd, void *b, size_t n, off_t o), n = cut(n);) END(fd, b, n, o)
ALL(pwrite, ssize_t, (int fd, const void *b, size_t n, off_t o), n = cut(n);) END(fd, b, n, o)
ALL(readv, ssize_t, (int fd, const struct iovec *v, int c), ) V END(fd, v, c)
ALL(writev, ssize_t, (int fd, const struct iovec *v, int c), ) V END(fd, v, c)
ALL(preadv2, ssize_t, (int fd, const struct iovec *v, int c, off_t o, int f), ) V END(fd, v, c, o, f)
ALL(preadv64v2, ssize_t, (int fd, const struct iovec *v, int c, off_t o, int f), ) V END(fd, v, c, o, f)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shim")
    (folder / "short.c").write_text(SHIM)
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("no compiler for a library that makes reads and writes short")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-w", "-o", folder / "short.so", folder / "short.c", "-ldl"], check=True)
    return folder / "short.so"


@pytest.mark.parametrize("source", ["in.npy", "in.npz", "in.zarr", "sharded.zarr", "in.zarr to zip"])
@pytest.mark.parametrize("seed", ["1"])
def test_short_reads_and_writes_change_nothing(here: Path, shim: Path, source: str, seed: str) -> None:
    source, _, to = source.partition(" to ")
    dest = "out.zarr.zip" if to else f"out.{source.split('.')[1]}"
    environment = {**os.environ, "LD_PRELOAD": str(shim), "SHORT_SEED": seed, "SHORT_UNDER": str(here)}
    done = subprocess.run([*LEAKYCLI, "apply", "-q", source, dest], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert subprocess.run([*LEAKYCLI, "verify", "-q", source, dest], env=environment, timeout=60).returncode == 0
    apply(source, f"expected-{dest}")
    if os.path.isfile(dest):
        assert Path(dest).read_bytes() == Path(f"expected-{dest}").read_bytes()


#: What a run asks the system for on its way to a result.
INTERRUPTED = ("openat", "pwrite64", "write", "ftruncate", "fsync", "flock")
CALLS = (
    "openat",
    "mkdir",
    "pwrite64",
    "write",
    "ftruncate",
    "rename",
    "renameat2",
    "unlink",
    "chmod",
    "fchmod",
    "fsync",
    "flock",
    "close",
    "lseek",
)


@pytest.mark.parametrize(("source", "dest", "code"), [("in.npy", "out.npy", "EIO"), ("in.zarr", "out.zarr", "ENOSPC")])
def test_a_call_that_fails_once_is_one_line_or_does_no_harm(here: Path, source: str, dest: str, code: str) -> None:
    if shutil.which("strace") is None or subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("no strace to make a call fail")
    fail_one_by_one(here, source, dest, code, most=3)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["EIO", "ENOSPC", "EINTR"])
@pytest.mark.parametrize(
    ("source", "dest"), [("in.npy", "out.npy"), ("in.npz", "out.npz"), ("in.zarr", "out.zarr"), ("in.zarr", "out.zarr.zip")]
)
def test_each_call_that_fails_once_is_one_line_or_does_no_harm(here: Path, source: str, dest: str, code: str) -> None:
    if shutil.which("strace") is None:
        pytest.skip("no strace to make a call fail")
    fail_one_by_one(here, source, dest, code, most=1 << 20)


def fail_one_by_one(here: Path, source: str, dest: str, code: str, most: int) -> None:
    """Fail each call on what is named like DEST once, at most so many of a kind; then the run is resumed, and gives what it should."""
    given = ["--fsync", "-q", "--workers", "1", source, dest]
    watched = ["-f", "-qq", "-y", "-o", "calls", "-e", f"trace={','.join(CALLS)}"]
    subprocess.run(["strace", *watched, *LEAKYCLI, "apply", *given], check=True, timeout=120)
    numbers: dict[str, list[int]] = {}
    seen: dict[str, int] = {}
    for line in Path("calls").read_text(errors="replace").splitlines():
        if (found := re.match(r"\d+ +(\w+)\(", line)) is None:
            continue
        name = found[1]
        seen[name] = seen.get(name, 0) + 1
        if dest in line:
            numbers.setdefault(name, []).append(seen[name])
    clear(dest)
    assert sum(map(len, numbers.values())) > 8
    trials = [(name, number) for name, several in numbers.items() for number in several if code != "EINTR" or name in INTERRUPTED]
    for name, number in trials[len(dest) % 3 :: max(len(trials) // most, 1)]:
        inject = ["-f", "-qq", "-o", "/dev/null", "-e", f"trace={name}", "-e", f"inject={name}:error={code}:when={number}"]
        done = subprocess.run(["strace", *inject, *LEAKYCLI, "apply", *given], capture_output=True, text=True, timeout=120)
        assert "Traceback" not in done.stderr, (name, number, done.stderr)
        assert "defect" not in done.stderr, (name, number, done.stderr)
        assert done.stderr.count("\n") <= 1, (name, number, done.stderr)
        assert (done.returncode == 0) == (done.stderr == ""), (name, number, done.returncode, done.stderr)
        apply(source, dest, Options(resume=True, workers=1))
        assert verify(source, dest).equal, (name, number)
        left = sorted(entry for entry in os.listdir() if entry.startswith("out"))
        assert left == sorted((dest, f"{dest}.report.json")), (name, number, left)
        clear(dest)


def clear(dest: str) -> None:
    for entry in os.listdir():
        if entry.startswith(dest):
            shutil.rmtree(entry) if os.path.isdir(entry) else os.unlink(entry)


# Work that grows with what there is, and not with its square.


@pytest.mark.parametrize("text", ["a", "://", "a://", "?", "a://b?", "@", "://@", "a b://c?d "])
def test_secrets_are_looked_for_in_time_that_grows_with_the_text(text: str) -> None:
    long = text * 20_000
    for name in (long, f"{long}://", f"://{long}", f"s3://user:secret@host/{long}?secret"):
        assert len(shown(name)) < 20_000
        assert "secret" not in redacted(f"s3://user:secret@host/x?secret {name}")[:60]


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("s3://user:secret@host/x", "s3://***@host/x"),
        ("https://host/x?sig=secret", "https://host/x?***"),
        ("cannot read 'https://host/x?sig=secret': gone", "cannot read 'https://host/x?***': gone"),
        ("why? https://host/x?sig=secret", "why? https://host/x?***"),
        ("why?https://a:b@host/x?sig=secret", "why?https://***@host/x?***"),
        ("a?b", "a?b"),
        ("https://host/x?", "https://host/x?"),
    ],
)
def test_what_may_be_secret_in_a_url_is_not_shown(text: str, then: str) -> None:
    assert visible(text) == then


def test_an_archive_of_many_nodes_is_listed_in_time_that_grows_with_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "many.zarr.zip", "w") as archive:
        for number in range(8_000):
            archive.writestr(f"a/{number}/zarr.json", b"")
    tree = ZipTree(str(tmp_path / "many.zarr.zip"))
    try:
        nodes = tree.children("a")
        assert len(nodes) == 8_000
        assert all([entry.key for entry in tree.children(node.key)] == [f"{node.key}/zarr.json"] for node in nodes)
        assert sum(1 for node in nodes for _ in tree.walk(node.key)) == 8_000
        assert sum(1 for _ in tree.walk("")) == 16_001
        assert tree.children("b") == []
    finally:
        tree.close()


def test_a_result_is_what_the_function_gives(here: Path) -> None:
    apply("in.npy", "out.npy")
    assert np.array_equal(np.load("out.npy"), leaky_relu(X))


# What is described, and what is kept of each array.


def peak_of(*arguments: str) -> tuple[int, str]:
    """The exit code of a run of its own and what it said, the last line being its peak of resident memory in bytes."""
    code = (
        "import sys; from leakycli.cli import _run; from leakycli.system import peak_resident\n"
        "code = _run(sys.argv[1:]); print(peak_resident(), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


DOCUMENT = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [4],
    "data_type": "float32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2]}},
    "chunk_key_encoding": {"name": "default"},
    "fill_value": 0,
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    "attributes": {},
}


@pytest.mark.parametrize("archive", [False, True])
def test_a_document_of_any_size_is_not_read_whole_before_its_size_is_looked_at(here: Path, archive: bool) -> None:
    name = "d.zarr.zip" if archive else "d.zarr"
    if archive:
        with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("zarr.json", "w") as member:
            for _ in range(20):
                member.write(bytes(8 << 20))
    else:
        Path(name).mkdir()
        with open(f"{name}/zarr.json", "wb") as file:
            file.truncate(8 << 30)
    for command in (["info", name], ["apply", "-q", name, "out.zarr"]):
        code, said = peak_of(*command)
        assert code == 3
        assert "a metadata document of more than" in said
        assert int(said.split()[-1]) < 100 << 20, said


def test_a_grid_of_many_chunks_costs_what_its_stored_ones_cost(here: Path) -> None:
    Path("huge.zarr").mkdir()
    grid = {"name": "regular", "configuration": {"chunk_shape": [1]}}
    Path("huge.zarr/zarr.json").write_text(json.dumps(DOCUMENT | {"shape": [1 << 34], "chunk_grid": grid}))
    for number in (0, 1 << 33, (1 << 34) - 1):
        path = Path("huge.zarr/c", str(number))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(np.float32(-1).tobytes())
    code, said = peak_of("apply", "-q", "--memory", "128M", "huge.zarr", "out.zarr")
    assert code == 0, said
    assert int(said.split()[-1]) < 128 << 20
    assert sorted(os.listdir("out.zarr/c")) == sorted(map(str, (0, 1 << 33, (1 << 34) - 1)))
    assert Path("out.zarr/c/0").read_bytes() == np.float32(-0.2).tobytes()


@pytest.mark.parametrize(("elements", "members"), [(200, 1000), (12_000, 300)])
def test_what_is_kept_of_each_array_is_in_the_plan(here: Path, elements: int, members: int) -> None:
    with zipfile.ZipFile("many.npz", "w") as archive:
        stream = io.BytesIO()
        np.save(stream, np.linspace(-5, 5, elements, dtype=np.float32))
        for number in range(members):
            archive.writestr(f"m{number}.npy", stream.getvalue())
    code, said = peak_of("apply", "-q", "--memory", "36M", "many.npz", "out.npz")
    assert code == 2
    assert "a memory bound of 36 MiB is too small: this run needs" in said
    assert not Path("out.npz").exists()
    code, said = peak_of("apply", "-q", "--memory", "300M", "many.npz", "out.npz")
    assert code == 0, said
    report = json.loads(Path("out.npz.report.json").read_bytes())
    assert len(report["arrays"]) == members
    assert int(said.split()[-1]) <= report["cost"]["memory_projected"] * 1.05
