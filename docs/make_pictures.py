"""Make the pictures of the README: the card of a report on a terminal. `python docs/make_pictures.py` from a clone, with rich installed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

import leakycli
from leakycli.report.terminal import Screen, report_text

DOCS = Path(__file__).parent


def main() -> None:
    """Run on four million normal numbers, and save what a terminal of 84 columns shows."""
    with tempfile.TemporaryDirectory() as folder:
        source, dest = Path(folder, "acts.npy"), Path(folder, "leaky.npy")
        np.save(source, np.random.default_rng(0).normal(0.2, 1, (2000, 2000)).astype(np.float32))
        report = leakycli.apply(source, dest, workers=2)
        text = report_text(report, Screen(84, colour=True), ("leaky.npy.report.json",)).replace(f"{folder}/", "")
    console = Console(record=True, width=84, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.from_ansi("$ leakycli apply acts.npy leaky.npy\n" + text.rstrip()))
    svg = console.export_svg(title="leakycli", unique_id="card")
    # No picture asks a server for its font.
    while (start := svg.find("@font-face")) >= 0:
        svg = svg[:start] + svg[svg.index("}", start) + 1 :]
    (DOCS / "card.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
