"""Make the pictures of the README: `python docs/make_pictures.py` from a clone, with rich installed and Chromium at hand."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

import leakycli
from leakycli.report.terminal import Screen, report_text

DOCS = Path(__file__).parent
SAMPLE_DATA = DOCS.parent / "sample_data"


def main() -> None:
    """Run on the sample data, and save what a terminal of 84 columns shows, and the page."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in ("digits_dense.npy", "digits_layers.npz"):
            shutil.copy(SAMPLE_DATA / name, name)
        card(leakycli.apply("digits_dense.npy", "leaky.npy"))
        command = ("leakycli", "apply", "digits_layers.npz", "leaky.npz", "--skip", "quantised", "--report", "leaky.html")
        leakycli.apply("digits_layers.npz", "leaky.npz", skip="quantised", reports="leaky.html", command=command)
        page(Path(folder, "leaky.html"))


def card(report: leakycli.Report) -> None:
    """Save the card of one array as an SVG, by rich's export."""
    text = report_text(report, Screen(84, colour=True), ("leaky.npy.report.json",))
    console = Console(record=True, width=84, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi("$ leakycli apply digits_dense.npy leaky.npy\n" + text.rstrip()))
    svg = console.export_svg(title="leakycli", unique_id="card")
    # No picture asks a server for its font.
    while (start := svg.find("@font-face")) >= 0:
        svg = svg[:start] + svg[svg.index("}", start) + 1 :]
    (DOCS / "card.svg").write_text(svg, encoding="utf-8")


def page(path: Path) -> None:
    """Save the beginning of the page, as a browser shows it."""
    chromium = shutil.which("chromium") or "google-chrome"
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", f"--user-data-dir={path.parent}/browser")
    shot = f"--screenshot={DOCS / 'page.png'}"
    subprocess.run([chromium, *flags, shot, "--window-size=1000,860", f"file://{path}"], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
