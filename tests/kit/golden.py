"""Golden files: what is shown is compared with what someone looked at."""

from __future__ import annotations

import os
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "report" / "golden"


def golden(name: str, found: str) -> None:
    """Compare with a file; with LEAKYCLI_RENEW_GOLDEN set, write it first."""
    path = GOLDEN / name
    if os.environ.get("LEAKYCLI_RENEW_GOLDEN"):
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")
