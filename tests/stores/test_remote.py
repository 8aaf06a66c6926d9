"""Sources and destinations behind URLs: S3 by a real server on loopback, undisturbed and disturbed; a web server; fsspec's memory."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

import leakycli
from leakycli import Options
from leakycli.errors import CorruptError, LeakyError, LossError, SourceChangedError, StorageError, UsageError, redacted, visible
from leakycli.formats import parse_options
from leakycli.stores import remote
from leakycli.tuning import Tuning
from tests.conftest import Run
from tests.kit.remote import SECRET, Proxy, Server, environment, s3_server, some, web_server

MISSING = [name for name in ("s3fs", "aiohttp", "moto", "werkzeug") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install '.[remote-tests]')"),
    # aiobotocore, moto and aiohttp have their own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning"),
]

X: NDArray[np.float32] = np.random.default_rng(7).standard_normal((200, 60)).astype("f4")
Y = np.asarray(leakycli.leaky_relu(X))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of an empty bucket of the test's own, on a server that the environment names."""
    monkeypatch.chdir(tmp_path)
    for name, value in (environment(server) | {"XDG_STATE_HOME": str(tmp_path / "state"), "S3_SERVER_OF_TESTS": server}).items():
        monkeypatch.setenv(name, value)
    ask(server, monkeypatch)
    name = f"bucket-{abs(hash(request.node.name)):x}"
    s3().create_bucket(Bucket=name)
    return name


def ask(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have S3 asked for there, and by nobody who has asked elsewhere."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    s3fs.S3FileSystem.clear_instance_cache()


@cache
def client_of(endpoint: str) -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")


def s3() -> Any:
    """A client of the server itself, whatever stands before it."""
    return client_of(os.environ["S3_SERVER_OF_TESTS"])


def objects(bucket: str, under: str = "") -> dict[str, bytes]:
    client = s3()
    found = client.list_objects_v2(Bucket=bucket, Prefix=under).get("Contents", [])
    return {each["Key"]: client.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in found}


def upload(folder: Path, bucket: str, name: str) -> str:
    client = s3()
    files = [folder] if folder.is_file() else [file for file in folder.rglob("*") if file.is_file()]
    for file in files:
        key = name if folder.is_file() else f"{name}/{file.relative_to(folder)}"
        client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())
    return f"s3://{bucket}/{name}"


def local_files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def hierarchy(path: Path, zarr_format: Any = 3) -> Path:
    group = zarr.create_group(path, zarr_format=zarr_format, attributes={"title": "a"})
    group.create_array("deep/x", data=X, chunks=(20, 30))
    if zarr_format == 3:
        group.create_array("sharded", data=X, chunks=(10, 30), shards=(100, 60))
    half = group.create_array("sparse", shape=X.shape, dtype="f4", chunks=(20, 30), fill_value=-1)
    half[:40] = X[:40]
    group.create_array("labels", data=np.arange(90), chunks=(40,))
    zarr.consolidate_metadata(path, zarr_format=zarr_format)
    return path


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_hierarchy_goes_through_s3_as_it_goes_through_folders(bucket: str, tmp_path: Path, zarr_format: int) -> None:
    source = hierarchy(tmp_path / "a.zarr", zarr_format)
    expected = leakycli.apply(str(source), "expected.zarr")
    url = upload(source, bucket, "a.zarr")
    leakycli.apply(url, "from.zarr")
    there = leakycli.apply(str(source), f"s3://{bucket}/to/b.zarr", Options(verify=True))
    leakycli.apply(url, f"s3://{bucket}/c.zarr", Options(verify=True))
    assert [replace(array, codec_path=None) for array in there.arrays] == [replace(array, codec_path=None) for array in expected.arrays]
    wanted = local_files(tmp_path / "expected.zarr")
    for found in (local_files(tmp_path / "from.zarr"), *(objects(bucket, under) for under in ("to/b.zarr/", "c.zarr/"))):
        named = {key.removeprefix("to/b.zarr/").removeprefix("c.zarr/"): data for key, data in found.items()}
        assert named.keys() == wanted.keys()
        # The order of the chunks in a shard is left to chance.
        assert all(named[key] == data for key, data in wanted.items() if "sharded/c" not in key)
    assert objects(bucket, "to/b.zarr.report.json")
    assert leakycli.verify(url, f"s3://{bucket}/c.zarr").equal
    # That it is done is known.
    assert leakycli.apply(url, f"s3://{bucket}/c.zarr", Options(resume=True)).destination.bytes > 0
    with pytest.raises(UsageError, match=r"no report says"):
        leakycli.apply(url, f"s3://{bucket}/c.zarr", Options(resume=True, alpha=0.3))
    assert not list((tmp_path / "state" / "leakycli").iterdir())


