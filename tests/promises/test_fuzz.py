"""A few hundred inputs of `tests.promises.fuzz`; that module has the many."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from leakycli import system
from tests.promises.fuzz import judge, numbered

SEED = 0


# A smaller number is no simpler input.
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="measures memory as Linux tells it")
@settings(
    max_examples=150, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate), suppress_health_check=[HealthCheck.too_slow]
)
@given(number=st.integers(0, (1 << 32) - 1))
def test_a_damaged_input_gives_its_result_or_an_error_of_ours(number: int) -> None:
    """What fails is told in full by `python -m tests.promises.fuzz --seed 0 --only NUMBER`."""
    case = numbered(SEED, number)
    case.options = replace(case.options, memory=system.resident() + (128 << 20))
    with tempfile.TemporaryDirectory() as name:
        outcome = judge(case, Path(name))
    assert not outcome.findings, "\n".join([f"{case.kind} -> {case.dest}", *case.steps, *outcome.findings])
