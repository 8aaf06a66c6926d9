"""The command line: what is shown where, which options there are, which source goes where."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import zarr

import leakycli as package
from leakycli import Options, apply
from leakycli.cli import _run, cli
from leakycli.cli import options as cli_options
from leakycli.function.rule import OUTPUTS
from tests.conftest import Run
from tests.formats.test_bad_input import check_line, snapshot
from tests.formats.test_npy import defined
from tests.kit.schema import validate_info

X = np.array([[-2, -1, 0], [1, 2, 3]], np.float32)

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `in.npy` in it, which is also the working directory."""
    monkeypatch.chdir(tmp_path)
    np.save("in.npy", X)
    return tmp_path


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command line in this process: exit code, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = _run(list(arguments))
        return (code, *capsys.readouterr())

    return call


def strict(text: str) -> Any:
    """JSON by RFC 8259, without the NaN and Infinity that Python lets pass."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def commands() -> list[str]:
    return cli.list_commands(click.Context(cli))


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def tree(folder: str, names: list[str]) -> None:
    """Make small arrays, each different, at `names` under `folder`."""
    for number, name in enumerate(names):
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # numpy would add a suffix of its own to some names.
        with open(path, "wb") as file:
            np.save(file, X + number)


def results(folder: str) -> list[str]:
    """The arrays under `folder`, reports apart."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.np[yz]"))


# Help, version, what is imported


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_lists_each_command(run: Command, flag: str) -> None:
    code, out, err = run(flag)
    assert (code, err) == (0, "")
    for name in commands():
        assert f"\n  {name} " in out


@pytest.mark.parametrize("name", commands())
def test_the_help_of_a_command_lists_each_of_its_options(run: Command, name: str) -> None:
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    found = [parameter for parameter in command(name).params if isinstance(parameter, click.Option)]
    assert found or name == "completion"
    for option in found:
        assert option.help
        for spelling in (*option.opts, *option.secondary_opts):
            assert spelling in out


@pytest.mark.parametrize("name", commands())
def test_no_option_has_an_argument_or_a_neighbour_for_a_name(name: str) -> None:
    spellings = [spelling for parameter in command(name).params for spelling in parameter.opts if spelling.startswith("-")]
    assert len(spellings) == len(set(spellings))


def test_the_version(leakycli: Run) -> None:
    done = leakycli("--version")
    assert (done.returncode, done.stderr) == (0, b"")
    assert package.__version__.encode() in done.stdout


def test_without_arguments_there_is_help(leakycli: Run) -> None:
    done = leakycli()
    assert done.returncode in (0, 2)
    assert b"Usage" in done.stdout + done.stderr
    assert b"Traceback" not in done.stderr


def imported(folder: Path, *arguments: str) -> set[str]:
    """The modules in memory after a command line ran in a process of its own."""
    code = "import sys; from leakycli.cli import _run; code = _run(sys.argv[1:]); print(*sys.modules, file=sys.stderr); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


HEAVY = ("zarr", "dask", "distributed", "fsspec", "numcodecs", "asyncio", "matplotlib", "sklearn")


@pytest.mark.skipif(
    sys.platform != "linux" or (os.cpu_count() or 1) < 2, reason="threads are looked for in /proc; with one processor there is one"
)
def test_libraries_start_no_threads_beside_the_workers(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(4, np.float32))
    code = """
import os, sys
from leakycli.cli import main
try:
    main()
except SystemExit:
    print(len(os.listdir("/proc/self/task")))
"""
    command = [sys.executable, "-c", code, "apply", "--quiet", "--workers", "1", "x.npy", "y.npy"]
    env = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    assert subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=True).stdout == b"1\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["apply", "--help"], ["verify", "--help"], ["info", "--help"], ["--version"]], ids=" ".join
)
def test_help_imports_no_numpy(tmp_path: Path, arguments: list[str]) -> None:
    modules = imported(tmp_path, *arguments)
    for name in (*HEAVY, "numpy", "rich"):
        assert name not in modules


@pytest.mark.parametrize(
    "arguments", [["apply", "in.npy", "out.npy"], ["verify", "in.npy", "in.npy", "--alpha", "1"], ["info", "in.npy"]], ids=" ".join
)
def test_a_small_npy_imports_no_zarr(here: Path, arguments: list[str]) -> None:
    modules = imported(here, *arguments)
    assert "numpy" in modules
    for name in (*HEAVY, "rich.progress"):
        assert name not in modules


def test_quiet_imports_no_rich(here: Path) -> None:
    assert "rich" not in imported(here, "apply", "in.npy", "out.npy", "--quiet")


