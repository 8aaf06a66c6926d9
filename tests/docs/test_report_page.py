"""The page that explains the report names each of its fields."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_field_of_the_report_is_explained() -> None:
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    schema = json.loads((ROOT / "leakycli" / "report" / "schema.json").read_text(encoding="utf-8"))
    objects = [schema, *(schema["$defs"][name] for name in schema["$defs"] if "properties" in schema["$defs"][name])]
    fields = {name for described in objects for name in described["properties"]} - {"tool", "version", "python", "numpy", "zarr", "system"}
    assert len(fields) > 50
    for name in fields:
        assert f"`{name}`" in page or name in ("compressor", "zarr_format"), name
