"""The history of the benchmark: what is appended, and what two runs differ by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import history


def run_of(version: str, machine: str = "a machine", **rows: tuple[float, float, float]) -> dict[str, Any]:
    found = {name: {"ratio": ratio, "spread": [low, high], "memory": 1} for name, (low, ratio, high) in rows.items()}
    return {"version": version, "commit": "abc", "date": "2026-01-01", "machine": machine, "rows": found}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "history.json"
    runs = [
        run_of("0.1.0", npy=(0.9, 1.0, 1.1), zarr=(1.0, 1.0, 1.0), gone=(1, 1, 1)),
        run_of("0.2.0", npy=(1.0, 1.05, 1.2), zarr=(0.5, 0.6, 0.7), new=(1, 1, 1)),
        run_of("0.3.0", "another", npy=(1.3, 1.4, 1.5), zarr=(0.5, 0.6, 0.7)),
    ]
    path.write_text(json.dumps(runs))
    return path


def test_a_row_is_slower_or_faster_where_the_spreads_do_not_overlap(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert history.main(["--history", str(file), "compare", "0.1.0", "0.2.0"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "slower" not in lines["npy"]
    assert lines["zarr"].endswith("faster")
    assert "only in the old run" in lines["gone"]
    assert "only in the new run" in lines["new"]


def test_a_slower_row_ends_with_exit_code_1(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert history.main(["--history", str(file), "compare"]) == 1
    out = capsys.readouterr().out
    assert "1.050 to  1.400 (+33%)  slower" in out
    assert "two machines" in out


def test_a_run_that_is_not_there_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert history.main(["--history", str(file), "compare", "9.9", "-1"]) == 2
    assert "'9.9'" in capsys.readouterr().err


def test_a_run_is_measured_and_appended(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A benchmark waits until all that the machine has to write is written. That says nothing here, and may take minutes.
    monkeypatch.setattr("os.sync", lambda: None)
    folder = tmp_path / "work"
    folder.mkdir()
    assert (
        history.main(["--history", str(file), "add", "--size", "1", "--runs", "1", "--only", "npy of 1 KiB", "--folder", str(folder)]) == 0
    )
    runs = json.loads(file.read_text())
    assert len(runs) == 4
    (row,) = runs[-1]["rows"].values()
    assert row["ratio"] > 0
    assert row["spread"][0] <= row["ratio"] <= row["spread"][1]
    assert list(folder.iterdir()) == []