def test_marks_of_folders_are_passed_over(bucket: str, tmp_path: Path) -> None:
    source = upload(hierarchy(tmp_path / "a.zarr"), bucket, "a.zarr")
    for name in ("", "deep/", "deep/x/", "deep/x/c/", "labels/", "labels/c/", "empty/"):
        s3().put_object(Bucket=bucket, Key=f"a.zarr/{name}", Body=b"")
    leakycli.apply("a.zarr", "expected.zarr")
    leakycli.apply(source, "y.zarr", Options(verify=True))
    leakycli.apply(source, f"s3://{bucket}/b.zarr", Options(verify=True))
    wanted = local_files(tmp_path / "expected.zarr").keys()
    assert local_files(tmp_path / "y.zarr").keys() == wanted
    assert {key.removeprefix("b.zarr/") for key in objects(bucket, "b.zarr/")} == wanted
    assert leakycli.info(source).bytes == leakycli.info("a.zarr").bytes
    # But what somebody made is not written into.
    s3().put_object(Bucket=bucket, Key="c.zarr/", Body=b"")
    assert "there are objects there" in str(said(lambda: leakycli.apply(source, f"s3://{bucket}/c.zarr")))


def test_npy_from_s3_and_into_it(bucket: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    url = upload(tmp_path / "x.npy", bucket, "deep/x.npy")
    leakycli.apply(url, "y.npy")
    assert np.load("y.npy").tobytes() == Y.tobytes()
    leakycli.apply(url, f"s3://{bucket}/y.zarr", Options(chunks=(64, 60)))
    leakycli.apply(f"s3://{bucket}/y.zarr", "again.npy", Options(alpha=1))
    assert np.load("again.npy").tobytes() == Y.tobytes()
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-9])
    with pytest.raises(CorruptError, match=rf"s3://{bucket}/cut.npy: ended after"):
        leakycli.apply(upload(tmp_path / "cut.npy", bucket, "cut.npy"), "z.npy")


