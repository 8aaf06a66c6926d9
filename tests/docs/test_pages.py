"""What the pages say is run: a page that no test reads is a page that will be wrong."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.kit.pages import ROOT, Block, Reader, blocks

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")

#: Pages whose blocks a test below runs.
RUN = {"README.md", "docs/cookbook.md", "docs/semantics.md", "docs/zarr.md", "docs/remote.md"}

#: Pages whose blocks are set-up commands that .ci/run and nox run, or that other tests run.
ELSEWHERE = {"CONTRIBUTING.md", "docs/cli.md", "docs/api.md", "docs/report.md"}

COOKBOOK = blocks("docs/cookbook.md")
INPUTS, TASKS = COOKBOOK[0], list(dict.fromkeys(block.heading for block in COOKBOOK[1:]))

URLS = "needs s3fs, aiohttp and moto (pip install 'leakycli[remote-tests]')"
NO_URLS = any(importlib.util.find_spec(name) is None for name in ("s3fs", "aiohttp", "moto", "boto3"))


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.chdir(tmp_path)
    return Reader(tmp_path)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An S3 server with an empty bucket called "bucket": the environment that clients need."""
    from tests.kit.remote import environment, s3_server

    with s3_server() as endpoint:
        found = environment(endpoint) | {"XDG_STATE_HOME": str(tmp_path / "state")}
        client(found).create_bucket(Bucket="bucket")
        yield found


def client(environment: dict[str, str]) -> Any:
    import boto3

    keys = {"aws_access_key_id": environment["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"]}
    return boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name="us-east-1", **keys)


def test_every_page_with_commands_is_run() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("sample_data/*.md")]
    names = [path.relative_to(ROOT).as_posix() for path in pages]
    assert {name for name in names if any(block.language in ("sh", "python", "pycon", "make") for block in blocks(name))} == RUN | ELSEWHERE


def test_the_commands_of_the_readme_work_as_written(reader: Reader) -> None:
    folder = reader.folder
    shutil.copytree(ROOT / "sample_data", folder / "sample_data")
    # The environment that the first command makes is the one that this runs in.
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").write_text(f'PATH="{folder / ".programs"}:$PATH"\n')
    setup, test, *rest = blocks("README.md")
    assert setup.text.startswith("python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/leakycli apply")
    assert test.text.startswith("python3 -m venv .venv && .venv/bin/pip install -q '.[test]' && .venv/bin/python -m pytest")
    command = setup.text.split("&&")[-1].replace(".venv/bin/", "")
    for block in (Block("README.md", "", "sh", 2 * command, setup.line), *rest):
        reader.run(block)
    assert np.load(folder / "digits_leaky.npy").shape == (1797, 64)
    assert len(list((folder / "out" / "all").glob("*"))) == 6


def test_the_cookbook_has_twenty_tasks() -> None:
    assert len(TASKS) >= 20


def needs(task: str) -> list[pytest.MarkDecorator]:
    """Marks for a task that not every machine can do."""
    if task == "Zarr on S3":
        return [pytest.mark.skipif(NO_URLS, reason=URLS)]
    if task == "In a Makefile":
        return [pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")]
    return []


@pytest.mark.parametrize("task", [pytest.param(task, marks=needs(task), id=task) for task in TASKS])
def test_a_task_of_the_cookbook_works(task: str, reader: Reader, request: pytest.FixtureRequest) -> None:
    if task == "Zarr on S3":
        reader.environment |= request.getfixturevalue("bucket")
    for block in (INPUTS, *(block for block in COOKBOOK if block.heading == task)):
        reader.run(block)


def test_the_examples_of_the_function_work(reader: Reader) -> None:
    examples = blocks("docs/semantics.md")
    assert len([block for block in examples if block.language == "pycon"]) >= 8
    with np.errstate(all="ignore"):
        for block in examples:
            reader.run(block)


def test_the_examples_of_zarr_work(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    examples = blocks("docs/zarr.md")
    assert len(examples) >= 2
    for block in examples:
        reader.run(block)
    assert "'activity': 'transformed', 'count': 'copied', 'depth': 'copied'" in capsys.readouterr().out
    assert len(list((reader.folder / "leaky_image.zarr" / "labels").rglob("zarr.json"))) == 4


@pytest.mark.skipif(NO_URLS, reason=URLS)
def test_the_commands_with_urls_work(reader: Reader, bucket: dict[str, str]) -> None:
    from tests.kit.remote import web_server

    x = np.ones((4, 4), "f4")
    np.save("a.npy", x)
    zarr.open_group("acts.zarr", mode="w").create_array("conv1", data=x, chunks=(2, 2))
    zarr.consolidate_metadata("acts.zarr")
    s3 = client(bucket)
    s3.create_bucket(Bucket="open-data", ACL="public-read")
    for path in Path("acts.zarr").rglob("*"):
        if path.is_file():
            s3.put_object(Bucket="open-data", Key=path.as_posix(), Body=path.read_bytes(), ACL="public-read")
    reader.environment |= bucket
    with web_server(reader.folder) as url:
        reader.instead = {"https://host": url, "http://localhost:9000": bucket["AWS_ENDPOINT_URL"]}
        for block in blocks("docs/remote.md"):
            reader.run(block)
    assert np.array_equal(np.load("b.npy"), x)


def test_an_example_that_does_not_do_what_the_page_says_is_found(reader: Reader) -> None:
    for language, text in (("sh", "leakycli info missing.npy\n"), ("sh", "true  # exit code 3\n"), ("pycon", ">>> 1 + 1\n3\n"), ("x", "")):
        with pytest.raises(AssertionError):
            reader.run(Block("page.md", "", language, text, 1))


def test_the_tests_that_hold_the_promises_are_there() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?", text))
    assert len(named) > 15
    for file, test in named:
        code = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {test}(" in code if test else "def test_" in code, (file, test)


def test_no_page_names_a_test_that_is_not_there() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for file in re.findall(r"`(tests/[\w/]+\.(?:py|json|npz))`", page.read_text(encoding="utf-8")):
            assert (ROOT / file).exists(), f"{page.name}: {file}"


def test_generating_twice_changes_nothing() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
