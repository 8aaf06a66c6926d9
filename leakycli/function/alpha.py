"""The one parameter of the function: its default, and what it may be. Imports next to nothing, so that options can be declared quickly."""

from __future__ import annotations

import math
from typing import Any

from leakycli.errors import UsageError, shown

#: The slope for x <= 0 where none is given.
ALPHA = 0.2


def checked_alpha(value: Any) -> float:
    """`value` as a float. Raises UsageError where it is no finite number."""
    try:
        alpha = float(value)
    except (TypeError, ValueError, OverflowError):
        alpha = math.nan
    if not math.isfinite(alpha):
        raise UsageError(f"alpha must be a finite number, not {shown(repr(value)[:80])}")
    return alpha
