"""What the pages say is run: a page that no test reads is a page that will be wrong."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.kit.pages import Block, Reader, blocks

COOKBOOK = blocks("docs/cookbook.md")
INPUTS, TASKS = COOKBOOK[0], list(dict.fromkeys(block.heading for block in COOKBOOK[1:]))


def needs(name: str) -> list[pytest.MarkDecorator]:
    """Marks for a task that not every machine can do."""
    if name == "Zarr on S3":
        missing = importlib.util.find_spec("moto") is None or importlib.util.find_spec("s3fs") is None
        return [pytest.mark.skipif(missing, reason="s3fs and moto are not installed (pip install 'leakycli[remote-tests]')")]
    if name == "In a Makefile":
        return [pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")]
    return []


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An S3 server with an empty bucket called "bucket": the environment that clients need."""
    import boto3

    from tests.kit.remote import environment, s3_server

    with s3_server() as endpoint:
        found = environment(endpoint)
        keys = {"aws_access_key_id": found["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": found["AWS_SECRET_ACCESS_KEY"]}
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys).create_bucket(Bucket="bucket")
        yield found | {"XDG_STATE_HOME": str(tmp_path / "state")}


def test_the_cookbook_has_twenty_tasks() -> None:
    assert len(TASKS) >= 20


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
@pytest.mark.parametrize("task", [pytest.param(task, marks=needs(task), id=task) for task in TASKS])
def test_a_task_of_the_cookbook_works(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.chdir(tmp_path)
    environment = request.getfixturevalue("bucket") if task == "Zarr on S3" else {}
    reader = Reader(tmp_path, environment)
    for block in (INPUTS, *(block for block in COOKBOOK if block.heading == task)):
        reader.run(block)


def test_the_examples_of_the_function_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reader = Reader(tmp_path)
    examples = blocks("docs/semantics.md")
    assert len([block for block in examples if block.language == "pycon"]) >= 8
    with np.errstate(all="ignore"):
        for block in examples:
            if block.language:
                reader.run(block)


def test_an_example_that_does_not_do_what_the_page_says_is_found(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    for language, text in (("sh", "leakycli info missing.npy\n"), ("sh", "true  # exit code 3\n"), ("pycon", ">>> 1 + 1\n3\n"), ("x", "")):
        with pytest.raises(AssertionError):
            reader.run(Block("page.md", "", language, text, 1))
