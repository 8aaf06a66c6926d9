"""Reports that were saved: read as what they are, files that anyone may have written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from leakycli import formats
from leakycli.errors import LeakyError
from leakycli.report.model import Report

if TYPE_CHECKING:
    from leakycli.stores.remote import Remote

#: What a file that is no report, or is made to look like one, makes those raise who use it.
MALFORMED = (LeakyError, OSError, KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RecursionError)


def saved_values(at: str | Remote) -> Any:
    """The JSON values of the report at a path or URL; None where there is none, or none that can be read."""
    try:
        text = formats.read(at)
        return None if text is None else json.loads(text)
    except MALFORMED:
        return None


def saved_report(at: str | Remote) -> Report | None:
    """The report at a path or URL; None where there is none, or something else."""
    try:
        return Report.from_dict(saved_values(at))
    except MALFORMED:
        return None