@pytest.mark.parametrize("fault", ["503", "reset", "cut", "slow"])
def test_what_passes_is_tried_again(bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    source = upload(hierarchy(tmp_path / "a.zarr"), bucket, "a.zarr")
    leakycli.apply("a.zarr", "expected.zarr")
    with Proxy(server, some(0.1, fault)) as proxy:
        ask(proxy.endpoint, monkeypatch)
        leakycli.apply(source, f"s3://{bucket}/b.zarr")
        assert proxy.disturbed > 5
    found = {key.removeprefix("b.zarr/"): data for key, data in objects(bucket, "b.zarr/").items()}
    wanted = local_files(tmp_path / "expected.zarr")
    assert found.keys() == wanted.keys()
    assert all(found[key] == data for key, data in wanted.items() if "sharded/c" not in key)


def test_a_stream_goes_on_where_it_was_cut(bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    np.save(tmp_path / "x.npy", X)
    cuts = iter(["cut", "503", "reset", "cut"])
    with web_server(tmp_path) as web, Proxy(web, lambda method, path: next(cuts, None)) as proxy:
        leakycli.apply(f"{proxy.endpoint}/x.npy", "y.npy")
    assert np.load("y.npy").tobytes() == Y.tobytes()


def said(call: Callable[[], object]) -> LeakyError:
    with pytest.raises(LeakyError) as raised:
        call()
    text = str(raised.value)
    assert "\n" not in text
    assert SECRET not in text
    return raised.value


def test_what_does_not_pass_is_one_line_that_names_bucket_and_key(
    bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    source = upload(hierarchy(tmp_path / "a.zarr"), bucket, "a.zarr")
    error = said(lambda: leakycli.apply("s3://no-such-bucket/a.zarr", "b.zarr"))
    assert isinstance(error, StorageError)
    assert "s3://no-such-bucket/a.zarr" in str(error)
    assert "there is no bucket of the name no-such-bucket" in str(error)
    assert "there is no bucket" in str(said(lambda: leakycli.apply("a.zarr", "s3://no-such-bucket/b.zarr")))
    cases = (("503", "busy or unavailable (503"), ("reset", "the connection failed"), ("403", "the credentials were not accepted"))
    for fault, text in cases:
        with Proxy(server, lambda method, path, fault=fault: fault if "c/3/0" in path else None) as proxy:  # type: ignore[misc]
            ask(proxy.endpoint, monkeypatch)
            error = said(partial(leakycli.apply, source, f"{fault}.zarr"))
            assert isinstance(error, StorageError), fault
            assert f"cannot read s3://{bucket}/a.zarr/deep/x/c/3/0: " in str(error)
            assert text in str(error)
            dest = f"s3://{bucket}/{fault}.zarr"
            error = said(partial(leakycli.apply, "a.zarr", dest))
            assert f"cannot write s3://{bucket}/{fault}.zarr/deep/x/c/3/0: " in str(error)
            assert text in str(error)
            assert "--resume" in str(error)
            assert str(tmp_path / "state") in str(error)
        # None of them has become a hierarchy.
        assert not [key for key in objects(bucket, f"{fault}.zarr/") if key.endswith("zarr.json")]
        ask(server, monkeypatch)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    ask(server, monkeypatch)
    assert "no credentials were found" in str(said(lambda: leakycli.apply(source, "b.zarr")))


def test_a_profile_that_is_not_there_is_called_that(bucket: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such")
    ask(server, monkeypatch)
    assert "The config profile (no-such) could not be found" in str(said(lambda: leakycli.apply(f"s3://{bucket}/a.zarr", "b.zarr")))


def test_a_chunk_that_is_cut_off_or_gone_is_told(bucket: str, tmp_path: Path) -> None:
    for folder, chunk in (("a.zarr", "deep/x/c/1/1"), ("b.zarr", "sharded/c/1/0")):
        source = upload(hierarchy(tmp_path / folder), bucket, folder)
        data = (tmp_path / folder / chunk).read_bytes()
        s3().put_object(Bucket=bucket, Key=f"{folder}/{chunk}", Body=data[:-11])
        error = said(partial(leakycli.apply, source, "y.zarr"))
        assert isinstance(error, CorruptError)
        assert f"s3://{bucket}/{folder}/{chunk}: cannot be decoded" in str(error)
        assert not os.path.lexists("y.zarr")


def test_nothing_is_replaced(bucket: str, tmp_path: Path) -> None:
    source = upload(hierarchy(tmp_path / "a.zarr"), bucket, "a.zarr")
    before = objects(bucket)
    for options in (Options(), Options(overwrite=True), Options(resume=True), Options(resume=True, overwrite=True)):
        assert isinstance(said(partial(leakycli.apply, "a.zarr", source, options)), UsageError)
    for dest in (source, f"{source}/deep/b.zarr", f"s3://{bucket}/a.zarr/"):
        assert isinstance(said(partial(leakycli.apply, source, dest)), UsageError)
    for dest in ("b.npy", "b.npz", "b.zarr.zip"):
        assert "only a Zarr store" in str(said(partial(leakycli.apply, source, f"s3://{bucket}/{dest}")))
    # A failure that no later run can mend takes its own away, and no more.
    assert isinstance(
        said(lambda: leakycli.apply("a.zarr", f"s3://{bucket}/b.zarr", Options(dtype="int32", strict=True, alpha=1e30))), LossError
    )
    assert objects(bucket) == before


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("chunks", [None, "10,60"])
def test_a_run_that_was_ended_is_gone_on_from(
    bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: str | None, signum: int
) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=X, chunks=(20, 60), attributes={"unit": "m"})
    options = Options() if chunks is None else Options(chunks=(10, 60))
    leakycli.apply("a.zarr", "expected.zarr", options)
    dest, puts = f"s3://{bucket}/b.zarr", []

    def slow(method: str, path: str) -> str | None:
        if method == "PUT":
            puts.append(path)
            return "slow"
        return None

    with Proxy(server, slow) as proxy:
        ask(proxy.endpoint, monkeypatch)
        code = (
            "from leakycli.cli import main; from leakycli.tuning import Tuning, using\n"
            "with using(Tuning(journal_seconds=0, region_bytes=2400, unit_bytes=2400)): main()"
        )
        command = [sys.executable, "-c", code, "apply", "a.zarr", dest, "--workers", "2", *(("--chunks", chunks) if chunks else ())]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        while len(puts) < 6:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signum)
        stderr = process.communicate()[1].decode()
        assert process.returncode == -signum
        proxy.choose = lambda method, path: None
        assert objects(bucket, "b.zarr/")
        assert not [key for key in objects(bucket, "b.zarr/") if key.endswith("zarr.json")]
        (journal,) = (tmp_path / "state" / "leakycli").glob("*.journal")
        assert (str(journal) in stderr) == (signum == signal.SIGTERM)
        assert "an unfinished run left" in str(said(lambda: leakycli.apply("a.zarr", dest, options)))
        written: list[str] = []
        proxy.choose = lambda method, path: written.append(path) if method == "PUT" else None
        report = leakycli.apply("a.zarr", dest, Options(resume=True, verify=True, chunks=options.chunks))
        assert report.resumed
        # The documents come last, and after them the report.
        assert [path.rpartition("/")[2] for path in written[-2:]] == ["zarr.json", "b.zarr.report.json"]
        assert len(written) - 2 < (10 if chunks is None else 20)
    found = {key.removeprefix("b.zarr/"): data for key, data in objects(bucket, "b.zarr/").items()}
    assert found == local_files(tmp_path / "expected.zarr")
    assert not list((tmp_path / "state" / "leakycli").iterdir())


def test_a_group_becomes_one_last_of_all(bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hierarchy(tmp_path / "a.zarr", 2)
    written: list[str] = []
    with Proxy(server, lambda method, path: written.append(path.partition("?")[0]) if method == "PUT" else None) as proxy:
        ask(proxy.endpoint, monkeypatch)
        leakycli.apply("a.zarr", f"s3://{bucket}/b.zarr")
    documents = [path for path in written if path.rpartition("/")[2].startswith(".z")]
    assert written[-len(documents) - 1 : -1] == documents
    assert documents[-1] == f"/{bucket}/b.zarr/.zgroup"


def test_from_a_web_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hierarchy(tmp_path / "a.zarr")
    hierarchy(tmp_path / "b.zarr", 2)
    np.save(tmp_path / "x.npy", X)
    with web_server(tmp_path) as web:
        for name in ("a.zarr", "b.zarr"):
            leakycli.apply(name, "expected.zarr", Options(overwrite=True))
            leakycli.apply(f"{web}/{name}", "y.zarr", Options(overwrite=True, verify=True))
            found, wanted = (zarr.open_group(each, mode="r") for each in ("y.zarr", "expected.zarr"))
            for key in ("deep/x", "sparse", "labels"):
                assert np.asarray(found[key][...]).tobytes() == np.asarray(wanted[key][...]).tobytes()  # type: ignore[index]
            # What was not there is not there either.
            assert local_files(tmp_path / "y.zarr").keys() == local_files(tmp_path / "expected.zarr").keys()
        leakycli.apply(f"{web}/a.zarr/deep/x", "one.zarr")
        leakycli.apply(f"{web}/x.npy?signature={SECRET}", "y.npy")
        assert np.load("y.npy").tobytes() == Y.tobytes()
        assert SECRET not in (tmp_path / "y.npy.report.json").read_text()
        (tmp_path / "a.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
        assert "without consolidated metadata" in str(said(lambda: leakycli.apply(f"{web}/a.zarr", "z.zarr")))
        assert "there is no such object" in str(said(lambda: leakycli.apply(f"{web}/none.npy", "z.npy")))


@pytest.mark.parametrize("version", [2, 3])
def test_names_on_a_web_server_are_taken_as_they_are(version: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    group = zarr.open_group("a.zarr", mode="w", zarr_format=version)
    names = ("a#b", "q?x", "a%2Fb", "100%", "a b", "a+b", "\u00fc", "[x]")
    for name in names:
        group.create_array(name, data=X, chunks=(100, 60), shards=(200, 60) if version == 3 else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata("a.zarr", zarr_format=version)
    with web_server(tmp_path) as web:
        leakycli.apply(f"{web}/a.zarr", "y.zarr", Options(verify=True))
        found = zarr.open_group("y.zarr", mode="r")
        for name in names:
            assert np.asarray(found[name][...]).tobytes() == Y.tobytes()  # type: ignore[index]
        # A node that is promised and not there.
        shutil.rmtree("a.zarr/a b")
        error = said(lambda: leakycli.apply(f"{web}/a.zarr", "z.zarr"))
    assert isinstance(error, CorruptError)
    assert "consolidated metadata list a b, which is not there" in str(error)


def test_files_beside_arrays_go_to_s3_and_back(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    zarr.open_group("a.zarr", mode="w").create_array("deep/x", data=X)
    os.makedirs("a.zarr/table/part")
    Path("a.zarr/table/part/0.parquet").write_bytes(np.random.default_rng(1).bytes(9 << 20))
    Path("a.zarr/deep/x/.notes").write_text("me")
    leakycli.apply("a.zarr", f"s3://{bucket}/b.zarr", Options(verify=True))
    leakycli.apply(f"s3://{bucket}/b.zarr", "c.zarr", Options(alpha=1, verify=True))
    before, after = local_files(tmp_path / "a.zarr"), local_files(tmp_path / "c.zarr")
    assert before.keys() == after.keys()
    for name in ("table/part/0.parquet", "deep/x/.notes"):
        assert before[name] == after[name]


def web_hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    hierarchy(tmp_path / "a.zarr")
    leakycli.apply("a.zarr", "expected.zarr")


@pytest.mark.parametrize("fault", ["503", "reset", "403"])
def test_a_web_server_that_fails_is_not_one_that_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    web_hierarchy(tmp_path, monkeypatch)
    # A copied chunk: first it is asked whether there is one.
    with web_server(tmp_path) as web, Proxy(web, lambda method, path: fault if "labels/c/1" in path else None) as proxy:
        error = said(lambda: leakycli.apply(f"{proxy.endpoint}/a.zarr", "y.zarr"))
        assert isinstance(error, StorageError)
        assert "/a.zarr/labels/c/1: " in str(error)
        if fault != "403":
            faults = iter([fault] * 5)
            proxy.choose = lambda method, path: next(faults, None) if "labels/c/1" in path else None
            leakycli.apply(f"{proxy.endpoint}/a.zarr", "y.zarr", Options(overwrite=True))
            assert local_files(tmp_path / "y.zarr").keys() == local_files(tmp_path / "expected.zarr").keys()


def test_a_web_server_is_asked_with_the_query_and_tells_no_sizes(leakycli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web_hierarchy(tmp_path, monkeypatch)
    asked: list[str] = []
    with web_server(tmp_path) as web, Proxy(web, lambda method, path: asked.append(path)) as proxy:
        url = f"{proxy.endpoint}/a.zarr?signature={SECRET}"
        done = [leakycli("apply", url, "y.zarr"), leakycli("info", url), leakycli("info", url, "--json")]
    assert [each.returncode for each in done] == [0, 0, 0], [each.stderr for each in done]
    assert asked
    assert all(path.endswith(f"?signature={SECRET}") for path in asked)
    assert not any(SECRET.encode() in each.stdout + each.stderr for each in done)
    assert b"a.zarr?*** zarr, size not known" in done[1].stdout
    assert json.loads(done[2].stdout)["bytes"] is None
    assert local_files(tmp_path / "y.zarr").keys() == local_files(tmp_path / "expected.zarr").keys()


def test_a_web_server_without_ranges_gives_shards_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web_hierarchy(tmp_path, monkeypatch)
    with web_server(tmp_path) as web:
        leakycli.apply(f"{web}/a.zarr/sharded", "y.zarr", Options(chunks=(10, 30)))
        assert np.asarray(zarr.open_array("y.zarr", mode="r")[...]).tobytes() == Y.tobytes()


def test_a_web_server_without_ranges_gives_parts_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web_hierarchy(tmp_path, monkeypatch)
    # As where memory is short, or shards are large.
    tuning = Tuning(most_joined=1)
    with web_server(tmp_path) as web:
        leakycli.apply(f"{web}/a.zarr/sharded", "y.zarr", Options(chunks=(7, 11), tuning=tuning))
        assert np.asarray(zarr.open_array("y.zarr", mode="r")[...]).tobytes() == Y.tobytes()


def test_a_web_server_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web_hierarchy(tmp_path, monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert isinstance(said(lambda: leakycli.apply("a.zarr", "http://127.0.0.1:1/b.zarr")), UsageError)
    assert not (tmp_path / "state").exists()
    for url in ("s3://", "s3:///a.zarr", "http://", "https:///a.npy"):
        assert isinstance(said(partial(leakycli.apply, url, "b.zarr")), UsageError)


def test_a_stream_that_becomes_another_is_told(bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(remote, "_STREAM_PART", 8192)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "other.npy", X + 1)
    url, gets = upload(tmp_path / "x.npy", bucket, "x.npy"), []

    def replaced(method: str, path: str) -> str | None:
        if method == "GET" and "x.npy" in path:
            gets.append(path)
            if len(gets) == 2:
                upload(tmp_path / "other.npy", bucket, "x.npy")
                os.replace(tmp_path / "other.npy", tmp_path / "x.npy")
                os.utime(tmp_path / "x.npy", (1, 1))
            return "cut" if len(gets) == 1 and "bucket" not in path else None
        return None

    with Proxy(server, replaced) as proxy:
        ask(proxy.endpoint, monkeypatch)
        assert isinstance(said(lambda: leakycli.apply(url, "y.npy")), SourceChangedError)
    gets.clear()
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "other.npy", X + 1)
    with web_server(tmp_path) as web, Proxy(web, replaced) as proxy:
        assert isinstance(said(lambda: leakycli.apply(f"{proxy.endpoint}/x.npy", "y.npy")), SourceChangedError)
    assert not (tmp_path / "y.npy").exists()


def test_another_part_than_was_asked_for_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    np.save(tmp_path / "x.npy", X)
    data = (tmp_path / "x.npy").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Half of the file, and then the connection ends; the same again, whatever part is asked for."""
            again = "Range" in self.headers
            self.send_response(206 if again else 200)
            self.send_header("Content-Length", str(len(data)))
            if again:
                self.send_header("Content-Range", f"bytes 0-{len(data) - 1}/{len(data)}")
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            time.sleep(0.5)

        def log_message(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        error = said(lambda: leakycli.apply(f"http://127.0.0.1:{web.server_port}/x.npy", "y.npy"))
        web.shutdown()
    assert "another part than was asked for" in str(error)
    assert not (tmp_path / "y.npy").exists()


@pytest.mark.parametrize("chunk", ["labels/c/1", "deep/x/c/1/1", "sharded/c/1/0"])
def test_a_chunk_that_goes_away_is_told(bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: str) -> None:
    source = upload(hierarchy(tmp_path / "a.zarr"), bucket, "a.zarr")

    def gone(method: str, path: str) -> None:
        if method == "GET" and chunk in path:
            s3().delete_object(Bucket=bucket, Key=f"a.zarr/{chunk}")

    with Proxy(server, gone) as proxy:
        ask(proxy.endpoint, monkeypatch)
        error = said(lambda: leakycli.apply(source, "y.zarr"))
    assert isinstance(error, SourceChangedError)
    assert f"s3://{bucket}/a.zarr/{chunk}: was deleted" in str(error)


def test_a_signal_does_not_wait_for_a_server(bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hierarchy(tmp_path / "a.zarr")
    asked, over = threading.Event(), threading.Event()

    def hanging(method: str, path: str) -> None:
        if method == "PUT":
            asked.set()
            over.wait(60)

    with Proxy(server, hanging) as proxy:
        ask(proxy.endpoint, monkeypatch)
        command = [sys.executable, "-m", "leakycli", "apply", "a.zarr", f"s3://{bucket}/b.zarr", "--quiet", "--skip", "labels"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            assert asked.wait(60)
            process.send_signal(signal.SIGINT)
            stderr = process.communicate(timeout=20)[1]
        finally:
            over.set()
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert stderr.count(b"\n") == 1
    assert b"interrupted by SIGINT" in stderr


def test_after_a_run_failed_its_requests_are_not_made_again(
    bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.1)
    hierarchy(tmp_path / "a.zarr")
    with Proxy(server, lambda method, path: "503" if method == "PUT" else None) as proxy:
        ask(proxy.endpoint, monkeypatch)
        assert "503" in str(said(lambda: leakycli.apply("a.zarr", f"s3://{bucket}/b.zarr")))
        time.sleep(0.2)  # for what was on its way
        made = proxy.requests
        time.sleep(3)
        assert proxy.requests == made


def test_what_another_completed_is_not_gone_on_from(bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    hierarchy(tmp_path / "a.zarr")
    dest = f"s3://{bucket}/b.zarr"
    # Ended before its first object; just before its root; and just before its report.
    for fault, told in (("c/", False), ("b.zarr/zarr.json", True), ("report.json", True)):
        with Proxy(server, lambda method, path, fault=fault: "503" if method == "PUT" and fault in path else None) as proxy:  # type: ignore[misc]
            ask(proxy.endpoint, monkeypatch)
            said(lambda: leakycli.apply("a.zarr", dest))
            (journal,) = (tmp_path / "state" / "leakycli").glob("*.journal")
            assert (b'"publish"' in journal.read_bytes()) == told
            # What was on its way when the run failed arrives still.
            count = -1
            while count != proxy.requests:
                count = proxy.requests
                time.sleep(0.3)
            s3_remove(bucket)
            upload(hierarchy(tmp_path / "other.zarr", 2), bucket, "b.zarr")
            before = objects(bucket)
            proxy.choose = lambda method, path: None
            assert "exists, and no report says" in str(said(lambda: leakycli.apply("a.zarr", dest, Options(resume=True))))
            assert objects(bucket) == before
        s3_remove(bucket)
        shutil.rmtree(tmp_path / "other.zarr")
        journal.unlink(missing_ok=True)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_publication_that_was_broken_off_is_gone_on_from(
    bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zarr_format: int
) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    hierarchy(tmp_path / "a.zarr", zarr_format)
    leakycli.apply("a.zarr", "expected.zarr")
    root = {2: "b.zarr/.zgroup", 3: "b.zarr/zarr.json"}[zarr_format]
    for fault in ("deep/x/.zarray", "deep/x/zarr.json", root, "report.json"):
        with Proxy(server, lambda method, path, fault=fault: "503" if method == "PUT" and path.endswith(fault) else None) as proxy:  # type: ignore[misc]
            ask(proxy.endpoint, monkeypatch)
            if fault.startswith("deep") and fault.endswith("zarray") != (zarr_format == 2):
                continue
            said(lambda: leakycli.apply("a.zarr", f"s3://{bucket}/b.zarr"))
            assert (root in objects(bucket)) == (fault == "report.json")
            proxy.choose = lambda method, path: None
            assert leakycli.apply("a.zarr", f"s3://{bucket}/b.zarr", Options(resume=True)).resumed
        found = {key.removeprefix("b.zarr/"): data for key, data in objects(bucket, "b.zarr/").items()}
        wanted = local_files(tmp_path / "expected.zarr")
        assert found.keys() == wanted.keys()
        assert all(found[key] == data for key, data in wanted.items() if "sharded/c" not in key)
        assert "b.zarr.report.json" in objects(bucket)
        s3_remove(bucket)


def s3_remove(bucket: str) -> None:
    for key in objects(bucket):
        s3().delete_object(Bucket=bucket, Key=key)


def test_options_that_are_ours_to_say_do_no_harm(bucket: str, tmp_path: Path) -> None:
    source = upload(hierarchy(tmp_path / "a.zarr"), bucket, "a.zarr")
    leakycli.apply(source, "y.zarr", Options(storage_options={"asynchronous": True, "use_listings_cache": True}))


def test_any_other_file_system_of_fsspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    leakycli.apply(str(hierarchy(tmp_path / "a.zarr")), "expected.zarr")
    leakycli.apply("a.zarr", "memory://b.zarr", Options(verify=True))
    leakycli.apply("memory://b.zarr", "c.zarr", Options(alpha=1, provenance=False))
    found, wanted = (zarr.open_group(each, mode="r") for each in ("c.zarr", "expected.zarr"))
    for key in ("deep/x", "sharded", "sparse", "labels"):
        assert np.asarray(found[key][...]).tobytes() == np.asarray(wanted[key][...]).tobytes()  # type: ignore[index]
    for url in ("file:///tmp/a.zarr", "acme://a.zarr", "s3://a.npz"):
        said(partial(leakycli.apply, url, "d.zarr"))


def test_without_the_extra_it_says_what_to_install(leakycli: Run, tmp_path: Path) -> None:
    (tmp_path / "s3fs.py").write_text("raise ImportError('no s3fs')")
    (tmp_path / "aiohttp.py").write_text("raise ImportError('no aiohttp')")
    for url, extra in (("s3://bucket/a.zarr", "leakycli[s3]"), ("https://host/a.npy", "leakycli[http]")):
        done = leakycli("apply", url, "b.zarr", env={"PYTHONPATH": os.pathsep.join((str(tmp_path), *sys.path))})
        assert done.returncode == 2
        assert done.stderr.count(b"\n") == 1
        assert f"pip install '{extra}'".encode() in done.stderr


def test_credentials_are_in_nothing_that_is_written(
    leakycli: Run, bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hierarchy(tmp_path / "a.zarr")
    for name in environment(server):
        if name != "AWS_EC2_METADATA_DISABLED":
            monkeypatch.delenv(name)
    given = ("--storage-option", "key=AKIAEXAMPLE", f"--storage-option=secret={SECRET}", "--storage-option", f"endpoint_url={server}")
    dest = f"s3://{bucket}/b.zarr"
    printed = b""
    for arguments in (
        ("apply", "a.zarr", dest, "--verify", "--json", "--progress", "json", "--report", "r.json"),
        ("apply", "a.zarr", dest),
        ("apply", dest, "c.zarr", "--debug"),
        ("info", dest, "--json"),
        ("verify", "a.zarr", dest),
        ("apply", dest, f"s3://user:{SECRET}@{bucket}/c.npy"),
        ("apply", dest, "d.zarr", "--storage-option", SECRET),
        ("apply", dest, "d.zarr", "--storage-option", "client_kwargs=[1]"),
        ("apply", "a.zarr", f"s3://{bucket}-none/x.zarr"),
    ):
        done = leakycli(*arguments, *given)
        printed += done.stdout + done.stderr
        assert b"Traceback" not in done.stderr or "--debug" in arguments
    files = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    stored = b"".join(objects(bucket).values())
    report = json.loads((tmp_path / "r.json").read_text())
    assert "key=***" in report["command"]
    assert f"endpoint_url={server}" in report["command"]
    for text in (printed, files, stored):
        assert SECRET.encode() not in text
        assert b"AKIAEXAMPLE" not in text


def test_what_libraries_say_of_a_url_is_without_its_secrets(bucket: str, tmp_path: Path) -> None:
    hierarchy(tmp_path / "a.zarr")
    # S3's library takes it for a part of the bucket's name, which it then calls wrong.
    url = f"s3://user:{SECRET}@{bucket}/x.zarr"
    for call in (lambda: leakycli.apply("a.zarr", url), lambda: leakycli.apply(url, "b.zarr")):
        assert "Invalid bucket name" in str(said(call))
    region = Options(storage_options={"client_kwargs": {"region_name": f"{SECRET} {SECRET}"}})
    assert "Provided region_name '***'" in str(said(lambda: leakycli.apply(f"s3://{bucket}/a.zarr", "b.zarr", region)))


def test_secrets_of_urls_are_not_shown() -> None:
    assert redacted("https://me:pa@ss@host/a.npy?X-Sig=1 and s3://b/k") == "https://***@host/a.npy?*** and s3://b/k"
    assert visible("a://u:p@h\n") == "a://***@h\\n"
    assert redacted("C:/a?b") == "C:/a?b"


def test_storage_options_are_json_or_text() -> None:
    options = parse_options(("anon=true", "key=123", 'client_kwargs={"a": 1}', "endpoint_url=http://h", "profile=x=y"))
    assert options == {"anon": True, "key": "123", "client_kwargs": {"a": 1}, "endpoint_url": "http://h", "profile": "x=y"}
    for pair in (SECRET, f"={SECRET}"):
        with pytest.raises(UsageError) as raised:
            parse_options((pair,))
        assert SECRET not in str(raised.value)
