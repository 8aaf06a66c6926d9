"""The Python door: options as keywords, paths of any kind, names that can be found, errors that name the wrong value."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import leakycli
from leakycli import Options, UsageError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.savez(tmp_path / "in.npz", conv1=np.linspace(-1, 1, 1000), labels=np.arange(-5, 5))
    return tmp_path / "in.npz"


def test_options_are_keywords(source: Path) -> None:
    dest = source.with_name("out.zarr")
    report = leakycli.apply(source, dest, alpha=0.1, dtype=np.float16, memory="1G", only="conv1", chunks=100, workers=np.int64(1))
    (array,) = report.transformed
    assert (array.name, array.chunks, array.dtype_after, report.cost.memory_bound) == ("conv1", (100,), "float16", 1 << 30)
    assert report.parameters["only"] == ("conv1",)
    assert leakycli.verify(source, dest, alpha=0.1, dtype="f2", only=["conv1"]).equal
    assert leakycli.dry_run(source, source.with_name("other.npz"), skip="labels")
    assert leakycli.info(source).format == "npz"


def test_keywords_go_beside_options(source: Path) -> None:
    options = Options(alpha=0.5, only=("conv1",))
    report = leakycli.apply(source, source.with_name("out.npy"), options, alpha=0.25)
    assert (report.parameters["alpha"], report.parameters["only"]) == (0.25, ("conv1",))
    assert options.alpha == 0.5


@pytest.mark.parametrize("dtype", ["f2", "<f2", "half", np.float16, np.dtype("float16"), "float16"])
def test_a_dtype_has_one_name(source: Path, dtype: Any) -> None:
    """An alias in the report made a later `verify` fail."""
    dest = source.with_name("out.npz")
    report = leakycli.apply(source, dest, dtype=dtype)
    assert report.parameters["dtype"] == "float16"
    assert leakycli.api.recorded_parameters(dest) == {"alpha": 0.2, "dtype": "float16", "nan": None, "only": (), "skip": ()}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"alpha": "0.1"}, "alpha must be a finite number, not '0.1'"),
        ({"alpha": True}, "alpha must be a finite number, not True"),
        ({"alpha": math.nan}, "alpha must be a finite number, not nan"),
        ({"alpha": 10**400}, "alpha must be a finite number, not 1000"),
        ({"dtype": "float"}, None),
        ({"dtype": "f3"}, "dtype must be one of float16"),
        ({"dtype": "complex64"}, "dtype complex64 is not supported"),
        ({"dtype": ">f4"}, "dtype '>f4': a result has the byte order of its source; give float32"),
        ({"nan": 1.5, "dtype": "int32"}, "nan must be a whole number, not 1.5"),
        ({"workers": 0}, "workers must be at least 1, not 0"),
        ({"workers": "two"}, "workers must be a whole number, not 'two'"),
        ({"memory": "7Q"}, "'7Q' is no size"),
        ({"memory": -1}, "memory must be a number of bytes or a size as in '512M', not -1"),
        ({"only": 3}, "only must be a name, or several, not 3"),
        ({"skip": [b"x"]}, "skip must be a string, not b'x'"),
        ({"chunks": 0}, "chunks must be a length or several, of at least 1, not 0"),
        ({"shards": (4, "x")}, "shards must be a length or several, of at least 1, not (4, 'x')"),
        ({"zarr_format": 4}, "zarr_format must be 2 or 3, not 4"),
        ({"strict": 1}, "strict must be True or False, not 1"),
        ({"overwrite": "yes"}, "overwrite must be True or False, not 'yes'"),
        ({"reports": 3}, "reports must be a path, or several, not 3"),
        ({"storage_options": "key=secret"}, "storage_options must be a mapping of names to values, not a str"),
        ({"compressor": 3}, "compressor must be a string, not 3"),
        ({"alhpa": 1}, "apply has no option alhpa; did you mean alpha?"),
    ],
)
def test_a_wrong_value_is_named(source: Path, given: dict[str, Any], said: str | None) -> None:
    dest = source.with_name("out.npz")
    if said is None:
        assert leakycli.apply(source, dest, **given).parameters["dtype"] == "float64"
        return
    with pytest.raises(UsageError) as caught:
        leakycli.apply(source, dest, **given)
    assert said in str(caught.value)
    assert not dest.exists()
    if "has no option" not in said:
        with pytest.raises(UsageError):
            Options(**given)


@pytest.mark.parametrize("path", [3, None, ["in.npy"]])
def test_a_path_is_a_path(source: Path, path: Any) -> None:
    for call in (lambda: leakycli.apply(path, "out.npy"), lambda: leakycli.info(path), lambda: leakycli.read_report(path)):
        with pytest.raises(UsageError, match="source must be a path"):
            call()
    with pytest.raises(UsageError, match="dest must be a path"):
        leakycli.apply(source, path)


def test_verify_refuses_what_it_would_ignore(source: Path) -> None:
    with pytest.raises(UsageError, match="verify has no option strict"):
        leakycli.verify(source, source, strict=True)


def test_names_can_be_found() -> None:
    listed = dir(leakycli)
    assert {name for name in listed if not name.startswith("__")} == {name for name in leakycli.__all__ if name != "__version__"}
    for name in leakycli.__all__:
        assert getattr(leakycli, name) is not None
    for name in (
        "apply",
        "verify",
        "dry_run",
        "info",
        "leaky_relu",
        "Report",
        "Plan",
        "Comparison",
        "LeakyError",
        "UsageError",
        "RegionDone",
    ):
        assert name in listed
    with pytest.raises(AttributeError, match="applay"):
        leakycli.applay  # noqa: B018


def test_the_signature_lists_every_option() -> None:
    names = list(inspect.signature(leakycli.apply).parameters)
    assert names[:3] == ["source", "dest", "options"]
    assert set(Options.__dataclass_fields__) <= set(names)
    assert "strict" not in inspect.signature(leakycli.verify).parameters


def test_every_error_is_of_one_tree() -> None:
    errors = [getattr(leakycli, name) for name in leakycli.__all__ if name.endswith("Error")]
    assert len(errors) == 9
    assert all(issubclass(error, leakycli.LeakyError) for error in errors)


def test_reports_are_saved_and_read_by_any_path(source: Path) -> None:
    report = leakycli.apply(source, source.with_name("out.npz"))
    leakycli.save_report(report, source.with_name("r.json"))
    leakycli.save_report(report, source.with_name("r.html"))
    assert leakycli.read_report(source.with_name("r.json")).to_json() == report.to_json()
    assert source.with_name("r.html").read_text().startswith("<!DOCTYPE html>")


# Arrays in memory.


def test_a_mask_is_kept() -> None:
    x = np.ma.MaskedArray([-1.0, np.nan, 3.0], mask=[False, True, False])
    y = leakycli.leaky_relu(x)
    assert isinstance(y, np.ma.MaskedArray)
    assert y.tolist() == [-0.2, None, 3.0]
    assert y.mask.tolist() == [False, True, False]
    y[0] = np.ma.masked
    assert x.mask.tolist() == [False, True, False]
    # What is masked is no reason to fail.
    assert leakycli.leaky_relu(x, dtype="int32").tolist() == [0, None, 3]
    assert np.ma.getmaskarray(leakycli.leaky_relu(np.ma.MaskedArray([1.0]))).tolist() == [False]


def test_a_mask_is_never_lost() -> None:
    x = np.ma.MaskedArray([-1.0], mask=[True])
    with pytest.raises(UsageError, match="mask"):
        leakycli.leaky_relu(x, out=np.zeros(1))
    with pytest.raises(UsageError, match="mask"):
        leakycli.leaky_relu(np.ones(1), out=x)


def test_nan_may_become_a_number() -> None:
    assert leakycli.leaky_relu([np.nan, 2.0], dtype="int32", nan=-7).tolist() == [-7, 2]
    with pytest.raises(leakycli.LossError):
        leakycli.leaky_relu([np.nan], dtype="int32")
    with pytest.raises(UsageError, match="nan"):
        leakycli.leaky_relu([np.nan], nan=3)
