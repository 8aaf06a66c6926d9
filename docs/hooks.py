"""Hooks of mkdocs: pages that lie outside docs/ are part of the site, and links between pages work on the site and in the repository."""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

#: Pages outside docs/, and their names on the site.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "sample_data/README.md": "sample_data.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/."""
    for path, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make each link that is right in the repository right on the site."""
    path = next((path for path, name in OUTSIDE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")
    return re.sub(
        r"(!?\[[^\]\[]*\])\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)", lambda found: _link(found, os.path.dirname(path)), markdown
    )


def _link(found: re.Match[str], folder: str) -> str:
    """A link in a page of `folder`. A file that is not on the site leaves only the text; a file that does not exist stays, and fails."""
    text, target, anchor = found[1], os.path.normpath(os.path.join(folder, found[2])), found[3] or ""
    if not (ROOT / target).exists():
        return found[0]
    if target in OUTSIDE:
        return f"{text}({OUTSIDE[target]}{anchor})"
    if target.startswith("docs/") and target.endswith((".md", ".svg", ".png")):
        return f"{text}({target.removeprefix('docs/')}{anchor})"
    return text[1:-1]
