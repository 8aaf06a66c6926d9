"""Runs the code on the pages of the documents, block by block, as a reader would."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Block:
    """One code block: the heading it stands under ("" before the first), its language, text and line on the page."""

    page: str
    heading: str
    language: str
    text: str
    line: int

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """All code blocks of a page. page: its path from the root of the project."""
    found, heading, fence, start = [], "", None, 0
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    for i, line in enumerate(lines):
        if fence is None and line.startswith("```"):
            fence, start = line[3:].strip(), i + 1
        elif fence is not None and line == "```":
            found.append(Block(page, heading, fence, "\n".join(lines[start:i]) + "\n", start + 1))
            fence = None
        elif fence is None and (title := re.match(r"##+ (.*)", line)):
            heading = title[1]
    assert fence is None, f"{page}: a code block is not closed"
    return found


@dataclass
class Reader:
    """Somebody who types what the pages say, in a folder; what Python defines stays from block to block."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    #: What is to be put in place of names that exist on a page only, as of a web server.
    instead: dict[str, str] = field(default_factory=dict)
    scope: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        programs = self.folder / ".programs"
        programs.mkdir(exist_ok=True)
        for name, command in (("leakycli", f'"{sys.executable}" -m leakycli'), ("python3", f'"{sys.executable}"'), ("pip", "true")):
            (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (programs / name).chmod(0o755)
        path = os.pathsep.join(p for p in sys.path if p)
        self.environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": path, **self.environment}

    def run(self, block: Block) -> None:
        """Run one block. Raises AssertionError where it does not do what the page says."""
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), self.scope)
        elif block.language == "pycon":
            test = doctest.DocTestParser().get_doctest(block.text, self.scope, str(block), block.page, block.line)
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
            printed: list[str] = []
            result = runner.run(test, out=printed.append, clear_globs=False)
            self.scope.update(test.globs)
            assert result.failed == 0, "".join(printed)
        elif block.language == "sh":
            self.shell(block)
        elif block.language == "make":
            (self.folder / "Makefile").write_text(block.text)
        else:
            raise AssertionError(f"{block}: nobody runs {block.language!r}")

    def shell(self, block: Block) -> None:
        """Run the lines of a block; each must succeed, or end with the "exit code N" that its comment states."""
        lines = block.text.splitlines()
        parts = lines if any("exit code" in line for line in lines) else [block.text]
        for part in parts:
            for name, found in self.instead.items():
                part = part.replace(name, found)
            expected = int(code[1]) if (code := re.search(r"# exit code (\d+)", part)) else 0
            done = subprocess.run(
                ["bash", "-ec", f"set -o pipefail\n{part}"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == expected, f"{block}: {part}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
            assert "Traceback" not in done.stderr, f"{block}: {part}\n{done.stderr}"
