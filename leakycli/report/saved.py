"""Reports that were saved: read as what they are, files that anyone may have written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakycli import formats
from leakycli.errors import LeakyError
from leakycli.report.json import LARGEST, parse
from leakycli.report.model import Report

if TYPE_CHECKING:
    from leakycli.stores.remote import Remote


def saved_report(at: str | Remote) -> Report | None:
    """The report at a path or URL; None where there is none, or something else."""
    try:
        text = formats.read(at)
        return None if text is None or len(text) > LARGEST else parse(text, "report")
    except (LeakyError, OSError):
        return None
