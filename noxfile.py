"""Everything that a change must pass, each in an environment of its own: `nox` runs the usual ones, `nox --list` shows all.

nox -s lint types          while you work
nox -s tests-3.13          the tests on one Python
nox                        what .ci/run runs, but for the README's own commands
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "types", "tests", "kernels", "sanitize", "remote", "docs", "package", "no_compiler", "bench_quick"]

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
KERNEL = "from leakycli.function.kernel import NAME; print(NAME);"
PYTEST = ("python", "-m", "pytest", "-q", "-n", "auto")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and spelling."""
    session.install("ruff>=0.6", "codespell>=2.3")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")


@nox.session
def types(session: nox.Session) -> None:
    """Types, strictly."""
    session.install("-e", ".[test,remote-tests]", "mypy>=1.11")
    session.run("mypy")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests on each Python that is installed here."""
    session.install(".[test]")
    session.run(*PYTEST, *session.posargs)


@nox.session
def kernels(session: nox.Session) -> None:
    """The tests of what is computed, with numpy's kernel, then with each compiled copy that this processor can run but does not choose."""
    session.install(".[test]")
    paths = session.posargs or (
        "tests/function",
        "tests/engine",
        "tests/report",
        "tests/formats/test_npy.py",
        "tests/promises/test_resume.py",
    )
    session.run(*PYTEST, *paths, env={"LEAKYCLI_KERNEL": "reference"})
    listed = "from leakycli.function import compiled; print(*compiled.COPIES[:-1])"
    for copy in str(session.run("python", "-c", listed, silent=True)).split():
        session.run(*PYTEST, "tests/report", "tests/formats/test_npy.py", env={"LEAKYCLI_KERNEL": copy})


@nox.session
def sanitize(session: nox.Session) -> None:
    """The kernel's tests with the compiler's address and undefined-behaviour sanitizers."""
    session.install(".[test]")
    session.run("bash", ".ci/sanitize", str(Path(session.bin) / "python"), external=True)


@nox.session
def remote(session: nox.Session) -> None:
    """The tests of URLs, against servers on loopback."""
    session.install(".[test,remote-tests]")
    session.run(*PYTEST, "tests/stores", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documents: what is generated is up to date, every example works, no link leads nowhere."""
    session.install(".[test,docs]")
    session.run("python", "docs/generate.py", "--check")
    session.run("mkdocs", "build", "--quiet")
    session.run(*PYTEST, "tests/docs", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """The share of lines and branches that the tests run, also in processes that they start; fails below the floor in pyproject.toml."""
    session.install("-e", ".[test]", "coverage[toml]>=7.10")
    folder = Path(session.create_tmp()).resolve()
    env = {"COVERAGE_FILE": str(folder / "coverage"), "COVERAGE_CORE": os.environ.get("COVERAGE_CORE", "")}
    session.run("coverage", "run", "-m", "pytest", "-q", "-n", "auto", *session.posargs, env=env)
    session.run("coverage", "combine", "--quiet", env=env)
    session.run("coverage", "report", env=env)


@nox.session
def package(session: nox.Session) -> None:
    """What ships: the wheel does the main job, and passes tests from the source archive, whose own package is removed first."""
    session.install("build>=1.2", "twine>=6.1")
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)
    session.run("python", "-m", "build", "--outdir", str(folder / "dist"))
    (archive,), (wheel,) = folder.glob("dist/*.tar.gz"), folder.glob("dist/*.whl")
    session.run("twine", "check", "--strict", str(archive), str(wheel))
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    if not all(name.startswith("leakycli") for name in names) or not any(name.endswith("py.typed") for name in names):
        session.error(f"the wheel holds what it should not, or lacks py.typed: {names}")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    shutil.rmtree(source / "leakycli")
    session.install(f"{wheel}[test]")
    session.chdir(source)
    session.run("leakycli", "--version")
    if os.environ.get("LEAKYCLI_REQUIRE_KERNEL") == "1":
        if "-abi3-" not in wheel.name:
            session.error(f"{wheel.name} is not for all versions of Python")
        session.run("python", "-c", f"{KERNEL} assert NAME != 'reference'")
        (library,) = Path(session.virtualenv.location).rglob("_kernel.abi3.so")
        symbols = str(session.run("nm", "-D", "--defined-only", str(library), silent=True, external=True)).split()[2::3]
        if set(symbols) - {"_init", "_fini"} != {"PyInit__kernel"}:
            session.error(f"the kernel offers more to the linker than its entry: {symbols}")
    main_job(session, folder)
    session.run(*PYTEST, "tests/cli/test_cli.py", "tests/function", "tests/formats/test_npy.py", *session.posargs)


@nox.session
def no_compiler(session: nox.Session) -> None:
    """Without a compiler the package installs all the same, and computes with numpy."""
    folder = Path(session.create_tmp()).resolve()
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "sh").unlink(missing_ok=True)
    (programs / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    session.run("python", "-m", "pip", "install", "-q", ".", env={"PATH": str(programs), "LEAKYCLI_REQUIRE_KERNEL": ""})
    session.run("python", "-c", f"{KERNEL} assert NAME == 'reference'")
    main_job(session, folder)


def main_job(session: nox.Session, folder: Path) -> None:
    """The README's main job, and a check of its result."""
    source, dest = "sample_data/digits_dense.npy", str(folder / "out.npy")
    session.run("leakycli", "apply", "--quiet", "--overwrite", source, dest)
    session.run("leakycli", "verify", source, dest)


@nox.session
def bench_quick(session: nox.Session) -> None:
    """A small benchmark: it runs, its results agree with the peers', and memory keeps to the bound. No time is judged."""
    session.install(".")
    found = Path(session.create_tmp()).resolve() / "found.json"
    rows = ("--only", "npy float32", "--only", "zarr zstd", "--only", "npz stored")
    session.run("python", "-m", "benchmarks", "--size", "64", "--runs", "1", *rows, "--json", str(found), *session.posargs)
    if not json.loads(found.read_text())["rows"]:
        session.error("the benchmark measured nothing")
