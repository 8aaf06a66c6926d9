"""The list of formats: all that is asked about one is in its entry and its module."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest

from leakycli import apply
from leakycli.cli import options
from leakycli.formats import FAMILIES, FORMATS, Code, Format, named_format, open_source

each_format = pytest.mark.parametrize("format", FORMATS.values(), ids=list(FORMATS))


@each_format
def test_a_result_is_recognised_whatever_its_name(format: Format, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.arange(-3, 3, dtype="f4"))
    dest = tmp_path / f"out{format.suffix}"
    apply(str(tmp_path / "in.npy"), str(dest))
    assert named_format(str(dest)) is format
    assert dest.is_dir() == format.folder
    with contextlib.closing(open_source(str(dest))) as found:
        assert found.format == format.name
    if not format.packed:  # an archive is a Zarr by its name
        os.rename(dest, tmp_path / "other")
        with contextlib.closing(open_source(str(tmp_path / "other"))) as found:
            assert found.format == format.name


@each_format
def test_the_module_of_a_format_has_all_that_is_asked_of_it(format: Format) -> None:
    for name in (name for name in vars(Code) if not name.startswith("_")):
        assert callable(getattr(format.code, name)), f"{format.module} has no {name}"


def test_the_command_line_offers_every_family() -> None:
    # Without importing them, which would take longer than --help.
    assert options.FAMILIES == FAMILIES