def test_the_names_of_the_package_are_what_they_say_whatever_was_imported_before(tmp_path: Path) -> None:
    code = (
        "import importlib, pkgutil, leakycli\n"
        "for module in pkgutil.iter_modules(leakycli.__path__):\n"
        "    if module.name != '__main__': importlib.import_module('leakycli.' + module.name)\n"
        "for name in leakycli.__all__:\n"
        "    assert name == '__version__' or callable(getattr(leakycli, name)), name\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


# Options and the environment


def test_the_types_of_the_option_are_those_of_the_rule() -> None:
    assert cli_options.DTYPES == OUTPUTS


@pytest.mark.parametrize(
    ("variable", "value", "parameter", "recorded"),
    [("ALPHA", "0.5", "alpha", 0.5), ("DTYPE", "float16", "dtype", "float16"), ("STRICT", "1", "strict", True)],
)
def test_an_option_can_be_set_in_the_environment(
    run: Command, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, parameter: str, recorded: object
) -> None:
    monkeypatch.setenv(f"LEAKYCLI_APPLY_{variable}", value)
    assert run("apply", "in.npy", "out.npy", "--quiet")[0] == 0
    assert json.loads(Path("out.npy.report.json").read_bytes())["parameters"][parameter] == recorded


def test_the_command_line_wins_over_the_environment(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKYCLI_APPLY_ALPHA", "0.5")
    assert run("apply", "in.npy", "out.npy", "--quiet", "--alpha", "0.25")[0] == 0
    assert np.array_equal(np.load("out.npy"), defined(X, 0.25))


def test_the_environment_works_for_every_spelling_of_the_help(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKYCLI_APPLY_JSON", "1")
    monkeypatch.setenv("LEAKYCLI_APPLY_REPORT", "none")
    monkeypatch.setenv("LEAKYCLI_APPLY_WORKERS", "1")
    monkeypatch.setenv("LEAKYCLI_APPLY_MEMORY", "1G")
    code, out, err = run("apply", "in.npy", "out.npy")
    assert (code, err) == (0, "")
    assert strict(out)["cost"]["memory_bound"] == 1 << 30
    assert sorted(os.listdir()) == ["in.npy", "out.npy"]


def test_a_report_from_the_environment_may_have_a_space_in_its_name(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKYCLI_APPLY_REPORT", "my report.json")
    assert run("apply", "in.npy", "out.npy", "--quiet")[0] == 0
    assert Path("my report.json").exists()


def test_overwrite_and_dry_run_are_not_taken_from_the_environment(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out.npy").write_bytes(b"precious")
    monkeypatch.setenv("LEAKYCLI_APPLY_OVERWRITE", "1")
    monkeypatch.setenv("LEAKYCLI_OVERWRITE", "1")
    code, _, err = run("apply", "in.npy", "out.npy")
    assert code == 2
    assert "out.npy" in err
    assert Path("out.npy").read_bytes() == b"precious"
    monkeypatch.setenv("LEAKYCLI_APPLY_DRY_RUN", "1")
    assert run("apply", "in.npy", "new.npy", "--quiet")[0] == 0
    assert Path("new.npy").exists()


@pytest.mark.parametrize("variable", ["LEAKYCLI_VERSION", "LEAKYCLI_HELP", "LEAKYCLI_APPLY_HELP"])
@pytest.mark.parametrize("value", ["1", "0.2.0"])
def test_variables_that_are_no_options_change_nothing(run: Command, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    # As a build script may well call the version it wants to install.
    monkeypatch.setenv(variable, value)
    assert run("apply", "in.npy", "out.npy", "--quiet") == (0, "", "")
    assert Path("out.npy").exists()


@pytest.mark.parametrize("alpha", ["0", "-0.0", "-0.3", "1", "2.5", "1e-3", " .5 "])
def test_any_finite_alpha_is_taken(run: Command, alpha: str) -> None:
    assert run("apply", "in.npy", "out.npy", "--quiet", "--alpha", alpha)[0] == 0
    assert np.array_equal(np.load("out.npy"), defined(X, float(alpha)))


# What is shown, and where


def test_a_result_is_described_on_standard_output(run: Command) -> None:
    code, out, err = run("apply", "in.npy", "out.npy", "--alpha", "0.3")
    assert (code, err) == (0, "")
    assert "in.npy -> out.npy" in out
    assert "2 x 3 float32, alpha 0.3" in out
    assert "lost in the cast: nothing" in out


def test_losses_are_shown(run: Command) -> None:
    np.save("in.npy", np.array([1e6, -1e-9, 1], np.float32))
    out = run("apply", "in.npy", "out.npy", "--dtype", "float16")[1]
    assert "1 overflowed" in out
    assert "1 underflowed" in out
    np.save("in.npy", np.array([1e10, np.nan], np.float32))
    out = run("apply", "in.npy", "out.npy", "--dtype", "int32", "--nan", "-1", "--overwrite")[1]
    assert "1 clipped" in out
    assert "1 NaN replaced" in out
    assert np.load("out.npy").tolist() == [2**31 - 1, -1]


@pytest.mark.parametrize(
    "x",
    [
        np.array([np.finfo("f8").max, np.finfo("f8").min, 1]),
        np.array([np.finfo("f8").max, -1]),
        np.array([5e-324, -5e-324]),
        np.array([np.inf, -np.inf, np.nan]),
        np.array([np.finfo("f4").max, np.finfo("f4").min], np.float32),
        np.array([2**63 - 1, -(2**63)]),
        np.zeros(3),
        np.empty((0, 3)),
        np.array(-1.5),
    ],
    ids=["float64 extremes", "float64 maximum", "subnormal", "not finite", "float32 extremes", "int64 extremes", "zeros", "empty", "0-d"],
)
def test_any_values_can_be_shown(run: Command, x: Any) -> None:
    np.save("in.npy", x)
    code, _, err = run("apply", "in.npy", "out.npy")
    assert (code, err) == (0, "")
    code, out, err = run("apply", "in.npy", "out.npy", "--overwrite", "--json")
    assert (code, err) == (0, "")
    assert strict(out) == strict(Path("out.npy.report.json").read_text())


def test_a_terminal_without_unicode_is_no_obstacle(leakycli: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "é→.npy", X)
    for arguments in (["apply", "é→.npy", "out.npy"], ["apply", "é→.npy", "out.npy", "--dry-run", "--overwrite"], ["info", "é→.npy"]):
        done = leakycli(*arguments, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
        assert b"float32" in done.stdout or "--dry-run" in arguments


def test_quiet_prints_nothing(leakycli: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", X)
    for arguments in (["apply", "in.npy", "out.npy", "--verify"], ["apply", "in.npy", "o2.npy", "-q"], ["verify", "in.npy", "out.npy"]):
        done = leakycli(*arguments, *["--quiet"] * ("-q" not in arguments))
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_errors_are_printed_in_spite_of_quiet(run: Command) -> None:
    code, out, err = run("apply", "missing.npy", "out.npy", "--quiet")
    assert (code, out) == (1, "")
    check_line(err, "missing.npy")


def test_debug_shows_where_an_error_came_from(run: Command) -> None:
    code, _, err = run("apply", "missing.npy", "out.npy", "--debug")
    assert code == 1
    assert err.startswith("Traceback")
    check_line(err.splitlines(keepends=True)[-1], "missing.npy")


def test_json_is_one_strict_line(run: Command) -> None:
    np.save("in.npy", np.array([np.nan, np.inf, -np.inf, 1], np.float32))
    code, out, err = run("apply", "in.npy", "out.npy", "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    report = strict(out)
    assert report == strict(Path("out.npy.report.json").read_text())
    assert (report["arrays"][0]["before"]["max"], report["arrays"][0]["before"]["min"]) == ("Infinity", "-Infinity")
    assert report["arrays"][0]["before"]["nan"] == 1


def test_json_of_a_batch_is_one_strict_line_per_source(run: Command) -> None:
    Path("bad.npy").write_bytes(b"nonsense")
    tree("more", ["a.npy"])
    Path("out").mkdir()
    code, out, err = run("apply", "in.npy", "bad.npy", "more/a.npy", "out", "--json")
    assert code == 6
    good, bad, also_good, last = map(strict, out.splitlines())
    assert (last["total"]["done"], last["total"]["failed"], last["total"]["elements"]) == (2, 1, 12)
    assert last["total"]["failures"] == [bad]
    assert (good["source"]["path"], also_good["source"]["path"]) == ("in.npy", "more/a.npy")
    assert (bad["source"], bad["exit_code"]) == ("bad.npy", 3)
    assert "bad.npy" in bad["error"]
    assert err.count("\n") == 2


def test_json_names_what_cannot_be_text(run: Command) -> None:
    name = os.fsdecode(b"\n.npy" if sys.platform == "darwin" else b"\xff\n.npy")
    os.rename("in.npy", name)
    code, out, err = run("apply", name, "out.npy", "--json")
    assert (code, err) == (0, "")
    strict(out.encode().decode())
    code, out, err = run("info", name, "--json")
    assert (code, err) == (0, "")
    strict(out.encode().decode())


def test_a_filter_is_silent_but_for_what_may_be_wrong(leakycli: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", X)
    done = leakycli("apply", "in.npy", "-")
    apply(str(tmp_path / "in.npy"), str(tmp_path / "out.npy"))
    assert done.stdout == (tmp_path / "out.npy").read_bytes()
    assert done.stderr == b""
    np.save(tmp_path / "large.npy", np.array([1e300, 1.0]))
    done = leakycli("apply", "large.npy", "-", "--dtype", "float32")
    assert (done.returncode, done.stderr) == (0, b"leakycli: lost in the cast: 1 overflowed\n")


def test_progress_as_json_is_lines_of_events_on_standard_error(leakycli: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.zeros(5_000_000, np.float32))
    done = leakycli("apply", "in.npy", "out.npy", "--progress", "json", "--json")
    events = [strict(line) for line in done.stderr.decode().splitlines()]
    assert [event["event"] for event in events] == ["started", "region_done", "region_done", "region_done", "finished"]
    assert {event["source"] for event in events} == {"in.npy"}
    assert sum(event["bytes_in"] for event in events if event["event"] == "region_done") == events[0]["bytes_in"] == 20_000_000
    assert [event["done"] for event in events] == sorted(event["done"] for event in events)
    assert {event["total"] for event in events} == {20_000_000}
    assert all(event["time"].endswith("+00:00") for event in events)
    assert strict(done.stdout.decode())["tool"] == "leakycli"


def test_progress_plain_is_lines_on_standard_error(run: Command) -> None:
    code, out, err = run("apply", "in.npy", "out.npy", "--progress", "plain")
    assert code == 0
    assert err.splitlines() == ["in.npy: done"]
    assert "in.npy -> out.npy" in out


@pytest.mark.parametrize("kind", ["auto", "none", "bar"])
def test_no_progress_is_shown_of_a_short_run_or_off_a_terminal(run: Command, kind: str) -> None:
    assert run("apply", "in.npy", "out.npy", "--progress", kind)[::2] == (0, "")


def test_quiet_silences_progress(run: Command) -> None:
    assert run("apply", "in.npy", "out.npy", "--progress", "json", "--quiet") == (0, "", "")


def test_a_terminal_gets_no_binary(here: Path) -> None:
    leader, follower = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "leakycli", "apply", "in.npy", "-"], stdout=follower, stderr=subprocess.PIPE, cwd=here, timeout=30
        )
    finally:
        os.close(follower)
    shown = b""
    # A terminal whose other end is closed reads as an error on Linux, as the end elsewhere.
    with contextlib.suppress(OSError):
        shown = os.read(leader, 1000)
    os.close(leader)
    assert done.returncode == 2
    check_line(done.stderr.decode(), "terminal")
    assert shown == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
@pytest.mark.parametrize(
    "arguments", [["apply", "in.npy", "out.npy"], ["apply", "in.npy", "out.npy", "--json"], ["info", "in.npy"], ["apply", "in.npy", "-"]]
)
def test_a_full_disk_behind_standard_output_is_one_line(here: Path, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "leakycli", *arguments], stdout=full, stderr=subprocess.PIPE, cwd=here, timeout=30)
    assert done.returncode == 1
    check_line(done.stderr.decode(), os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("arguments", ["apply in.npy out.npy", "apply in.npy out.npy --quiet", "apply in.npy out.npy --json"])
def test_a_result_is_written_even_when_standard_output_is_closed(here: Path, arguments: str) -> None:
    done = subprocess.run(["sh", "-c", f'"$0" -m leakycli {arguments} >&-', sys.executable], cwd=here, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    assert np.array_equal(np.load("out.npy"), defined(X))


def test_a_result_for_a_closed_standard_output_fails(here: Path) -> None:
    done = subprocess.run(["sh", "-c", '"$0" -m leakycli apply in.npy - >&-', sys.executable], cwd=here, capture_output=True, timeout=30)
    assert done.returncode == 1
    check_line(done.stderr.decode(), "standard output")
    done = subprocess.run(["sh", "-c", '"$0" -m leakycli apply - out.npy <&-', sys.executable], cwd=here, capture_output=True, timeout=30)
    assert done.returncode == 1
    check_line(done.stderr.decode(), "standard input")


# Dry run


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_dry_run_writes_nothing(run: Command, options: tuple[str, ...]) -> None:
    Path("out").mkdir()
    before = snapshot(Path())
    for dest in ("out.npy", "out/"):
        code, out, err = run("apply", "in.npy", dest, "--dry-run", *options)
        assert (code, err) == (0, "")
        if options:
            plan = strict(out)
            assert (plan["source"], plan["bytes_in"], plan["bytes_out"], plan["regions"]) == ("in.npy", 24, 24, 1)
        else:
            assert "nothing is written" in out
    assert snapshot(Path()) == before


def test_a_dry_run_makes_the_checks_of_a_run(run: Command) -> None:
    Path("out.npy").write_bytes(b"precious")
    Path("bad.npy").write_bytes(b"nonsense")
    before = snapshot(Path())
    for code, *arguments in (
        (2, "in.npy", "out.npy"),
        (1, "in.npy", "nowhere/out.npy"),
        (1, "missing.npy", "new.npy"),
        (3, "bad.npy", "new.npy"),
        (2, "in.npy", "in.npy", "--overwrite"),
        (2, "in.npy", "new.npy", "--memory", "1K"),
        (2, "in.npy", "new.npy", "--nan", "3"),
    ):
        found, out, err = run("apply", *map(str, arguments), "--dry-run")
        assert (found, out) == (code, "")
        check_line(err, "")
    assert snapshot(Path()) == before


def test_a_dry_run_of_a_tree_makes_no_folders(run: Command) -> None:
    tree("tree", ["a.npy", "sub/b.npy"])
    code, out, _ = run("apply", "-r", "tree/", "out", "--dry-run", "--json")
    assert code == 0
    assert [strict(line)["destination"] for line in out.splitlines()] == ["out/a.npy", "out/sub/b.npy"]
    assert not Path("out").exists()


# Which source goes where


@pytest.mark.parametrize("dest", ["out", "out/", "./out", "out/."])
def test_several_sources_go_into_a_folder(run: Command, dest: str) -> None:
    Path("out").mkdir()
    tree("more", ["a.npy", "b.npy"])
    assert run("apply", "in.npy", "more/a.npy", "more/b.npy", dest, "--quiet") == (0, "", "")
    assert results("out") == ["a.npy", "b.npy", "in.npy"]
    assert np.array_equal(np.load("out/b.npy"), defined(X + 1))
    assert sorted(Path("out").glob("*.report.json")) == [Path(f"out/{name}.npy.report.json") for name in ("a", "b", "in")]


@pytest.mark.parametrize("dest", ["out", "out/"])
def test_one_source_into_an_existing_folder_keeps_its_name(run: Command, dest: str) -> None:
    Path("out").mkdir()
    assert run("apply", "in.npy", dest, "--quiet") == (0, "", "")
    assert results("out") == ["in.npy"]


def test_a_folder_with_a_suffix_is_a_folder(run: Command) -> None:
    Path("out.npy").mkdir()
    assert run("apply", "in.npy", "out.npy", "--quiet") == (0, "", "")
    assert results("out.npy") == ["in.npy"]


def test_each_result_of_a_batch_has_one_line(run: Command) -> None:
    Path("out").mkdir()
    tree("more", ["a.npy"])
    code, out, err = run("apply", "in.npy", "more/a.npy", "out")
    assert (code, err) == (0, "")
    *lines, total = out.splitlines()
    assert lines == ["in.npy -> out/in.npy: 6 elements", "more/a.npy -> out/a.npy: 6 elements"]
    assert total.startswith("2 sources: 2 done; 12 elements; 304 bytes read, 304 bytes written, ")


@pytest.mark.parametrize(
    ("code", "names", "arguments"),
    [
        (1, "nowhere", "in.npy nowhere/"),
        (1, "nowhere", "in.npy more/a.npy nowhere"),
        (1, "nowhere", "in.npy more/a.npy nowhere/"),
        (2, "notes", "in.npy more/a.npy notes"),
        (2, "notes", "in.npy more/a.npy notes --overwrite"),
        (2, "notes/", "in.npy notes/"),
        (2, "notes", "-r more notes"),
        (2, "existing.npy", "-r more existing.npy --overwrite"),
        (2, "a.npy", "more/a.npy other/a.npy out"),
        (2, "a.npy", "more/a.npy ./more/../more/a.npy out"),
        (2, "a.npy", "-r more other/more/a.npy other/a.npy out"),
        (2, "a.npy", "-r more other/more out"),
        (2, "more", "more out"),
        (2, "more", "in.npy more out"),
        (2, "empty", "-r empty out"),
        (2, "more", "-r more more"),
        (2, "more", "-r more more/inside"),
        (2, "more", "-r . more"),
        (2, "--report", "in.npy more/a.npy out --report report.json"),
    ],
)
def test_what_cannot_go_where_it_should_is_refused_before_anything_is_written(run: Command, code: int, names: str, arguments: str) -> None:
    tree("more", ["a.npy", "b.npy"])
    tree("other", ["a.npy", "more/a.npy", "more/b.npy"])
    Path("out").mkdir()
    Path("empty").mkdir()
    Path("notes").write_bytes(b"notes")
    Path("existing.npy").write_bytes(b"precious")
    before = snapshot(Path())
    found, out, err = run("apply", *arguments.split())
    check_line(err, names)
    assert (found, out) == (code, ""), err
    assert snapshot(Path()) == before


def test_trees_and_files_go_into_a_folder_together(run: Command) -> None:
    tree("one", ["a.npy"])
    tree("two", ["a.npy"])
    Path("out").mkdir()
    assert run("apply", "-r", "one", "in.npy", "two", "out", "--quiet") == (0, "", "")
    assert results("out") == ["in.npy", "one/a.npy", "two/a.npy"]


def test_a_file_is_as_good_with_recursive(run: Command) -> None:
    assert run("apply", "-r", "in.npy", "out.npy", "--quiet") == (0, "", "")
    assert np.array_equal(np.load("out.npy"), defined(X))


def test_a_tree_is_taken_in_the_order_of_its_names(run: Command) -> None:
    tree("tree", ["b.npy", "a.npy", "z/a.npy", "c/b.npy", "c/a.npy"])
    out = run("apply", "-r", "tree", "out")[1]
    assert [line.split(" -> ")[0] for line in out.splitlines()[:-1]] == [
        f"tree/{name}" for name in ("a.npy", "b.npy", "c/a.npy", "c/b.npy", "z/a.npy")
    ]


def test_a_fifo_in_a_tree_does_not_hang_the_run(leakycli: Run, tmp_path: Path, here: Path) -> None:
    tree("tree", ["a.npy"])
    os.mkfifo("tree/pipe.npy")
    done = leakycli("apply", "-r", "tree/", "out", "--quiet", timeout=5)
    assert done.returncode in (0, 6)
    assert results("out") == ["a.npy"]


def test_sources_are_read_from_a_list(run: Command) -> None:
    tree("more", ["a.npy", " b\t[x].npy", "é.npy"])
    Path("list.txt").write_text("more/a.npy\n\nmore/ b\t[x].npy\nmore/é.npy")
    Path("out").mkdir()
    assert run("apply", "--files-from", "list.txt", "out", "--quiet") == (0, "", "")
    assert results("out") == [" b\t[x].npy", "a.npy", "é.npy"]


def test_a_list_of_one_goes_into_a_folder_too(run: Command) -> None:
    Path("list.txt").write_text("in.npy\n")
    code, _, err = run("apply", "--files-from", "list.txt", "out.npy")
    assert code == 1
    check_line(err, "out.npy")
    Path("out").mkdir()
    assert run("apply", "--files-from", "list.txt", "out", "--quiet") == (0, "", "")
    assert results("out") == ["in.npy"]


def test_a_list_adds_to_the_sources_given(run: Command) -> None:
    tree("more", ["a.npy"])
    Path("list.txt").write_text("more/a.npy\n")
    Path("out").mkdir()
    assert run("apply", "in.npy", "--files-from", "list.txt", "out", "-q") == (0, "", "")
    assert results("out") == ["a.npy", "in.npy"]


def test_an_empty_list_is_refused(run: Command) -> None:
    Path("list.txt").write_text("\n")
    Path("out").mkdir()
    code, _, err = run("apply", "--files-from", "list.txt", "out")
    assert code == 2
    check_line(err, "no sources")


def test_sources_are_read_from_standard_input(leakycli: Run, tmp_path: Path) -> None:
    names = [b"a.npy", b"last.npy"] if sys.platform == "darwin" else [b"a.npy", b"\xff\xfe.npy", b"last.npy"]
    for name in names:
        np.save(tmp_path / os.fsdecode(name), X)
    (tmp_path / "out").mkdir()
    done = leakycli("apply", "--files-from", "-", "out/", "--quiet", stdin=b"\n".join(names))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert sorted(name for name in os.listdir(os.fsencode(tmp_path / "out")) if name.endswith(b".npy")) == sorted(names)


# Batches


def test_a_batch_goes_on_after_a_source_that_fails(run: Command) -> None:
    Path("bad.npy").write_bytes(b"nonsense")
    tree("more", ["a.npy"])
    Path("out").mkdir()
    Path("out/a.npy").write_bytes(b"precious")
    code, out, err = run("apply", "in.npy", "bad.npy", "missing.npy", "more/a.npy", "out")
    assert code == 6
    first, total, *failed = out.splitlines()
    assert first == "in.npy -> out/in.npy: 6 elements"
    assert total.startswith("4 sources: 1 done, 3 failed; 6 elements; ")
    for line, name in zip(failed, ("bad.npy: ", "missing.npy", "out/a.npy: exists"), strict=True):
        assert line.startswith("failed: ")
        assert name in line
    lines = err.splitlines(keepends=True)
    for line, name in zip(lines, ("bad.npy", "missing.npy", "out/a.npy", "3 of 4"), strict=True):
        check_line(line, name)
    assert Path("out/a.npy").read_bytes() == b"precious"
    assert results("out") == ["a.npy", "in.npy"]


def test_fail_fast_stops_at_the_first_source_that_fails(run: Command) -> None:
    Path("bad.npy").write_bytes(b"nonsense")
    tree("more", ["a.npy", "b.npy"])
    Path("out").mkdir()
    code, out, err = run("apply", "in.npy", "bad.npy", "more/a.npy", "more/b.npy", "out", "--fail-fast")
    assert code == 6
    assert out.splitlines()[0] == "in.npy -> out/in.npy: 6 elements"
    assert out.splitlines()[1].startswith("4 sources: 1 done, 1 failed, 2 not begun; ")
    assert results("out") == ["in.npy"]
    lines = err.splitlines(keepends=True)
    check_line(lines[0], "bad.npy")
    # Two were never begun: nobody may take them for done.
    assert "results of the others are complete" not in lines[-1]


def test_sources_that_fail_leave_nothing_in_memory(leakycli: Run, tmp_path: Path) -> None:
    """Some MiB of each would add up to far more than what is allowed for all of them."""
    for i in range(40):
        x = np.ones(1 << 19, "f4")
        x[1000] = np.nan if 0 < i < 39 else 1
        np.save(tmp_path / f"{i:02}.npy", x)
    (tmp_path / "out").mkdir()
    names = [f"{i:02}.npy" for i in range(40)]
    done = leakycli("apply", *names, "out", "--dtype", "int32", "--workers", "2", "--quiet")
    assert done.returncode == 6
    assert sorted(path.name for path in (tmp_path / "out").glob("*.npy")) == ["00.npy", "39.npy"]
    first, last = (json.loads((tmp_path / "out" / f"{i}.npy.report.json").read_text())["cost"] for i in ("00", "39"))
    assert last["memory_measured"] <= first["memory_measured"] + (12 << 20)


def test_a_batch_of_one_keeps_its_own_exit_code(run: Command) -> None:
    Path("bad.npy").write_bytes(b"nonsense")
    Path("out").mkdir()
    assert run("apply", "bad.npy", "out")[0] == 3


# Info


def test_info_tells_what_is_there(run: Command) -> None:
    np.save("F.npy", np.zeros((3, 4), ">i4", order="F"))
    code, out, err = run("info", "F.npy")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["F.npy: npy, 176 bytes", "  3 x 4 int32, F order, byte-swapped, 12 elements, 48 bytes"]


def test_info_of_several_is_one_table(run: Command) -> None:
    np.save("F.npy", np.zeros((3, 4), ">i4", order="F"))
    np.savez("two.npz", a=np.arange(2.0), s=np.array(["x"]))
    zarr.create_array("z.zarr", data=np.zeros((4, 4), np.float32), chunks=(2, 2))
    code, out, err = run("info", "in.npy", "F.npy", "two.npz", "z.zarr")
    assert (code, err) == (0, "")
    head, *lines = out.splitlines()
    assert head.split() == ["source", "shape", "type", "stored", "as", "elements", "size"]
    rows = [re.split(r"  +", line.strip()) for line in lines]
    assert rows[0] == ["in.npy", "2 x 3", "float32", "C order", "6", "152 bytes"]
    assert rows[1] == ["F.npy", "3 x 4", "int32", "F order, byte-swapped", "12", "176 bytes"]
    assert rows[2][:3] == ["two.npz", "npz, 1 array", "2"]
    assert rows[3] == ["a", "2", "float64", "C order", "2", "16 bytes"]
    assert rows[4][0] == "s"
    assert rows[4][1].startswith("not supported: ")
    assert rows[5][:5] == ["z.zarr", "4 x 4", "float32", "chunks 2 x 2, zstd:0", "16"]
    assert {line.index("C order") for line in lines if "C order" in line} == {lines[1].index("F order")}


def test_info_of_a_tree(run: Command) -> None:
    tree("tree", ["b.npy", "z/a.npy"])
    code, out, _ = run("info", "-r", "tree", "in.npy")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["tree/b.npy", "tree/z/a.npy", "in.npy"]
    code, _, err = run("info", "tree")
    assert code == 1
    check_line(err, "tree")
    code, out, _ = run("info", "-r", "tree", "--json")
    for line in out.splitlines():
        validate_info(strict(line))
    Path("empty").mkdir()
    code, _, err = run("info", "-r", "empty")
    assert code == 2
    check_line(err, "empty: holds no array files")


def test_info_as_json(run: Command) -> None:
    np.save("F.npy", np.zeros((3, 4), ">i4", order="F"))
    np.save("scalar.npy", np.float16(1))
    code, out, err = run("info", "in.npy", "F.npy", "scalar.npy", "--json")
    assert (code, err) == (0, "")
    first, second, third = map(strict, out.splitlines())
    for values in (first, second, third):
        validate_info(values)
    assert (first["path"], first["format"], first["bytes"]) == ("in.npy", "npy", 152)
    expected = {"name": "", "shape": [3, 4], "dtype": "int32", "byte_order": "swapped", "order": "F", "elements": 12, "bytes": 48}
    assert expected.items() <= second["arrays"][0].items()
    assert (third["arrays"][0]["shape"], third["arrays"][0]["elements"]) == ([], 1)


def test_info_goes_on_after_a_source_that_fails(run: Command) -> None:
    Path("bad.npy").write_bytes(b"nonsense")
    code, out, err = run("info", "bad.npy", "in.npy", "--json")
    assert code == 6
    assert strict(out.splitlines()[-1])["path"] == "in.npy"
    check_line(err.splitlines(keepends=True)[0], "bad.npy")


def test_info_of_a_pipe(leakycli: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", X)
    done = leakycli("info", "-", "--json", stdin=(tmp_path / "in.npy").read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert strict(done.stdout.decode())["bytes"] is None


# Verify


def test_verify_takes_the_parameters_that_the_report_gives(run: Command) -> None:
    np.save("in.npy", np.array([-2, np.nan, 3], np.float32))
    assert run("apply", "in.npy", "out.npy", "-q", "--alpha", "0.5", "--dtype", "int32", "--nan", "7")[0] == 0
    code, out, err = run("verify", "in.npy", "out.npy")
    assert (code, err) == (0, "")
    for said in ("equal", "alpha 0.5", "dtype int32", "nan 7", "report"):
        assert said in out


def test_verify_takes_the_options_before_the_report(run: Command) -> None:
    assert run("apply", "in.npy", "out.npy", "-q", "--alpha", "0.5")[0] == 0
    assert run("verify", "in.npy", "out.npy", "--alpha", "0.5")[0] == 0
    # Also where the option says what is the default anyway.
    assert run("verify", "in.npy", "out.npy", "--alpha", "0.2")[0] == 5
    assert run("verify", "in.npy", "out.npy", "--dtype", "float64")[0] == 5


def test_verify_finds_the_report_of_a_result_that_was_moved_with_it(run: Command) -> None:
    assert run("apply", "in.npy", "out.npy", "-q", "--alpha", "0.5")[0] == 0
    os.rename("out.npy", "moved.npy")
    os.rename("out.npy.report.json", "moved.npy.report.json")
    assert run("verify", "in.npy", "moved.npy")[0] == 0


def test_verify_leaves_the_report_of_another_result_alone(run: Command) -> None:
    assert run("apply", "in.npy", "other.npy", "-q", "--report", "none")[0] == 0
    assert run("apply", "in.npy", "out.npy", "-q", "--alpha", "0.5")[0] == 0
    os.replace("other.npy", "out.npy")
    code, out, _ = run("verify", "in.npy", "out.npy")
    assert code == 0
    assert "alpha 0.2" in out
    assert "report" not in out


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"destination": 1, "parameters": []}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"destination": {"identity": null}}',
    ],
)
def test_verify_is_not_stopped_by_a_broken_report(run: Command, content: bytes) -> None:
    assert run("apply", "in.npy", "out.npy", "-q")[0] == 0
    Path("out.npy.report.json").write_bytes(content)
    assert run("verify", "in.npy", "out.npy", "-q") == (0, "", "")


@pytest.mark.parametrize("alpha", ["NaN", "Infinity", '"0.5"', "null", "true", "[0.5]", "1e999"])
def test_verify_is_not_stopped_by_a_report_with_a_broken_parameter(run: Command, alpha: str) -> None:
    assert run("apply", "in.npy", "out.npy", "-q")[0] == 0
    text = Path("out.npy.report.json").read_text()
    assert '"alpha": 0.2' in text
    Path("out.npy.report.json").write_text(text.replace('"alpha": 0.2', f'"alpha": {alpha}'))
    assert run("verify", "in.npy", "out.npy", "-q") == (0, "", "")


def test_verify_understands_the_report_of_a_whole_alpha(run: Command) -> None:
    apply("in.npy", "out.npy", Options(alpha=2))
    assert run("verify", "in.npy", "out.npy", "-q") == (0, "", "")


def spoil(index: tuple[int | slice, ...], value: Any, order: Any = "C", dtype: str = "float32") -> None:
    """Make `in.npy` and its result `out.npy`, which is wrong at `index`."""
    np.save("in.npy", np.asarray(np.arange(-10, 10).reshape(4, 5).astype(dtype), order=order))
    apply("in.npy", "out.npy", Options(dtype=dtype, overwrite=True, reports=("none",)))
    y = np.load("out.npy")
    y[index] = value
    np.save("out.npy", y)


@pytest.mark.parametrize("order", ["C", "F"])
def test_verify_tells_how_results_differ(run: Command, order: str) -> None:
    spoil((3, 1), np.nextafter(np.float32(6), np.float32(7)), order)
    code, out, err = run("verify", "in.npy", "out.npy")
    assert (code, out) == (5, "")
    check_line(err, "out.npy: 1 of 20 elements differ; the first at [3, 1]: expected 6.0, found 6.000000476837158; ")
    assert "4.76837158203125e-07 (1 ulp)" in err


def test_verify_counts_every_difference_and_names_the_first(run: Command) -> None:
    spoil((slice(1, None), 2), 1000, dtype="int32")
    code, _, err = run("verify", "in.npy", "out.npy", "--dtype", "int32")
    assert code == 5
    check_line(err, "3 of 20 elements differ; the first at [1, 2]: expected -1, found 1000; largest difference 1001 (1001 ulp)")


@pytest.mark.parametrize(("value", "found"), [(np.nan, "nan"), (np.inf, "inf"), (-0.0, "-0.0")])
def test_verify_compares_bits(run: Command, value: float, found: str) -> None:
    spoil((2, 0), value)
    code, _, err = run("verify", "in.npy", "out.npy")
    assert code == 5
    check_line(err, f"1 of 20 elements differ; the first at [2, 0]: expected 0.0, found {found}; ")


def test_verify_takes_one_nan_for_another(run: Command) -> None:
    np.save("in.npy", np.array([np.nan, 1], np.float32))
    np.save("out.npy", np.array([0xFFC12345, 0x3F800000], np.uint32).view(np.float32))
    assert run("verify", "in.npy", "out.npy", "-q") == (0, "", "")


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (X[:1], "has shape (1, 3), expected (2, 3)"),
        (X.T, "has shape (3, 2), expected (2, 3)"),
        (X.ravel(), "has shape (6,), expected (2, 3)"),
        (X.astype(np.float64), "has dtype float64, expected float32"),
        (X.astype(np.int32), "has dtype int32, expected float32"),
        (np.asfortranarray(X), "is in Fortran order, expected C order"),
    ],
    ids=["shape", "transposed", "flat", "float64", "int32", "order"],
)
def test_verify_says_what_cannot_be_compared(run: Command, y: Any, said: str) -> None:
    np.save("out.npy", y)
    code, out, err = run("verify", "in.npy", "out.npy")
    assert (code, out) == (5, "")
    check_line(err, f"out.npy: {said}")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_verify_finds_the_first_of_many_regions(run: Command, workers: str) -> None:
    np.save("in.npy", np.ones((5, 1_000_000), np.float32))
    y = np.ones((5, 1_000_000), np.float32)
    y[1, 5:9] = 2
    y[3:, 77] = 3
    np.save("out.npy", y)
    code, _, err = run("verify", "in.npy", "out.npy", "--workers", workers)
    assert code == 5
    check_line(err, "6 of 5000000 elements differ; the first at [1, 5]: expected 1.0, found 2.0; largest difference 2.0 (")


def test_verify_as_json(run: Command) -> None:
    assert run("apply", "in.npy", "out.npy", "-q")[0] == 0
    code, out, err = run("verify", "in.npy", "out.npy", "--json")
    assert (code, err) == (0, "")
    assert strict(out)["equal"] is True
    spoil((2, 3), np.nan)
    code, out, err = run("verify", "in.npy", "out.npy", "--json")
    assert code == 5
    assert out.count("\n") == 1
    found = strict(out)
    assert found["equal"] is False
    array = found["arrays"][0]
    assert (array["index"], array["difference"]["count"], array["difference"]["expected"]) == ([2, 3], 1, 3.0)
    assert (array["difference"]["found"], array["difference"]["max_abs"]) == ("NaN", "Infinity")
    check_line(err, "out.npy")


def test_verify_writes_nothing(run: Command) -> None:
    spoil((2, 3), 0)
    before = snapshot(Path())
    run("verify", "in.npy", "out.npy")
    run("verify", "in.npy", "in.npy", "--alpha", "1")
    assert snapshot(Path()) == before


def test_functions_take_paths_of_pathlib(here: Path) -> None:
    np.save("in.npy", np.array([-1, 2], "f4"))
    source, dest = Path("in.npy"), Path("out.npy")
    package.dry_run(source, dest)
    assert not dest.exists()
    assert package.apply(source, dest).destination.path == "out.npy"
    assert package.verify(source, dest).equal
    assert package.info(source).format == "npy"
