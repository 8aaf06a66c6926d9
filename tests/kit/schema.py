"""The JSON Schema that ships: what every report must keep to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

import leakycli

SCHEMA = json.loads((Path(leakycli.__file__).parent / "report" / "schema.json").read_text(encoding="utf-8"))

Draft202012Validator.check_schema(SCHEMA)
_VALIDATOR = Draft202012Validator(SCHEMA)


def validate(values: dict[str, Any]) -> None:
    """Assert that `values` is a report."""
    errors = [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in _VALIDATOR.iter_errors(values)]
    assert not errors


def validate_info(values: dict[str, Any]) -> None:
    """Assert that `values` is what `info --json` prints."""
    Draft202012Validator({**SCHEMA["$defs"]["info"], "$defs": SCHEMA["$defs"]}).validate(values)
