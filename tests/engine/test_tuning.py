"""Sizes and intervals come from the options, by way of which every part of a run has the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leakycli import Options, apply, dry_run, verify
from leakycli.engine import events
from leakycli.tuning import DEFAULT, Tuning, using

SMALL = Tuning(unit_bytes=1 << 12, region_units=1)


def test_options_have_the_tuning_of_where_they_are_made() -> None:
    with using(SMALL):
        inside = Options()
    assert (inside.tuning, Options().tuning) == (SMALL, DEFAULT)


def test_plan_run_and_verify_go_by_it(tmp_path: Path) -> None:
    source, dest = str(tmp_path / "in.npy"), str(tmp_path / "out.npy")
    np.save(source, np.linspace(-1, 1, 1 << 12, dtype="f4"))
    small, usual = dry_run(source, dest, Options(tuning=SMALL)), dry_run(source, dest)
    assert (small.plan.regions, usual.plan.regions) == (4, 1)
    # What is compared at once counts in the memory of a run that verifies, and is smaller, too.
    both = [dry_run(source, dest, Options(verify=True, workers=1, tuning=t)).plan.arrays[0].memory(1) for t in (SMALL, DEFAULT)]
    assert both[0] < both[1] - DEFAULT.unit_bytes
    seen: list[events.Event] = []
    apply(source, dest, Options(tuning=SMALL), seen.append)
    assert verify(source, dest, Options(tuning=SMALL), seen.append).equal
    assert sum(isinstance(event, events.RegionDone) for event in seen) == 2 * 4
